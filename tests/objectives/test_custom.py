"""Custom objectives: use like built-in ones, errors with file and line, and members that have other names now."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import bottega
from bottega import objectives
from bottega.errors import RecipeError, RunError
from bottega.objectives.custom import FORMER_MEMBERS, MEMBERS
from bottega.objectives.sft import Sft
from bottega.recipe.schema import Recipe
from bottega.runs.summary import list_runs
from making import make_model, write_jsonl

OWN = Path(__file__).parent / "own" / "own_loss.py"
HEAD = "from bottega.batch import Loss, Row, Term\nfrom bottega.objectives.sft import Sft\n"


def recipe(folder: Path, file: Path, **options: Any) -> Recipe:
    rows = [{"prompt": f"the cat {word}", "completion": " sat on the tree"} for word in ("a", "b", "c")] * 4
    return Recipe.parse(
        {
            "model": {"base": str(make_model(folder / "model", "llama"))},
            "data": {"train": str(write_jsonl(folder / "rows.jsonl", rows))},
            "objective": {"kind": "custom", "file": str(file), **options},
            "optim": {"steps": 3, "examples": 4},
            "save": {"every": 1},
        }
    )


def written(folder: Path, body: str, head: str = HEAD) -> Path:
    (folder / "mine.py").write_text(head + body, encoding="utf-8")
    return folder / "mine.py"


def refused(folder: Path, body: str, line: int | None, **options: Any) -> RecipeError:
    """The error that training with this file raises; it must name the line."""
    file = written(folder, body)
    with pytest.raises(RecipeError) as caught:
        for _ in bottega.train(recipe(folder, file, **options), folder / "run"):
            pass
    assert caught.value.where == (str(file) if line is None else f"{file} line {line}")
    return caught.value


def test_a_custom_objective_behaves_like_a_built_in_one(tmp_path: Path) -> None:
    made = recipe(tmp_path, OWN, sharpness=3.0, weighting="example").objective
    assert isinstance(made, Sft)
    assert made.model_dump() == {
        "kind": "custom",
        "file": str(OWN),
        "sharpness": 3.0,
        "weighting": "example",
        "label_smoothing": 0.0,
    }
    assert (made.reads, made.head, made.lr) == (Sft.reads, "language", Sft.lr)
    again = objectives.build_objective(made.model_dump())
    assert again.model_dump() == made.model_dump()


def test_options_of_a_custom_objective_are_validated(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"unknown key objective\.sharpnes") as caught:
        recipe(tmp_path, OWN, sharpnes=3.0)
    assert caught.value.fix == "did you mean sharpness?"
    with pytest.raises(RecipeError, match="custom needs file"):
        Recipe.parse({"model": {"base": "a"}, "data": {"train": "b"}, "objective": {"kind": "custom"}})
    with pytest.raises(RecipeError, match="no such file"):
        recipe(tmp_path, tmp_path / "none.py")
    (tmp_path / "notes.txt").write_text("x = 1")
    with pytest.raises(RecipeError, match="not a Python file"):
        recipe(tmp_path, tmp_path / "notes.txt")


def test_a_resume_refuses_a_changed_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    shutil.copy(OWN, file)
    for event in bottega.train(recipe(tmp_path, file), tmp_path / "run"):
        if event.type == "stepped" and event.step == 2:
            break
    file.write_text(file.read_text() + "\n# more\n")
    with pytest.raises(RunError, match="has changed since the run began") as caught:
        list(bottega.resume(tmp_path / "run"))
    assert caught.value.where == str(file)


def test_a_run_is_shown_and_used_without_running_its_custom_code(tmp_path: Path) -> None:
    """The file is executed to train and to evaluate only, and may be deleted afterwards."""
    file = tmp_path / "mine.py"
    shutil.copy(OWN, file)
    list(bottega.train(recipe(tmp_path, file), tmp_path / "run"))
    file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n" + file.read_text())
    assert [one["name"] for one in list_runs(tmp_path)] == ["run"]
    assert bottega.load(tmp_path / "run").recipe.objective.kind == "sft"
    assert not (tmp_path / "ran").exists()
    with pytest.raises(RunError, match="the objective has changed"):
        bottega.evaluate(tmp_path / "run", str(tmp_path / "rows.jsonl"))
    file.unlink()
    assert bottega.load(tmp_path / "run").generate(["the cat a"])


@pytest.mark.parametrize("kind", ["reward", "regress"])
def test_a_subclass_of_a_built_in_objective_is_evaluated_and_used_like_it(kind: str, tmp_path: Path) -> None:
    name = kind.capitalize()
    file = written(tmp_path, f"class Mine({name}):\n    pass\n", f"from bottega.objectives.{kind} import {name}\n")
    rows: list[dict[str, Any]] = [{"text": f"the cat {n}", "label": n / 10} for n in range(12)]
    if kind == "reward":
        rows = [{"prompt": "the cat", "chosen": f" sat {n}", "rejected": " ran on"} for n in range(12)]
    options = recipe(tmp_path, file).document()
    options["data"]["train"] = str(write_jsonl(tmp_path / "rows.jsonl", rows))
    list(bottega.train(Recipe.parse(options), tmp_path / "run"))
    found = bottega.evaluate(tmp_path / "run", str(tmp_path / "rows.jsonl"))
    assert {one.metric for one in found.estimates} & {"preference_accuracy", "mae"}
    assert bottega.load_classifier(tmp_path / "run").objective.kind == kind


def test_an_unknown_unit_of_a_loss_is_an_error(tmp_path: Path) -> None:
    body = "class Mine(Sft):\n    def loss(self, scores, batch):\n"
    body += "        return Loss({'nll': Term(scores['logp'].sum(), 'tokens')})\n"
    assert "unit 'tokens'" in refused(tmp_path, body, None).what


def test_an_error_in_rows_names_its_line(tmp_path: Path) -> None:
    body = "class Mine(Sft):\n    def rows(self, record, codec):\n        return record.nothing\n"
    error = refused(tmp_path, body, 5)
    assert error.what == "AttributeError: 'Prompted' object has no attribute 'nothing'"


def test_an_error_in_loss_names_its_line(tmp_path: Path) -> None:
    body = "class Mine(Sft):\n    def loss(self, scores, batch):\n        return 1 / 0\n"
    assert refused(tmp_path, body, 5).what == "ZeroDivisionError: division by zero"


def test_a_loss_that_reads_a_missing_score(tmp_path: Path) -> None:
    body = "class Mine(Sft):\n    def loss(self, scores, batch):\n        return scores['logits']\n"
    assert refused(tmp_path, body, 5).what == "KeyError: 'logits'"


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (
            "    def loss(self, scores, batch):\n        return scores['logp'].sum()\n",
            "returned a Tensor instead of a Loss",
        ),
        ("    def rows(self, record, codec):\n        return None\n", "must return a list of examples"),
        (
            "    def rows(self, record, codec):\n        return [(record,)]\n",
            "returned a Prompted instead of a Row",
        ),
        (
            "    def rows(self, record, codec):\n"
            "        row = codec.encode_answers(record)\n"
            "        return [(Row(row.tokens, row.at + 9, row.label, row.weight),)]\n",
            "out of range or not in ascending order",
        ),
        (
            "    def rows(self, record, codec):\n"
            "        row = codec.encode_answers(record)\n"
            "        return [(Row(row.tokens, row.at, row.label[1:], row.weight),)]\n",
            "they must be equal",
        ),
    ],
)
def test_results_of_rows_and_loss_are_checked(tmp_path: Path, body: str, what: str) -> None:
    assert what in str(refused(tmp_path, f"class Mine(Sft):\n{body}", None))


def test_errors_of_the_engine_are_not_blamed_on_the_file(tmp_path: Path) -> None:
    """An error raised elsewhere is not attributed to the file, even if the file called that code."""
    body = "class Mine(Sft):\n    def rows(self, record, codec):\n        return super().rows(record, codec)\n"
    file = written(tmp_path, body)
    made = recipe(tmp_path, file)
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": 3}])
    with pytest.raises(bottega.BottegaError, match="completion is a number"):
        list(bottega.train(made.model_copy(), tmp_path / "other"))
    assert rows.exists()


def test_every_method_that_a_custom_objective_may_override_locates_errors() -> None:
    """All public methods and properties of an objective, except the one that finds the class in the file."""
    public = {
        name
        for base in (objectives.Objective, objectives.OnPolicy)
        for name, member in vars(base).items()
        if isinstance(member, (property, FunctionType)) and not name.startswith("_")
    }
    assert set(MEMBERS) == public - {"model_post_init"}


# A member by a former name would have no effect: it is refused.

CLASS = "from typing import ClassVar\nfrom bottega.objectives.sft import Sft\n\n\nclass Mine(Sft):\n"


def parse(file: Path, member: str) -> Recipe:
    file.write_text(CLASS + member, encoding="utf-8")
    objective = {"kind": "custom", "file": str(file)}
    return Recipe.parse({"model": {"base": "m"}, "data": {"train": "a.jsonl"}, "objective": objective})


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
