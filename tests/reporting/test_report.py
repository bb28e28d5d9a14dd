"""The report of a real run: its content and its renderings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

import bottega
from bottega.cli.commands import app
from bottega.events import parse
from bottega.hardware.memory import format_peak_memory
from bottega.recipe.schema import Recipe
from bottega.reporting.charts import line_chart, thin_curve
from bottega.reporting.formats.html import MAX_WORD_LENGTH, _breakable
from bottega.runs.curves import peak_memory
from making import make_model, write_jsonl


class Tree(HTMLParser):
    """Checks that every tag is closed, and collects the text and the URLs that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """It opens and closes at once."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    rows = [{"prompt": f"is {n} <b>big</b> | small?", "completion": " big" if n > 50 else " small"} for n in range(100)]
    rows += rows[:20]
    recipe = Recipe.parse(
        {
            "name": "sizes",
            "model": {"base": str(make_model(folder / "model"))},
            "data": {"train": str(write_jsonl(folder / "rows.jsonl", rows)), "validation": 0.4},
            "objective": {"kind": "sft"},
            "optim": {"steps": 20, "examples": 16, "lr": 1e-2},
            "evaluate": {"every": 5},
            "verdict": {"metric": "loss", "margin": 0.1},
        }
    )
    for _ in bottega.train(recipe, folder / "run"):
        pass
    return folder / "run"


@pytest.fixture(scope="module")
def written(run: Path) -> Callable[[str], str]:
    shown = CliRunner().invoke(app, ["evaluate", str(run)])
    assert shown.exit_code == 0, shown.output
    assert "Better: loss" in shown.output
    assert str(run / "report.html") in shown.output.replace("\n", "")
    return lambda suffix: (run / f"report.{suffix}").read_text(encoding="utf-8")


def test_all_renderings_have_the_same_content(run: Path, written: Callable[[str], str]) -> None:
    document = json.loads(written("json"))
    assert document["verdict"]["outcome"] == "better"
    assert document["verdict"]["declared"]
    tree = Tree()
    tree.feed(written("html"))
    page = " ".join(" ".join(tree.text).split())
    assert not tree.open
    for said in (document["verdict"]["sentence"], "all weights", "sizes", document["command"]):
        assert said in page
        assert said in written("md")
    for one in document["estimates"]:
        assert f"{one['run']:.3f}" in page
        assert f"| {one['label']} | {one['run']:.3f} |" in written("md")
    assert "with a margin of 0.1, as declared in the recipe before the evaluation" in page


def test_the_page_has_no_scripts_and_fetches_nothing(written: Callable[[str], str]) -> None:
    tree = Tree()
    tree.feed(written("html"))
    assert tree.fetched == []
    assert "<script" not in written("html")
    assert "url(" not in written("html")
    assert "prefers-color-scheme: dark" in written("html")
    assert "@media print" in written("html")


def test_texts_of_rows_are_escaped(written: Callable[[str], str]) -> None:
    assert "<b>big" not in written("html")
    assert "&lt;b&gt;big&lt;/b&gt; | small" in written("html")
    assert "<b>big</b> \\| small" in written("md")


def test_the_most_and_the_least_improved_rows(written: Callable[[str], str]) -> None:
    document = json.loads(written("json"))
    gains = [one["base"] - one["run"] for name in ("best", "worst") for one in document[name]]
    assert len(gains) == 20
    assert gains[:10] == sorted(gains[:10], reverse=True)
    assert gains[10:] == sorted(gains[10:])
    assert min(gains[:10]) >= max(gains[10:])
    assert document["by"] == "loss"
    assert all(re.fullmatch(r"rows\.jsonl line \d+", one["where"]) for one in document["best"])


def test_generated_answers_are_shown_side_by_side_with_their_costs(written: Callable[[str], str]) -> None:
    document = json.loads(written("json"))
    said = {one["said"] for name in ("best", "worst") for one in document[name]}
    assert said & {" big", " small", "big", "small"}
    assert "answer of the run" in written("html")
    assert "answer of the run" in written("md")
    assert any("Cost per answer, compared with model, few-shot: the run reads" in one for one in document["worth"])
    assert document["worth"][0] in written("md")


def test_curves_have_a_text_alternative_and_a_table(written: Callable[[str], str]) -> None:
    document = json.loads(written("json"))
    steps, values = document["curves"]["loss"]["validation"]
    assert steps == [0, 5, 10, 15, 20]
    chart = line_chart("loss", {"validation": (steps, values)})
    assert f'aria-label="loss: validation from {values[0]:.3g} to {values[-1]:.3g}"' in chart
    assert f'data-name="update">{steps[-1]}</td>' in written("html")
    assert thin_curve(([*range(100)], [*range(100)]), 5) == [(0, 0), (25, 25), (50, 50), (74, 74), (99, 99)]


def test_narrow_screens_show_cards_and_long_words_can_break(run: Path, written: Callable[[str], str]) -> None:
    """Every table is in a box that scrolls; on a card every cell shows the name of its column."""
    html = written("html")
    assert html.count("<table>") == html.count('<div class="table cards"><table>') + html.count('<div class="table">')
    estimates = html.split("<tbody>")[1].split("</tbody>")[0]
    names = ("run", "base", "difference", "worse | better", "finding", "rows")
    for line in estimates.split("</tr>")[:-1]:
        named = re.findall(r'data-name="([^"]+)"', line)
        assert named == [name for name in names if name in named]
        assert len(named) == line.count("<td") - line.count("<td></td>") >= 4
    assert "overflow-wrap: anywhere" not in html.split("pre {")[0], "it lets a column be as narrow as a letter"
    assert _breakable("a word") == "a word"
    assert _breakable("balance_not_updated") == "balance_<wbr/>not_<wbr/>updated"
    assert max(map(len, _breakable("x" * 100).split("<wbr/>"))) == MAX_WORD_LENGTH
    whole, rest = "&amp;" * MAX_WORD_LENGTH, "&amp;" * (30 - MAX_WORD_LENGTH)
    assert _breakable(f"<b> {'&' * 30}") == f"&lt;b&gt; {whole}<wbr/>{rest}"


def test_answers_that_were_not_generated_are_marked(run: Path, tmp_path: Path) -> None:
    found = bottega.report(run, answers=5, out=tmp_path, against=[])
    shown = [one for _, rows in found.ranked_rows for one in rows]
    assert 0 < sum(one.run_answer is None for one in shown) < len(shown)
    for suffix in ("md", "html"):
        text = (tmp_path / f"report.{suffix}").read_text(encoding="utf-8")
        assert "(not generated)" in text
        assert "Answers were generated for 5 of the 48 rows; --answers sets the number." in text
    assert {one["said"] for one in json.loads((tmp_path / "report.json").read_text())["best"]} & {None}


def test_peak_memory_of_host_and_gpu() -> None:
    events = [
        {"type": "stepped", "memory": 3e9, "device_memory": 1e9},
        {"type": "stepped", "memory": 2e9, "device_memory": 2e9},
    ]
    assert format_peak_memory(*peak_memory(list(map(parse, events)))) == "3.0 GB (host), 2.0 GB (GPU)"
    assert format_peak_memory(*peak_memory([parse({**event, "device_memory": 0}) for event in events])) == "3.0 GB"


def test_the_audit_and_the_loss_summary(run: Path, written: Callable[[str], str]) -> None:
    document = json.loads(written("json"))
    assert {one["kind"] for one in document["audit"]["findings"]} >= {"duplicate"}
    assert "quality" in document["audit"]["unchecked"]
    assert document["fit"][0].startswith("At the end, the validation loss is ")
    assert "Audit of the training data" in written("md")
    assert "the same row again" in written("html")


def test_an_unwritable_report_folder_is_an_error(run: Path, written: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    shown = CliRunner().invoke(app, ["evaluate", str(run), "--report", str(tmp_path / "file" / "there")])
    assert shown.exit_code == 2
    assert "the report cannot be written" in shown.output
    assert "--report DIR" in shown.output


def test_unavailable_training_data_is_reported(run: Path, tmp_path: Path) -> None:
    """Other rows can be evaluated all the same."""
    told = [{"prompt": f"is {n} a cat?", "completion": " big"} for n in range(12)]
    rows, there = str(write_jsonl(tmp_path / "other.jsonl", told)), run.parent / "rows.jsonl"
    there.rename(run.parent / "away.jsonl")
    try:
        report = bottega.report(run, rows, out=tmp_path)
    finally:
        (run.parent / "away.jsonl").rename(there)
    assert report.evaluation.leaked is None
    assert report.audit is None
    assert "the data is no longer available here" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_other_rows_have_a_report_only_on_request(run: Path, tmp_path: Path) -> None:
    told = [{"prompt": f"the cat {n}", "completion": " sat"} for n in range(12)]
    rows = str(write_jsonl(tmp_path / "other.jsonl", told))
    before = (run / "report.json").read_bytes()
    assert CliRunner().invoke(app, ["evaluate", str(run), "--data", rows]).exit_code == 0
    assert (run / "report.json").read_bytes() == before
    asked = ["evaluate", str(run), "--data", rows, "--report", str(tmp_path / "there"), "--json"]
    assert json.loads(CliRunner().invoke(app, asked).stdout)["rows"] == 12
    assert json.loads((tmp_path / "there" / "report.json").read_text())["rows"] == 12
    assert bottega.report(run, rows).evaluation.rows == 12


def test_a_short_word_is_not_broken_after_its_hyphen() -> None:
    assert _breakable("bm25, by ROUGE-L") == "bm25, by <span class=whole>ROUGE-L</span>"
    assert _breakable("a-<b") == "<span class=whole>a-&lt;b</span>"
    assert "<wbr/>" in _breakable("a-" * 40)
