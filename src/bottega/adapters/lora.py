"""LoRA: a low-rank update of each linear layer (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bottega.adapters._base import Start
from bottega.adapters._peft import ALL_LINEAR, PeftAdapter, Targets

if TYPE_CHECKING:
    from peft import PeftConfig


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
    start: Start = None

    @property
    def label(self) -> str:
        return f"LoRA of rank {self.rank}"

    def peft_config(self, **shared: Any) -> PeftConfig:
        from peft import LoraConfig

        return LoraConfig(r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, **shared)

    def count(self, layers: Sequence[tuple[int, int]]) -> int:
        return self.rank * sum(inputs + outputs for inputs, outputs in layers)
