"""The formats of a report: html, json and md."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bottega
from bottega.auditing.findings import Audit
from bottega.evaluation.confusion import ClassPredictions
from bottega.evaluation.cost import Cost
from bottega.evaluation.estimates import Estimate
from bottega.evaluation.evaluate import Comparison, Evaluation
from bottega.evaluation.verdict import Verdict
from bottega.reporting import formats
from bottega.reporting.formats.html import MAX_WORD_LENGTH, HtmlReport, _breakable
from bottega.reporting.formats.json import JsonReport
from bottega.reporting.formats.md import (
    MarkdownReport,
    baseline_table,
    comparison_table,
    describe_finding,
    excluded_rows,
)
from bottega.reporting.model import MetricComparison, RunReport


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


def test_all_formats_have_the_same_content(run: Path, report_text: Callable[[str], str]) -> None:
    document = json.loads(report_text("json"))
    assert document["verdict"]["outcome"] == "better"
    assert document["verdict"]["declared"]
    tree = Tree()
    tree.feed(report_text("html"))
    page = " ".join(" ".join(tree.text).split())
    assert not tree.open
    for said in (document["verdict"]["sentence"], "all weights", "sizes", document["command"]):
        assert said in page
        assert said in report_text("md")
    for one in document["estimates"]:
        assert f"{one['run']:.3f}" in page
        assert f"| {one['label']} | {one['run']:.3f} |" in report_text("md")
    assert "with a margin of 0.1, as declared in the recipe before the evaluation" in page


def test_the_html_page_has_no_scripts_and_fetches_nothing(report_text: Callable[[str], str]) -> None:
    tree = Tree()
    tree.feed(report_text("html"))
    assert tree.fetched == []
    assert "<script" not in report_text("html")
    assert "url(" not in report_text("html")
    assert "prefers-color-scheme: dark" in report_text("html")
    assert "@media print" in report_text("html")


def test_texts_of_rows_are_escaped(report_text: Callable[[str], str]) -> None:
    assert "<b>big" not in report_text("html")
    assert "&lt;b&gt;big&lt;/b&gt; | small" in report_text("html")
    assert "<b>big</b> \\| small" in report_text("md")


def test_generated_answers_are_shown_side_by_side_with_their_costs(report_text: Callable[[str], str]) -> None:
    document = json.loads(report_text("json"))
    said = {one["said"] for name in ("best", "worst") for one in document[name]}
    assert said & {" big", " small", "big", "small"}
    assert "answer of the run" in report_text("html")
    assert "answer of the run" in report_text("md")
    assert any("Cost per answer, compared with model, few-shot: the run reads" in one for one in document["worth"])
    assert document["worth"][0] in report_text("md")


def test_narrow_screens_show_cards_and_long_words_can_break(run: Path, report_text: Callable[[str], str]) -> None:
    """Every table is in a box that scrolls; on a card every cell shows the name of its column."""
    html = report_text("html")
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


def test_a_short_word_is_not_broken_after_its_hyphen() -> None:
    assert _breakable("bm25, by ROUGE-L") == "bm25, by <span class=whole>ROUGE-L</span>"
    assert _breakable("a-<b") == "<span class=whole>a-&lt;b</span>"
    assert "<wbr/>" in _breakable("a-" * 40)


def report(**changes: Any) -> RunReport:
    """A small report of a run with a base and nothing else."""
    loss = Estimate("loss", 40, 1.0, 1.5, (-0.7, -0.1), False)
    verdict = Verdict("better", "Better: it is.", "loss", 0.0)
    evaluation = Evaluation("runs/a", "smol", 40, 60, {}, 0, [loss], verdict, [Comparison("smol", [loss])])
    values: dict[str, Any] = {
        "name": "mine", "evaluation": evaluation, "facts": {"began from": "smol", "rows": "40"}, "curves": {},
        "audit": Audit(40, {}, [], {}, {}, None, 0.1), "loss_summary": [], "cost_summary": [], "ranking_metric": None,
        "best": [], "worst": [], "components": [], "notes": [], "recipe": "seed: 0\n", "versions": {"bottega": "1"},
        "files": {"rows.jsonl": "abc"}, "command": "bottega train recipe.yaml",
    }  # fmt: skip
    return RunReport(**{**values, **changes})


def changed(report: RunReport, /, **changes: Any) -> RunReport:
    """The report with fields of its evaluation changed."""
    return replace(report, evaluation=replace(report.evaluation, **changes))


def test_the_formats_in_their_order() -> None:
    assert formats.suffixes() == ["json", "md", "html"], "the page to read first is the last"
    assert [type(formats.load(suffix)) for suffix in formats.suffixes()] == [JsonReport, MarkdownReport, HtmlReport]


def test_json_is_the_document_of_the_report() -> None:
    assert json.loads(JsonReport().render(report())) == json.loads(json.dumps(report().document()))


def test_the_md_of_a_small_report() -> None:
    lines = MarkdownReport().render(report()).splitlines()
    assert lines[:9] == [
        "# mine", "", "**Better: it is.**", "", "Evaluated on 40 of 60 rows. Base: smol.", "",
        "| metric | run | base | difference (95 % CI) | finding | rows |",
        "| --- | --- | --- | --- | --- | --- |",
        "| loss | 1.000 | 1.500 | -0.700 to -0.100 | better | 40 |",
    ]  # fmt: skip
    assert "| base model | smol |" in lines, "the name that people read, not the key of report.json"
    assert [line for line in lines if line.startswith("## ")] == [
        "## The run", "## Audit of the training data", "## Components and licences", "## Reproduce this run",
    ]  # fmt: skip
    assert "No findings." in lines


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dropped": {"too long": 3}}, ["3 rows excluded: too long"]),
        ({"leaked": 2}, ["2 rows excluded: they are in the training data"]),
        ({"base": None, "contenders": []}, ["Base: none, the run was trained from scratch."]),
        ({"unasked": {"dense": "no encoder"}}, ["dense: no encoder"]),
        ({"seeds": [0.5, 0.7]}, ["With 2 seeds loss is 0.5, 0.7"]),
        ({"effects": [Estimate("harmful_refusals", 12, 1.0, 0.0, (0.4, 1.0), True)]}, ["Side effects"]),
    ],
)
def test_what_an_evaluation_adds_is_in_md_and_html(changes: dict[str, Any], words: list[str]) -> None:
    for kind in (MarkdownReport(), HtmlReport()):
        text, plain = kind.render(changed(report(), **changes)), kind.render(report())
        assert all(word in text for word in words)
        assert not any(word in plain for word in words)


def test_leaked_rows_are_not_excluded_under_a_void_verdict() -> None:
    void = Verdict("void", "Void.", "loss", 0.0)
    assert excluded_rows(changed(report(), leaked=20, verdict=void, dropped={"blank": 0})) == {}


def test_baselines_are_compared_by_the_deciding_metric_and_costs_are_shown_if_known() -> None:
    loss, accuracy = report().evaluation.estimates[0], Estimate("accuracy", 40, 0.9, 0.5, (0.2, 0.6), True)
    contenders = [Comparison("smol", [loss], Cost(5, 100.4, 3.0, 0.25)), Comparison("bm25", [accuracy]),
                  Comparison("mute", [])]  # fmt: skip
    columns, rows = baseline_table(changed(report(), contenders=contenders).evaluation)
    assert columns[-3:] == ["tokens read", "tokens generated", "seconds"]
    assert rows == [
        ["smol", "1.000", "1.500", "-0.700 to -0.100", "better", "100", "3", "0.250"],
        ["bm25, by accuracy", "0.900", "0.500", "+0.200 to +0.600", "better", "–", "–", "–"],
        ["mute", "no metric in common", "", "", "", "–", "–", "–"],
        ["the run", "", "", "", "", "–", "–", "–"],
    ]
    columns, rows = baseline_table(changed(report(), contenders=contenders[1:]).evaluation)
    assert (columns[-1], len(rows)) == ("finding", 2)


@pytest.mark.parametrize(
    ("estimate", "finding"),
    [
        (Estimate("m", 9, 0.5, None, None), ""),
        (Estimate("m", 9, 0.5, 0.4, None), "too few rows"),
        (Estimate("m", 9, 0.5, 0.4, (0.1, 0.2), None), "neither direction is better"),
        (Estimate("m", 9, 0.5, 0.4, (-0.1, 0.2)), "inconclusive"),
    ],
)
def test_findings_are_put_in_words(estimate: Estimate, finding: str) -> None:
    assert describe_finding(estimate) == finding


def test_answers_of_rows_are_marked_where_they_are_empty_or_missing() -> None:
    rows = [MetricComparison("a line 1", "?", "red", 1.0, 2.0, "red ", None),
            MetricComparison("a line 2", "?", "red", 1.0, 2.0, " ", "blue")]  # fmt: skip
    columns, cells = comparison_table(rows)
    assert columns == ["row", "prompt", "reference", "answer of the run", "answer of the base", "run", "base"]
    assert [line[3:5] for line in cells] == [["red", "(not generated)"], ["(empty)", "blue"]]
    without = comparison_table([MetricComparison("a line 1", "?", "red", 1.0, 2.0)])
    assert without == (["row", "prompt", "reference", "run", "base"], [["a line 1", "?", "red", "1.000", "2.000"]])


def test_confusions_and_calibration_are_in_md_and_html() -> None:
    predictions = ClassPredictions(["a", "b"], np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([0.9, 0.8, 1.0]))
    error = f"Expected calibration error: {predictions.calibration_error():.1%}."
    for kind in (MarkdownReport(), HtmlReport()):
        text = kind.render(changed(report(), predictions=predictions))
        assert "Most frequent confusions" in text or "Confusion matrix" in text
        assert error in text


def test_the_html_says_how_the_verdict_was_decided() -> None:
    def rule(**changes: Any) -> str:
        verdict = replace(report().evaluation.verdict, **changes)
        return HtmlReport().render(changed(report(), verdict=verdict))

    assert "Verdict by loss; the recipe declares none." in rule()
    declared = "Verdict by loss with a margin of 0.5, as declared in the recipe before the evaluation."
    assert declared in rule(margin=0.5, declared=True)
    assert "Verdict by" not in rule(metric=None)
    assert 'class="verdict not-worse"' in rule(outcome="not worse")
