"""The recipe: everything that decides a run, as one frozen value. The keys and their meaning are a public contract.

Unknown keys are errors that suggest the nearest known one; every key but `model`, `data` and `objective` has a default.
Relative paths resolve against the recipe's folder. Imports no torch, so that the command line starts fast. Reading
the file is in `files`, wording of errors in `explain`. Field descriptions become docs/recipe.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from bottega import adapters, objectives
from bottega.adapters import Adapter
from bottega.errors import RecipeError
from bottega.objectives import Objective
from bottega.recipe.explain import explain_validation_error
from bottega.recipe.files import ADAPTERS, RESOLVED, read_recipe_file, resolve_paths
from bottega.recipe.one_of import OneOf
from bottega.records import TooLong
from bottega.records.formats import format_names
from bottega.suggestions import describe_errors, suggest_name

# A row format: the name of a file in `records/formats/`, or "auto".
RowFormat = Annotated[str, OneOf(lambda: ["auto", *format_names()])]

ReaderName = Literal["auto", "text", "jsonl", "json", "csv", "tsv", "conll", "parquet", "spreadsheet"]

# How the weights of a frozen base model are stored.
Quantize = Literal["none", "nf4", "fp8"]

# A decay rate of Adam; 1 would never forget, and divide by zero in the bias correction.
Beta = Annotated[float, Field(ge=0, lt=1)]

# A tab is hard to type in YAML and in a shell, which passes \t as two characters.
DELIMITER_NAMES = {"tab": "\t", "\\t": "\t"}


def _check_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
        raise ValueError(
            f"{value!r} cannot name a folder: use up to 100 letters, digits, dots, dashes and underscores; start with "
            "a letter or digit"
        )
    return value


def _check_warmup(value: float) -> float:
    # Below 1 it is a fraction of the run, above 1 a number of updates.
    if value == 1:
        raise ValueError(
            "1 could mean one update or the whole run: write 0 for none, a fraction such as 0.05, or 2 or more updates"
        )
    return value


def _parse_delimiter(value: Any) -> Any:
    return DELIMITER_NAMES.get(value, value) if isinstance(value, str) else value


# Sections. The order of their fields is the order of docs/recipe.md and of the recipe that `bottega init` writes.


class Section(BaseModel):
    # Frozen: a recipe is shared and hashed. No NaN: JSON has none, and resolved.json must read back.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Model(Section):
    """The base model: a checkpoint to start from, or a shape to train from scratch."""

    base: str | None = Field(None, description="Hub id, folder or finished run to start from.")
    shape: dict[str, Any] | None = Field(
        None, description="A transformers config (`model_type`, `hidden_size` …), to start from random weights."
    )
    tokenizer: str | None = Field(None, description="Folder or hub id of the tokenizer; default: that of `base`.")
    reference: str | None = Field(
        None,
        description="Folder, run or hub id of the reference model of dpo, kto and grpo; default: the initial policy.",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto",
        description="Of weights and computation; `auto` is bfloat16 where the hardware supports it.",
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="Dropout while training, in layers that have it; default: the model's config."
    )
    quantize: Quantize = Field(
        "none", description="Quantize the frozen base of an adapter to 4 bits (QLoRA; needs bitsandbytes) or 8 bits."
    )
    license: str | None = Field(
        None, description="License of the base, for the model card; default: as the base's own card says."
    )

    @model_validator(mode="after")
    def _check_start(self) -> Model:
        if (self.base is None) == (self.shape is None):
            raise ValueError("give either base (a checkpoint) or shape (from scratch)")
        if self.shape is not None and "model_type" not in self.shape:
            raise ValueError("shape needs a model_type, for example llama")
        if self.shape is not None and self.tokenizer is None:
            raise ValueError("a model from scratch needs a tokenizer: bottega tokenizer train FILES --out DIR")
        return self


class Layout(Section):
    """How to read a file whose contents do not make it clear."""

    reader: ReaderName = Field("auto", description="File format; `auto` decides by the suffix.")
    encoding: str | None = Field(
        None,
        description="Text encoding: `latin-1`, `cp1252`, `utf-16` …; default: by the byte order mark, else UTF-8.",
    )
    delimiter: Annotated[str, BeforeValidator(_parse_delimiter)] | None = Field(
        None, description="Character between the cells of a table: `;`, `|`, `tab`; default: by the suffix."
    )
    header: bool | None = Field(
        None, description="Whether the first line of a table has the column names; default: unless `columns` is given."
    )
    columns: list[str] = Field(
        default_factory=list, description="Column names of a table, or names of the items of rows that are lists."
    )
    field: str | None = Field(
        None,
        description="Key under which a JSON object holds its rows (`data`, `result.rows`), or a sheet of a workbook.",
    )

    @property
    def has_header(self) -> bool:
        """Whether the first line of a table is a header, not a row."""
        return not self.columns if self.header is None else self.header

    def for_file(self, path: str, known: Iterable[str]) -> Layout:
        """The layout of another file than the `known` ones: the same if it has the suffix of one of them."""
        suffixes = {Path(name).suffix for name in known}
        return (
            Layout(**self.model_dump(include=set(Layout.model_fields))) if Path(path).suffix in suffixes else Layout()
        )

    @model_validator(mode="after")
    def _check_readable(self) -> Layout:
        if self.header is False and not self.columns:
            raise ValueError("header: a table without a header needs column names, such as columns: [text, label]")
        duplicates = [name for index, name in enumerate(self.columns) if name in self.columns[:index]]
        if duplicates:
            raise ValueError(f"columns: {duplicates[0]} is given twice")
        # What Python's csv module refuses or cannot tell from the text of a cell.
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '\r\n"\0 '):
            raise ValueError("delimiter: write one character, such as ; or tab, but no quote, space or line break")
        try:
            "".encode(self.encoding or "utf-8")
        except (LookupError, ValueError):
            raise ValueError(f"encoding: {self.encoding!r} is not a text encoding; latin-1, cp1252 … are") from None
        return self


class Reading(Layout):
    """How the fields of a row are interpreted, and the license; what a source leaves out is taken from `data`."""

    format: RowFormat = Field(
        "auto", description="Which fields make up a row; `auto` recognizes the format from the first row."
    )
    mapping: dict[str, str] = Field(
        default_factory=dict, description="Field names to rename: `{name in the format: name in the file}`."
    )
    text_template: str | None = Field(None, description="Template that builds a text from fields: `Q: {question}`.")
    license: str | None = Field(
        None, description="License of the rows, for the model card; default: as the dataset's own card says."
    )


class Source(Reading):
    """One file, folder or dataset of rows."""

    path: str = Field(description="File, folder, dataset saved on disk, or a dataset's hub id.")
    split: str | None = Field(None, description="Split or slice: `train[:80%]`, `train[4096:4224]`; default: train.")
    config: str | None = Field(None, description="Configuration name of a dataset on the hub.")
    stream: bool = Field(False, description="Read a dataset from the hub while downloading, without storing it.")
    # Not a sampling probability: 2 means exactly twice per epoch.
    weight: float = Field(
        1.0,
        gt=0,
        description="How often each row is used per epoch; 0.25 uses a quarter of the rows, another one each epoch.",
    )


def _as_source_list(value: Any) -> Any:
    """A path, a source or a list of either, as a list of sources; other values unchanged, for pydantic to report."""
    if isinstance(value, (str, Mapping, Source)):
        value = [value]
    return [{"path": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value


Sources = Annotated[list[Source], BeforeValidator(_as_source_list), Field(min_length=1)]


class Data(Reading):
    """Where rows come from and how they become tokens."""

    train: Sources = Field(description="A path, a source with options, or a list of them to mix.")
    validation: Annotated[float, Field(gt=0, lt=1)] | Sources | None = Field(
        None, description="Sources as for `train`, or the fraction of the training rows to hold out."
    )
    seed: int | None = Field(None, description="Decides which rows are held out; default: the run's seed.")
    stratify: bool | None = Field(
        None, description="Hold out the same fraction of every label; default: only for classify."
    )
    max_length: int | None = Field(
        None, ge=2, description="Maximum tokens per row; default: the model's maximum, at most 1024."
    )
    too_long: TooLong | None = Field(
        None,
        description="What to do with a longer row: shorten its prompt, drop it, truncate it, split it, or stop with an "
        "error; default: split for plain text, shorten otherwise.",
    )
    template: str | None = Field(
        None,
        description="Chat template: `chatml`, `llama3`, `plain`, or a Jinja file; default: the tokenizer's own, or "
        "plain if it has none.",
    )
    windows: Literal["moving", "fixed"] = Field(
        "moving",
        description="Where a split text is cut in each epoch after the first: at new places, or the same ones.",
    )
    bad_rows: Literal["error", "drop"] = Field("error", description="What to do with an invalid row.")


Optimizer = Literal["adamw", "adamw_8bit", "adafactor", "muon"]


class Optim(Section):
    """The optimizer, its schedule, and the size of an update."""

    optimizer: Optimizer = Field(
        "adamw",
        description="`adamw_8bit` keeps a quarter of AdamW's state, `adafactor` almost none; `muon` trains matrices, "
        "and AdamW the rest.",
    )
    lr: float | None = Field(None, gt=0, description="Peak learning rate; default: by objective and adapter.")
    head_lr: float | None = Field(
        None,
        gt=0,
        description="Peak learning rate of a head that starts from random weights; default: 8 / its width, at most"
        " 0.03, at least `lr`.",
    )
    schedule: Literal["cosine", "linear", "constant", "wsd"] = Field(
        "cosine", description="How the learning rate falls after warmup; wsd: constant, then a linear decay."
    )
    warmup: Annotated[float, AfterValidator(_check_warmup)] = Field(
        0.05, ge=0, description="Warmup: below 1 a fraction of all updates, above 1 a number of updates."
    )
    floor: float = Field(0.0, ge=0, le=1, description="Final learning rate, as a fraction of the peak.")
    epochs: float | None = Field(None, gt=0, description="Passes over the rows; default 1. Excludes `steps`.")
    steps: int | None = Field(None, ge=1, description="Number of updates. Excludes `epochs`.")
    examples: int | None = Field(None, ge=1, description="Examples per update; default 16. Excludes `update_tokens`.")
    update_tokens: int | None = Field(None, ge=1, description="Tokens per update. Excludes `examples`.")
    # Decides speed and memory only: losses are sums over the whole update, however it is divided.
    tokens: int | None = Field(
        None,
        ge=1,
        description="Maximum tokens per micro-batch, shared prefixes counted once; default 2048, on CUDA what fits.",
    )
    weight_decay: float = Field(0.0, ge=0, description="Weight decay; applies to matrices only.")
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="Decay rates of AdamW's two moments.")
    clip: float | None = Field(1.0, gt=0, description="Maximum norm of the gradient; null for no clipping.")
    ema: float | None = Field(
        None, gt=0, lt=1, description="Decay of an exponential moving average of the weights, which is the result."
    )
    neftune: float | None = Field(
        None, gt=0, description="NEFTune: scale of the noise on embeddings while training; 5 is usual."
    )
    freeze: list[str] = Field(
        default_factory=list, description="Weights to leave untrained, as patterns of their names: `*embed*`."
    )
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="Learning rate of each layer relative to the layer above; heads train at `lr`."
    )
    checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, a third more time."
    )
    offload: bool = Field(
        False, description="Keep activations in host memory between forward and backward: less GPU memory, more time."
    )

    @model_validator(mode="after")
    def _check_exclusive(self) -> Optim:
        for first, second in (("epochs", "steps"), ("examples", "update_tokens")):
            if getattr(self, first) is not None and getattr(self, second) is not None:
                raise ValueError(f"give {first} or {second}, not both")
        return self


class Evaluate(Section):
    """Validation while training; on by default if `data.validation` is given; `evaluate: null` turns it off."""

    every: int | None = Field(None, ge=1, description="Updates between validations; default: ten per run.")
    stop_after: int | None = Field(
        None, ge=1, description="Early stopping: stop after this many validations without a better loss."
    )
    rows: int | None = Field(None, ge=1, description="Maximum number of validation examples; default: all.")


class Guard(Section):
    """Protection against forgetting: general rows replayed beside the run's own, and a KL penalty on them."""

    replay: Sources = Field(
        description="General rows the model must not forget; a tenth of them, at most 200, is held out to measure it."
    )
    share: float = Field(
        0.1, ge=0, lt=1, description="Fraction of each update's examples, and of its loss, that are replayed rows."
    )
    anchor: float = Field(
        0.0, ge=0, description="Weight of the KL divergence from the initial model, on replayed rows."
    )
    stop_when: float | None = Field(
        None, gt=0, description="Stop the run when the loss on held-out replay rows has risen by this much."
    )

    @model_validator(mode="after")
    def _check_active(self) -> Guard:
        if not self.share and not self.anchor and self.stop_when is None:
            raise ValueError("share, anchor and stop_when are all off, so it has no effect; leave the section out")
        return self


