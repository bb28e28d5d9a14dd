"""The result of an audit, as a value and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bottega.auditing.findings import Audit, Finding, Severity

LEAK = Finding("leak", "error", "in the test", "remove", 2, ["a line 1", "a line 2"], "remove", np.array([0, 1]))
NOTE = Finding("other language", "note", "de 1%", "look", 1, ["a line 3"])
WARNING = Finding("duplicate", "warning", "again", "keep one", 1, ["a line 4"])


def audit(findings: Sequence[Finding], **more: Any) -> Audit:
    options: dict[str, Any] = {"unchecked": {}, "shape": {}, "cleaned": None, "seconds": 0.5} | more
    return Audit(10, {"test": 3}, findings, **options)


@pytest.mark.parametrize(
    ("findings", "worst"),
    [([], None), ([NOTE], "note"), ([NOTE, WARNING], "warning"), ([NOTE, LEAK, WARNING], "error")],
)
def test_the_worst_finding(findings: Sequence[Finding], worst: Severity | None) -> None:
    assert audit(findings).worst() == worst


def test_a_document_holds_everything_but_the_row_indices() -> None:
    found = audit([LEAK], unchecked={"quality": "no model"}, shape={"labels": [("a", 3)]}, cleaned=(7, 2, 1))
    assert json.loads(json.dumps(found.document())) == {
        "rows": 10,
        "against": {"test": 3},
        "findings": [
            {
                "kind": "leak",
                "severity": "error",
                "count": 2,
                "what": "in the test",
                "fix": "remove",
                "mend": "remove",
                "examples": ["a line 1", "a line 2"],
            }
        ],
        "unchecked": {"quality": "no model"},
        "shape": {"labels": [["a", 3]]},
        "cleaned": {"kept": 7, "removed": 2, "repaired": 1},
        "seconds": 0.5,
    }
    assert audit([]).document()["cleaned"] is None


def test_a_finding_without_rows_has_none() -> None:
    assert NOTE.rows.tolist() == []
    assert NOTE.mend is None
