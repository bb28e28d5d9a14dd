"""IA³: factors on keys, values and the inner activations of feed-forward blocks (Liu et al. 2022, arXiv 2205.05638)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bottega.adapters._base import ATTENTION, FEED_FORWARD, InstallOptions, LinearLayer, Start, Whole, ends_with
from bottega.adapters._peft import PeftAdapter, Targets
from bottega.errors import ModelError

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

    from bottega.adapters._peft_model import PeftAdaptedModel

# Names of the layers that make keys and values, in the architectures of transformers.
KEYS_AND_VALUES = (
    *("k_proj", "v_proj", "key", "value", "c_attn", "query_key_value", "qkv_proj", "k_lin", "v_lin", "k", "v"),
)
USUAL = (*KEYS_AND_VALUES, *FEED_FORWARD)

FIX = "name the layers in adapter.targets"


class Ia3(PeftAdapter):
    """Keys, values and inner activations are multiplied by trained factors, which start at one."""

    title: ClassVar[str] = "IA³"
    row_weights: ClassVar[tuple[str, ...]] = (".ia3_l",)
    lr_scale: ClassVar[float] = 30.0

    kind: Literal["ia3"] = Field("ia3", description="IA³ (Liu et al. 2022).")
    targets: Targets = Field(
        list(USUAL),
        description="Modules to adapt, by the ends of their names; those that a model has not are left out.",
    )
    feed_forward: list[str] = Field(
        list(FEED_FORWARD), description="Those of them whose input is multiplied, not their output."
    )
    train: Whole
    start: Start = None

    def install(self, model: nn.Module, options: InstallOptions) -> PeftAdaptedModel:
        from bottega.adapters._peft_model import check_targets, install_peft, linear_names

        usual = self.targets == list(USUAL)
        if not usual:
            check_targets(model, self.targets)
        names = [layer.name for layer in self.targeted([LinearLayer(name, 0, 0) for name in linear_names(model)])]
        if not names:
            what = "no layer is known to make keys and values, or to close a feed-forward block"
            raise ModelError(what if usual else "no linear layer among them", where="adapter.targets", fix=FIX)
        inner = [name for name in names if ends_with(name, self.feed_forward)]
        if not inner and self.feed_forward != list(FEED_FORWARD):
            what = f"no adapted layer is called {', '.join(self.feed_forward)}"
            raise ModelError(what, where="adapter.feed_forward", fix="name some of adapter.targets")
        # By whole names: PEFT wants the same names in both lists.
        return install_peft(model, self.model_copy(update={"targets": names, "feed_forward": inner}), options)

    def targeted(self, layers: Sequence[LinearLayer]) -> list[LinearLayer]:
        found = super().targeted(layers)
        # BERT's `attention.output.dense` ends like the layer that closes its feed-forward block.
        return [one for one in found if not ends_with(one.name, ATTENTION)] if self.targets == list(USUAL) else found

    def peft_config(self, **shared: Any) -> PeftConfig:
        from peft import IA3Config

        return IA3Config(feedforward_modules=list(self.feed_forward), **shared)

    def count(self, layers: Sequence[LinearLayer]) -> int:
        return sum(
            layer.inputs if ends_with(layer.name, self.feed_forward) else layer.outputs
            for layer in self.targeted(layers)
        )
