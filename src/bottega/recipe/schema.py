"""The recipe: everything that decides a run, as one frozen value. The contract with users.

Unknown keys are errors that name the nearest known one; every key but `model`, `data` and `objective` has a default.
Relative paths resolve against the recipe's folder. This module imports no torch.
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

from bottega import objectives
from bottega.errors import RecipeError
from bottega.objectives import Objective
from bottega.recipe.explain import explain_validation_error
from bottega.recipe.files import RESOLVED, read_recipe_file, resolve_paths
from bottega.records import TooLong
from bottega.suggestions import describe_errors, suggest_name

RowFormat = Literal[
    "auto", "messages", "instruction", "question", "summary", "prompted", "preference", "openai_preference", "unpaired",
    "labelled", "labelled_pair", "multilabelled", "conll", "spans", "paired", "compared", "choice", "lettered_choice",
    "posed", "text",
]  # fmt: skip


Beta = Annotated[float, Field(ge=0, lt=1)]


Quantize = Literal["none", "nf4", "fp8"]
"""How a frozen base is kept."""


def _check_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError(
            f"{value!r} cannot name a folder: write letters, digits, dots, dashes and underscores, no dot or dash first"
        )
    return value


def _check_warmup(value: float) -> float:
    if value == 1:
        raise ValueError(
            "1 could mean one update, or the whole run: write 0 for none, a fraction such as 0.05, or 2 or more updates"
        )
    return value


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Model(Section):
    """The base model: a checkpoint to start from, or a shape to start from scratch."""

    base: str | None = Field(None, description="Hub id, folder, or finished run to start from.")
    shape: dict[str, Any] | None = Field(
        None, description="A transformers config (`model_type`, `hidden_size` …) to start from random weights."
    )
    tokenizer: str | None = Field(None, description="Folder or hub id of the tokenizer; default: that of `base`.")
    reference: str | None = Field(
        None,
        description="Folder, run or hub id that dpo, kto and grpo compare with; default: the policy as the run begins.",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="Weights and computation; `auto` is bfloat16 where the hardware multiplies it."
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="In the layers that have one, while training; default: as its config says."
    )
    quantize: Quantize = Field(
        "none", description="Keep the frozen base of an adapter in 4 bits (QLoRA; needs bitsandbytes) or in 8."
    )
    license: str | None = Field(None, description="Of the base, for the model card; default: as its own card says.")

    @model_validator(mode="after")
    def _one_start(self) -> Model:
        if (self.base is None) == (self.shape is None):
            raise ValueError("give either base (a checkpoint) or shape (from scratch)")
        if self.shape is not None and "model_type" not in self.shape:
            raise ValueError("shape needs a model_type, for example llama")
        if self.shape is not None and self.tokenizer is None:
            raise ValueError("a model from scratch needs a tokenizer: bottega tokenizer train FILES --out DIR")
        return self


class Adapter(Section):
    """A small trained addition to a frozen base; leave the section out to train every weight."""

    kind: Literal["lora"] = Field("lora", description="LoRA (Hu et al. 2021).")
    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0, description="The update is scaled by alpha / rank.")
    targets: str | list[str] = Field("all-linear", description="Module names, or all linear layers but the head.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Not invariant under sharing, so off by default.")
    start: str | None = Field(None, alias="from", description="Folder or run of an adapter to continue, as it is.")

    @model_validator(mode="after")
    def _as_it_is(self) -> Adapter:
        fields = type(self).model_fields
        changed = [name for name in fields if name != "start" and getattr(self, name) != fields[name].default]
        if self.start is not None and changed:
            raise ValueError(f"a continued adapter keeps its own {', '.join(changed)}")
        return self


ReaderName = Literal["auto", "text", "jsonl", "json", "csv", "tsv", "conll", "parquet", "spreadsheet"]

DELIMITERS = {"tab": "\t", "\\t": "\t"}
"""What is hard to write, or comes from a command line as it was typed."""


def _parse_delimiter(value: Any) -> Any:
    return DELIMITERS.get(value, value) if isinstance(value, str) else value


class Layout(Section):
    """How a file is laid out, where it does not say so itself."""

    reader: ReaderName = Field("auto", description="What a file holds; `auto` goes by its suffix.")
    encoding: str | None = Field(
        None, description="Of text: `latin-1`, `cp1252`, `utf-16` …; default: by its mark, or UTF-8."
    )
    delimiter: Annotated[str, BeforeValidator(_parse_delimiter)] | None = Field(
        None, description="What parts the cells of a table: `;`, `|`, `tab`; default: by the suffix."
    )
    header: bool | None = Field(
        None, description="Whether a table's first line names its columns; default: unless `columns` does."
    )
    columns: list[str] = Field(
        default_factory=list, description="Names of a table's columns, or of the items of rows that are lists."
    )
    field: str | None = Field(
        None,
        description="Key under which a JSON object holds rows (`data`, `result.rows`), or the sheet of a workbook.",
    )

    @property
    def headed(self) -> bool:
        """Whether the first line of a table is none of its rows."""
        return not self.columns if self.header is None else self.header

    def of(self, path: str, known: Iterable[str]) -> Layout:
        """That of another file than the known ones: the same where its name ends as one of theirs does."""
        endings = {Path(one).suffix for one in known}
        return Layout(**self.model_dump(include=set(Layout.model_fields))) if Path(path).suffix in endings else Layout()

    @model_validator(mode="after")
    def _can_be_read(self) -> Layout:
        if self.header is False and not self.columns:
            raise ValueError("header: a table without one needs names, for example columns: [text, label]")
        twice = [name for index, name in enumerate(self.columns) if name in self.columns[:index]]
        if twice:
            raise ValueError(f"columns: {twice[0]} is named twice")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '\r\n"\0 '):
            raise ValueError("delimiter: one character parts cells, such as ; or tab, and no quote or blank")
        try:
            "".encode(self.encoding or "utf-8")
        except (LookupError, ValueError):
            raise ValueError(
                f"encoding: no text is encoded in {self.encoding!r}; latin-1, cp1252 … are known"
            ) from None
        return self


class Reading(Layout):
    """How the fields of a row are understood, and their licence; what a source leaves out is as `data` has it."""

    format: RowFormat = Field("auto", description="How fields make a row; `auto` recognises it from the first row.")
    mapping: dict[str, str] = Field(default_factory=dict, description="Our field name: the file's.")
    text_template: str | None = Field(None, description="Builds each text from its fields: `Q: {question}`.")
    license: str | None = Field(None, description="Of the rows, for the model card; default: as their own card says.")


class Source(Reading):
    """One place rows come from."""

    path: str = Field(description="File, folder, dataset saved on disk, or a dataset's hub id.")
    split: str | None = Field(None, description="Split and slice: `train[:80%]`, `train[4096:4224]`; default train.")
    config: str | None = Field(None, description="Configuration of a dataset on the hub.")
    stream: bool = Field(False, description="Read a dataset from the hub as it arrives, without storing it.")
    weight: float = Field(
        1.0, gt=0, description="How often each row is taken in an epoch; 0.25 takes a quarter, another one each time."
    )


def _as_source_list(value: Any) -> Any:
    """A path, a source, or a list of either, as a list of sources; what is none of these as it is."""
    if isinstance(value, (str, Mapping, Source)):
        value = [value]
    return [{"path": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value


Sources = Annotated[list[Source], BeforeValidator(_as_source_list), Field(min_length=1)]


class Data(Reading):
    """Where rows come from and how they become tokens."""

    train: Sources = Field(description="A path, a source with options, or a list of them, to mix.")
    validation: Annotated[float, Field(gt=0, lt=1)] | Sources | None = Field(
        None, description="The same, or the fraction of the training rows to hold out."
    )
    seed: int | None = Field(None, description="Decides which rows a fraction holds out; default: the run's seed.")
    stratify: bool | None = Field(None, description="Hold out the same fraction of every label; default: for classify.")
    max_length: int | None = Field(
        None, ge=2, description="Most tokens in a row; default: what the model allows, ≤ 1024."
    )
    too_long: TooLong | None = Field(
        None,
        description="What becomes of a longer row: its prompt is shortened, it is dropped, cut, split, or an error; "
        "default: split for plain text, shorten for the rest.",
    )
    template: str | None = Field(
        None,
        description="How conversations are written: `chatml`, `llama3`, `plain`, or a Jinja file; "
        "default: the tokenizer's own, or plain where it has none.",
    )
    windows: Literal["moving", "fixed"] = Field(
        "moving", description="Where each pass after the first cuts a text that is split: at other places, or the same."
    )
    bad_rows: Literal["error", "drop"] = Field("error", description="What becomes of a row that is unsound.")


class Optim(Section):
    """How the weights move."""

    optimizer: Literal["adamw", "muon"] = Field("adamw", description="Muon for matrices, AdamW for the rest.")
    lr: float | None = Field(None, gt=0, description="Peak learning rate; default: by objective and adapter.")
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    warmup: Annotated[float, AfterValidator(_check_warmup)] = Field(
        0.05, ge=0, description="Updates to the peak: a fraction of all, or a number above 1."
    )
    floor: float = Field(0.0, ge=0, le=1, description="Where the schedule ends, as a fraction of the peak.")
    epochs: float | None = Field(None, gt=0, description="Passes over the rows; default 1. Excludes `steps`.")
    steps: int | None = Field(None, ge=1, description="Updates. Excludes `epochs`.")
    examples: int | None = Field(None, ge=1, description="Examples an update; default 16. Excludes `update_tokens`.")
    update_tokens: int | None = Field(None, ge=1, description="Tokens an update.")
    tokens: int | None = Field(
        None,
        ge=1,
        description="Most tokens in a micro-batch, after sharing; default 2048, on CUDA what fits.",
    )
    weight_decay: float = Field(0.0, ge=0, description="On matrices only.")
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    clip: float | None = Field(1.0, gt=0, description="Largest norm of the whole gradient; null for none.")
    ema: float | None = Field(
        None, gt=0, lt=1, description="Keep a moving average of the weights that forgets so slowly; it is the result."
    )
    neftune: float | None = Field(None, gt=0, description="Noise on embeddings while training; 5 is usual.")
    freeze: list[str] = Field(
        default_factory=list, description="Weights that stay as they are, by patterns of their names: `*embed*`."
    )
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="Each layer learns at so many times the rate of the one above; heads at `lr`."
    )
    checkpointing: bool = Field(
        False, description="Recompute activations in the backward: less memory, a third more time."
    )

    offload: bool = Field(
        False, description="Activations wait in the host's memory: less of an accelerator's, for more time."
    )

    @model_validator(mode="after")
    def _exclusive(self) -> Optim:
        for one, other in (("epochs", "steps"), ("examples", "update_tokens")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"give {one} or {other}, not both")
        return self


class Evaluate(Section):
    """Validation while training; by default where `data.validation` is given, and `evaluate: null` for none."""

    every: int | None = Field(None, ge=1, description="Updates between validations; default: ten in a run.")
    stop_after: int | None = Field(None, ge=1, description="Stop after so many validations without a better loss.")
    rows: int | None = Field(None, ge=1, description="Most validation examples; default all.")


class Guard(Section):
    """Against forgetting: general rows that are trained on beside a run's own, and what is held to be near the base."""

    replay: Sources = Field(
        description="Rows of what must not be forgotten; a tenth of them, 200 at most, is held out to see what is."
    )
    share: float = Field(
        0.1, ge=0, lt=1, description="Share of an update's examples that are general rows, and of its loss."
    )
    anchor: float = Field(
        0.0, ge=0, description="Weight of the divergence (KL) from what the run began from, on general rows."
    )
    stop_when: float | None = Field(
        None, gt=0, description="End the run when the loss on held-out general rows has risen by so much."
    )

    @model_validator(mode="after")
    def _does_something(self) -> Guard:
        if not self.share and not self.anchor and self.stop_when is None:
            raise ValueError("share, anchor and stop_when are all off, so it guards nothing")
        return self


