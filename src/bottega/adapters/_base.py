"""What every kind of adapter states and does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bottega.errors import ModelError
from bottega.suggestions import suggest_name

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bottega.adapters._adapted import AdaptedModel

# PEFT's names, which other tools look for; kinds of our own use them too.
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Large adapters may be saved in several files.
WEIGHT_FILES = "adapter_model*.safetensors"

# Attribute of an attention module whose keys and values are trained for some tokens (`_prefixed.KeysAndValues`).
KEYS_AND_VALUES = "trained_keys_and_values"


# Names of the layers that close an attention block, and of those that close a feed-forward block, in the architectures
# of transformers. BERT's `attention.output.dense` ends like the second.
ATTENTION = (
    *("o_proj", "out_proj", "attn.c_proj", "attention.output.dense", "self_attention.dense", "attention.dense"),
    *("self_attn.dense", "out_lin", "SelfAttention.o", "EncDecAttention.o"),
)
FEED_FORWARD = ("down_proj", "mlp.c_proj", "fc2", "output.dense", "dense_4h_to_h", "lin2", "fc_out", "wo")


def ends_with(name: str, ends: Iterable[str]) -> bool:
    """Whether the name of a module ends with one of these, at a dot."""
    return any(f".{name}".endswith(f".{end}") for end in ends)


# Endings of the names of classifiers that PEFT trains and saves by itself.
HEADS = ("classifier", "score")


def is_in_head(name: str) -> bool:
    """Whether a module is, or is inside, what PEFT takes for a head by the end of its name."""
    return any(part.endswith(HEADS) for part in name.split("."))


# The field `start` of each kind; in a recipe it is `from`, which is a keyword of Python.
Start = Annotated[
    str | None,
    Field(alias="from", description="Folder or run of an adapter to continue training, with its own settings."),
]

# The field `train` of kinds that are saved with more than their own weights.
Whole = Annotated[
    list[str],
    Field(
        default_factory=list,
        description="Modules that are trained whole beside it, by the ends of their names: `[norm, lm_head]`.",
    ),
]


class LinearLayer(NamedTuple):
    """A linear layer of a model without its head: its name in the model, and its widths."""

    name: str
    inputs: int
    outputs: int


# Reads weights of a checkpoint one after the other, by their names.
WeightReader: TypeAlias = "Callable[[], Iterator[tuple[str, Tensor]]]"


class InstallOptions(NamedTuple):
    """What an adapter must know of the model it is put on.

    new_modules    names of modules with random weights: they are trained, and saved with the adapter
    head_is_whole  the head is trained whole, so it gets no adapter
    peft_task      PEFT's name of the task; None where PEFT has none
    reference      `AdaptedModel.disabled` must give the model as it is with the new adapter
    unquantized    reads the weights of the base as they were before they were quantized; None where they are not
    whole          names of further modules that are trained and saved with the adapter
    invocation     token ids from whose last occurrence on a row uses the adapter; none: the whole row
    """

    new_modules: Sequence[str] = ()
    head_is_whole: bool = False
    peft_task: str | None = None
    reference: bool = False
    unquantized: WeightReader | None = None
    whole: Sequence[str] = ()
    invocation: Sequence[int] = ()


class Adapter(BaseModel, ABC):
    """A small set of trained weights added to a frozen base; leave the section out to train every weight.

    title       what people call the method
    lr_scale    its default learning rate, relative to LoRA's for the same objective (`benchmarks/adapters.py`)
    of_the_run  fields that are not the adapter's own: they may be given where one is continued
    row_weights  how the names of its weights end where it may be taken off its network and used for some tokens only
                 (`AdaptedModel.take_off`), so that several are served on one base; none: never
    """

    # Frozen, as every section of a recipe: it is shared and hashed.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    title: ClassVar[str]
    lr_scale: ClassVar[float] = 1.0
    of_the_run: ClassVar[frozenset[str]] = frozenset({"start"})
    row_weights: ClassVar[tuple[str, ...]] = ()

    kind: str
    if TYPE_CHECKING:
        # Declared by each kind after its own fields: a recipe keeps the order of its keys.
        start: Start

    @model_validator(mode="after")
    def _check_continued(self) -> Self:
        # Compared by value, not by `model_fields_set`: a stored recipe sets every field.
        fields = type(self).model_fields
        kept = [name for name in fields if name not in self.of_the_run]
        defaults = {name: fields[name].get_default(call_default_factory=True, validated_data={}) for name in kept}
        changed = [name for name in kept if getattr(self, name) != defaults[name]]
        if self.start is not None and changed:
            raise ValueError(f"a continued adapter keeps its own {', '.join(changed)}; leave them out")
        return self

    @property
    def label(self) -> str:
        """The method and its size in a few words, for reports."""
        return self.title

    @property
    def virtual_tokens(self) -> int:
        """How many trained tokens stand before every text, and take positions of the model."""
        return 0

    @property
    def is_plain_low_rank(self) -> bool:
        """Whether it is a new low-rank update of layers, starting at zero, and nothing else is trained or drawn."""
        return False

    @property
    def invocation_text(self) -> str | None:
        """The text from whose last occurrence on a row uses the adapter; None: the whole row."""
        return None

    @property
    def needs_quantized(self) -> bool:
        """Whether it can only be put on a base that is quantized."""
        return False

    def modules_trained_whole(self, model: nn.Module) -> list[str]:
        """Names of the modules of a model that are trained beside it; a ModelError if one is not there."""
        from torch.nn import Module

        ends: Sequence[str] = getattr(self, "train", ())
        modules = [name for name, module in model.named_modules() if any(True for _ in module.parameters())]
        for end in ends:
            if not any(ends_with(name, [end]) for name in modules):
                known = sorted({name.rpartition(".")[2] for name in modules if not name.rpartition(".")[2].isdigit()})
                fix = suggest_name(end, known)
                raise ModelError(f"no module with weights is called {end}", where="adapter.train", fix=fix)
        found = [name for name in modules if ends_with(name, ends)]
        found = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
        for name in found:
            module = model.get_submodule(name)
            if type(module).forward is Module.forward:
                fix = "name what is in it"
                raise ModelError(f"{name} is a list of modules", where="adapter.train", fix=fix)
            if any(getattr(layer, "is_linear", False) for layer in module.modules()):
                fix = "name what keeps its weights, such as norm, or leave model.quantize out"
                raise ModelError(f"the weights of {name} are quantized", where="adapter.train", fix=fix)
        return found

    def import_library(self) -> None:
        """Import what `install` will need. A run does so at its start, where imports cost least."""
        return

    @abstractmethod
    def install(self, model: nn.Module, options: InstallOptions) -> AdaptedModel:
        """Freeze the model and put new trainable weights on it, in place; a ModelError if it cannot be done."""

    @abstractmethod
    def count(self, layers: Sequence[LinearLayer]) -> int:
        """How many weights it adds to a model with these linear layers."""

    def lr_factor(self, name: str) -> float:
        """What the learning rate is multiplied by for the trained weight of this name."""
        return 1.0

    def attach(self, model: nn.Module, folder: Path, trainable: bool, reference: bool) -> AdaptedModel:
        """The model with weights that `AdaptedModel.save` wrote into a folder; see `adapters.attach`."""
        from bottega.adapters._adapted import AdaptedInPlace

        self._refuse_reference(folder, reference)
        adapted = self.install(model, InstallOptions())
        assert isinstance(adapted, AdaptedInPlace), "a kind with another AdaptedModel must attach it itself"
        adapted.load(folder, trainable)
        return adapted

    def _refuse_reference(self, folder: Path, reference: bool) -> None:
        if reference:
            what = f"{self.title} keeps no frozen copy to compare with while it is trained further"
            raise ModelError(what, where=str(folder), fix="train a new adapter, or name model.reference")
