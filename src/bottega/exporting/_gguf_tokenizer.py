"""A tokenizer for llama.cpp, from what tokenizer.json says: its pieces, merges or scores, and its special tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from bottega.errors import ModelError
from bottega.models.tokenizer import tokenizer_json

# llama.cpp has names for the ways to split a text before merges, and knows no others. Patterns of Split → its names;
# the two differ in how many digits stand together.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {_WORDS + r"\p{N}{1,3}" + _REST: "llama-bpe", _WORDS + r"\p{N}" + _REST: "qwen2"}

BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>$")


def refusal(tokenizer: Any) -> str:
    """Why llama.cpp cannot split texts as a tokenizer does, or use its template; empty if it can."""
    if isinstance(tokenizer.chat_template, dict):
        return f"it has several chat templates: {', '.join(tokenizer.chat_template)}"
    document = tokenizer_json(tokenizer)
    if _swallows(document) and not set(tokenizer.get_vocab()) >= OF_SWALLOWING:
        return "its special tokens take the white space after them, which llama.cpp does for Phi-3's alone"
    kind = document["model"]["type"]
    if kind == "BPE" and not _is_byte_level(document):
        return "" if document["model"].get("byte_fallback") else "its tokenizer has no token for every byte"
    if kind == "BPE":
        return "" if _split_name(document) else "its tokenizer splits words by a pattern that llama.cpp has no name for"
    return "" if kind == "Unigram" else f"its tokenizer is of the kind {kind}"


def write_tokenizer(writer: Any, tokenizer: Any, size: int, ends: Iterable[int]) -> None:
    """Write tokens up to `size`, the number of embeddings, with their kinds, end tokens and the chat template."""
    document = tokenizer_json(tokenizer)
    if _is_byte_level(document):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_split_name(document))
        writer.add_token_merges([" ".join(merge) for merge in _merges(document)])
    elif document["model"]["type"] == "BPE":
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_ranks(document, tokenizer, size))
        writer.add_add_space_prefix(_adds_space(document))
    else:
        writer.add_tokenizer_model("t5")
        writer.add_tokenizer_pre("default")
        scores = [score for _, score in document["model"]["vocab"]]
        writer.add_token_scores(scores + [-1000.0] * (size - len(scores)))
        writer.add_add_space_prefix(_adds_space(document))
        _write_normalizer(writer, document)
    tokens, kinds = _tokens(document, tokenizer, size)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    _write_special(writer, tokenizer, sorted(ends))
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


# A model with this in its name, or the same without hyphen, gets special tokens that swallow the white space after.
SWALLOWING = "phi-3"
# Tokens that it then looks up; without them the file does not load.
OF_SWALLOWING = {"</s>", "<unk>", "<s>", "<|endoftext|>"}


def model_name(name: str, tokenizer: Any) -> str:
    """The name to write for a model, from which llama.cpp takes how special tokens treat the text after them."""
    if _swallows(tokenizer_json(tokenizer)):
        return f"{name} ({SWALLOWING} tokens)"
    return re.sub("phi-?3", "phi", name, flags=re.IGNORECASE)


def _swallows(document: Mapping[str, Any]) -> bool:
    return any(token["special"] and token["rstrip"] for token in document["added_tokens"])


def _parts(section: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    """The parts of a pre-tokenizer or normalizer: those of a sequence, or the one."""
    if section is None:
        return []
    return list(section[key]) if section["type"] == "Sequence" else [section]


def _pre_tokenizers(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return _parts(document["pre_tokenizer"], "pretokenizers")


def _normalizers(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return _parts(document["normalizer"], "normalizers")


def _is_byte_level(document: Mapping[str, Any]) -> bool:
    return any(part["type"] == "ByteLevel" for part in _pre_tokenizers(document))


def _split_name(document: Mapping[str, Any]) -> str:
    """llama.cpp's name for how texts are split before merges; empty if it has none."""
    *before, byte_level = _pre_tokenizers(document)
    if byte_level["type"] != "ByteLevel" or byte_level["add_prefix_space"]:
        return ""
    kinds = [part["type"] for part in before]
    if not before:
        return "gpt-2" if byte_level["use_regex"] else ""
    if kinds == ["Digits"] and before[0]["individual_digits"] and byte_level["use_regex"]:
        return "smollm"
    if kinds == ["Split"] and before[0]["behavior"] == "Isolated" and not byte_level["use_regex"]:
        return SPLITS.get(before[0]["pattern"].get("Regex", ""), "")
    return ""


