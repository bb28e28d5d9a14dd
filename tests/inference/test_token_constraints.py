"""What a checkpoint's generation config says is done as transformers' own `generate` does it, or named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

import bottega
from bottega.inference.language_model import LanguageModel
from bottega.inference.token_constraints import ignored_settings
from bottega.sampling import Sampling
from making import make_model

PROMPTS = ["the cat sat", "the dog ran under the tree and then", "it was"]
TOKENS = 9

ANY: list[dict[str, Any]] = [
    {"forced_eos_token_id": 1},
    {"min_new_tokens": 5, "eos_token_id": list(range(1, 280))},
    {"min_length": 7, "eos_token_id": list(range(1, 280))},
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2},
    {"suppress_tokens": list(range(5, 290, 3))},
    {"begin_suppress_tokens": list(range(5, 298))},
    {"bad_words_ids": [[number] for number in range(6, 200)] + [[200, 201]]},
    {"exponential_decay_length_penalty": (2, 1.5)},
    {"sequence_bias": [[[number], 3.0] for number in range(30, 60)]},
]
SOURCED: list[dict[str, Any]] = [
    {"forced_bos_token_id": 33},
    {"forced_bos_token_id": 33, "begin_suppress_tokens": list(range(5, 298))},
    {"encoder_no_repeat_ngram_size": 1, "sequence_bias": [[[number], 3.0] for number in range(30, 60)]},
    {"encoder_repetition_penalty": 3.0},
]


Writers = dict[str, tuple[LanguageModel, Any]]


@pytest.fixture(scope="module")
def writers(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Writers:
    """Each model as we load it, and as transformers does."""
    t5 = make_model(tmp_path_factory.mktemp("t5"), "t5")
    plain = AutoModelForCausalLM.from_pretrained(llama), AutoModelForSeq2SeqLM.from_pretrained(t5)
    ours = (bottega.load(folder, dtype="float32") for folder in (llama, t5))
    return dict(zip(("llama", "t5"), zip(ours, plain, strict=True), strict=True))


CASES = [("llama", one) for one in ANY] + [("t5", one) for one in ANY + SOURCED]


@pytest.mark.parametrize(("kind", "said"), CASES, ids=lambda one: one if isinstance(one, str) else "-".join(one))
def test_the_generation_config_is_followed(writers: Writers, kind: str, said: dict[str, Any]) -> None:
    model, plain = writers[kind]
    ends = said.get("eos_token_id", 1)
    model.writer.config = declared(said)
    model.writer.ends = frozenset(ends if isinstance(ends, list) else [ends])
    written = [found.tokens for (found,) in model.generate(PROMPTS, Sampling(tokens=TOKENS))]
    wanted = generated(model, plain, said)
    assert written == wanted
    # Else nothing would have been compared.
    assert wanted != generated(model, plain, {"eos_token_id": ends})


def declared(said: dict[str, Any]) -> GenerationConfig:
    tokens = {"pad_token_id": 2, "bos_token_id": 0, "decoder_start_token_id": 2, "eos_token_id": 1}
    return GenerationConfig(**{**tokens, **said, "max_new_tokens": TOKENS})


def generated(model: LanguageModel, plain: Any, said: dict[str, Any]) -> list[list[int]]:
    """What transformers writes behind each prompt."""
    found = []
    for prompt in PROMPTS:
        ids = model.codec.encode_prompt(prompt)
        written = plain.generate(torch.tensor([ids]), generation_config=declared(said))[0].tolist()
        found.append(written[1:] if plain.config.is_encoder_decoder else written[len(ids) :])
    return found


def test_explicit_settings_override_the_checkpoint(writers: Writers) -> None:
    model, _ = writers["llama"]
    model.writer.ends = frozenset([1])
    model.writer.config = GenerationConfig(eos_token_id=1)
    plain = model.generate(PROMPTS, Sampling(tokens=TOKENS))
    model.writer.config = GenerationConfig(eos_token_id=1, repetition_penalty=1.7)
    assert model.generate(PROMPTS, Sampling(tokens=TOKENS)) != plain
    assert model.generate(PROMPTS, Sampling(tokens=TOKENS, repetition_penalty=1.0)) == plain


@pytest.mark.parametrize(
    ("settings", "ignored"),
    [
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, {"temperature": 0.6, "top_p": 0.9}),
        ({"num_beams": 4, "length_penalty": 2.0}, {"num_beams": 4, "length_penalty": 2.0}),
        ({"eos_token_id": [1, 2], "repetition_penalty": 1.1, "forced_eos_token_id": 2}, {}),
    ],
)
def test_settings_without_effect_are_named(settings: dict[str, Any], ignored: dict[str, Any]) -> None:
    assert ignored_settings(GenerationConfig(**settings)) == ignored
