"""The options of an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bottega.cli.commands import app
from bottega.errors import RecipeError
from bottega.evaluation.evaluate import evaluate
from bottega.evaluation.options import EvaluateOptions, parse_options
from bottega.recipe.schema import Layout


def test_options_are_the_same_in_python_and_on_the_command_line() -> None:
    run = "not read"
    with pytest.raises(RecipeError, match="at least 1") as caught:
        evaluate(run, rows=0)
    assert caught.value.where == "rows"
    with pytest.raises(TypeError, match="unexpected keyword argument 'row'"):
        evaluate(run, row=1)
    shown = CliRunner().invoke(app, ["evaluate", run, "--rows", "0"])
    assert (shown.exit_code, "--rows" in shown.stderr) == (2, True)
    options = parse_options({"data": Path("a.jsonl"), "against": ["none"], "scorers": ["b.py", "c.py"]})
    assert (options.data, options.against, options.scorers) == (("a.jsonl",), (), ("b.py", "c.py"))
    assert parse_options({}).against is None


def test_one_path_is_a_list_of_one_and_paths_become_texts() -> None:
    assert parse_options({"data": "a.jsonl"}).data == ("a.jsonl",)
    options = parse_options({"documents": [Path("a"), "b"], "encoder": Path("m"), "harmful": Path("bad.txt")})
    assert (options.documents, options.encoder, options.harmful) == (("a", "b"), "m", "bad.txt")


def test_none_means_no_baselines_and_nothing_the_default_ones() -> None:
    assert parse_options({"against": []}).against == parse_options({"against": "none"}).against == ()
    assert parse_options({"against": ["none", "bm25"]}).against == ("bm25",)
    assert EvaluateOptions().against is None


def test_a_layout_is_validated() -> None:
    layout = parse_options({"layout": {"encoding": "latin-1"}}).layout
    assert isinstance(layout, Layout)
    assert layout.encoding == "latin-1"
    with pytest.raises(RecipeError) as caught:
        parse_options({"layout": {"encodings": "latin-1"}})
    assert caught.value.where == "layout"


@pytest.mark.parametrize("values", [{"rows": 0}, {"answers": -1}, {"seeds": 0}, {"shots": 1.5}, {"judge": 3}])
def test_a_value_out_of_range_is_named(values: dict[str, object]) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_options(values)
    assert [caught.value.where] == list(values)
