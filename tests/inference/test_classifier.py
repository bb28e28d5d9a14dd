"""Models that classify texts and tag words, from the rows to the command."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from typer.testing import CliRunner

import bottega
from bottega.cli.commands import app
from bottega.errors import ModelError
from bottega.evaluation.evaluate import evaluate
from bottega.recipe.schema import Recipe
from bottega.runs.store import history
from making import WORDS, make_model, write_jsonl

RUNNER = CliRunner()
ANIMALS, COLOURS = ("cat", "dog"), ("red", "blue")


def sentence(draw: random.Random) -> str:
    words = [*ANIMALS * 3, *COLOURS, *(word for word in WORDS if len(word) > 1 and word not in ANIMALS)]
    return " ".join(draw.choice(words) for _ in range(draw.randint(3, 9)))


def marked(text: str) -> dict[str, Any]:
    """Animals and colours in their places; two animals in a row are one."""
    spans: list[dict[str, Any]] = []
    place = 0
    for word in text.split():
        kind = "animal" if word in ANIMALS else "colour" if word in COLOURS else None
        if kind and spans and spans[-1]["end"] == place - 1 and spans[-1]["label"] == kind == "animal":
            spans[-1]["end"] = place + len(word)
        elif kind:
            spans.append({"start": place, "end": place + len(word), "label": kind})
        place += len(word) + 1
    return {"text": text, "spans": spans}


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [sentence(draw) for _ in range(count)]


ROWS: dict[str, Callable[[str], dict[str, Any]]] = {
    "tag": marked,
    "classify": lambda text: {"text": text, "labels": sorted({*ANIMALS, *COLOURS} & set(text.split()))},
    "regress": lambda text: {"text": text, "label": (len(text.split()) - 6) / 2},
}
OPTIONS = {"classify": {"multi_label": True}}
STEPS = {"tag": (100, 1e-2), "classify": (300, 5e-3), "regress": (70, 2e-2)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A run of an objective on rows that can be learned; made once each."""
    folder = tmp_path_factory.mktemp("reading")
    models = {kind: make_model(folder / kind, kind) for kind in ("llama", "bert")}

    def build(kind: str, model: str = "bert", name: str = "", **more: Any) -> Path:
        run = folder / f"{kind}-{model}{name}"
        if not run.exists():
            rows, (steps, lr) = [ROWS[kind](text) for text in texts(660)], STEPS[kind]
            document: dict[str, Any] = {
                "model": {"base": str(models[model]), "dtype": "float32"},
                "data": {"train": str(write_jsonl(folder / f"{kind}.jsonl", rows)), "validation": 60 / 660},
                "objective": {"kind": kind, **OPTIONS.get(kind, {})},
                "optim": {"steps": steps, "examples": 16, "lr": lr},
                "evaluate": {"every": steps},
            }
            list(bottega.train(Recipe.parse(document | more), run))
        return run

    return build


def validated(run: Path) -> dict[str, Any]:
    return [event for event in history(run) if event["type"] == "validated"][-1]


@pytest.mark.parametrize("model", ["bert", pytest.param("llama", marks=pytest.mark.slow)])
def test_a_tagger_finds_the_entities_it_was_trained_on(trained: Callable[..., Path], model: str) -> None:
    run = trained("tag", model)
    tagger = bottega.load_tagger(run)
    unseen = texts(40, seed=1)
    found = tagger.tag([*unseen, " ", ""])
    wanted = [{(span["start"], span["end"], span["label"]) for span in marked(text)["spans"]} for text in unseen]
    right = sum(len(set(map(tuple, spans)) & want) for spans, want in zip(found, wanted, strict=False))
    assert 2 * right / (sum(map(len, found)) + sum(map(len, wanted))) > 0.85
    assert found[-2:] == [[], []]
    estimates = {one.metric: one for one in evaluate(run).estimates}
    assert estimates["span_f1"].run == pytest.approx(validated(run)["metrics"]["span_f1"], abs=1e-6)
    base = estimates["span_f1"].base
    assert base is not None
    assert base > 0.8, "words here always mean the same"


def test_a_text_of_any_length_is_tagged_whole(trained: Callable[..., Path]) -> None:
    """In every form alike; nothing but white space is refused, and half a character."""
    run = str(trained("tag"))
    tagger = bottega.load_tagger(run)
    part = "the cat sat under red tree"
    text = " ".join([part] * 60)
    assert tagger.codec.max_length < 200 < len(text.split())
    words, spans = tagger.read([text])[0]
    assert [text[start:stop] for start, stop in words] == text.split()
    found = [(text[one.start : one.stop], one.label) for one in spans]
    assert found.count(("cat", "animal")) == found.count(("red", "colour")) == 60
    told = json.loads(RUNNER.invoke(app, ["tag", run, "--json", text]).stdout)["spans"]
    assert [(one["start"], one["stop"]) for one in told] == [(one.start, one.stop) for one in spans]
    lines = RUNNER.invoke(app, ["tag", run, "--conll", text]).stdout.splitlines()
    assert sum("\tB-" in line for line in lines) == len(spans)
    assert tagger.tag([]) == []
    assert tagger.tag(["", " "]) == [[], []]
    for given, what in ((["  "], "the text is blank"), ([], "no text given"), (["cat \ud800"], "half a character")):
        refused = RUNNER.invoke(app, ["tag", run, *given], input="")
        assert refused.exit_code == 2, refused.output
        assert what in " ".join(refused.output.split())
        assert "→" in refused.output


