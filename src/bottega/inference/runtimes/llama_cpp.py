"""llama.cpp, through the functions of its library that llama-cpp-python binds."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bottega.batch import Ints
from bottega.errors import ModelError
from bottega.inference.runtimes import Floats, Runtime
from bottega.objectives import HeadKind

FILE = "model.gguf"
# In the folder of an adapter.
ADAPTER = "adapter.gguf"
# Tokens of a prompt that are computed at once.
BATCH = 512
# A context is made for so many tokens; it doubles when more are needed.
CONTEXT = 4096


class LlamaCppRuntime(Runtime):
    """A folder with `model.gguf`. Keys and values are kept in float32; by default they are rounded."""

    title: ClassVar[str] = "llama.cpp"
    package: ClassVar[str] = "llama_cpp"
    extra: ClassVar[str] = "gguf"

    def __init__(self, folder: Path, head: HeadKind) -> None:
        import llama_cpp

        super().__init__(folder, head)
        self.library = llama_cpp
        llama_cpp.llama_log_set(_LISTENER, ctypes.c_void_p(0))
        settings = llama_cpp.llama_model_default_params()
        settings.n_gpu_layers = 0
        # Its kernels for AMX end the process on some models, where the others compute.
        settings.use_extra_bufts = False
        _problems.clear()
        self.model = llama_cpp.llama_model_load_from_file(str(folder / FILE).encode(), settings)
        if not self.model:
            what = f"llama.cpp cannot load the file: {' '.join(_problems)}"
            raise ModelError(what, where=str(folder / FILE), fix="export the model again")
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.width = llama_cpp.llama_vocab_n_tokens(self.vocabulary)
        self.context, self.capacity, self.tokens = None, 0, list[int]()
        self.adapters, self.adapter = dict[Path, Any](), None

    def use_adapter(self, folder: Path | None) -> None:
        if folder is not None and folder not in self.adapters:
            _problems.clear()
            loaded = self.library.llama_adapter_lora_init(self.model, str(folder / ADAPTER).encode())
            if not loaded:
                what = f"llama.cpp cannot load the adapter: {' '.join(_problems)}"
                raise ModelError(what, where=str(folder / ADAPTER), fix="export it again, with its base")
            self.adapters[folder] = loaded
        self.adapter = None if folder is None else self.adapters[folder]
        if self.context is not None:
            self._set_adapter()

    def _set_adapter(self) -> None:
        used: list[Any] = [] if self.adapter is None else [self.adapter]
        pointers = (self.library.llama_adapter_lora_p_ctypes * len(used))(*used)
        scales = (ctypes.c_float * len(used))(*(1.0 for _ in used))
        if self.library.llama_set_adapters_lora(self.context, pointers, len(used), scales):
            raise ModelError("llama.cpp cannot use the adapter", where=str(self.folder), fix="export it again")

    def begin(self, source: Ints | None = None) -> None:
        self.tokens = []
        if self.context is not None:
            self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)

    def append(self, tokens: Sequence[int]) -> Floats:
        length = len(self.tokens) + len(tokens)
        if length > self.capacity:
            self._grow(length)
        return self._decode(tokens)

    def _grow(self, length: int) -> None:
        """Make a larger context, which reads the text again: a cache cannot be moved into it."""
        capacity = max(self.capacity, CONTEXT)
        while capacity < length:
            capacity *= 2
        self._make_context(max(length, min(capacity, self.library.llama_model_n_ctx_train(self.model))))
        read, self.tokens = self.tokens, []
        if read:
            self._decode(read)

    def _make_context(self, capacity: int) -> None:
        import torch

        self._free_context()
        library = self.library
        settings = library.llama_context_default_params()
        settings.n_ctx = self.capacity = capacity
        settings.n_batch = settings.n_ubatch = BATCH
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        settings.type_k = settings.type_v = library.GGML_TYPE_F32
        settings.flash_attn_type = library.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = library.llama_init_from_model(self.model, settings)
        if not self.context:
            what = f"llama.cpp has no memory for a context of {self.capacity} tokens"
            raise ModelError(what, where=str(self.folder), fix="shorten the prompt, or free some memory")
        self._set_adapter()

    def _decode(self, tokens: Sequence[int]) -> Floats:
        """[T, V] the logits after each of more tokens, which the context has room for."""
        parts = [self._decode_batch(tokens[start : start + BATCH]) for start in range(0, len(tokens), BATCH)]
        return np.concatenate(parts)

    def _decode_batch(self, tokens: Sequence[int]) -> Floats:
        library, count = self.library, len(tokens)
        batch = library.llama_batch_init(count, 0, 1)
        try:
            batch.n_tokens = count
            for index, token in enumerate(tokens):
                batch.token[index], batch.pos[index] = token, len(self.tokens) + index
                batch.n_seq_id[index], batch.seq_id[index][0], batch.logits[index] = 1, 0, True
            if library.llama_decode(self.context, batch):
                what = f"llama.cpp computes no more than {self.capacity} tokens"
                raise ModelError(what, where=str(self.folder), fix="shorten the prompt or the answer")
        finally:
            library.llama_batch_free(batch)
        self.tokens += tokens
        pointer = library.llama_get_logits(self.context)
        return np.ctypeslib.as_array(pointer, (count, self.width)).copy()

    def encode(self, text: str) -> list[int]:
        data = text.encode()
        buffer = (self.library.llama_token * (len(data) + 8))()
        count = self.library.llama_tokenize(self.vocabulary, data, len(data), buffer, len(buffer), False, True)
        return list(buffer[:count])

    @cached_property
    def ends(self) -> frozenset[int]:
        stated = {self._setting(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")}
        library, vocabulary = self.library, self.vocabulary
        # It also ends at special tokens that it knows by name, such as <|im_end|>, which no text contains.
        return frozenset(
            token
            for token in range(self.width)
            if library.llama_vocab_is_eog(vocabulary, token)
            and (str(token) in stated or not library.llama_vocab_is_control(vocabulary, token))
        )

    @property
    def template(self) -> str | None:
        return self._setting("tokenizer.chat_template")

    @cached_property
    def tied(self) -> bool:
        from gguf import GGUFReader

        return all(tensor.name != "output.weight" for tensor in GGUFReader(self.folder / FILE).tensors)

    def _setting(self, key: str) -> str | None:
        """A value that the file states, as text; None if it does not."""
        size = self.library.llama_model_meta_val_str(self.model, key.encode(), None, 0)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        self.library.llama_model_meta_val_str(self.model, key.encode(), buffer, len(buffer))
        return buffer.value.decode()

    def _free_context(self) -> None:
        if self.context is not None:
            self.library.llama_free(self.context)
            self.context = None

    def __del__(self) -> None:
        # An error in __init__ leaves neither.
        if getattr(self, "model", None):
            self._free_context()
            self.library.llama_model_free(self.model)


# What llama.cpp reports as wrong; it tells of every step, and returns no reason of a failure.
_problems: deque[str] = deque(maxlen=1)
# Its level of errors, and what stands before a reason.
ERROR = 4
REASONS = (b"error loading model: ", b"failed to apply lora adapter: ")


def _note_problem(level: int, text: bytes, data: Any) -> None:
    found = next((mark for mark in REASONS if mark in text), None) if level == ERROR else None
    if found is not None:
        _problems.append(text.partition(found)[2].decode(errors="replace").strip())


# Kept here, because the library keeps the pointer.
_LISTENER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_note_problem)
