"""A custom objective that overrides a member by a former name is refused: the override would have no effect."""

from __future__ import annotations

from pathlib import Path

import pytest

import bottega
from bottega import objectives
from bottega.errors import RecipeError
from bottega.objectives.custom import FORMER_MEMBERS

CLASS = "from typing import ClassVar\nfrom bottega.objectives.sft import Sft\n\n\nclass Mine(Sft):\n"


def parse(file: Path, member: str) -> bottega.Recipe:
    file.write_text(CLASS + member, encoding="utf-8")
    document = {
        "model": {"base": "m"},
        "data": {"train": "a.jsonl"},
        "objective": {"kind": "custom", "file": str(file)},
    }
    return bottega.Recipe.parse(document)


@pytest.mark.parametrize(
    ("member", "cure"),
    [
        ("    def drawn(self, example, codec, seed):\n        return example\n", "rename it to augment"),
        ("    @property\n    def tempering(self):\n        return 2.0\n", "rename it to logit_temperature"),
        ("    splits: ClassVar[bool] = True\n", "rename it to can_split"),
    ],
)
def test_a_former_name_is_refused_with_the_new_one(member: str, cure: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="now") as caught:
        parse(tmp_path / "mine.py", member)
    assert caught.value.fix == cure


def test_an_option_may_have_such_a_name(tmp_path: Path) -> None:
    parse(tmp_path / "mine.py", "    labels: int = 3\n    window: int = 5\n")


def test_every_new_name_is_a_member() -> None:
    members = {name for base in (objectives.Objective, objectives.OnPolicy) for name in dir(base)}
    assert set(FORMER_MEMBERS.values()) <= members
    assert not set(FORMER_MEMBERS) & members
