"""The path of a row, as CONTRIBUTING.md shows it: at most fifteen files turn a line of JSON into a gradient."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from tests.making import make_model, write_jsonl

import bottega
from bottega.batch import Batch, Example, Loss, Row
from bottega.records import Record

MOST_FILES = 15
PREFIX = f"{Path(bottega.__file__).parent}/"
GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"
PROMPT = "the capital of the north is"


class RowTracer:
    """Collects the files whose functions give the row a new form, and all files whose functions return it.

    A form is an object that carries the row: its fields, record, token row, example, micro-batch, scores or loss. The
    function that returns an object first has made it; the others only pass it on.
    """

    def __init__(self) -> None:
        self.makers, self.called = set[str](), set[str]()
        # The objects are kept: the id of an object that is gone may be given to another.
        self._seen = dict[int, object]()

    def __call__(self, frame: FrameType, event: str, result: Any) -> None:
        # Called for every function of every library: comparing text takes a hundredth of the time a Path takes.
        if event != "return" or not frame.f_code.co_filename.startswith(PREFIX):
            return
        file = frame.f_code.co_filename.removeprefix(PREFIX)
        self.called.add(file)
        for form in self._forms(result):
            # The check that packing is exact has rows of its own.
            if id(form) not in self._seen and not self._inside(frame, f"{PREFIX}models/packing_proof.py"):
                self.makers.add(file)
            self._seen[id(form)] = form

    @staticmethod
    def _inside(frame: FrameType | None, file: str) -> bool:
        while frame is not None and frame.f_code.co_filename != file:
            frame = frame.f_back
        return frame is not None

    def _forms(self, value: Any, depth: int = 0) -> list[object]:
        if isinstance(value, (list, tuple)) and depth < 3:
            return [form for item in value for form in self._forms(item, depth + 1)]
        return [value] if self._is_form(value) else []

    def _is_form(self, value: Any) -> bool:
        match value:
            case {"prompt": str(prompt), "completion": str()}:
                return prompt == PROMPT
            case {"logp": _}:
                return True
        return isinstance(value, (Record, Row, Example, Batch, Loss))


def test_the_guide_names_every_file_that_changes_a_row(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    data = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": PROMPT, "completion": " a town by the sea"}] * 4)
    recipe = bottega.Recipe.model_validate(
        {
            "model": {"base": str(model), "dtype": "float32"},
            "data": {"train": str(data), "validation": None},
            "objective": {"kind": "sft"},
            "optim": {"steps": 1, "examples": 4},
            "evaluate": None,
        }
    )
    tracer = RowTracer()
    sys.setprofile(tracer)
    try:
        events = list(bottega.train(recipe, out=tmp_path / "run"))
    finally:
        sys.setprofile(None)
    assert any(isinstance(event, bottega.Stepped) for event in events)
    named = re.findall(r"^\| \d+ \| `([^`]+)`", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(named) == len(set(named)) <= MOST_FILES
    assert tracer.makers <= {*named}, "a file that gives the row a new form is missing in the guide"
    assert {*named} <= tracer.called, "a file of the guide has no part in the step"
