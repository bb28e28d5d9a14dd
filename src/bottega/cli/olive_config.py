"""A run file of Olive as options of `bottega finetune`, and the exports that follow.

Read are the model, the data with its template, a LoRA or QLoRA pass with its training arguments, and passes that write
a model; all else is listed as ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import bottega

# Types of passes that train, in lower case, and the method of `bottega finetune`.
TRAINING = {"lora": "lora", "qlora": "qlora"}
# Types of passes that write a model → formats.
WRITING = {"mergeadapterweights": "merged", "modelbuilder": "genai", "onnxconversion": "onnx"}
# Keys of a training pass → options of `bottega finetune`, of which those of HF_FLAGS set keys of a recipe.
ADAPTER_OPTIONS = {
    **dict.fromkeys(("r", "lora_r"), "lora_r"),
    **dict.fromkeys(("alpha", "lora_alpha"), "lora_alpha"),
    **dict.fromkeys(("lora_dropout", "dropout"), "lora_dropout"),
    "target_modules": "lora_target_modules",
    "weight_decay": "weight_decay",
}
TRAINING_ARGUMENTS = (
    *("learning_rate", "max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *(
        "per_device_eval_batch_size",
        "lr_scheduler_type",
        "warmup_ratio",
        "warmup_steps",
        "weight_decay",
        "max_grad_norm",
    ),
    *("optim", "logging_steps", "eval_steps", "save_steps", "save_total_limit", "gradient_checkpointing", "seed"),
    *("bf16", "fp16", "report_to", "neftune_noise_alpha"),
)


@dataclass(frozen=True)
class RunFile:
    """What an Olive run file asks for.

    finetune  arguments of `bottega finetune`; empty if no pass trains
    model     the input model, or its adapter
    exports   (name of the pass, format, precision) of what is written, in order
    output    the folder it names
    ignored   keys without effect, as `systems.local_system`
    """

    finetune: list[str]
    model: str
    exports: list[tuple[str, str, str | None]]
    output: Path
    ignored: list[str]


class _Section:
    """A mapping whose keys are taken one by one; those that nobody took are ignored."""

    def __init__(self, values: Any, where: str, *, nested: bool = True) -> None:
        if not isinstance(values, Mapping):
            raise bottega.RecipeError("expected a mapping", where=where, fix="compare it with Olive's documentation")
        self.values, self.where = dict(values), where
        # Older files nest the options of a part one level deeper.
        for nest in ("config", "params", "params_config") if nested else ():
            if isinstance(self.values.get(nest), Mapping):
                self.values |= self.values.pop(nest)

    def take(self, *names: str) -> Any:
        """The value of the first of these keys that is there."""
        found = [self.values.pop(name) for name in names if name in self.values]
        return found[0] if found else None

    def section(self, name: str) -> _Section:
        return _Section(self.take(name) or {}, f"{self.where}.{name}")

    def left(self) -> Iterator[str]:
        yield from (f"{self.where}.{name}" for name in self.values)


def read_run_file(path: Path) -> RunFile:
    """Translate an Olive run file, YAML or JSON; a RecipeError if it cannot be read or asks for nothing."""
    sections = _Section(_load(path), str(path), nested=False)
    reader = _Reader(path, _by_name(sections.take("data_configs") or {}), [])
    model, adapter = reader.read_model(_Section(sections.take("input_model") or {}, "input_model"))
    engine = _Section(sections.take("engine") or {}, "engine")
    output = Path(sections.take("output_dir") or engine.take("output_dir") or bottega.new_run_folder("finetune"))
    finetune, exports = reader.read_passes(sections.take("passes") or {})
    if adapter is not None and finetune:
        what, fix = "a pass trains on a model that has an adapter", "merge the adapter first"
        raise bottega.RecipeError(what, where=f"{path}, input_model", fix=fix)
    if finetune:
        finetune = ["--model_name_or_path", model, "--output_path", str(output), *finetune]
    unused = (f"data_configs.{name}" for name in reader.datasets)
    ignored = [*reader.ignored, *unused, *engine.left(), *sections.values]
    return RunFile(finetune, adapter or model, exports, output, ignored)


def _load(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise bottega.RecipeError(f"cannot be read: {reason}", where=str(path), fix="name an Olive run file") from None


def _by_name(configs: Any) -> dict[str, Any]:
    """The data configs by name: a list of them, or in older files a mapping."""
    if isinstance(configs, Mapping):
        return dict(configs)
    if not isinstance(configs, list):
        raise bottega.RecipeError("expected a list", where="data_configs", fix="begin each with - name: NAME")
    return {str(config.get("name")): config for config in configs if isinstance(config, Mapping)}


@dataclass
class _Reader:
    """Reads the parts of a run file.

    datasets  data configs by name, from which those that are used are taken
    ignored   keys without effect so far
    """

    path: Path
    datasets: dict[str, Any]
    ignored: list[str]

    def read_model(self, section: _Section) -> tuple[str, str | None]:
        """(the model, an adapter of it)."""
        hub = section.section("hf_config")
        model = section.take("model_path", "model_name_or_path") or hub.take("model_name", "model_path")
        section.take("type")
        adapter = section.take("adapter_path")
        if not isinstance(model, str):
            where, fix = f"{self.path}, input_model", "write input_model.model_path"
            raise bottega.RecipeError("names no model", where=where, fix=fix)
        self.ignored += [*section.left(), *hub.left()]
        return model, None if adapter is None else str(adapter)

    def read_passes(self, passes: Any) -> tuple[list[str], list[tuple[str, str, str | None]]]:
        """(arguments of the pass that trains, the passes that write)."""
        if not isinstance(passes, Mapping):
            where = f"{self.path}, passes"
            raise bottega.RecipeError("expected a mapping of passes by name", where=where, fix="name each pass")
        finetune, exports = list[str](), list[tuple[str, str, str | None]]()
        for name, values in passes.items():
            # A pass may be one of several alternatives; the first counts.
            section = _Section(values[0] if isinstance(values, list) and values else values, f"passes.{name}")
            kind = str(section.take("type"))
            if kind.lower() in TRAINING and not finetune:
                finetune = ["--method", TRAINING[kind.lower()], *self._read_training(section)]
            elif kind.lower() in WRITING:
                exports.append((str(name), WRITING[kind.lower()], section.take("precision")))
            else:
                self.ignored.append(f"passes.{name} ({kind})")
                continue
            self.ignored += section.left()
        if not finetune and not exports:
            what = "no pass trains or writes a model"
            fix = "add a pass of the type LoRA, QLoRA, MergeAdapterWeights, ModelBuilder or OnnxConversion"
            raise bottega.RecipeError(what, where=str(self.path), fix=fix)
        return finetune, exports

    def _read_training(self, section: _Section) -> list[str]:
        found: dict[str, Any] = {}
        for key, option in ADAPTER_OPTIONS.items():
            if (value := section.take(key)) is not None:
                found[option] = ",".join(map(str, value)) if isinstance(value, list) else value
        arguments = section.section("training_args")
        for key in TRAINING_ARGUMENTS:
            if (value := arguments.take(key)) is not None:
                found[key] = value
        self.ignored += arguments.left()
        found |= self._read_data(section.take("train_data_config") or next(iter(self.datasets), None))
        words = [word for name, value in found.items() for word in (f"--{name}", str(value))]
        return words + self._read_validation(section)

    def _read_validation(self, section: _Section) -> list[str]:
        """The rows to validate on: those of a data config, else a fraction of the training rows."""
        fraction, config = section.take("eval_dataset_size"), section.take("eval_data_config")
        if config is not None:
            data = self._read_data(config)
            paths = str(data.get("data_files") or data["data_name"]).split(",")
            sources = [{"path": each, "split": data.get("train_split", "train")} for each in paths]
            return [f"data.validation={json.dumps(sources)}"]
        if isinstance(fraction, int):
            what, fix = f"eval_dataset_size is {fraction} rows", "write a fraction, such as 0.1"
            raise bottega.RecipeError(what, where=str(self.path), fix=fix)
        return [] if fraction is None else ["--eval_split", str(fraction)]

    def _read_data(self, config: Any) -> dict[str, Any]:
        """The options that a data config stands for: itself, or its name."""
        where = "a data config of a pass" if isinstance(config, Mapping) else f"data_configs.{config}"
        if not isinstance(config, Mapping):
            if config not in self.datasets:
                what = f"a pass uses {config!r}, which is not in data_configs"
                raise bottega.RecipeError(what, where=str(self.path), fix="name one of them")
            config = self.datasets.pop(config)
        section = _Section(config, where)
        loading, processing = section.section("load_dataset_config"), section.section("pre_process_data_config")
        section.take("name", "type")
        files = loading.take("data_files")
        found = {
            "data_name": loading.take("data_name"),
            "data_files": ",".join(map(str, files)) if isinstance(files, list) else files,
            "train_split": loading.take("split"),
            "text_template": processing.take("text_template"),
            "max_seq_length": processing.take("source_max_len", "max_seq_len", "max_length"),
        }
        # With a template, the columns are those that it names.
        columns = processing.take("text_cols", "text_field", "text_column")
        if found["text_template"] is None and columns:
            names = columns if isinstance(columns, list) else [columns]
            found["text_template"] = " ".join(f"{{{name}}}" for name in names)
        if found["data_files"] is None and found["data_name"] is None:
            fix = "write load_dataset_config.data_files"
            raise bottega.RecipeError("names no data", where=f"{self.path}, {where}", fix=fix)
        self.ignored += [*section.left(), *loading.left(), *processing.left()]
        return {name: value for name, value in found.items() if value is not None}
