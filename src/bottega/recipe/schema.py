"""The recipe: everything that decides a run, as one frozen value. The contract with users.

Unknown keys are errors that name the nearest known one; every key but `model`, `data` and `objective` has a default.
Relative paths resolve against the recipe's folder. This module imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
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

from bottega import objectives, suggestions
from bottega.errors import RecipeError
from bottega.objectives import Objective, rewards
from bottega.records import TooLong
from bottega.suggestions import described, nearest

PATHS = {
    "data.train": "dataset",
    "data.validation": "dataset",
    "data.template": "model",
    "guard.replay": "dataset",
    "model.base": "model",
    "model.tokenizer": "model",
    "model.reference": "model",
    "adapter.from": "folder",
    "report.folder": "folder",
    "objective.file": "folder",
    "objective.rewards.file": "folder",
    "objective.rewards.model": "model",
}
"""The keys that hold paths, and what may stand there: a folder, or the hub id of a model or dataset instead."""

RowFormat = Literal[
    "auto", "messages", "instruction", "question", "summary", "prompted", "preference", "openai_preference", "unpaired",
    "labelled", "labelled_pair", "multilabelled", "conll", "spans", "paired", "compared", "choice", "lettered_choice",
    "posed", "text",
]  # fmt: skip

EXCLUSIVE = (
    ("optim.epochs", "optim.steps"),
    ("optim.examples", "optim.update_tokens"),
    ("model.base", "model.shape"),
)
"""Keys of which only one can be given."""

PATHS_FROM = "# Its paths begin at "
"""Begins the line of a run's own copy of its recipe that names the folder the recipe stood in."""

Beta = Annotated[float, Field(ge=0, lt=1)]


Quantize = Literal["none", "nf4", "fp8"]
"""How a frozen base is kept."""


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise ValueError(
            f"{value!r} cannot name a folder: write letters, digits, dots, dashes and underscores, no dot or dash first"
        )
    return value


def _warmup(value: float) -> float:
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


def _delimiter(value: Any) -> Any:
    return DELIMITERS.get(value, value) if isinstance(value, str) else value


