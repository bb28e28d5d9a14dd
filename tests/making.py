"""Tiny models, tokenizers and rows made on the spot; nothing is fetched."""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
import transformers
from rich.console import Console

from bottega.data import sources
from bottega.data.train_tokenizer import train_tokenizer
from bottega.events import Event, Started, Stepped
from bottega.recipe.schema import Recipe, Source
from bottega.tokenization.codec import Codec

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("BOTTEGA_DATA", ROOT.parent / "shared" / "data"))

TEXT = "the a cat dog sat ran on under mat tree and then it was very happy sad red blue one two three"
WORDS = TEXT.split(" ")

# Questions with an answer that follows from the animal: red for a cat, blue for a dog.
QUESTIONS = [
    {"instruction": f"the {animal} {word}", "output": answer}
    for animal, answer in (("cat", "red"), ("dog", "blue"))
    for word in WORDS
]


# Rows that a tiny model learns in a few updates.
CAT_ROWS = [{"prompt": f"the {word} ", "completion": "sat on the mat"} for word in ("cat", "dog", "tree", "mat")]


def shared_data(name: str) -> Path:
    """A file or folder of the real data; the test is skipped where it is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"real data {name} is not here")
    return path


def make_tokenizer(folder: Path, *, bos: bool = True, template: str | None = None, spans: bool = False) -> Path:
    """A byte-level BPE tokenizer of 300 entries with <s>, </s>, <pad>, <unk>, <mask>, written to `folder`.

    spans  also nine tokens that stand for what is left out
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", "<unk>", "<mask>"]
    special += [f"<extra_id_{number}>" for number in range(9)] if spans else []
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    names = dict(zip(("bos_token", "eos_token", "pad_token", "unk_token", "mask_token"), special, strict=False))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **names)
    tokenizer.save_pretrained(str(folder))
    return folder


def make_codec(
    folder: Path,
    kind: str,
    text: str,
    *,
    name: Path | None = None,
    both_ways: bool = True,
    length: int = 200,
    labels: Iterable[str] = (),
) -> Codec:
    """A codec that cuts, over the tokenizer `name`, or one of `bytes`, or of word pieces of a text."""
    if name is None and kind == "bytes":
        name = make_tokenizer(folder)
    elif name is None:
        (folder / "text.txt").write_text(text, encoding="utf-8")
        name = folder / "pieces"
        train_tokenizer([folder / "text.txt"], 80, name, "wordpieces")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(name))
    return Codec(tokenizer, max_length=length, too_long="truncate", both_ways=both_ways, labels=labels)


# Every architecture that objectives are tested with, and what sets it apart.
TINY: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 5},
    "gemma3_text": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 5, "num_hidden_layers": 3,
                    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "mistral": {"sliding_window": 5},
    "qwen2": {},
    "smollm3": {},
    "phi3": {"sliding_window": None},
    "gpt2": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo2": {},
    "granite": {"logits_scaling": 3.0, "embedding_multiplier": 2.0, "attention_multiplier": 0.4,
                "residual_multiplier": 0.7},
    "bert": {},
    "gpt_oss": {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5},
    "bloom": {},
    "mamba": {},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0,
           "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, "decoder_start_token_id": 2},
}  # fmt: skip


# Rotary embeddings of one head of 96 that change where a text is longer than 4,096 tokens.
LONG_ROPE: dict[str, Any] = {
    "original_max_position_embeddings": 4096,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0 + index / 48 for index in range(48)],
        "long_factor": [1.0 + index for index in range(48)],
    },
}