class VerdictRule(Section):
    """What decides whether the run was worth it; declared before anything is measured."""

    metric: str | None = Field(
        None,
        description="Id of a metric of `bottega evaluate`, as `f1_macro`; default: `accuracy`, `span_f1` or `loss`.",
    )
    margin: float = Field(0.0, ge=0, description="The smallest difference that matters, in the metric's unit.")


class Save(Section):
    """Checkpoints while training."""

    every: int = Field(100, ge=1, description="Updates between checkpoints.")
    keep: int = Field(2, ge=1, description="How many of the newest checkpoints to keep, besides the best.")


class ReportTarget(Section):
    """Where to log the run besides its own folder; in short `report: [tensorboard]`."""

    kind: Literal["tensorboard"] = Field(description="TensorBoard files; needs `bottega[tensorboard]`.")
    folder: str | None = Field(None, description="Folder of the files; default: in the run folder.")


def _as_report_list(value: Any) -> Any:
    """A name, a mapping or a list of either, as a list of mappings."""
    items = value if isinstance(value, list) else [value]
    return [{"kind": item} if isinstance(item, str) else item for item in items]


Reports = Annotated[list[ReportTarget], BeforeValidator(_as_report_list)]


class Devices(Section):
    """Hardware the run may use; recorded, and the same on resume."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto` is cuda if available, else cpu.")
    threads: int | None = Field(None, ge=1, description="CPU threads; default: as torch chooses.")


def _build_adapter(value: Any) -> Any:
    """The options of an adapter as an instance of its kind; other values unchanged, for pydantic to report."""
    return adapters.build(value) if isinstance(value, dict) else value


def _build_objective(value: Any) -> Any:
    """The options of an objective as an instance of its kind; other values unchanged, for pydantic to report."""
    if isinstance(value, Objective) or not isinstance(value, Mapping):
        return value
    kind = value.get("kind")
    if kind not in objectives.kinds():
        raise ValueError(f"unknown kind {kind!r}; {suggest_name(str(kind), objectives.kinds())}")
    return objectives.build_objective(value)


class Recipe(Section):
    """A whole run. `Recipe.load` reads one from YAML."""

    recipe: Literal[1] = Field(1, description="Version of the recipe format.")
    name: Annotated[str, AfterValidator(_check_name)] = Field("run", description="Name of the run folder.")
    seed: int = Field(0, description="Seed of every random choice.")
    model: Model
    adapter: Annotated[SerializeAsAny[Adapter] | None, BeforeValidator(_build_adapter)] = None
    data: Data
    # SerializeAsAny: pydantic would otherwise drop the fields that a subclass adds when it writes the recipe.
    objective: Annotated[SerializeAsAny[Objective], BeforeValidator(_build_objective)]
    optim: Optim = Optim()
    # None by default, but added by `_add_implied_keys` where there are validation rows.
    evaluate: Evaluate | None = None
    guard: Guard | None = None
    verdict: VerdictRule = VerdictRule()
    save: Save | None = None
    report: Reports = []
    devices: Devices = Devices()

    @model_validator(mode="before")
    @classmethod
    def _add_implied_keys(cls, document: Any) -> Any:
        """Add what follows from other keys: the base of a continued adapter, and `evaluate` if rows are held out."""
        if not isinstance(document, Mapping):
            return document
        data, adapter = document.get("data"), document.get("adapter")
        # Only where the key is absent: `evaluate: null` turns validation off.
        if isinstance(data, Mapping) and "evaluate" not in document and data.get("validation") is not None:
            document = {**document, "evaluate": {}}
        if isinstance(adapter, Mapping) and isinstance(adapter.get("from"), str):
            document = {**document, "model": _with_adapter_base(adapter["from"], document.get("model") or {})}
        return document

    @model_validator(mode="after")
    def _check_consistency(self) -> Recipe:
        kind = self.objective.kind
        if self.adapter is not None and self.model.shape is not None:
            raise ValueError("adapter: a model from scratch has nothing to adapt; leave the section out")
        if self.model.quantize != "none" and self.adapter is None:
            raise ValueError("model.quantize: quantized weights cannot be trained; add adapter: {rank: 16}")
        if self.adapter is not None and self.adapter.needs_quantized and self.model.quantize == "none":
            what = "it starts at what weights lose when they are quantized"
            raise ValueError(f"adapter.init: {what}; add quantize: nf4 to model, or leave it out")
        if self.model.reference is not None and not self.objective.compares_with_reference:
            raise ValueError(f"model.reference: {kind} has no reference model; leave it out")
        if self.data.too_long == "split" and not self.objective.can_split:
            raise ValueError(f"data.too_long: {kind} rows cannot be split; drop or truncate them")
        if self.evaluate is not None and self.data.validation is None:
            raise ValueError("evaluate: no rows to validate on; set data.validation (0.1 holds out a tenth)")
        self._check_guard()
        return self

    def _check_guard(self) -> None:
        if self.guard is None:
            return
        kind = self.objective.kind
        if self.guard.stop_when is not None and self.evaluate is None:
            raise ValueError("guard.stop_when: it is checked at each validation; add evaluate: {}")
        # A new head has no initial distribution worth staying near.
        if self.guard.anchor and self.objective.head not in ("language", "masked"):
            raise ValueError(
                f"guard.anchor: {kind} starts with a new head, which no KL penalty applies to; leave it out"
            )
        # In-batch negatives would mix replayed rows with the run's own.
        if self.objective.joint:
            raise ValueError(f"guard: {kind} compares rows with each other; add the general rows to data.train")

    @classmethod
    def load(cls, path: str | Path, *overrides: str) -> Recipe:
        """The recipe in a YAML file, with `section.key=value` overrides; a RecipeError says what is wrong and where."""
        document, folder = read_recipe_file(Path(path), overrides, cls.model_fields)
        if ADAPTERS in document:
            fix = "bottega train trains them all; for one of them, write its sections into a recipe of its own"
            raise RecipeError(f"it has {ADAPTERS}, and is of several runs", where=str(path), fix=fix)
        return cls.parse(document, folder=folder, where=str(path))

    @classmethod
    def parse(cls, document: Mapping[str, Any], *, folder: Path = Path(), where: str = "recipe") -> Recipe:
        """The recipe in a nested mapping; relative paths resolve against `folder`.

        where  name of the document, for errors
        """
        # Before validation, which reads the folder of a continued adapter.
        document = resolve_paths(document, folder.absolute())
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise explain_validation_error(error, document, where, cls) from None

    def document(self) -> dict[str, Any]:
        """Every key with its value, as plain data that `parse` reads back."""
        return self.model_dump(mode="json", by_alias=True)

    def fingerprint(self) -> str:
        """Sixteen hex digits of a hash of all keys: equal for equal recipes only."""
        # Sorted: the order of keys in a file does not matter.
        return hashlib.sha256(json.dumps(self.document(), sort_keys=True).encode()).hexdigest()[:16]

    # Values that follow from several keys

    @property
    def train_sources(self) -> list[Source]:
        return [self._with_data_options(source) for source in self.data.train]

    @property
    def validation_sources(self) -> list[Source]:
        """The sources to validate on; none if a fraction of the training rows is held out instead."""
        validation = self.data.validation
        return [self._with_data_options(source) for source in validation] if isinstance(validation, list) else []

    def _with_data_options(self, source: Source) -> Source:
        """The source with the reading options of `data` for those it does not set."""
        defaults = {name: field.get_default(call_default_factory=True) for name, field in Reading.model_fields.items()}
        # By value, as above.
        unset = [name for name, default in defaults.items() if getattr(source, name) == default]
        return source.model_copy(update={name: getattr(self.data, name) for name in unset})

    @property
    def replay_sources(self) -> list[Source]:
        """The sources of general rows to replay, read as `data` says unless they say otherwise."""
        return [] if self.guard is None else [self._with_data_options(source) for source in self.guard.replay]

    @property
    def uses_anchor(self) -> bool:
        """Whether the loss has a KL penalty on replayed rows, which needs the initial model as reference."""
        return self.guard is not None and self.guard.anchor > 0

    @property
    def too_long(self) -> TooLong:
        return self.data.too_long or ("split" if self.objective.can_split else "shorten")

    @property
    def split_seed(self) -> int:
        """The seed that decides which rows are held out."""
        return self.seed if self.data.seed is None else self.data.seed

    @property
    def stratified(self) -> bool:
        """Whether the same fraction of every label is held out."""
        return self.objective.stratify if self.data.stratify is None else self.data.stratify

    @property
    def lr(self) -> float:
        """The peak learning rate: as given, else the objective's default for full or adapter training."""
        full, lora = self.objective.lr
        # Most objectives have a higher default for adapters: a low-rank update moves the weights less.
        return self.optim.lr or (full if self.adapter is None else lora * self.adapter.lr_scale)