class Layout(Section):
    """How a file is laid out, where it does not say so itself."""

    reader: ReaderName = Field("auto", description="What a file holds; `auto` goes by its suffix.")
    encoding: str | None = Field(
        None, description="Of text: `latin-1`, `cp1252`, `utf-16` …; default: by its mark, or UTF-8."
    )
    delimiter: Annotated[str, BeforeValidator(_delimiter)] | None = Field(
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


def _listed(value: Any) -> Any:
    """A path, a source, or a list of either, as a list of sources; what is none of these as it is."""
    if isinstance(value, (str, Mapping, Source)):
        value = [value]
    return [{"path": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value


Sources = Annotated[list[Source], BeforeValidator(_listed), Field(min_length=1)]


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
    warmup: Annotated[float, AfterValidator(_warmup)] = Field(
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


class Verdict(Section):
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


class Report(Section):
    """Where a run is shown besides its own folder; `report: [tensorboard]` in short."""

    kind: Literal["tensorboard"] = Field(description="TensorBoard files; needs `bottega[tensorboard]`.")
    folder: str | None = Field(None, description="Where they go; default: the run's own folder.")


def _reports(value: Any) -> Any:
    """Names, or mappings, or one of either, as a list of mappings."""
    listed = value if isinstance(value, list) else [value]
    return [{"kind": item} if isinstance(item, str) else item for item in listed]


Reports = Annotated[list[Report], BeforeValidator(_reports)]


class Devices(Section):
    """What the run may use; recorded, and reused on resume."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(None, ge=1, description="CPU threads; default: torch's own choice.")


def _objective(value: Any) -> Any:
    if isinstance(value, Objective) or not isinstance(value, Mapping):
        return value
    kind = value.get("kind")
    if kind not in objectives.kinds():
        raise ValueError(f"unknown kind {kind!r}; {nearest(str(kind), objectives.kinds())}")
    return objectives.made(value)


class Recipe(Section):
    """A run, whole. `Recipe.load` reads one from YAML."""

    recipe: Literal[1] = Field(1, description="Version of this format.")
    name: Annotated[str, AfterValidator(_name)] = Field("run", description="Names the run's folder.")
    seed: int = 0
    model: Model
    adapter: Adapter | None = None
    data: Data
    objective: Annotated[SerializeAsAny[Objective], BeforeValidator(_objective)]
    optim: Optim = Optim()
    evaluate: Evaluate | None = None
    guard: Guard | None = None
    verdict: Verdict = Verdict()
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
            document = {**document, "model": _base_of(adapter["from"], document.get("model") or {})}
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
        path = Path(path)
        try:
            if path.exists() and not path.is_file() and not path.is_dir():
                fix = "write it to a file first: a recipe is read more than once"
                raise RecipeError("a pipe or a device, not a file", where=str(path), fix=fix)
            text = path.read_text(encoding="utf-8")
            document = plain_yaml(text)
        except FileNotFoundError:
            fix = f"write one: bottega init ROWS --model FOLDER --out {path}"
            raise RecipeError("no such recipe", where=str(path), fix=fix) from None
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            if not isinstance(error, OSError):
                _refuse_rows(path)
            fix = f"a recipe is a YAML file in UTF-8; {BEGIN}"
            raise RecipeError(f"not readable YAML: {_unreadable(error)}", where=str(path), fix=fix) from None
        if not isinstance(document, dict) or not set(document) & set(cls.model_fields):
            _refuse_rows(path)
        if not isinstance(document, dict):
            fix = f"start with model:, data:, objective:; {BEGIN}"
            raise RecipeError("not a recipe: no keys", where=str(path), fix=fix)
        noted = [line.removeprefix(PATHS_FROM) for line in text.splitlines() if line.startswith(PATHS_FROM)]
        folder = Path(noted[-1]) if noted else path.parent
        overridden(document, overrides, folder)
        return cls.parse(document, folder=folder, where=str(path))

    @classmethod
    def parse(cls, document: Mapping[str, Any], *, folder: Path = Path(), where: str = "recipe") -> Recipe:
        """The recipe in a nested mapping; relative paths resolve against `folder`."""
        document = resolved(document, folder.absolute())
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise _explained(error, document, where) from None

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


def _base_of(adapter: str, model: Any) -> Any:
    """The section `model` with the base of an adapter that is continued, where it names none, or its run."""
    run = Path(adapter)
    if not isinstance(model, Mapping) or model.get("shape") or model.get("base") not in (None, adapter):
        return model
    folders = (run / "adapter", run)
    found = next((path for folder in folders if (path := folder / "adapter_config.json").is_file()), None)
    if found is None:
        return model
    stored = found.parent.parent / "resolved.json"
    try:
        base = json.loads(found.read_text(encoding="utf-8"))["base_model_name_or_path"]
        before = json.loads(stored.read_text(encoding="utf-8"))["model"] if stored.is_file() else {}
    except (OSError, ValueError, KeyError, TypeError):  # told of when the adapter is read
        return model
    return {"quantize": before.get("quantize", "none"), **model, "base": base}


LARGEST = 100_000
"""Most values of a document in YAML; its aliases stand for values too, each time they are named."""


def _unreadable(error: Exception) -> str:
    """What is wrong with a file that is no YAML, and where in it."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1}: its text is not in UTF-8"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark, problem = error.problem_mark, error.problem
        said = f"{error.context}, {problem}" if (error.context or "").startswith("expected") else problem
        return f"line {mark.line + 1}, column {mark.column + 1}: {said}"
    return str(error.strerror if isinstance(error, OSError) else error)


def plain_yaml(text: str) -> Any:
    """The plain values of a document in YAML; a YAMLError where it is none, or stands for too many values."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for."""
    if id(node) in known:
        if not known[id(node)]:
            raise yaml.MarkedYAMLError(problem="an alias that stands for itself", problem_mark=node.start_mark)
        return known[id(node)]
    known[id(node)] = 0
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    inner = [one for pair in pairs for one in pair] or (node.value if isinstance(node, yaml.SequenceNode) else [])
    known[id(node)] = 1 + sum(_count(one, known) for one in inner)
    if known[id(node)] > LARGEST:
        problem = f"it stands for more than {LARGEST:,} values: do its aliases name each other?"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return known[id(node)]


class _Loader(yaml.SafeLoader):
    """Plain values only, and no key twice: YAML would keep the last and say nothing.

    Keys are texts as they are written: `10` and `no` are names of labels, not a number and a falsehood.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = [key for index, (key, _) in enumerate(node.value) if key.value in keys[:index]]
        if twice:
            what = f"the key {twice[0].value} is given twice"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=twice[0].start_mark)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


ROWS = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".md", ".conll", ".parquet", ".xlsx", ".gz", ".bz2", ".zst")
"""How files of rows are called."""


def _refuse_rows(path: Path) -> None:
    """A RecipeError for a file that is no recipe and is called as rows are."""
    if path.suffix.lower() in ROWS:
        fix = f"write a recipe for them, then run that: bottega init {path} --model FOLDER --out recipe.yaml"
        raise RecipeError("these are rows, not a recipe", where=str(path), fix=fix)


def overridden(document: dict[str, Any], changes: Sequence[str], folder: Path) -> None:
    """Set keys of a document as `section.key=value` says; of two that exclude each other, the one set replaces the
    one that stood there."""
    for change in changes:
        override(document, change, folder)
    given = {change.partition("=")[0] for change in changes}
    for pair in EXCLUSIVE:
        for key, other in (pair, pair[::-1]):
            if key in given and other not in given and _found(document, key) is not None:
                section, _, name = other.partition(".")
                document[section].pop(name, None)


def _found(document: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    return document[section][name]


def override(document: dict[str, Any], change: str, folder: Path) -> None:
    """Set a key of a document as `section.key=value` says."""
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise RecipeError("not an override", where=change, fix="write section.key=value, for example optim.lr=1e-4")
    *sections, last = key.split(".")
    target = document
    for section in sections:
        if target.get(section) is None:
            target[section] = {}
        target = target[section]
        if not isinstance(target, dict):
            raise RecipeError(f"{section} is not a section", where=change, fix="write section.key=value")
    try:
        value = plain_yaml(text)
    except (ValueError, RecursionError, yaml.YAMLError):
        raise RecipeError("the value is not YAML", where=change, fix="quote it: \"section.key='text'\"") from None
    # YAML 1.1 reads 1e-4 as a string; nobody means that.
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            # A path typed on the command line may mean the folder one stands in.
            if key in PATHS and not (folder / value).exists() and Path(value).exists():
                value = str(Path(value).absolute())
    target[last] = value


def resolved(document: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The document with the paths it names made absolute."""
    out = dict(document)
    for name, kind in PATHS.items():
        out = _placed(out, name.split("."), folder, kind)
    return out


def located(path: str) -> str:
    """Rows named on the command line as `data.train` would have them: a path made absolute, or a dataset's hub id."""
    found: str = _absolute(path, Path.cwd(), "dataset")
    return found


def layout(options: Iterable[str]) -> Layout:
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
        what = "no such key" if problems[0]["type"] == "extra_forbidden" else described(problems[:1])[0]
        fix = f"write --read encoding=latin-1; the keys are {', '.join(Layout.model_fields)}"
        raise RecipeError(f"{key}: {what}" if key else what, where="--read", fix=fix) from None


def _placed(part: Any, keys: Sequence[str], folder: Path, kind: str) -> Any:
    """A part of a document with the paths under `keys` made absolute, in each item of a list."""
    if isinstance(part, list):
        return [_placed(item, keys, folder, kind) for item in part]
    key, *inner = keys
    if not isinstance(part, Mapping) or key not in part:
        return part
    return {**part, key: _placed(part[key], inner, folder, kind) if inner else _absolute(part[key], folder, kind)}


def _absolute(value: Any, folder: Path, kind: str) -> Any:
    """Paths made absolute; where a hub id is as good, only if the path is there or looks like one."""
    if isinstance(value, list):
        return [_absolute(item, folder, kind) for item in value]
    if isinstance(value, Mapping) and "path" in value:
        return {**value, "path": _absolute(value["path"], folder, kind)}
    if not isinstance(value, str):
        return value
    try:
        path = folder / Path(value).expanduser()
        if not path.exists() and not value.startswith((".", "/", "~")) and _may_be_hub_id(value, kind):
            return value
        return str(path.resolve())
    except (OSError, ValueError, RuntimeError) as error:
        raise RecipeError(f"no path: {error}", where=value, fix="write the path of a file that exists") from None


def _may_be_hub_id(value: str, kind: str) -> bool:
    """A dataset's id has no suffix in letters, as files have; `mix-v1.2` is one."""
    return kind == "model" or (kind == "dataset" and not Path(value).suffix[1:].isalpha())


EXAMPLES = {
    "model": "model: {base: FOLDER}",
    "data": "data: {train: FILE}",
    "objective": "objective: {kind: sft}",
    "adapter": "adapter: {rank: 16}",
    "optim": "optim: {epochs: 3}",
    "evaluate": "evaluate: {every: 50}",
    "save": "save: {every: 100}",
    "guard": "guard: {replay: FILE}",
    "verdict": "verdict: {metric: loss}",
    "devices": "devices: {device: cpu}",
}
"""A section in a line, where something else stands in its place."""

UNKNOWN = ("extra_forbidden", "invalid_key")
"""Types of pydantic's errors of keys that are not known."""

BEGIN = "every key, explained: bottega init sft"


def _explained(error: ValidationError, document: Mapping[str, Any], where: str) -> RecipeError:
    """The first problem pydantic found, in the words of a recipe; a misspelt key before the key it leaves missing."""
    found = [(suggestions.key_of(problem, document), problem) for problem in error.errors()]
    # Of a union the branch that went furthest is meant.
    keys, problem = min(found, key=lambda one: (one[1]["type"] not in UNKNOWN, -len(one[0])))
    key, kind = ".".join(keys), problem["type"]
    if kind in UNKNOWN:
        known = list(_known_keys(*_chosen(document, keys[:-1])))
        return RecipeError(f"unknown key {key}", where=where, fix=_meant(keys[-1], known))
    if kind == "missing" and keys[-1].isdecimal():
        return RecipeError(
            f"{'.'.join(keys[:-1])}: a value is missing", where=where, fix="write them all: [0.9, 0.999]"
        )
    if kind == "missing":
        return RecipeError(f"the key {key} is missing", where=where, fix=_added(keys, problem["input"]))
    what, fix = suggestions.described([one for its, one in found if its == keys])
    if key in EXAMPLES and kind != "value_error":  # which says itself what is wrong
        what = "this section is empty" if problem["input"] is None else what
        optional = problem["input"] is None and not Recipe.model_fields[key].is_required()
        fix = f"write {EXAMPLES[key]}{', or leave the section out' if optional else ''}"
    elif PATHS.get(key) == "dataset" and kind in ("list_type", "model_type", "model_attributes_type"):
        what, fix = "a path is expected here, a source with its path, or a list of these", EXAMPLES["data"]
    return RecipeError(f"{key}: {what}" if key else what, where=where, fix=fix or _remedy(key))


def _added(keys: Sequence[str], given: Any) -> str:
    """How to add the last of some keys beside what is given of its section."""
    example = EXAMPLES.get(keys[0], BEGIN)
    if len(keys) == 1 or f"{keys[-1]}:" in example:
        return f"add it: {example}"
    beside = f" beside {suggestions.listed(given)}" if isinstance(given, Mapping) and given else ""
    return f"write {keys[-1]}: …{beside}"


def _remedy(key: str) -> str:
    return f"change {key}; {BEGIN}" if key else f"change one of the two; {BEGIN}"


ELSEWHERE = {
    "learning_rate": "lr", "lr_scheduler_type": "schedule", "warmup_ratio": "warmup", "warmup_steps": "warmup",
    "num_train_epochs": "epochs", "num_epochs": "epochs", "max_steps": "steps", "batch_size": "examples",
    "micro_batch_size": "tokens", "max_grad_norm": "clip", "gradient_checkpointing": "checkpointing",
    "neftune_noise_alpha": "neftune", "optim": "optimizer", "r": "rank", "lora_r": "rank", "lora_alpha": "alpha",
    "lora_dropout": "dropout", "target_modules": "targets", "max_seq_length": "max_length", "seq_len": "max_length",
    "model_name_or_path": "base", "path": "base", "load_in_4bit": "quantize", "torch_dtype": "dtype",
    "eval_steps": "every", "save_steps": "every", "early_stopping_patience": "stop_after", "save_total_limit": "keep",
}  # fmt: skip
"""What other tools call a key of the same section."""


def _meant(word: str, known: list[str]) -> str:
    """What a key that is not known should have been called."""
    other = ELSEWHERE.get(word.lower().replace("-", "_"))
    return f"here it is {other}" if other in known else nearest(word, known)


def _chosen(document: Mapping[str, Any], path: list[str]) -> tuple[type[BaseModel], list[str]]:
    """The model of the section at `path`, and the path in it: that of an objective or a reward is by its kind."""
    if path[:1] != ["objective"]:
        return Recipe, path
    options = document["objective"]
    if path[1:2] != ["rewards"]:
        return objectives.load(options["kind"]).chosen(options), path[1:]
    listed = options["rewards"] if isinstance(options["rewards"], list) else [options["rewards"]]
    place, inner = (int(path[2]), path[3:]) if path[2:] and path[2].isdecimal() else (0, path[2:])
    return rewards.load(listed[place]["kind"]), inner


def _known_keys(model: type[BaseModel], path: list[str]) -> Iterator[str]:
    """The keys allowed in the section at `path`."""
    for name, field in model.model_fields.items():
        if not path:
            yield field.alias or name
        elif path[0] == name:
            rest = [key for key in path[1:] if not key.isdigit()]  # the place in a list
            for section in _sections(field.annotation):
                yield from _known_keys(section, rest)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections an annotation allows, within unions and lists too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)