def tiny_config(kind: str, vocabulary: int = 300, **more: Any) -> Any:
    """A config of two layers, 32 wide, four heads over two key/value heads."""
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "pad_token_id": 2,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    if kind == "t5":
        sizes = {name: size for name, size in sizes.items() if name == "vocab_size" or name.endswith("token_id")}
    elif kind not in ("gpt2", "bert", "bloom", "mamba"):
        sizes["num_key_value_heads"] = 2
    quiet = {
        "gpt2": {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
        "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    }
    return transformers.AutoConfig.for_model(kind, **{**sizes, **quiet.get(kind, {}), **TINY[kind], **more})


def sharpen(model: Any) -> Any:
    """Random weights large enough that attention matters."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[-1] ** -0.5)
    return model


def make_model(
    folder: Path, kind: str = "llama", *, bos: bool = True, template: str | None = None, **more: Any
) -> Path:
    """A tiny model with its tokenizer, as a checkpoint in `folder`."""
    torch.manual_seed(0)
    make_tokenizer(folder, bos=bos, template=template, spans=kind == "t5")
    autos = {"bert": transformers.AutoModelForMaskedLM, "t5": transformers.AutoModelForSeq2SeqLM}
    auto = autos.get(kind, transformers.AutoModelForCausalLM)
    model = sharpen(auto.from_config(tiny_config(kind, **more), dtype=torch.float32))
    model.save_pretrained(str(folder))
    return folder


def page_file(title: str, page: str = "extending") -> str:
    """The file of that title on a page of the documentation."""
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    _, _, after = text.partition(f'title="{title}"\n')
    assert after, f"{page}.md has no file {title}"
    return after.partition("```\n")[0]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_recipe(folder: Path, layers: int = 2, **sections: Any) -> Recipe:
    """A recipe that tunes a tiny model of that folder on prompts with answers, with sections replaced."""
    folder.mkdir(exist_ok=True)
    rows = [{"prompt": f"the cat {word}", "completion": " sat on the mat"} for word in WORDS]
    document = {
        "model": {"base": str(make_model(folder / "model", num_hidden_layers=layers)), "dtype": "float32"},
        "data": {"train": str(write_jsonl(folder / "rows.jsonl", rows))},
        "objective": {"kind": "sft"},
        "optim": {"epochs": 4, "examples": 4},
    }
    return Recipe.parse(document | sections)


def placed(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a file, each with its place, as a recipe with this file reads them."""
    for _, rows in sources.open_sources([Source(path=str(path))]):
        yield from rows


def make_document(model: Path, folder: Path) -> dict[str, Any]:
    """A recipe of ten updates of several micro-batches each, with validation and checkpoints; its rows in `folder`."""
    draw = random.Random(0)
    rows = [
        {"prompt": f"the {draw.choice(WORDS)} dog", "completion": " " + " ".join(draw.choices(WORDS, k=5))}
        for _ in range(40)
    ]
    return {
        "model": {"base": str(model), "dtype": "float32"},
        "data": {"train": str(write_jsonl(folder / "rows.jsonl", rows)), "validation": 0.25},
        "objective": {"kind": "sft"},
        "optim": {"steps": 10, "examples": 4, "tokens": 30, "lr": 1e-2},
        "evaluate": {"every": 3},
        "save": {"every": 4, "keep": 2},
    }


def printed(show: Callable[..., None], *arguments: Any, width: int = 120, **options: Any) -> str:
    """What a view of the command line prints on a console of this width."""
    console = Console(width=width, file=io.StringIO(), highlight=False)
    show(*arguments, console, **options)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def make_started(**changes: Any) -> Started:
    """The first event of a run of forty updates."""
    values: dict[str, Any] = {
        "step": 0, "resumed": False, "steps": 40, "examples": 1200, "validation_examples": 30, "parameters": 5_000_000,
        "trained_parameters": 1000, "dtype": "float32", "device": "cpu", "threads": 2, "micro_batch_tokens": 64,
        "lr": 1e-3,
    }  # fmt: skip
    return Started(**{**values, **changes})


def make_stepped(step: int, **changes: Any) -> Stepped:
    """The event of an update that took two seconds for a hundred tokens, a quarter of them shared."""
    values: dict[str, Any] = {
        "loss": 2.5, "lr": 1e-3, "grad_norm": 1.0, "tokens": 75, "tokens_real": 100, "seconds": 2.0, "cpu": 1.0,
        "memory": 3_000_000_000, "device_memory": 0, "device_use": None, "epoch": 0.1, "metrics": {},
    }  # fmt: skip
    return Stepped(step=step, **{**values, **changes})


def make_run(folder: Path, *events: Event) -> Path:
    """The folder of a run with these events; without weights."""
    document = {
        "name": "mine",
        "model": {"base": "m"},
        "data": {"train": "rows.jsonl"},
        "objective": {"kind": "sft"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "resolved.json").write_text(json.dumps(Recipe.parse(document).document()))
    (folder / "recipe.yaml").write_text(json.dumps(document))  # JSON is YAML
    (folder / "events.jsonl").write_text("".join(json.dumps(event.document()) + "\n" for event in events))
    return folder


def random_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Rows of a prompt and a completion, of random words."""
    draw = random.Random(seed)
    return [
        {
            "prompt": " ".join(draw.choices(WORDS, k=12)) + f" {n}?",
            "completion": " ".join(draw.choices(WORDS, k=6)) + ".",
        }
        for n in range(count)
    ]
