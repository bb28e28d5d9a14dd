"""LoRA: a low-rank update of each linear layer (Hu et al. 2021, arXiv 2106.09685), and its common variants."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator

from bottega.adapters._base import InstallOptions, LinearLayer, Start, Whole
from bottega.adapters._peft import ALL_LINEAR, PeftAdapter, Targets
from bottega.errors import ModelError

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

    from bottega.adapters._peft_model import PeftAdaptedModel

T = TypeVar("T")


def _compiled(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no pattern: {error}") from None
    return pattern


# The end of a layer's name, or a pattern of it.
Pattern = Annotated[str, AfterValidator(_compiled)]

# What PEFT calls the matrices whose learning rate LoRA+ raises.
RAISED = (".lora_B.", ".lora_embedding_B.")


class Lora(PeftAdapter):
    """alpha / rank · B A x is added to each layer's output; A [rank, in] starts random, B [out, rank] at zero."""

    title: ClassVar[str] = "LoRA"
    row_weights: ClassVar[tuple[str, ...]] = (".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector")
    of_the_run: ClassVar[frozenset[str]] = frozenset({"start", "lr_ratio"})

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
    init: Literal["zero", "pissa", "loftq"] = Field(
        "zero",
        description="Where B A starts: at zero; `pissa`, at the principal part of each weight, saved as LoRA of twice"
        " the rank (Meng et al. 2024); `loftq`, at what a weight lost in `model.quantize` (Li et al. 2023).",
    )
    lr_ratio: float | None = Field(
        None, ge=1, description="Learning rate of B relative to that of A; LoRA+ (Hayou et al. 2024) has 16."
    )
    rank_pattern: dict[Pattern, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description="Other ranks, by the end of a layer's name or a pattern of it: `{q_proj: 4}`."
    )
    alpha_pattern: dict[Pattern, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="Other values of alpha, in the same way."
    )
    invocation: str | None = Field(
        None,
        min_length=1,
        description="Text from whose last occurrence on a row uses the adapter, such as what opens an answer (aLoRA,"
        " Greenewald et al. 2025): what stands before it is the base's, and adapters share it.",
    )
    train: Whole
    start: Start = None

    @model_validator(mode="after")
    def _check_init(self) -> Self:
        if self.invocation and (self.dora or self.dropout or self.train or self.init != "zero"):
            raise ValueError("invocation: it is for plain LoRA; leave dora, dropout, init and train out")
        if self.dora and self.init != "zero":
            raise ValueError("dora: the lengths of DoRA are those of the weights; leave init out, or dora")
        return self

    @property
    def by_name(self) -> bool:
        # Only linear layers have a principal part, and of all layers PEFT would adapt fused experts, too.
        return self.init != "zero" and self.targets == ALL_LINEAR

    @property
    def is_plain_low_rank(self) -> bool:
        return self.init == "zero" and not (self.dora or self.dropout or self.train or self.start)

    @property
    def invocation_text(self) -> str | None:
        return self.invocation

    @property
    def needs_quantized(self) -> bool:
        return self.init == "loftq"

    def install(self, model: nn.Module, options: InstallOptions) -> PeftAdaptedModel:
        adapted = super().install(model, options)
        weights = (name for name, _ in adapted.network.named_parameters())
        layers = {name.partition(".lora_A.")[0] for name in weights if ".lora_A." in name}
        for key, patterns in (("rank_pattern", self.rank_pattern), ("alpha_pattern", self.alpha_pattern)):
            for pattern in patterns:
                if not any(_is_end(pattern, layer) for layer in layers):
                    fix = "write the end of the name of a layer, such as q_proj"
                    raise ModelError(f"no adapted layer is called {pattern}", where=f"adapter.{key}", fix=fix)
        self._start(adapted, options)
        return adapted

    def _start(self, adapted: PeftAdaptedModel, options: InstallOptions) -> None:
        from bottega.adapters import _low_rank_start

        if self.init == "pissa":
            _low_rank_start.start_at_principal_part(adapted.model)
        elif self.init == "loftq":
            assert options.unquantized is not None, "a recipe with loftq has a quantized base"
            _low_rank_start.start_at_lost_part(adapted.model, options.unquantized(), reference=options.reference)

    @property
    def label(self) -> str:
        variants = (
            ("aLoRA", self.invocation is not None),
            ("PiSSA", self.init == "pissa"),
            ("LoftQ", self.init == "loftq"),
            ("rsLoRA", self.rslora),
            ("DoRA", self.dora),
            ("LoRA+", self.lr_ratio is not None),
        )
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
    return next((value for pattern, value in patterns.items() if _is_end(pattern, name)), default)


def _is_end(pattern: str, name: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", name) is not None
