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

PADDING = "<pad>"

# T5's sentinels, which stand for the spans that are left out (Raffel et al. 2020).
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
        what = f"only a byte-level tokenizer can have these tokens, not one of {kind}"
        raise DataError(what, where="--fim" if fim else "--span", fix="leave out --kind, or this option")
    _check_output_folder(out)
    if kind == "characters":
        backend, special_tokens = _train_characters(files), dict[str, str]()
    elif kind == "wordpieces":
        backend, special_tokens = _train_wordpiece(files, vocabulary, progress), ENCODER_TOKENS
    else:
        special_tokens = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT} | ({"pad_token": PADDING} if span else {})
        added = [*(FIM_TOKENS[0] if fim else ()), *((PADDING, *SENTINELS) if span else ())]
        backend = _train_byte_bpe(files, vocabulary, [END_OF_TEXT, *added], progress)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special_tokens)
    _save(tokenizer, out)
    return len(tokenizer)


def _check_output_folder(out: Path) -> None:
    """Raise a RunError if the folder cannot be written, or has files in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        is_used = any(out.iterdir())
        if not is_used:
            out.rmdir()  # recreated when saving, so that a failed training leaves no empty folder
    except OSError as error:
        raise RunError(f"cannot be written: {error.strerror}", where=str(out), fix="choose another --out") from None
    if is_used:
        raise RunError("the folder is not empty", where=str(out), fix="choose another --out")


def _save(tokenizer: Any, out: Path) -> None:
    """Save the tokenizer; if that fails, nothing is left behind."""
    try:
        tokenizer.save_pretrained(str(out))
    except Exception as error:  # the Rust library raises a plain Exception for a full disk, not an OSError
        shutil.rmtree(out, ignore_errors=True)
        if is_disk_full(error):
            raise RunError("the disk is full", where=str(out), fix="free some space, or choose another --out") from None
        raise


def _train_byte_bpe(files: Sequence[Path], vocabulary: int, special: list[str], progress: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    # All 256 bytes are in the vocabulary from the start, so that any text can be encoded.
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
        what = (
            f"a vocabulary of {vocabulary} has no room for word pieces beside its {len(ENCODER_TOKENS)} special tokens"
        )
        raise DataError(what, where="--vocab", fix="choose some thousands; 1000 per megabyte of text is a start")
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
