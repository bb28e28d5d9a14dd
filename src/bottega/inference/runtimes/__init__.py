"""Runtimes: the programs that run exported models. One file a program, found by its file name.

To add one, write `inference/runtimes/<kind>.py` with one subclass of `Runtime`; an export format names it as the
runtime of what it writes. Everything bottega does with an export goes through it: the proof of the export, and its use.

Legend: T tokens of a row, V vocabulary, C classes or hidden width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bottega import plugins
from bottega.batch import Ints
from bottega.errors import ModelError
from bottega.models.config import decoder_start_token, load_stored_config
from bottega.models.generation_config import end_tokens, load_generation_config
from bottega.models.tokenizer import load_tokenizer
from bottega.objectives import HeadKind

Floats = NDArray[np.floating]


class Runtime(ABC):
    """An export, loaded by the program that runs it.

    title    what people call the program
    package  the package it is imported from
    extra    the extra of bottega that brings the package; empty if bottega needs it anyway
    """

    title: ClassVar[str]
    package: ClassVar[str]
    extra: ClassVar[str] = ""

    def __init__(self, folder: Path, head: HeadKind) -> None:
        """Load what an export format has written into `folder`, a model with this head."""
        self.folder, self.head = folder, head

    @abstractmethod
    def begin(self, source: Ints | None = None) -> None:
        """Forget the last row. `source`: what the encoder of an encoder–decoder reads."""

    @abstractmethod
    def append(self, tokens: Sequence[int]) -> Floats:
        """[T, C] what the model gives for each of more tokens of the row; [1, C] from a head that reads the whole."""

    def use_adapter(self, folder: Path | None) -> None:
        """Compute the next rows with an adapter that was exported beside the model, or with none."""
        raise ModelError(
            f"{self.title} takes its adapters merged", where=str(folder), fix="export each run by itself, --to merged"
        )

    def logits(self, tokens: Ints, source: Ints | None = None) -> Floats:
        """[T, C] what the model gives for each token of a row; [1, C] from a head that reads the whole row."""
        self.begin(source)
        return self.append(tokens.tolist())

    def start(self, prompt: Sequence[int]) -> Floats:
        """[V] the logits after a prompt, for which everything before it is forgotten."""
        if self.start_token is None:
            self.begin()
            return np.asarray(self.append(prompt)[-1])
        self.begin(np.array(prompt))
        return np.asarray(self.append([self.start_token])[-1])

    def step(self, token: int) -> Floats:
        """[V] the logits after one more token."""
        return np.asarray(self.append([token])[-1])

    @cached_property
    def start_token(self) -> int | None:
        """The token that the decoder of an encoder–decoder starts with, whose prompt the encoder reads; else None."""
        return decoder_start_token(load_stored_config(str(self.folder)))

    # What the export says of itself, as the program reads it.

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer files beside the model, for a program that has no tokenizer of its own."""
        return load_tokenizer(str(self.folder))

    def encode(self, text: str) -> list[int]:
        """The tokens of a text in which special tokens are read, and none is added."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    @cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer."""
        return end_tokens(load_generation_config(self.folder))

    @property
    def template(self) -> str | None:
        """The chat template."""
        template: str | None = self.tokenizer.chat_template
        return template

    @property
    def tied(self) -> bool | None:
        """Whether the head has the weight of the token embeddings; None where a file does not say."""
        return None


def kinds() -> list[str]:
    """Every runtime in the folder, by name."""
    return plugins.module_names(__path__)


def load_class(kind: str) -> type[Runtime]:
    """The class of `inference/runtimes/<kind>.py`, whose package need not be installed."""
    return plugins.load_class(__name__, kind, Runtime)


def is_installed(kind: str) -> bool:
    """Whether the package of a runtime can be imported."""
    return find_spec(load_class(kind).package) is not None


def open_runtime(kind: str, folder: Path, head: HeadKind, adapter: Path | None = None) -> Runtime:
    """What an export wrote into a folder, loaded by its program; a ModelError if that is not installed.

    adapter  folder of an adapter beside it, to compute with
    """
    runtime = load_class(kind)
    if not is_installed(kind):
        raise ModelError(f"{runtime.title} is not installed", where=str(folder), fix=install_command(runtime.extra))
    opened = runtime(folder, head)
    if adapter is not None:
        opened.use_adapter(adapter)
    return opened


def install_command(extra: str) -> str:
    """The command that installs an extra of bottega."""
    return f"pip install 'bottega[{extra}]'"
