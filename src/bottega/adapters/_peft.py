"""Adapters that PEFT computes: a kind is a subclass of `PeftAdapter` in a file of its own."""

from __future__ import annotations

import contextlib
import re
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from bottega.adapters._base import Adapter, InstallOptions, LinearLayer, ends_with

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peft import PeftConfig
    from torch import nn

    from bottega.adapters._peft_model import PeftAdaptedModel

# PEFT's name for all linear layers except the head.
ALL_LINEAR = "all-linear"

# PEFT's name of the trained adapter, and ours of a frozen start and of a frozen copy that a policy is compared with.
ACTIVE, START, REFERENCE = "default", "bottega_start", "reference"

# The field `targets` of each kind.
Targets = Annotated[
    str | list[str], Field(description="Names of the modules to adapt, or all linear layers except the head.")
]


class PeftAdapter(Adapter):
    """An adapter that PEFT puts on linear layers, on all or on those named."""

    if TYPE_CHECKING:
        # Declared by each kind among its own fields: a recipe keeps the order of its keys.
        targets: Targets

    @property
    def by_name(self) -> bool:
        """Whether the layers to adapt are given to PEFT by their names, as its config cannot leave the others out."""
        return False

    @abstractmethod
    def peft_config(self, **shared: Any) -> PeftConfig:
        """PEFT's config; `shared` are the options that do not depend on the kind."""

    def targeted(self, layers: Sequence[LinearLayer]) -> list[LinearLayer]:
        """Those of the linear layers that get an adapter, by their names."""
        targets = self.targets
        if targets == ALL_LINEAR:
            return list(layers)
        if isinstance(targets, str):  # a pattern of whole names
            # Of one that is none, `install` says what is wrong.
            with contextlib.suppress(re.error):
                return [layer for layer in layers if re.fullmatch(targets, layer.name)]
            return []
        return [layer for layer in layers if ends_with(layer.name, targets)]

    def import_library(self) -> None:
        from bottega.adapters import _peft_model  # noqa: F401

    def install(self, model: nn.Module, options: InstallOptions) -> PeftAdaptedModel:
        from bottega.adapters._peft_model import install_peft

        return install_peft(model, self, options)
