"""A text in several scripts, tokenizers of every kind for it, and records of entities in it."""

from __future__ import annotations

from pathlib import Path

import transformers

from bottega.records import Entity, Tagged
from bottega.tokenization.codec import Codec
from making import make_codec

TEXT = "Anna lives in Oslo, now: दिल्ली cafe\u0301 and 田中と佐藤"


def unsplit(folder: Path) -> Path:
    """A tokenizer that has no pre-tokenizer: spaces are letters to it, as to Llama's."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    characters = sorted({"\u2581", *TEXT, *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,"} - {" "})
    vocabulary = {token: number for number, token in enumerate(["<unk>", "<s>", "</s>", *characters])}
    merges = [("O", "s"), ("Os", "l"), ("Osl", "o"), ("\u2581", "Oslo"), ("\u2581", "i"), ("\u2581i", "n")]
    for one, other in merges:
        vocabulary[one + other] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Replace("\u2581", " ")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(str(folder))
    return folder


def word_codec(folder: Path, kind: str, *, both_ways: bool = True, length: int = 200) -> Codec:
    folder.mkdir(exist_ok=True)
    labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    name = unsplit(folder) if kind == "unsplit" else None
    return make_codec(folder, kind, TEXT, name=name, both_ways=both_ways, length=length, labels=labels)


def tagged(*parts: tuple[str, str], text: str = TEXT) -> Tagged:
    spans = (Entity(text.index(part), text.index(part) + len(part), label) for part, label in parts)
    return Tagged("rows line 1", text, tuple(sorted(spans)))
