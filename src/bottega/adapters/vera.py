"""VeRA: LoRA whose matrices are random and shared by all layers, with trained scales (Kopiczko et al. 2023).

arXiv 2310.11454. Only vectors are trained, so an adapter has a tenth or less of LoRA's size; the random matrices are
saved with it, since other versions of torch may draw others from the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bottega.adapters._base import LinearLayer, Start, Whole
from bottega.adapters._peft import ALL_LINEAR, PeftAdapter, Targets

if TYPE_CHECKING:
    from peft import PeftConfig


class Vera(PeftAdapter):
    """b · B (d · A x) is added to each layer's output; A and B are random, the vectors d [rank] and b [out] trained."""

    title: ClassVar[str] = "VeRA"
    row_weights: ClassVar[tuple[str, ...]] = (".vera_lambda_b", ".vera_lambda_d", "vera_A", "vera_B")
    lr_scale: ClassVar[float] = 30.0

    kind: Literal["vera"] = Field("vera", description="VeRA (Kopiczko et al. 2023).")
    rank: int = Field(256, ge=1, description="Rank of the shared random matrices.")
    targets: Targets = ALL_LINEAR
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout before the adapter. Rows that share a prefix share its mask."
    )
    seed: int = Field(0, description="Seed of the random matrices.")
    train: Whole
    start: Start = None

    @property
    def label(self) -> str:
        return f"VeRA of rank {self.rank}"

    @property
    def by_name(self) -> bool:
        # Its config cannot exclude layers.
        return True

    def peft_config(self, **shared: Any) -> PeftConfig:
        from peft import VeraConfig

        return VeraConfig(r=self.rank, vera_dropout=self.dropout, projection_prng_key=self.seed, **shared)

    def count(self, layers: Sequence[LinearLayer]) -> int:
        return sum(self.rank + layer.outputs for layer in self.targeted(layers))
