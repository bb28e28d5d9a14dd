"""Settings of text generation, as a value that needs no torch; the filters themselves are in `inference.samplers`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt


class Sampling(BaseModel):
    """Settings of a completion. At temperature 0 decoding is greedy, and top-k, top-p and min-p have no effect.

    Filters apply in this order, as in transformers: repetition penalty (Keskar et al. 2019, arXiv 1909.05858), also in
    greedy decoding; temperature; top-k (Fan et al. 2018, arXiv 1805.04833); top-p (Holtzman et al. 2019,
    arXiv 1904.09751); min-p (Nguyen et al. 2024, arXiv 2407.01082).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tokens: int = Field(256, ge=1, description="Maximum tokens of a completion.")
    temperature: float = Field(0.0, ge=0, description="0 is greedy.")
    top_k: int = Field(0, ge=0, description="Keep the k most likely tokens; 0 keeps all.")
    top_p: float = Field(1.0, gt=0, le=1, description="Keep the most likely tokens that reach this total probability.")
    min_p: float = Field(
        0.0, ge=0, le=1, description="Keep tokens with at least this fraction of the most likely token's probability."
    )
    # None, not 1: a checkpoint's generation_config may declare its own, which a value here overrides.
    repetition_penalty: float | None = Field(
        None, gt=0, description="Above 1 makes tokens seen before less likely; default: as the checkpoint declares."
    )
    frequency_penalty: float = Field(
        0.0, ge=-2, le=2, description="Subtracted from a token's logit each time that the completion has it already."
    )
    presence_penalty: float = Field(
        0.0, ge=-2, le=2, description="Subtracted from a token's logit if the completion has it already."
    )
    logit_bias: tuple[tuple[NonNegativeInt, float], ...] = Field(
        (), description="Token ids, and what is added to their logits.", json_schema_extra={"option": None}
    )
    stop: tuple[str, ...] = Field((), description="Texts that end a completion; they are not part of it.")
    seed: int = 0