@pytest.mark.slow
def test_a_text_that_is_cut_is_reported(trained: Callable[..., Path]) -> None:
    run = trained("classify")
    long = " ".join(["the cat sat"] * 60)
    short, cut = bottega.load_classifier(run).classify(["the cat sat", long])
    assert (short.cut, cut.cut) == (False, True)
    told = RUNNER.invoke(app, ["classify", str(run), "--json", long])
    assert "the rest was ignored" in told.stderr
    assert json.loads(told.stdout)["cut"]
    assert "ignored" not in RUNNER.invoke(app, ["classify", str(run), "the cat sat"]).stderr


def test_a_tagger_as_an_adapter_is_the_same_when_loaded(trained: Callable[..., Path]) -> None:
    more = {"adapter": {"rank": 8}, "optim": {"steps": 100, "examples": 16, "lr": 1e-2}}
    run = trained("tag", "bert", "-lora", **more)
    estimates = {one.metric: one for one in evaluate(run).estimates}
    assert estimates["span_f1"].run == pytest.approx(validated(run)["metrics"]["span_f1"], abs=1e-6)
    assert estimates["span_f1"].run > 0.3


def test_a_tagger_opens_in_transformers(trained: Callable[..., Path]) -> None:
    """What is saved is a plain model that has our names for its classes, and says the same at each word."""
    tagger = bottega.load_tagger(run := trained("tag"), dtype="float32")
    plain = transformers.AutoModelForTokenClassification.from_pretrained(str(run / "model")).eval()
    row, _ = tagger.codec.encode_words("here", "the cat sat under red tree")
    with torch.no_grad():
        logits = plain(torch.from_numpy(row.tokens)[None]).logits[0, row.at]
    names = [plain.config.id2label[number] for number in logits.argmax(1).tolist()]
    assert names == ["O", "B-animal", "O", "O", "B-colour", "O"]
    torch.testing.assert_close(logits.double(), torch.from_numpy(tagger.scores([row])), rtol=1e-4, atol=1e-4)


def test_several_labels_a_text(trained: Callable[..., Path]) -> None:
    run = trained("classify")
    unseen = texts(60, seed=1)
    found = bottega.load_classifier(run).classify(unseen)
    wanted = [tuple(ROWS["classify"](text)["labels"]) for text in unseen]
    assert sum(one.labels == want for one, want in zip(found, wanted, strict=True)) > 45
    assert {len(one.labels) for one in found} >= {0, 1, 2}
    estimates = {one.metric: one for one in evaluate(run).estimates}
    assert estimates["f1_micro"].run == pytest.approx(validated(run)["metrics"]["micro_f1"], abs=1e-6)
    assert estimates["subset_accuracy"].run == pytest.approx(validated(run)["metrics"]["exact"])
    assert estimates["f1_micro"].finding == "better"


def test_a_number_for_a_text(trained: Callable[..., Path]) -> None:
    run = trained("regress")
    short, long = bottega.load_classifier(run).values(["the cat sat", "the cat sat on the mat and ran under"])
    assert short < 0 < long
    estimates = {one.metric: one for one in evaluate(run).estimates}
    assert estimates["mae"].run == pytest.approx(validated(run)["metrics"]["mean_error"], rel=1e-5)
    assert estimates["rmse"].run == pytest.approx(validated(run)["loss"] ** 0.5, rel=1e-5)
    assert estimates["mae"].finding == "better"


def test_the_commands_tag_and_classify(trained: Callable[..., Path]) -> None:
    run = str(trained("tag"))
    text = "the cat sat under red tree"
    tagged = RUNNER.invoke(app, ["tag", run, "--json", text])
    labels = {span["text"]: span["label"] for span in json.loads(tagged.stdout)["spans"]}
    assert labels == {"cat": "animal", "red": "colour"}
    lines = RUNNER.invoke(app, ["tag", run, "--conll", text]).stdout.splitlines()
    assert lines[:3] == ["the\tO", "cat\tB-animal", "sat\tO"]
    assert RUNNER.invoke(app, ["tag", run, text]).stdout == f"cat (animal); red (colour)\t{text}\n"
    value = RUNNER.invoke(app, ["classify", str(trained("regress")), "--json", "the cat sat"])
    assert json.loads(value.stdout)["value"] < 0
    several = RUNNER.invoke(app, ["classify", str(trained("classify")), text])
    assert several.stdout.startswith("cat\t")


def test_a_run_of_another_head_is_refused_with_its_command(trained: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="bottega tag"):
        bottega.load_classifier(trained("tag"))
    with pytest.raises(ModelError, match="bottega tag"):
        bottega.load_masked(trained("tag"))
