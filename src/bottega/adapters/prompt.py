"""Prompt tuning: trained embeddings that stand before every text (Lester et al. 2021, arXiv 2104.08691)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bottega.adapters._base import InstallOptions, LinearLayer, Start
from bottega.adapters._token_adapter import TokenAdapter

if TYPE_CHECKING:
    from bottega.adapters._trained_tokens import AdaptedByTokens


class Prompt(TokenAdapter):
    """Embeddings of tokens that no vocabulary has; they start as those of random words."""

    title: ClassVar[str] = "prompt tuning"
    lr_scale: ClassVar[float] = 100.0

    kind: Literal["prompt"] = Field("prompt", description="Prompt tuning (Lester et al. 2021).")
    tokens: int = Field(20, ge=1, description="How many trained embeddings stand before every text.")
    start: Start = None

    def import_library(self) -> None:
        from bottega.adapters import _prompted  # noqa: F401

    def put_on(self, model: Any, options: InstallOptions) -> AdaptedByTokens:
        from bottega.adapters._prompted import install_prompt

        return install_prompt(model, self, options)

    def count(self, layers: Sequence[LinearLayer]) -> int:
        # The first layer of a decoder reads embeddings.
        return self.tokens * layers[0].inputs if layers else 0
