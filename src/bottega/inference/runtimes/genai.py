"""ONNX Runtime GenAI: ONNX models that bring their tokenizer, template and search settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bottega.batch import Ints
from bottega.inference.runtimes import Floats, Runtime
from bottega.inference.runtimes.onnx import ADAPTER
from bottega.objectives import HeadKind

CONFIG = "genai_config.json"
# A cache is made for so many tokens; it doubles when more are needed.
CONTEXT = 4096


class GenAiRuntime(Runtime):
    """A folder with `genai_config.json`."""

    title: ClassVar[str] = "ONNX Runtime GenAI"
    package: ClassVar[str] = "onnxruntime_genai"
    extra: ClassVar[str] = "onnx"

    def __init__(self, folder: Path, head: HeadKind) -> None:
        import onnxruntime_genai

        super().__init__(folder, head)
        self.genai = onnxruntime_genai
        self.model = onnxruntime_genai.Model(str(folder))
        self.settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        self.adapters, self.adapter = onnxruntime_genai.Adapters(self.model), ""
        self.loaded = set[str]()
        self.generator: Any = None
        self.capacity, self.tokens = 0, list[int]()

    def use_adapter(self, folder: Path | None) -> None:
        self.adapter = "" if folder is None else str(folder)
        if self.adapter and self.adapter not in self.loaded:
            self.adapters.load(str(Path(self.adapter, ADAPTER)), self.adapter)
            self.loaded.add(self.adapter)

    def begin(self, source: Ints | None = None) -> None:
        self.generator, self.capacity, self.tokens = None, 0, []

    def append(self, tokens: Sequence[int]) -> Floats:
        length = len(self.tokens) + len(tokens)
        if length > self.capacity:
            self._grow(length)
        self.tokens += tokens
        return self._read(tokens)

    def _grow(self, length: int) -> None:
        """Make a generator with room for more, which reads the text again: a cache is allocated whole, at once."""
        capacity = max(self.capacity, CONTEXT)
        while capacity < length:
            capacity *= 2
        self.capacity = max(length, min(capacity, self.settings["search"]["max_length"]))
        parameters = self.genai.GeneratorParams(self.model)
        parameters.set_search_options(max_length=self.capacity, do_sample=False)
        self.generator = self.genai.Generator(self.model, parameters)
        if self.adapter:
            self.generator.set_active_adapter(self.adapters, self.adapter)
        if self.tokens:
            self._read(self.tokens)

    def _read(self, tokens: Sequence[int]) -> Floats:
        self.generator.append_tokens(np.array(tokens, np.int32))
        return np.array(self.generator.get_output("logits")[0], np.float32)

    @cached_property
    def _tokenizer(self) -> Any:
        return self.genai.Tokenizer(self.model)

    def encode(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer.encode(text)]

    @cached_property
    def ends(self) -> frozenset[int]:
        declared = self.settings["model"].get("eos_token_id")
        return frozenset(declared if isinstance(declared, list) else [declared]) - {None}
