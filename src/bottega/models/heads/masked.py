"""The original token at each masked position."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from transformers import AutoModelForMaskedLM

from bottega.batch import Batch
from bottega.errors import ModelError
from bottega.models.config import is_encoder
from bottega.models.heads import ScoreOptions
from bottega.models.heads.language import LanguageModelHead
from bottega.models.own_head import masked_lm_states
from bottega.objectives import PLAIN_TEXT


class MaskedLmHead(LanguageModelHead):
    """The head of a masked language model: a transform, then the vocabulary; outputs as of `LanguageModelHead`."""

    description: ClassVar[str] = "a masked language model"
    autoregressive: ClassVar[bool] = False
    reads_everywhere: ClassVar[bool] = False
    may_be_new: ClassVar[bool] = True
    peft_task: ClassVar[str | None] = None
    command: ClassVar[str] = "bottega fill"

    def auto_class(self, config: Any) -> Any:
        return AutoModelForMaskedLM

    def check(self, config: Any) -> None:
        # Not the language head's check, which wants the opposite: `Head.check` refuses encoder–decoders.
        super(LanguageModelHead, self).check(config)
        if not is_encoder(config):
            what = f"{config.model_type} attends from left to right only"
            raise ModelError(what, where="model.base", fix=f"train it with {PLAIN_TEXT}")

    def scores(
        self, network: Any, states: Tensor, batch: Batch, wanted: frozenset[str], options: ScoreOptions
    ) -> dict[str, Tensor]:
        return super().scores(network, masked_lm_states(network, states), batch, wanted, options)
