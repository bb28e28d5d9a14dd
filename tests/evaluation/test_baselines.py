"""Baselines: each is scored on the same rows, and as it would be alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import pytest
from typer.testing import CliRunner

import bottega
from bottega.cli.commands import app
from bottega.data.reader import RecipeReader
from bottega.errors import RunError
from bottega.evaluation import openai_client
from bottega.evaluation.baselines import Baseline, parse_baseline
from bottega.evaluation.context import EvaluationContext
from bottega.evaluation.evaluate import Comparison, Evaluation, evaluate
from bottega.evaluation.exam import _note_random_context
from bottega.evaluation.openai_client import Endpoint
from bottega.evaluation.passages import split_passages
from bottega.evaluation.prompting import Shot, fit_prompt, leading_label, with_passages, with_shots
from bottega.evaluation.retrieval import Bm25Retriever, DenseRetriever
from bottega.recipe.schema import Recipe
from bottega.records import Message
from making import WORDS, make_model, write_jsonl

SAID = [
    {"instruction": f"the {animal} {word}", "output": said}
    for animal, said in {"cat": "red", "dog": "blue"}.items()
    for word in WORDS
]
LABELLED = [{"text": row["instruction"], "label": row["output"]} for row in SAID]
SIZES = [{"text": f"{word} {number}", "label": number} for number in range(10) for word in WORDS[:4]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A run with an objective; made once each."""
    folder = tmp_path_factory.mktemp("baselines")
    made = {kind: make_model(folder / kind, kind) for kind in ("llama", "bert")}

    def build(kind: str, rows: list[dict[str, Any]], *, model: str = "llama", name: str = "", **more: Any) -> Path:
        run = folder / f"{kind}-{model}-{name}"
        if not run.exists():
            data = str(write_jsonl(folder / f"{kind}{name}.jsonl", rows))
            document: dict[str, Any] = {
                "model": {"base": str(made[model]), "dtype": "float32"},
                "data": {"train": data, "validation": 0.4},
                "objective": {"kind": kind},
                "optim": {"steps": 30, "examples": 8, "lr": 3e-3},
            }
            list(bottega.train(Recipe.parse(document | more), run))
        return run

    return build


def beside(found: Evaluation, name: str) -> Comparison:
    return next(one for one in found.contenders if name in one.name)


# Prompts and retrieval


def test_a_baseline_is_parsed_as_the_user_writes_it(tmp_path: Path, trained: Callable[..., Path]) -> None:
    assert parse_baseline("few-shot").method == "few-shot"
    assert parse_baseline("dense=some/encoder") == Baseline("dense", "some/encoder", "dense=some/encoder")
    assert parse_baseline("http://localhost:1/v1#small").model == "small"
    run = trained("sft", SAID)
    assert parse_baseline(str(run)).method == "run"
    assert parse_baseline(str(make_model(tmp_path / "m"))).method == "zero-shot"
    with pytest.raises(RunError, match="not a baseline") as caught:
        parse_baseline("fewshot")
    assert "few-shot" in str(caught.value.fix)
    with pytest.raises(RunError, match="missing address or #model"):
        parse_baseline("http://localhost:1/v1")


def test_the_most_similar_example_comes_right_before_the_prompt() -> None:
    shots = [Shot("nearest?", " one"), Shot("far?", " two")]
    assert with_shots("asked?", shots) == "far? two\n\nnearest? one\n\nasked?"
    system, asked = Message("system", "be brief"), Message("user", "asked?")
    turns = [Shot((system, Message("user", "near")), "one"), Shot((system, Message("user", "far")), "two")]
    found = with_shots((system, asked), turns)
    assert [(one.role, one.content) for one in found if isinstance(one, Message)] == [
        ("system", "be brief"), ("user", "far"), ("assistant", "two"), ("user", "near"), ("assistant", "one"),
        ("user", "asked?"),
    ]  # fmt: skip
    assert with_passages("asked?", ["near", "far"]) == "far\n\nnear\n\nasked?"
    assert with_passages((system, asked), ["near"])[-1].content == "near\n\nasked?"


