"""A layer with a bottleneck behind it, and a model with such layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional

from bottega.adapters._adapted import AdaptedInPlace, RowParts
from bottega.adapters._base import InstallOptions
from bottega.errors import ModelError

if TYPE_CHECKING:
    from bottega.adapters.bottleneck import Bottleneck

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
}

# Standard deviation of the weights of `down` before training (Houlsby et al. 2019, section 3.6).
INITIAL_STD = 1e-2


class BottleneckLayer(nn.Module):
    """base_layer(x) = y, to which up(activation(down(y))) is added while it is `enabled`.

    Everything else that is asked of it, such as `weight` and `out_features`, is that of the layer it stands for.
    """

    def __init__(self, base_layer: nn.Module, outputs: int, adapter: Bottleneck, like: Tensor) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.down = nn.Linear(outputs, adapter.width, device=like.device, dtype=like.dtype)
        self.up = nn.Linear(adapter.width, outputs, device=like.device, dtype=like.dtype)
        self.activation, self.enabled = ACTIVATIONS[adapter.activation], True
        nn.init.normal_(self.down.weight, std=INITIAL_STD)
        for start_at_zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(start_at_zero)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)

    def forward(self, x: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        y: Tensor = self.base_layer(x, *arguments, **keywords)
        return y + self.up(self.activation(self.down(y))) if self.enabled else y


class AdaptedByBottlenecks(AdaptedInPlace):
    """A model of which some layers have a bottleneck behind them."""

    def take_off(self) -> RowParts:
        layers = {name: layer for name, layer in self.model.named_modules() if isinstance(layer, BottleneckLayer)}
        for name, layer in layers.items():
            parent, _, attribute = name.rpartition(".")
            setattr(self.model.get_submodule(parent), attribute, layer.base_layer)
        return RowParts(layers)

    def switch(self, on: bool) -> None:
        for module in self.model.modules():
            if isinstance(module, BottleneckLayer):
                module.enabled = on


def install_bottlenecks(
    model: nn.Module, adapter: Bottleneck, names: Sequence[str], options: InstallOptions
) -> AdaptedByBottlenecks:
    """Put bottlenecks behind the layers of these names; see `Adapter.install`."""
    # Not the weight of the layer, which may be kept in 4 bits.
    like = next(weight for weight in model.parameters() if weight.is_floating_point())
    trained = []
    for name in names:
        layer = model.get_submodule(name)
        outputs = _outputs(layer)
        if outputs is None:
            fix = "name linear layers in adapter.targets"
            raise ModelError(f"{name} is no linear layer", where="adapter.targets", fix=fix)
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, BottleneckLayer(layer, outputs, adapter, like))
        trained += [f"{name}.down", f"{name}.up"]
    return AdaptedByBottlenecks(model, adapter, trained, options)


def _outputs(layer: nn.Module) -> int | None:
    """The width of what a linear layer puts out, GPT-2's transposed one included; None for another."""
    return getattr(layer, "out_features", getattr(layer, "nf", None))
