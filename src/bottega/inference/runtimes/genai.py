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
from bottega.objectives import HeadKind

CONFIG = "genai_config.json"


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

    def begin(self, source: Ints | None = None) -> None:
        # A generator allocates a cache for all positions of the model.
        parameters = self.genai.GeneratorParams(self.model)
        parameters.set_search_options(max_length=self.settings["search"]["max_length"], do_sample=False)
        self.generator = self.genai.Generator(self.model, parameters)

    def append(self, tokens: Sequence[int]) -> Floats:
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