def test_fewer_passages_are_shown_where_there_is_no_room(tmp_path: Path) -> None:
    codec = bottega.load(make_model(tmp_path / "m")).codec
    things = [f"passage {number} " * 5 for number in range(5)]
    for room in (40, 80, 10_000):
        found = fit_prompt(codec, "asked?", with_passages, things, room)
        assert len(codec.encode_prompt(found)) <= room
        shown_ = sum(thing in found for thing in things)
        assert shown_ == 5 or len(codec.encode_prompt(with_passages("asked?", things[: shown_ + 1]))) > room


def test_a_label_is_the_longest_that_a_text_begins_with() -> None:
    labels = ["card", "card lost", " other"]
    assert [leading_label(text, labels) for text in (" Card lost, I fear", "cards", "Other.", "a card")] == [
        1,
        0,
        2,
        -1,
    ]


def test_a_label_does_not_begin_another() -> None:
    labels = ["1", "10", "C", "C++", " 正"]
    told = ["1", "10", "100", "1.5", "1. so", "C", "c++", "C#", "正。", "C++ is"]
    assert [leading_label(text, labels) for text in told] == [0, 1, -1, -1, 0, 2, 3, -1, 4, 3]
    assert leading_label("cafe\u0301", ["café"]) == 0


@pytest.mark.parametrize(
    ("asked", "known"),
    [
        ("我的包裹在哪里", ["今天天气很好", "包裹什么时候到", "谢谢您的帮助"]),
        ("พัสดุของฉันอยู่ที่ไหน", ["วันนี้อากาศดี", "พัสดุจะมาเมื่อไร", "ขอบคุณมาก"]),
        ("お荷物はどこ", ["天気がいい", "お荷物を待つ", "ありがとう"]),
        ("где моя посылка", ["сегодня солнечно", "ПОСЫЛКА пришла", "спасибо"]),
        ("il caffe\u0300 no", ["oggi piove", "Caffè no", "grazie"]),
        ("में दिल्ली", ["धन्यवाद", "दिल्ली", "आज"]),
        ("كتب الولد", ["شكرا", "كَتَبَ", "اليوم"]),
        ("istanbul", ["ankara", "İSTANBUL", "izmir"]),
        ("in a no 5", ["out", "5 as", "be"]),
    ],
)
def test_words_are_found_in_every_script(asked: str, known: list[str]) -> None:
    numbers, nearness = Bm25Retriever(known).nearest([asked], 3)
    assert numbers[0, 0] == 1
    assert sorted(numbers[0].tolist()) == [0, 1, 2], "nothing is shown twice"
    assert nearness[0, 0] > nearness[0, 1]
    assert nearness[0, 2] == 0


def test_a_query_without_a_match_gets_random_rows() -> None:
    index = Bm25Retriever([f"word{number}" for number in range(50)])
    asked = ["unknown", "another", "?", "", "third"]
    numbers, nearness = index.nearest(asked, 5)
    assert not nearness.any()
    assert all(len(set(row)) == 5 for row in numbers.tolist())
    assert len({tuple(row) for row in numbers.tolist()}) == len(asked)
    assert (numbers == index.nearest(asked, 5)[0]).all(), "the same every time"
    assert Bm25Retriever(["", "?"]).nearest(["x"], 9)[0].shape == (1, 2)
    assert Bm25Retriever([]).nearest(["x"], 3)[0].shape == (1, 0)


def test_examples_picked_at_random_are_noted() -> None:
    told = list[tuple[str, str]]()
    case = cast(EvaluationContext, SimpleNamespace(note=lambda name, why: told.append((name, why))))
    _, nearness = Bm25Retriever(["one two", "two three", "four"]).nearest(["two", "five", "one two four"], 3)
    _note_random_context(case, Baseline("few-shot", None, "few-shot"), nearness, "training rows")
    why = "2 of 3 questions share a word with fewer than 3 training rows; the others in its prompt are picked at random"
    assert told == [("few-shot", why)]
    _note_random_context(case, Baseline("few-shot", None, "few-shot"), nearness[2:], "training rows")
    assert len(told) == 1


