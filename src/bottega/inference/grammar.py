"""Constrained decoding: answers that are JSON, or JSON of a schema, by masks over the vocabulary (llguidance)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bottega.errors import DataError, ModelError
from bottega.inference.runtimes import install_command
from bottega.inference.samplers import EXCLUDED
from bottega.inference.token_constraints import Constraint

# White space between the parts of an answer: what models write, but not so much that one could write nothing else.
WHITESPACE = r" ?|\n[ ]{0,24}"

# Bytes of a schema; compiling takes time and memory by its size.
MAX_SCHEMA = 1 << 16


class GrammarCompiler:
    """Makes constraints for the answers of one model.

    vocabulary  V, the width of its logits
    ends        token ids that end an answer
    """

    def __init__(self, tokenizer: Any, vocabulary: int, ends: frozenset[int]) -> None:
        try:
            import llguidance
        except ImportError:
            fix = install_command("serve")
            raise ModelError("constrained answers need llguidance", where="llguidance", fix=fix) from None
        self.vocabulary, self.library = vocabulary, llguidance
        fast = tokenizer.backend_tokenizer.to_str()
        try:
            self.tokenizer = llguidance.LLTokenizer(fast, n_vocab=vocabulary, eos_token=sorted(ends) or None)
        except Exception as error:  # of any kind, from Rust
            what = f"answers of this model cannot be constrained: {error}"
            raise DataError(what, where="the tokenizer", fix="ask for plain text") from None

    def compile(self, schema: dict[str, Any] | None) -> Callable[[], Constraint]:
        """Makes a constraint for each answer: JSON of this schema, or any JSON object.

        Raises a DataError that says which part of the schema cannot be enforced.
        """
        text = json.dumps({"type": "object"} if schema is None else schema)
        if len(text) > MAX_SCHEMA:
            what = f"the schema has {len(text)} bytes, more than {MAX_SCHEMA}"
            raise DataError(what, where="schema", fix="shorten it")
        try:
            grammar = self.library.LLMatcher.grammar_from_json_schema(text, defaults={"whitespace_pattern": WHITESPACE})
            error, messages = self.library.LLMatcher.validate_grammar_with_warnings(grammar, self.tokenizer)
        except Exception as raised:  # of any kind, from Rust
            error, messages = True, [str(raised)]
        if error:
            fix = "leave this out of the schema; the answer can be checked for it afterwards"
            raise DataError(" ".join(" ".join(messages).split()), where="schema", fix=fix)
        return lambda: _Grammar(self.library.LLMatcher(self.tokenizer, grammar), self.vocabulary)


class _Grammar:
    """The constraint of one answer: tokens that cannot continue it are excluded."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self.matcher, self.vocabulary = matcher, vocabulary
        self.read: int | None = None  # tokens of the row that were taken in; the prompt is none of the answer

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        length = ids.shape[1]
        for token in ids[0, length if self.read is None else self.read :].tolist():
            self.matcher.consume_token(token)
        self.read = length
        bits = np.frombuffer(self.matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: self.vocabulary]
        return logits.masked_fill(torch.from_numpy(allowed == 0).to(logits.device), EXCLUDED)
