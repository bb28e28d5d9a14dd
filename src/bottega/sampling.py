"""How text is drawn from a model: settings, as a value that needs no torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Sampling(BaseModel):
    """Settings of a continuation. At temperature 0 it is greedy, and the filters have nothing to say.

    Filters act in this order, as in transformers: repetition penalty (Keskar et al. 2019, arXiv 1909.05858), which
    greedy decoding heeds too; temperature; top-k (Fan et al. 2018, arXiv 1805.04833); top-p (Holtzman et al. 2019,
    arXiv 1904.09751); min-p (Nguyen et al. 2024, arXiv 2407.01082).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tokens: int = Field(256, ge=1, description="Most tokens of a continuation.")
    temperature: float = Field(0.0, ge=0, description="0 is greedy.")
    top_k: int = Field(0, ge=0, description="Keep the k likeliest tokens; 0 keeps all.")
    top_p: float = Field(1.0, gt=0, le=1, description="Keep the likeliest tokens that make up this probability.")
    min_p: float = Field(0.0, ge=0, le=1, description="Keep tokens with this share of the likeliest's probability.")
    repetition_penalty: float | None = Field(
        None, gt=0, description="Above 1 makes tokens seen before less likely; by default as the checkpoint declares."
    )
    stop: tuple[str, ...] = Field((), description="Texts that end a continuation; they are no part of it.")
    seed: int = 0
