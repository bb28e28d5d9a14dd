"""What is measured: models of known shapes with random weights, and rows of known lengths.

A word-level tokenizer makes one token of one word, so a row's length in tokens is its length in words, for every
tool alike. Only numpy, tokenizers and transformers are needed, so peers' environments can import it too.
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

# Words every instruction row starts with, as Alpaca's do.
PREAMBLE = 30


def make_tokenizer(folder: Path, size: int = VOCABULARY) -> None:
    """One token a word, for every tool alike; `size` may be more than rows are drawn from."""
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
    """Prompt and completion with Alpaca's lengths: a preamble of 30, an instruction of about 20, an answer of 65."""
    draw = np.random.default_rng(0)
    preamble = _words(draw, PREAMBLE)
    return [
        {
            "prompt": f"{preamble} {_words(draw, _length(draw, 20, 0.6, 120))} ",
            "completion": _words(draw, _length(draw, 65, 0.8, 400)),
        }
        for _ in range(rows)
    ]


def preferences(rows: int, prompt: int = 150, answer: int = 60) -> list[dict[str, str]]:
    """Prompts of `prompt` tokens with two answers of about `answer` each."""
    draw = np.random.default_rng(0)
    return [
        {
            "prompt": _words(draw, prompt) + " ",
            "chosen": _words(draw, _length(draw, answer, 0.2, 2 * answer)),
            "rejected": _words(draw, _length(draw, answer, 0.2, 2 * answer)),
        }
        for _ in range(rows)
    ]


# A file with a reward that tells answers apart, whatever they are.
REWARD = """\
def score(written, right):
    return sum(map(ord, written)) % 7 / 6
"""


def posed(rows: int, prompt: int = 150) -> list[dict[str, str]]:
    """Prompts of `prompt` tokens, to be answered."""
    return [{"prompt": row["prompt"]} for row in preferences(rows, prompt, 2)]


def headed(rows: int, header: int = 400, row: int = 60) -> list[dict[str, str]]:
    """Prompts that all begin with the same `header` tokens, as under a system prompt, and differ in `row` tokens."""
    draw = np.random.default_rng(0)
    shared = _words(draw, header)
    return [
        {"prompt": f"{shared} {_words(draw, row // 2)} ", "completion": _words(draw, row - row // 2)}
        for _ in range(rows)
    ]


def documents(rows: int, length: int) -> list[dict[str, str]]:
    """Texts of exactly `length` tokens, an end-of-text token included."""
    draw = np.random.default_rng(0)
    return [{"text": _words(draw, length - 1)} for _ in range(rows)]


def real_tokens(rows: list[dict[str, str]]) -> int:
    """Tokens of the rows as one would write them out: a preference is two rows, each ends with an end-of-text token."""
    total = 0
    for row in rows:
        prompt = row.get("prompt", "")
        answers = [row[name] for name in ("completion", "chosen", "rejected", "text") if name in row]
        total += sum(len((prompt + answer).split()) + 1 for answer in answers)
    return total


def write(rows: list[dict[str, str]], path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _length(draw: np.random.Generator, mean: float, spread: float, most: int) -> int:
    return int(np.clip(draw.lognormal(np.log(mean) - spread**2 / 2, spread), 2, most))


def _words(draw: np.random.Generator, count: int) -> str:
    return " ".join(f"w{index}" for index in draw.integers(4, VOCABULARY, count))