def test_bm25_and_dense_retrieval_find_the_nearest_texts(tmp_path: Path) -> None:
    texts = ["the cat sat on the mat", "a dog ran under the tree", "one two three"]
    index = Bm25Retriever(texts)
    numbers, nearness = index.nearest(["where is the dog", "three!", "nothing known xyz"], 2)
    assert numbers[:2, 0].tolist() == [1, 2]
    assert nearness[2].tolist() == [0, 0]
    embedder = bottega.load_embedder(make_model(tmp_path / "m", "bert"))
    vectors = embedder.embed(texts)
    numbers, nearness = DenseRetriever(texts, embedder).nearest(["dog", texts[2]], 3)
    want = np.argsort(-(embedder.embed(["dog", texts[2]]) @ vectors.T), axis=1)
    assert numbers.tolist() == want.tolist()
    assert nearness[1, 0] == pytest.approx(1, abs=1e-5)


def test_passages_are_whole_paragraphs() -> None:
    text = "\n\n".join(["short one", "short two", "word " * 300, "last"])
    found = list(split_passages(text))
    assert found[0] == "short one\nshort two"
    assert [len(one.split()) for one in found[1:]] == [120, 120, 60, 1]
    chinese = list(split_passages("甲" * 500 + "。" + "乙" * 20))
    assert "".join(chinese) == "甲" * 500 + "。" + "乙" * 20
    assert [len(one) for one in chinese] == [120, 120, 120, 120, 41]


# Baselines


def test_few_shot_prompts_score_as_each_does_alone(trained: Callable[..., Path]) -> None:
    found = evaluate(trained("sft", SAID), against=["few-shot", "bm25"], shots=2)
    few = beside(found, "few-shot")
    assert [one.metric for one in few.estimates] == [
        "loss", "perplexity", "accuracy", "f1_macro", "exact_match",
    ]  # fmt: skip
    assert few.cost is not None
    assert found.cost is not None
    assert few.cost.read > 2 * found.cost.read, "two examples take more than twice the room of the question"
    assert by_hand(trained("sft", SAID), found, shots=2) == pytest.approx(few.estimates[0].base, rel=1e-4)
    assert found.verdict.beside == "nearest training rows, bm25"
    nearest = beside(found, "bm25")
    assert [one.metric for one in nearest.estimates] == ["accuracy", "f1_macro", "exact_match"]
    assert nearest.cost is None


def by_hand(run: Path, found: Evaluation, *, shots: int) -> float:
    """The loss of the base on the answers, each after the likest training rows, one row at a time."""
    recipe = Recipe.parse(json.loads((run / "resolved.json").read_text()))
    base = bottega.load(str(recipe.model.base), dtype="float32")
    known = [
        one for record in RecipeReader(recipe).training() if (one := recipe.objective.prompt_and_reference(record))
    ]
    asked = [one for record in found.records if (one := recipe.objective.prompt_and_reference(record))]
    numbers, _ = Bm25Retriever([prompt[-1].content for prompt, _ in known]).nearest(
        [p[-1].content for p, _ in asked], shots
    )
    nll = tokens = 0.0
    for (prompt, answer), near in zip(asked, numbers.tolist(), strict=True):
        turns = [turn for number in near[::-1] for turn in (*known[number][0], Message("assistant", known[number][1]))]
        row = base.codec.encode_completion("by hand", (*turns, *prompt), answer)
        nll, tokens = nll - base.logp([row])[0], tokens + row.weight.sum()
    return float(nll / tokens)


