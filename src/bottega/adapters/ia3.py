"""IA³: factors on keys, values and the inner activations of feed-forward blocks (Liu et al. 2022, arXiv 2205.05638)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bottega.adapters._base import FEED_FORWARD, InstallOptions, LinearLayer, Start, ends_with
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


class Ia3(PeftAdapter):
    """Keys, values and inner activations are multiplied by trained factors, which start at one."""

    title: ClassVar[str] = "IA³"

    kind: Literal["ia3"] = Field("ia3", description="IA³ (Liu et al. 2022).")
    targets: Targets = Field(
        list(USUAL),
        description="Modules to adapt, by the ends of their names; those that a model has not are left out.",
    )
    feed_forward: list[str] = Field(
        list(FEED_FORWARD), description="Those of them whose input is multiplied, not their output."
    )
    start: Start = None

    def install(self, model: nn.Module, options: InstallOptions) -> PeftAdaptedModel:
        from bottega.adapters._peft_model import install_peft, linear_names

        if self.targets != list(USUAL):
            return install_peft(model, self, options)
        names = linear_names(model)
        present = [end for end in USUAL if any(ends_with(name, [end]) for name in names)]
        if not present:
            what = "no layer is known to make keys and values, or to close a feed-forward block"
            raise ModelError(what, where="adapter.targets", fix="name the layers in adapter.targets")
        return install_peft(model, self.model_copy(update={"targets": present}), options)

    def peft_config(self, **shared: Any) -> PeftConfig:
        from peft import IA3Config

        targets = shared["target_modules"]
        # PEFT refuses the name of a layer that is no target.
        inner = [end for end in self.feed_forward if isinstance(targets, str) or end in targets]
        return IA3Config(feedforward_modules=inner, **shared)

    def count(self, layers: Sequence[LinearLayer]) -> int:
        return sum(
            layer.inputs if ends_with(layer.name, self.feed_forward) else layer.outputs
            for layer in self.targeted(layers)
        )