def parse_layout(options: Iterable[str]) -> Layout:
    """The layout given on a command line as `key=value` options, such as `encoding=latin-1`; RecipeError if invalid."""
    values: dict[str, Any] = {}
    for option in options:
        # `data.` is allowed, as in an override of a recipe.
        key, _, text = option.removeprefix("data.").partition("=")
        values[key] = [name.strip() for name in text.strip("[] ").split(",")] if key == "columns" else text
    try:
        return Layout.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        key = ".".join(map(str, problems[0]["loc"]))
        what = "unknown key" if problems[0]["type"] == "extra_forbidden" else describe_errors(problems[:1])[0]
        fix = f"write --read encoding=latin-1; the keys are {', '.join(Layout.model_fields)}"
        raise RecipeError(f"{key}: {what}" if key else what, where="--read", fix=fix) from None


def _with_adapter_base(adapter: str, model: Any) -> Any:
    """The `model` section with the base of a continued adapter added, and its quantization.

    adapter  a run folder or an adapter folder
    model    the section as written; unchanged if it names a base or a shape of its own
    """
    folder = Path(adapter)
    if not isinstance(model, Mapping) or model.get("shape") or model.get("base") not in (None, adapter):
        return model
    candidates = (folder / "adapter" / adapters.CONFIG, folder / adapters.CONFIG)
    config = next((path for path in candidates if path.is_file()), None)
    if config is None:
        return model
    # An adapter must run on the base it was trained on, quantized the same way.
    stored = config.parent.parent / RESOLVED
    try:
        base = json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
        stored_model = json.loads(stored.read_text(encoding="utf-8"))["model"] if stored.is_file() else {}
    except (OSError, ValueError, KeyError, TypeError):
        # Loading the adapter reports it, with a better message.
        return model
    return {"quantize": stored_model.get("quantize", "none"), **model, "base": base}
