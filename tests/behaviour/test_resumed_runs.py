"""Resumed = uninterrupted, bit for bit, for every objective, full and LoRA, with dropout on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from worlds import OPTIONS, records

import bottega
from bottega import objectives
from bottega.records import Chat, Labelled, Paired, Posed, Preference, Record, Tagged, Text, Unpaired
from bottega.runs.atomic_files import checksum
from making import WORDS, make_model


def fields(record: Record) -> dict:
    """The line of a file that reads back as this record."""
    if isinstance(record, Text):
        return {"text": record.text}
    if isinstance(record, Chat):
        return {"messages": [{"role": m.role, "content": m.content, "weight": m.weight} for m in record.messages]}
    if isinstance(record, Preference):
        prompt = [{"role": m.role, "content": m.content} for m in record.prompt]
        return {"prompt": prompt, "chosen": record.chosen, "rejected": record.rejected}
    if isinstance(record, Unpaired):
        prompt = [{"role": m.role, "content": m.content} for m in record.prompt]
        return {"prompt": prompt, "completion": record.completion, "label": record.desirable}
    if isinstance(record, Labelled):
        return {"text": record.text, "label": record.label}
    if isinstance(record, Tagged):
        return {"text": record.text, "spans": [{"start": a, "end": b, "label": name} for a, b, name in record.spans]}
    if isinstance(record, Paired):
        pair = {"anchor": record.anchor, "positive": record.positive, "negatives": list(record.negatives)}
        return pair | ({"label": record.label} if record.label else {})
    if isinstance(record, Posed):
        prompt = [{"role": m.role, "content": m.content} for m in record.prompt]
        return {"prompt": prompt, "answer": record.right}
    raise NotImplementedError(type(record).__name__)


@pytest.fixture(scope="session")
def dropping(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models with dropout, by head."""
    decoder = tmp_path_factory.mktemp("gpt2")
    encoder = tmp_path_factory.mktemp("bert")
    drops = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
    reading = make_model(encoder, "bert", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    across = make_model(tmp_path_factory.mktemp("t5"), "t5", dropout_rate=0.1)
    return {
        "span": across,
        "language": make_model(decoder, "gpt2", **drops),
        "sequence": reading,
        "token": reading,
        "masked": reading,
        "embedding": reading,
    }


LORA = {"adapter": {"rank": 4, "dropout": 0.1}}
GUARDED = {
    "ema": 0.9,
    "neftune": 5.0,
    "layer_decay": 0.8,
    "weight_decay": 0.1,
    "freeze": ["*.0.*"],
}


# Training every weight with all there is has in it what training them plainly has: one objective does that.
WAYS: dict[str, dict] = {"full": {}, "lora": LORA, "guarded": {"optim": GUARDED}}

# Of each sort (rows, a reference, answers of its own, an encoder) the one `make test` resumes with LoRA too.
WITH_LORA = ("sft", "dpo", "grpo", "tag")

# They differ from it in their loss alone: `make slow` resumes them.
LIKE_DPO = ("orpo", "simpo", "cpo")


def marks(kind: str, way: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] if kind in LIKE_DPO or (way == "lora" and kind not in WITH_LORA) else []


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        pytest.param(kind, more, id=f"{kind}-{way}", marks=marks(kind, way))
        for kind in objectives.kinds()
        for way, more in WAYS.items()
        if way != "full" or kind == "sft"
    ],
)
def test_resumed_is_uninterrupted(kind: str, more: dict, dropping: dict[str, Path], tmp_path: Path) -> None:
    options = {"kind": kind, **OPTIONS.get(kind, [{}])[0]}
    objective = objectives.build_objective(options)
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(fields(record)) + "\n" for record in records(objective, 11)))
    guard = None
    if "optim" in more and objective.head in ("language", "masked"):
        general = tmp_path / "general.jsonl"
        general.write_text("".join(json.dumps({"text": f"{text} and then"}) + "\n" for text in WORDS * 2))
        guard = {"replay": str(general), "share": 0.3, "anchor": 0.1}
    recipe = bottega.Recipe.parse(
        {
            "model": {"base": str(dropping[kind if kind == "span" else objective.head]), "dtype": "bfloat16"},
            "adapter": more.get("adapter"),
            "data": {"train": str(data), "validation": 0.2},
            "objective": options,
            "guard": guard,
            "optim": {"steps": 5, "examples": 4, "tokens": 60, "lr": 1e-2, **more.get("optim", {})},
            "evaluate": {"every": 3},
            "save": {"every": 2, "keep": 2},
        }
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for event in bottega.train(recipe, whole):
        if event.type == "stepped" and event.step == 3:
            shutil.copytree(whole, cut)  # what a kill at this moment would leave
    resumed = list(bottega.resume(cut))
    assert resumed[0].type == "started"
    assert resumed[0].step == 2
    assert sums(whole) == sums(cut)
    losses = [event.loss for event in resumed if event.type == "stepped"]
    events = [json.loads(line) for line in (whole / "events.jsonl").read_text().splitlines()]
    assert losses == [event["loss"] for event in events if event["type"] == "stepped"][2:]
    assert list(bottega.resume(cut)) == [], "a finished run is left as it is"


def sums(run: Path) -> dict[str, str]:
    """Checksums of every weight and state file of a run."""
    files = sorted(run.rglob("*.safetensors")) + sorted(run.rglob("state.json"))
    assert len(files) >= 5
    return {str(path.relative_to(run)): checksum(path) for path in files}
