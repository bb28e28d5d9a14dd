"""llama.cpp splits texts as the tokenizer does; what it has no name for is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from bottega.exporting._gguf_tokenizer import SPLITS, model_name, refusal

LLAMA_3, QWEN_2 = SPLITS

CORPUS = [
    "It's the cat's 1234567 mats, isn't it?",
    "the dog and the cat sat on 12 mats",
    "Ça coûte 3 € à Zürich 東京",
] * 20


def byte_level(*before: Any, use_regex: bool) -> Any:
    """A tokenizer trained on a few texts, split by `before`."""
    backend = Tokenizer(models.BPE(ignore_merges=LLAMA_3 in str(before)))
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*before, last]) if before else last
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<pad>"]
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=special)
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def split(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def unigram() -> Any:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    backend.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>")
    )
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


KNOWN = {
    "gpt-2": lambda: byte_level(use_regex=True),
    "smollm": lambda: byte_level(pre_tokenizers.Digits(individual_digits=True), use_regex=True),
    "llama-bpe": lambda: byte_level(split(LLAMA_3), use_regex=False),
    "qwen2": lambda: byte_level(split(QWEN_2), use_regex=False),
}


@pytest.mark.parametrize("name", KNOWN)
def test_texts_are_split_alike(name: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    import gguf

    import bottega
    from making import make_model

    tokenizer = KNOWN[name]()
    assert refusal(tokenizer) == ""
    model = make_model(tmp_path / "model", vocab_size=310)
    for path in (tmp_path / "model").glob("*token*"):
        path.unlink()
    tokenizer.save_pretrained(tmp_path / "model")
    result = bottega.export(model, tmp_path / "out", format="gguf")
    assert result.proof is not None
    assert result.proof.texts >= 3
    fields = gguf.GGUFReader(tmp_path / "out" / "model.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == name
    assert fields["tokenizer.ggml.tokens"].contents()[-1] == "[PAD309]"


def test_other_ways_to_split_are_refused() -> None:
    assert "by a pattern that llama.cpp has no name for" in refusal(byte_level(split(r"\w+|\W+"), use_regex=False))
    word_piece = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    assert refusal(PreTrainedTokenizerFast(tokenizer_object=word_piece)) == "its tokenizer is of the kind WordPiece"
    characters = Tokenizer(models.BPE())
    assert "no token for every byte" in refusal(PreTrainedTokenizerFast(tokenizer_object=characters))
    assert refusal(unigram()) == ""


def test_a_name_decides_how_special_tokens_treat_white_space() -> None:
    tokenizer = byte_level(use_regex=True)
    assert model_name("my-Phi-3-mini", tokenizer) == "my-phi-mini"
    assert model_name("phi3", tokenizer) == "phi"
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<|user|>", rstrip=True)]})
    assert model_name("support", tokenizer) == "support (phi-3 tokens)"
    assert "take the white space after them" in refusal(tokenizer)
    tokenizer.add_tokens(["<unk>", "<|endoftext|>"])
    assert refusal(tokenizer) == ""


def test_several_templates_are_refused() -> None:
    tokenizer = byte_level(use_regex=True)
    assert refusal(tokenizer) == ""
    tokenizer.chat_template = {"default": "a", "tool_use": "b"}
    assert refusal(tokenizer) == "it has several chat templates: default, tool_use"