def _merges(document: Mapping[str, Any]) -> list[list[str]]:
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in document["model"]["merges"]]


def _ranks(document: Mapping[str, Any], tokenizer: Any, size: int) -> list[float]:
    """The score of each token: llama.cpp merges the pair of the highest first, so an earlier merge has a higher one."""
    scores = [-1e6] * size
    for rank, (left, right) in enumerate(_merges(document)):
        token = tokenizer.convert_tokens_to_ids(left + right)
        scores[token] = max(scores[token], -float(rank))
    return scores


def _adds_space(document: Mapping[str, Any]) -> bool:
    """Whether a space is put before a text."""
    prepends = any(part["type"] == "Prepend" for part in _normalizers(document))
    schemes = [part.get("prepend_scheme") for part in _pre_tokenizers(document) if part["type"] == "Metaspace"]
    return prepends or any(scheme in ("always", "first") for scheme in schemes)


def _write_normalizer(writer: Any, document: Mapping[str, Any]) -> None:
    import base64

    for part in _normalizers(document):
        if part["type"] == "Precompiled" and part["precompiled_charsmap"]:
            writer.add_precompiled_charsmap(base64.b64decode(part["precompiled_charsmap"]))
    writer.add_remove_extra_whitespaces(any(part["type"] in ("Replace", "Strip") for part in _normalizers(document)))


def _tokens(document: Mapping[str, Any], tokenizer: Any, size: int) -> tuple[list[str], list[int]]:
    """(the text of each token, its kind); embeddings beyond the tokenizer's tokens get a name that no text has."""
    from gguf import TokenType

    added = {token["id"]: token for token in document["added_tokens"]}
    unknown = tokenizer.unk_token_id
    tokens, kinds = list[str](), list[int]()
    for index in range(size):
        text = tokenizer.convert_ids_to_tokens(index) if index < len(tokenizer) else None
        if text is None:
            tokens.append(f"[PAD{index}]")
            kinds.append(TokenType.UNUSED)
            continue
        tokens.append(text)
        if index == unknown and not _is_byte_level(document):
            kinds.append(TokenType.UNKNOWN)
        elif index in added:
            kinds.append(TokenType.CONTROL if added[index]["special"] else TokenType.USER_DEFINED)
        else:
            is_byte = BYTE.match(text) and not _is_byte_level(document)
            kinds.append(TokenType.BYTE if is_byte else TokenType.NORMAL)
    return tokens, kinds


def _write_special(writer: Any, tokenizer: Any, ends: list[int]) -> None:
    """Write the special tokens. There is no list of end tokens, but three kinds of one each."""
    main = tokenizer.eos_token_id if tokenizer.eos_token_id in ends else next(iter(ends), None)
    others = [token for token in ends if token != main]
    if len(others) > 2:
        what = f"{len(ends)} tokens end an answer, and the file has room for three"
        raise ModelError(what, where="gguf", fix="write fewer into generation_config.json, as eos_token_id")
    if main is not None:
        writer.add_eos_token_id(main)
    for token, add in zip(others, (writer.add_eot_token_id, writer.add_eom_token_id), strict=False):
        add(token)
    for name in ("bos", "unk", "pad"):
        token = getattr(tokenizer, f"{name}_token_id")
        if token is not None:
            getattr(writer, f"add_{name}_token_id")(token)
    first = tokenizer("a").input_ids[0]
    writer.add_add_bos_token(first == tokenizer.bos_token_id)
