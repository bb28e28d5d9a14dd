"""LoRA: a low-rank update of each linear layer (Hu et al. 2021, arXiv 2106.09685), and its common variants."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field

from bottega.adapters._base import LinearLayer, Start
from bottega.adapters._peft import ALL_LINEAR, PeftAdapter, Targets

if TYPE_CHECKING:
    from peft import PeftConfig

T = TypeVar("T")

# What PEFT calls the matrices whose learning rate LoRA+ raises.
RAISED = (".lora_B.", ".lora_embedding_B.")


class Lora(PeftAdapter):
    """alpha / rank · B A x is added to each layer's output; A [rank, in] starts random, B [out, rank] at zero."""

    title: ClassVar[str] = "LoRA"

    kind: Literal["lora"] = Field("lora", description="LoRA (Hu et al. 2021).")
    rank: int = Field(16, ge=1, description="Rank of each update matrix.")
    alpha: float = Field(32, gt=0, description="The update is scaled by alpha / rank.")
    targets: Targets = ALL_LINEAR
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Dropout before the adapter. Rows that share a prefix share its mask, so off by default.",
    )
    rslora: bool = Field(
        False, description="Scale by alpha / √rank, so that high ranks learn as fast (Kalajdzievski 2023)."
    )
    dora: bool = Field(
        False, description="Train the length of each row of a weight apart from its direction (DoRA, Liu et al. 2024)."
    )
    lr_ratio: float | None = Field(
        None, ge=1, description="Learning rate of B relative to that of A; LoRA+ (Hayou et al. 2024) has 16."
    )
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description="Other ranks, by the end of a layer's name or a pattern of it: `{q_proj: 4}`."
    )
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="Other values of alpha, in the same way."
    )
    start: Start = None

    @property
    def label(self) -> str:
        variants = ("rsLoRA", self.rslora), ("DoRA", self.dora), ("LoRA+", self.lr_ratio is not None)
        names = [name for name, used in variants if used]
        return f"{' and '.join(names) or 'LoRA'} of rank {self.rank}"

    def peft_config(self, **shared: Any) -> PeftConfig:
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            use_rslora=self.rslora,
            use_dora=self.dora,
            rank_pattern=dict(self.rank_pattern),
            alpha_pattern=dict(self.alpha_pattern),
            **shared,
        )

    def count(self, layers: Sequence[LinearLayer]) -> int:
        sizes = [
            _matching(self.rank_pattern, layer.name, self.rank) * (layer.inputs + layer.outputs)
            + self.dora * layer.outputs
            for layer in self.targeted(layers)
        ]
        return sum(sizes)

    def lr_factor(self, name: str) -> float:
        is_raised = self.lr_ratio is not None and any(part in name for part in RAISED)
        return self.lr_ratio if is_raised and self.lr_ratio is not None else 1.0


def _matching(patterns: Mapping[str, T], name: str, default: T) -> T:
    """The value of the first pattern that a name ends with, as PEFT looks it up."""
    return next((value for end, value in patterns.items() if re.match(rf"(.*\.)?({end})$", name)), default)
