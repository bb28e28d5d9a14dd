"""Training a tokenizer, through the `tokenizers` library."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from bottega.data.reader import read_rows
from bottega.errors import DataError, RunError, is_disk_full
from bottega.recipe.schema import Source
from bottega.tokenization.special_tokens import FIM_TOKENS

END_OF_TEXT = "<|endoftext|>"

SENTINELS = tuple(f"<extra_id_{number}>" for number in range(100))

TokenizerKind = Literal["bytes", "characters", "wordpieces"]

# The special tokens of a BERT-style encoder.
ENCODER_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def train_tokenizer(
    files: Sequence[Path],
    vocabulary: int,
    out: Path,
    kind: TokenizerKind = "bytes",
    *,
    fim: bool = False,
    span: bool = False,
    progress: bool = False,
) -> int:
    """Train on the text of the files and save a transformers tokenizer in `out`; returns the vocabulary size.

    bytes       byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2): any text, no unknown token
    characters  one token for each character in the files, nothing else: for teaching and small corpora
    span        for `bytes`: add a padding token and T5's hundred sentinel tokens
    fim         for `bytes`: add the three tokens of fill-in-the-middle
    wordpieces  WordPiece between [CLS] and [SEP], with [MASK] (Devlin et al. 2019): for encoders; case is kept
    """
    from transformers import PreTrainedTokenizerFast

    if (fim or span) and kind != "bytes":
        what = "only a model that writes fills in what is missing"
        raise DataError(what, where="--fim" if fim else "--span", fix="leave out --kind, or that")
    try:
        out.mkdir(parents=True, exist_ok=True)
        taken = any(out.iterdir())
        if not taken:
            out.rmdir()  # recreated when saving, so that a failed training leaves no empty folder
    except OSError as error:
        raise RunError(f"cannot be written: {error.strerror}", where=str(out), fix="choose another --out") from None
    if taken:
        raise RunError("the folder is not empty", where=str(out), fix="choose another --out")
    if kind == "characters":
        backend, special = _train_characters(files), dict[str, str]()
    elif kind == "wordpieces":
        backend, special = _train_wordpiece(files, vocabulary, progress), ENCODER_TOKENS
    else:
        special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT} | ({"pad_token": "<pad>"} if span else {})
        more = [*(FIM_TOKENS[0] if fim else ()), *(("<pad>", *SENTINELS) if span else ())]
        backend = _train_byte_bpe(files, vocabulary, [END_OF_TEXT, *more], progress)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)
    try:
        tokenizer.save_pretrained(str(out))
    except Exception as error:  # the Rust library raises a plain Exception for a full disk, not an OSError
        shutil.rmtree(out, ignore_errors=True)
        if is_disk_full(error):
            raise RunError("the disk is full", where=str(out), fix="free some space, or choose another --out") from None
        raise
    return len(tokenizer)


def _train_byte_bpe(files: Sequence[Path], vocabulary: int, special: list[str], progress: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocabulary < len(alphabet) + len(special):
        raise DataError(
            f"a vocabulary of {vocabulary} has no room for the 256 bytes and the end-of-text token",
            where="--vocab",
            fix=f"{256 + len(special)} or more; 1000 per megabyte of text is a start",
        )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=progress
    )
    backend.train_from_iterator(_texts(files), trainer)
    return backend


def _train_wordpiece(files: Sequence[Path], vocabulary: int, progress: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    if vocabulary < 2 * len(ENCODER_TOKENS):
        what = f"a vocabulary of {vocabulary} has no room for pieces beside its {len(ENCODER_TOKENS)} marks"
        raise DataError(what, where="--vocab", fix="some thousands; 1000 per megabyte of text is a start")
    backend = Tokenizer(models.WordPiece(unk_token=ENCODER_TOKENS["unk_token"]))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=list(ENCODER_TOKENS.values()), show_progress=progress
    )
    backend.train_from_iterator(_texts(files), trainer)
    ends = [(ENCODER_TOKENS[name], backend.token_to_id(ENCODER_TOKENS[name])) for name in ("cls_token", "sep_token")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return backend


def _train_characters(files: Sequence[Path]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    characters = sorted({character for text in _texts(files) for character in text})
    # The unknown token is not in the vocabulary, so an unseen character raises an error instead of becoming <unknown>.
    backend = Tokenizer(models.WordLevel({text: index for index, text in enumerate(characters)}, "<unknown>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return backend


def _texts(files: Sequence[Path]) -> Iterator[str]:
    """Yield every string in the rows of the files, at any depth."""
    for _, fields in read_rows([Source(path=str(file.absolute())) for file in files]):
        if isinstance(fields, DataError):
            raise fields
        yield from _strings(fields)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