@pytest.mark.slow
def test_other_models_other_runs_and_passages(trained: Callable[..., Path], tmp_path: Path) -> None:
    run, other = trained("sft", SAID), trained("sft", SAID, name="other", optim={"steps": 1, "lr": 1e-5})
    model = make_model(tmp_path / "fresh")
    texts = write_jsonl(tmp_path / "texts.jsonl", [{"text": f"the {word} is red"} for word in WORDS])
    against = [str(other), str(model), f"few-shot={model}", "retrieval", "dense", f"dense={model}"]
    found = evaluate(run, against=against, documents=[str(texts)], rows=24)
    assert [one.name for one in found.contenders] == [
        "llama", "sft-llama-other", "fresh, zero-shot", "fresh, few-shot", "llama, retrieval",
        "nearest training rows, dense",
    ]  # fmt: skip
    assert found.unasked == {"dense": "no encoder given: dense=FOLDER"}
    same = evaluate(run, against=[str(run)])
    assert same.verdict.outcome != "worse"
    assert all(one.run == one.base and one.finding != "better" for one in same.contenders[1].estimates)
    alone = evaluate(other, against=[], rows=24)
    ours = {one.metric: one.run for one in alone.estimates}
    theirs = {one.metric: one.base for one in beside(found, "sft-llama-other").estimates}
    assert theirs == pytest.approx(ours), "a run is measured the same beside another"


def test_a_run_is_not_compared_with_baselines_that_give_no_answer(trained: Callable[..., Path]) -> None:
    texts = [{"text": row["instruction"]} for row in SAID]
    found = evaluate(trained("causal", texts), against=["few-shot", "bm25"])
    assert set(found.unasked.values()) == {"the rows are not prompts with answers"}
    pairs = [{"prompt": row["instruction"], "chosen": " on", "rejected": " under"} for row in SAID]
    run = trained("dpo", pairs, adapter={"rank": 2})
    found = evaluate(run, against=["few-shot", str(run)], rows=12)
    assert found.unasked == {"few-shot": "it gives no probability to an answer"}
    assert beside(found, "dpo").estimates[0].interval is not None


