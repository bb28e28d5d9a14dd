"""Inputs of measurements: models of known shapes with random weights, and rows of known lengths.

The tokenizer is word-level: one token per word, so every tool gets rows of the same number of tokens. Only numpy,
tokenizers and transformers are needed, so that the peers' environment can import this module too.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

VOCABULARY = 49152
SHAPES = {
    "10m": {
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
    "135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
    "500m": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 26,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
}

# Words at the start of every instruction row; Alpaca's rows share a preamble of about this length.
PREAMBLE = 30


def make_tokenizer(folder: Path, size: int = VOCABULARY) -> None:
    """A word-level tokenizer; `size` may exceed the vocabulary that rows are sampled from."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    words |= {f"w{index}": index for index in range(len(words), size)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)


def make_model(folder: Path, shape: str) -> None:
    """A Llama of `shape` with random bfloat16 weights, and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=2, **SHAPES[shape])
    LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    make_tokenizer(folder)


def instructions(rows: int) -> list[dict[str, str]]:
    """Prompts and completions of Alpaca's lengths: preamble 30 tokens, instruction about 20, answer about 65."""
    rng = np.random.default_rng(0)
    preamble = _words(rng, PREAMBLE)
    return [
        {
            "prompt": f"{preamble} {_words(rng, _length(rng, 20, 0.6, 120))} ",
            "completion": _words(rng, _length(rng, 65, 0.8, 400)),
        }
        for _ in range(rows)
    ]


def preferences(rows: int, prompt: int = 150, answer: int = 60) -> list[dict[str, str]]:
    """Prompts of `prompt` tokens with two answers of about `answer` each."""
    rng = np.random.default_rng(0)
    return [
        {
            "prompt": _words(rng, prompt) + " ",
            "chosen": _words(rng, _length(rng, answer, 0.2, 2 * answer)),
            "rejected": _words(rng, _length(rng, answer, 0.2, 2 * answer)),
        }
        for _ in range(rows)
    ]


# A file with a reward that differs between answers, whatever they are: without differences GRPO would learn nothing.
REWARD = """\
def score(answer, reference):
    return sum(map(ord, answer)) % 7 / 6
"""


def prompts(rows: int, prompt: int = 150) -> list[dict[str, str]]:
    """Prompts of `prompt` tokens, without answers."""
    return [{"prompt": row["prompt"]} for row in preferences(rows, prompt, 2)]


def shared_prefix_rows(rows: int, header: int = 400, row: int = 60) -> list[dict[str, str]]:
    """Rows that all begin with the same `header` tokens, like a system prompt, and differ in the next `row` tokens."""
    rng = np.random.default_rng(0)
    shared = _words(rng, header)
    return [
        {"prompt": f"{shared} {_words(rng, row // 2)} ", "completion": _words(rng, row - row // 2)} for _ in range(rows)
    ]


def documents(rows: int, length: int) -> list[dict[str, str]]:
    """Texts of exactly `length` tokens, including the end-of-text token."""
    rng = np.random.default_rng(0)
    return [{"text": _words(rng, length - 1)} for _ in range(rows)]


def count_tokens(rows: list[dict[str, str]]) -> int:
    """Tokens of the rows without any sharing: a preference counts as two rows, each with an end-of-text token."""
    total = 0
    for row in rows:
        prompt = row.get("prompt", "")
        answers = [row[name] for name in ("completion", "chosen", "rejected", "text") if name in row]
        total += sum(len((prompt + answer).split()) + 1 for answer in answers)
    return total


def write_rows(rows: list[dict[str, str]], path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _length(rng: np.random.Generator, mean: float, spread: float, most: int) -> int:
    return int(np.clip(rng.lognormal(np.log(mean) - spread**2 / 2, spread), 2, most))


def _words(rng: np.random.Generator, count: int) -> str:
    return " ".join(f"w{index}" for index in rng.integers(4, VOCABULARY, count))