class VerdictRule(Section):
    """What decides whether the run was worth it, declared before it is measured."""

    metric: str | None = Field(
        None,
        description="A number of `bottega evaluate`, by its name; default: accuracy, span F1, loss, or what there is.",
    )
    margin: float = Field(0.0, ge=0, description="The smallest difference that matters, in the metric's unit.")


class Save(Section):
    """Checkpoints while training."""

    every: int = Field(100, ge=1, description="Updates between checkpoints.")
    keep: int = Field(2, ge=1, description="Newest checkpoints kept; the best is kept besides.")


class ReportTarget(Section):
    """Where a run is shown besides its own folder; `report: [tensorboard]` in short."""

    kind: Literal["tensorboard"] = Field(description="TensorBoard files; needs `bottega[tensorboard]`.")
    folder: str | None = Field(None, description="Where they go; default: the run's own folder.")


def _as_report_list(value: Any) -> Any:
    """Names, or mappings, or one of either, as a list of mappings."""
    listed = value if isinstance(value, list) else [value]
    return [{"kind": item} if isinstance(item, str) else item for item in listed]


Reports = Annotated[list[ReportTarget], BeforeValidator(_as_report_list)]


class Devices(Section):
    """What the run may use; recorded, and reused on resume."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(None, ge=1, description="CPU threads; default: torch's own choice.")


def _build_objective(value: Any) -> Any:
    if isinstance(value, Objective) or not isinstance(value, Mapping):
        return value
    kind = value.get("kind")
    if kind not in objectives.kinds():
        raise ValueError(f"unknown kind {kind!r}; {suggest_name(str(kind), objectives.kinds())}")
    return objectives.made(value)


class Recipe(Section):
    """A run, whole. `Recipe.load` reads one from YAML."""

    recipe: Literal[1] = Field(1, description="Version of this format.")
    name: Annotated[str, AfterValidator(_check_name)] = Field("run", description="Names the run's folder.")
    seed: int = 0
    model: Model
    adapter: Adapter | None = None
    data: Data
    objective: Annotated[SerializeAsAny[Objective], BeforeValidator(_build_objective)]
    optim: Optim = Optim()
    evaluate: Evaluate | None = None
    guard: Guard | None = None
    verdict: VerdictRule = VerdictRule()
    save: Save | None = None
    report: Reports = []
    devices: Devices = Devices()

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, document: Any) -> Any:
        """With what follows from what is given: a continued adapter's base, and validation on rows held out for it."""
        if not isinstance(document, Mapping):
            return document
        data, adapter = document.get("data"), document.get("adapter")
        if isinstance(data, Mapping) and "evaluate" not in document and data.get("validation") is not None:
            document = {**document, "evaluate": {}}  # `evaluate: null` says not to
        if isinstance(adapter, Mapping) and isinstance(adapter.get("from"), str):
            document = {**document, "model": _with_adapter_base(adapter["from"], document.get("model") or {})}
        return document

    @model_validator(mode="after")
    def _agrees(self) -> Recipe:
        if self.adapter is not None and self.model.shape is not None:
            raise ValueError("adapter: a model from scratch has nothing to adapt; leave the section out")
        if self.model.quantize != "none" and self.adapter is None:
            raise ValueError("model.quantize: packed weights are not trained; add adapter: {rank: 16}")
        if self.model.reference is not None and not self.objective.reference:
            raise ValueError(f"model.reference: {self.objective.kind} compares with no reference; leave it out")
        if self.data.too_long == "split" and not self.objective.splits:
            raise ValueError(f"data.too_long: {self.objective.kind} rows cannot be split; drop or truncate them")
        if self.guard is not None and self.guard.stop_when is not None and self.evaluate is None:
            raise ValueError("guard.stop_when: it is looked for when a run validates; add evaluate: {}")
        if self.guard is not None and self.guard.anchor and self.objective.head not in ("language", "masked"):
            raise ValueError(
                f"guard.anchor: {self.objective.kind} begins with a new head, which nothing can be held to"
            )
        if self.guard is not None and self.objective.joint:
            raise ValueError(
                f"guard: {self.objective.kind} compares rows with each other; mix general ones in data.train"
            )
        if self.evaluate is not None and self.data.validation is None:
            raise ValueError("evaluate: no rows to validate on; set data.validation (0.1 holds out a tenth)")
        return self

    @classmethod
    def load(cls, path: str | Path, *overrides: str) -> Recipe:
        """The recipe in a YAML file, with `section.key=value` overrides; a RecipeError says what is wrong and where."""
        document, folder = read_recipe_file(Path(path), overrides, cls.model_fields)
        return cls.parse(document, folder=folder, where=str(path))

    @classmethod
    def parse(cls, document: Mapping[str, Any], *, folder: Path = Path(), where: str = "recipe") -> Recipe:
        """The recipe in a nested mapping; relative paths resolve against `folder`."""
        document = resolve_paths(document, folder.absolute())
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise explain_validation_error(error, document, where, cls) from None

    def document(self) -> dict[str, Any]:
        """Every key with its value, as plain data that `parse` reads back."""
        return self.model_dump(mode="json", by_alias=True)

    def fingerprint(self) -> str:
        """Sixteen hex digits that differ for any two recipes that differ."""
        return hashlib.sha256(json.dumps(self.document(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def train_sources(self) -> list[Source]:
        return [self._read_as_data(source) for source in self.data.train]

    @property
    def validation_sources(self) -> list[Source]:
        found = self.data.validation
        return [self._read_as_data(source) for source in found] if isinstance(found, list) else []

    def _read_as_data(self, source: Source) -> Source:
        """The source with the reading options of `data` where it has none of its own."""
        fields = {name: field.get_default(call_default_factory=True) for name, field in Reading.model_fields.items()}
        own = {name for name, default in fields.items() if getattr(source, name) != default}
        return source.model_copy(update={name: getattr(self.data, name) for name in fields if name not in own})

    @property
    def anchored(self) -> bool:
        """Whether general rows are held to what the run began from."""
        return self.guard is not None and self.guard.anchor > 0

    @property
    def guard_sources(self) -> list[Source]:
        """Where general rows come from."""
        return [] if self.guard is None else self.guard.replay

    @property
    def too_long(self) -> TooLong:
        return self.data.too_long or ("split" if self.objective.splits else "shorten")

    @property
    def split_seed(self) -> int:
        """What decides which rows are held out."""
        return self.seed if self.data.seed is None else self.data.seed

    @property
    def stratified(self) -> bool:
        return self.objective.by_label if self.data.stratify is None else self.data.stratify

    @property
    def lr(self) -> float:
        full, lora = self.objective.lr
        return self.optim.lr or (full if self.adapter is None else lora)


def _with_adapter_base(adapter: str, model: Any) -> Any:
    """The section `model` with the base of an adapter that is continued, where it names none, or its run."""
    run = Path(adapter)
    if not isinstance(model, Mapping) or model.get("shape") or model.get("base") not in (None, adapter):
        return model
    folders = (run / "adapter", run)
    found = next((path for folder in folders if (path := folder / "adapter_config.json").is_file()), None)
    if found is None:
        return model
    stored = found.parent.parent / RESOLVED
    try:
        base = json.loads(found.read_text(encoding="utf-8"))["base_model_name_or_path"]
        before = json.loads(stored.read_text(encoding="utf-8"))["model"] if stored.is_file() else {}
    except (OSError, ValueError, KeyError, TypeError):  # told of when the adapter is read
        return model
    return {"quantize": before.get("quantize", "none"), **model, "base": base}


def parse_layout(options: Iterable[str]) -> Layout:
    """How files named on a command line are laid out, as `key=value` says each: `encoding=latin-1`."""
    given: dict[str, Any] = {}
    for one in options:
        key, _, text = one.removeprefix("data.").partition("=")
        given[key] = [name.strip() for name in text.strip("[] ").split(",")] if key == "columns" else text
    try:
        return Layout.model_validate(given)
    except ValidationError as error:
        problems = error.errors()
        key = ".".join(map(str, problems[0]["loc"]))
        what = "no such key" if problems[0]["type"] == "extra_forbidden" else describe_errors(problems[:1])[0]
        fix = f"write --read encoding=latin-1; the keys are {', '.join(Layout.model_fields)}"
        raise RecipeError(f"{key}: {what}" if key else what, where="--read", fix=fix) from None