def test_classifiers_and_regressions_are_compared_with_the_nearest_rows(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    run, llama = trained("classify", LABELLED, model="bert"), make_model(tmp_path / "llama")
    found = evaluate(run, against=["bm25", "dense", f"few-shot={llama}", f"zero-shot={llama}", "few-shot", str(run)])
    assert [one.name for one in found.others] == [
        "nearest training rows, bm25", "nearest training rows, dense", "llama, few-shot", "llama, zero-shot",
        "classify-bert-",
    ]  # fmt: skip
    for one in found.others[:4]:
        assert [each.metric for each in one.estimates] == ["accuracy", "f1_macro"]
    assert found.unasked == {"few-shot": "no language model given: few-shot=FOLDER"}
    numbers = evaluate(trained("regress", SIZES, model="bert"))
    assert [one.name for one in numbers.others] == ["nearest training rows, bm25", "nearest training rows, dense"]
    error = beside(numbers, "bm25").estimate("mae")
    assert error is not None
    assert error.base is not None
    assert numbers.estimates[0].base is not None
    assert error.base < 0.7 * numbers.estimates[0].base, "the number stands in the text, beside a word"


def test_an_embedder_is_compared_with_bm25(trained: Callable[..., Path]) -> None:
    pairs = [{"anchor": f"{one} {other}", "positive": f"{other} {one}"} for one in WORDS[:6] for other in WORDS[6:14]]
    found = evaluate(trained("contrastive", pairs, model="bert"))
    assert found.others[0].name == "the words they share, BM25"
    nearest = found.others[0].estimate("accuracy_at_1")
    assert nearest is not None
    assert nearest.base == 1.0, "both texts of a pair have the same words"


def test_intervals_widen_with_the_number_of_baselines(trained: Callable[..., Path]) -> None:
    run = trained("sft", SAID)
    (one,) = [each for each in evaluate(run, against=[]).estimates if each.metric == "loss"]
    (three,) = [each for each in evaluate(run, against=["few-shot", "bm25"]).estimates if each.metric == "loss"]
    assert one.interval is not None
    assert three.interval is not None
    assert 1.1 < (three.interval[1] - three.interval[0]) / (one.interval[1] - one.interval[0]) < 1.4


@pytest.mark.slow
def test_other_seeds_hold_the_same_rows_out(trained: Callable[..., Path]) -> None:
    run = trained("sft", SAID, name="seeds")
    found = evaluate(run, against=[], seeds=3, rows=1000)
    assert len(found.seeds) == 3
    assert found.seeds[0] == next(one.run for one in found.estimates if one.metric == found.verdict.metric)
    assert "With 3 seeds accuracy is" in found.spread()
    held = [{record.prompt_key for record in evaluate(one, against=[], rows=1000).records}
            for one in (run, run / "seeds" / "1", run / "seeds" / "2")]  # fmt: skip
    assert held[0] == held[1] == held[2]
    before = (run / "seeds" / "1" / "events.jsonl").stat().st_mtime_ns
    assert evaluate(run, against=[], seeds=2, rows=1000).seeds == found.seeds[:2]
    assert (run / "seeds" / "1" / "events.jsonl").stat().st_mtime_ns == before, "what is there is not trained again"


# A server


class Model(BaseHTTPRequestHandler):
    """Says red of cats and blue of dogs; as a judge, marks what is right with 10."""

    asked: ClassVar[list[dict[str, Any]]] = []
    busy = 0

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Model.asked.append({**body, "key": self.headers.get("Authorization"), "path": self.path})
        if Model.busy:
            Model.busy -= 1
            self.send_error(429)
            return
        if body["model"] == "unknown":
            self._say(404, {"error": {"message": "no such model"}})
            return
        words = body["messages"][-1]["content"]
        text = "Red" if words.startswith("the cat") else "blue"
        if "Given answer" in words:
            right, given = (words.partition(f"{name} answer:\n")[2].partition("\n")[0] for name in ("Right", "Given"))
            text = "no idea" if right == "blue" else "10" if right == given else "mark: 3"
        answer = {"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
        self._say(200, answer)

    def _say(self, code: int, value: Any) -> None:
        text = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(openai_client.time, "sleep", lambda seconds: None)
    Model.asked, Model.busy = [], 0
    running = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/v1"
    running.shutdown()
    running.server_close()


def test_a_server_answers_and_judges(
    server: str, trained: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    Model.busy = 2
    found = evaluate(trained("sft", SAID), against=[f"{server}#small"], judge=f"{server}#judge", rows=20)
    small = beside(found, "small")
    accuracy = small.estimate("accuracy")
    assert accuracy is not None
    assert accuracy.base == 1.0
    assert small.cost is not None
    assert (small.cost.read, small.cost.written) == (9, 2)
    first = next(one for one in Model.asked if one["model"] == "small")
    assert (first["path"], first["key"], first["temperature"]) == ("/v1/chat/completions", "Bearer secret", 0)
    assert "blue, red" in first["messages"][0]["content"]
    mark = small.estimate("judge_score")
    assert mark is not None
    assert 0 < mark.rows < 20, "a mark that cannot be read is unknown"
    assert mark.base == pytest.approx(0.3), "Red is not red, so it marks 3 of 10"


def test_a_server_that_refuses_is_named(server: str) -> None:
    with pytest.raises(RunError, match="404: no such model"):
        Endpoint.parse(f"{server}#unknown").ask(["?"], tokens=1)
    Model.busy = 100
    assert Endpoint.parse(f"{server}#small").ask(["?"], tokens=1) == [None], "busy for ever: no answer, no mark"
    with pytest.raises(RunError, match="no server answers"):
        Endpoint.parse("http://127.0.0.1:9/v1#small").ask(["?"], tokens=1)


def test_the_command(trained: Callable[..., Path], tmp_path: Path) -> None:
    run = trained("sft", SAID)
    out = tmp_path / "report"
    shown_ = CliRunner().invoke(app, ["evaluate", str(run), "--rows", "24", "--against", "bm25", "--report", str(out)])
    assert shown_.exit_code == 0, shown_.output
    assert "Comparison with baselines: accuracy" in shown_.output
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Comparison with baselines: accuracy" in page
    assert "nearest training rows, bm25" in page
    assert "nearest training rows, bm25" in (out / "report.md").read_text(encoding="utf-8")
    alone = CliRunner().invoke(app, ["evaluate", str(run), "--rows", "24", "--against", "none", "--json"])
    assert len(json.loads(alone.stdout)["contenders"]) == 1
    wrong = CliRunner().invoke(app, ["evaluate", str(run), "--against", "bm52"])
    assert (wrong.exit_code, "not a baseline" in wrong.stderr) == (2, True)
