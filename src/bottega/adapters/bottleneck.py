"""Bottleneck adapters: small networks behind attention and feed-forward blocks.

Behind both (Houlsby et al. 2019, arXiv 1902.00751), or behind feed-forward blocks only (Pfeiffer et al. 2020, arXiv
2005.00247). Saved as safetensors: for each adapted layer NAME of the base the weights `NAME.down.weight` [width, out],
`NAME.down.bias`, `NAME.up.weight` [out, width] and `NAME.up.bias`; the settings are in `adapter_config.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from bottega.adapters._base import (
    ATTENTION,
    FEED_FORWARD,
    Adapter,
    InstallOptions,
    LinearLayer,
    Start,
    Whole,
    ends_with,
    is_in_head,
)
from bottega.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from bottega.adapters._adapted import AdaptedModel


class Bottleneck(Adapter):
    """up(activation(down(y))) is added to the output y of the layer that closes a block; `up` starts at zero."""

    title: ClassVar[str] = "bottleneck adapters"
    row_weights: ClassVar[tuple[str, ...]] = (".down.weight", ".down.bias", ".up.weight", ".up.bias")

    kind: Literal["bottleneck"] = Field("bottleneck", description="Bottleneck adapters (Houlsby et al. 2019).")
    width: int = Field(64, ge=1, description="Width of the bottleneck.")
    placement: Literal["houlsby", "pfeiffer"] = Field(
        "houlsby", description="Behind attention and feed-forward blocks, or behind feed-forward blocks only."
    )
    activation: Literal["relu", "gelu", "silu"] = Field("gelu", description="Activation inside.")
    targets: list[str] | None = Field(
        None, description="Layers to put one behind, by the ends of their names; default: by `placement`."
    )
    train: Whole
    start: Start = None

    @property
    def label(self) -> str:
        return f"bottleneck adapters of width {self.width}"

    def import_library(self) -> None:
        from bottega.adapters import _bottleneck_layer  # noqa: F401

    def install(self, model: nn.Module, options: InstallOptions) -> AdaptedModel:
        from bottega.adapters._bottleneck_layer import install_bottlenecks

        names = [name for name, _ in model.named_modules() if self.adapts(name)]
        if self.targets is None:  # a head that is trained whole is no block
            new = tuple(f"{module}." for module in options.new_modules)
            names = [name for name in names if not f"{name}.".startswith(new) and not is_in_head(name)]
        if not names:
            fix = "name the layers in adapter.targets"
            raise ModelError(
                f"no layer is called {', '.join(self.targets)}"
                if self.targets
                else "no layer is known to close an attention or feed-forward block",
                where="adapter.targets",
                fix=fix,
            )
        return install_bottlenecks(model, self, names, options)

    def adapts(self, name: str) -> bool:
        """Whether one is put behind the layer of this name."""
        if self.targets is not None:
            return ends_with(name, self.targets)
        # BERT's `attention.output.dense` ends like the layer that closes its feed-forward block.
        closes_attention = ends_with(name, ATTENTION)
        return self.placement == "houlsby" if closes_attention else ends_with(name, FEED_FORWARD)

    def count(self, layers: Sequence[LinearLayer]) -> int:
        adapted = [layer.outputs for layer in layers if self.adapts(layer.name)]
        return sum(2 * self.width * outputs + self.width + outputs for outputs in adapted)
