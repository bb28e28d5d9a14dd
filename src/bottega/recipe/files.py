"""Recipe files: YAML loading, `section.key=value` overrides, and resolution of the paths a document names.

Works on plain documents (nested dicts); validation against the sections is in `schema`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bottega.errors import RecipeError

# The file of a run folder that holds every key of its recipe. Named here, below `runs`, because validating a recipe
# that continues an adapter reads it.
RESOLVED = "resolved.json"

# Keys that hold paths, and what their values may be besides an existing path: "model" and "dataset" also allow a hub
# id, "folder" does not.
PATH_KEYS = {
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

# The section of a recipe for several runs (`recipe.several`).
ADAPTERS = "adapters"

# Pairs of which at most one may be set.
EXCLUSIVE_KEYS = (
    ("optim.epochs", "optim.steps"),
    ("optim.examples", "optim.update_tokens"),
    ("model.base", "model.shape"),
)

# Starts the comment line in a run's own copy of its recipe that names the folder relative paths resolve against.
# A contract: runs of earlier versions have it in their recipe.yaml.
PATHS_NOTE = "# Its paths begin at "

# Limit on the values of a YAML document, counted after alias expansion: nested aliases grow exponentially
# ("billion laughs"), and a few hundred bytes would otherwise fill the memory.
MAX_YAML_VALUES = 100_000

# Suffixes of files of rows, to recognize a data file given in place of a recipe.
DATA_SUFFIXES = (
    ".jsonl", ".json", ".csv", ".tsv", ".txt", ".md", ".conll", ".parquet", ".xlsx", ".gz", ".bz2", ".zst",
)  # fmt: skip

# Printed as the remedy where a whole recipe is missing or malformed.
TEMPLATE_HINT = "every key, explained: bottega init sft"


def read_recipe_file(path: Path, overrides: Sequence[str], known_keys: Collection[str]) -> tuple[dict[str, Any], Path]:
    """(document, folder its relative paths resolve against) of a YAML recipe, overrides applied.

    Raises RecipeError for a file that is missing, not YAML, or looks like data: none of its keys is in `known_keys`.
    """
    try:
        # Opening a pipe or a device could block forever.
        if path.exists() and not path.is_file() and not path.is_dir():
            fix = "write it to a file first: a recipe is read more than once"
            raise RecipeError("a pipe or a device, not a file", where=str(path), fix=fix)
        text = path.read_text(encoding="utf-8")
        document = load_yaml(text)
    except FileNotFoundError:
        fix = f"write one: bottega init ROWS --model FOLDER --out {path}"
        raise RecipeError("no such recipe", where=str(path), fix=fix) from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        if not isinstance(error, OSError):
            _refuse_data_file(path)
        fix = f"a recipe is a YAML file in UTF-8; {TEMPLATE_HINT}"
        raise RecipeError(f"invalid YAML: {_yaml_problem(error)}", where=str(path), fix=fix) from None
    # JSON is YAML, so a .json or .jsonl file of data may well have parsed.
    if not isinstance(document, dict) or not set(document) & set(known_keys):
        _refuse_data_file(path)
    if not isinstance(document, dict):
        fix = f"start with model:, data:, objective:; {TEMPLATE_HINT}"
        raise RecipeError("not a recipe: no keys", where=str(path), fix=fix)
    notes = [line.removeprefix(PATHS_NOTE) for line in text.splitlines() if line.startswith(PATHS_NOTE)]
    folder = Path(notes[-1]) if notes else path.parent
    apply_overrides(document, overrides, folder)
    return document, folder


def _refuse_data_file(path: Path) -> None:
    """Raise a RecipeError if the file's suffix is that of a data file."""
    if path.suffix.lower() in DATA_SUFFIXES:
        fix = f"write a recipe for them, then run that: bottega init {path} --model FOLDER --out recipe.yaml"
        raise RecipeError("these are rows, not a recipe", where=str(path), fix=fix)


def _yaml_problem(error: Exception) -> str:
    """Why a file is invalid YAML, with line and column where known."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1}: the text is not UTF-8"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark, problem = error.problem_mark, error.problem
        # PyYAML's context ("while scanning …") only helps where it says what was expected.
        reason = f"{error.context}, {problem}" if (error.context or "").startswith("expected") else problem
        return f"line {mark.line + 1}, column {mark.column + 1}: {reason}"
    return str(error.strerror if isinstance(error, OSError) else error)


# YAML


def load_yaml(text: str) -> Any:
    """Parse YAML into plain values.

    Raises yaml.YAMLError for invalid YAML, a duplicate key, or a document of more than MAX_YAML_VALUES values.
    """
    loader = _StrictLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        # Count on the node graph, before construction would expand the aliases.
        _count_values(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count_values(node: yaml.Node, counts: dict[int, int]) -> int:
    """Values under a node, itself included, aliases expanded; `counts` caches them by node identity."""
    if id(node) in counts:
        if not counts[id(node)]:
            raise yaml.MarkedYAMLError(problem="an alias that contains itself", problem_mark=node.start_mark)
        return counts[id(node)]
    counts[id(node)] = 0  # marks a node whose count is in progress: meeting it again is a cycle
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    children = [child for pair in pairs for child in pair] or (
        node.value if isinstance(node, yaml.SequenceNode) else []
    )
    counts[id(node)] = 1 + sum(_count_values(child, counts) for child in children)
    if counts[id(node)] > MAX_YAML_VALUES:
        problem = f"more than {MAX_YAML_VALUES:,} values: do aliases contain each other?"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return counts[id(node)]


class _StrictLoader(yaml.SafeLoader):
    """A SafeLoader that rejects duplicate keys, of which YAML would silently keep the last, and keeps keys as text.

    `10` and `no` as keys are label names, not a number and a boolean.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        duplicates = [key for index, (key, _) in enumerate(node.value) if key.value in keys[:index]]
        if duplicates:
            problem = f"the key {duplicates[0].value} is given twice"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=duplicates[0].start_mark)
        for key, _ in node.value:
            # `<<` must keep its tag, or SafeLoader no longer merges.
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


# Overrides


def apply_overrides(document: dict[str, Any], changes: Sequence[str], folder: Path) -> None:
    """Set keys of a document in place, each as `section.key=value`; setting a key removes the one it excludes."""
    for change in changes:
        apply_override(document, change, folder)
    changed_keys = {change.partition("=")[0] for change in changes}
    for pair in EXCLUSIVE_KEYS:
        for key, excluded in (pair, pair[::-1]):
            if key in changed_keys and excluded not in changed_keys and _get(document, key) is not None:
                section, _, name = excluded.partition(".")
                document[section].pop(name, None)


def _get(document: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    return document[section][name]


def apply_override(document: dict[str, Any], change: str, folder: Path) -> None:
    """Set one key of a document in place, given as `section.key=value`; a RecipeError if it cannot be parsed."""
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
    target[last] = _override_value(key, change, text, folder)


def _override_value(key: str, change: str, text: str, folder: Path) -> Any:
    try:
        value = load_yaml(text)
    except (ValueError, RecursionError, yaml.YAMLError):
        raise RecipeError("the value is not YAML", where=change, fix="quote it: \"section.key='text'\"") from None
    if not isinstance(value, str):
        return value
    # YAML 1.1 parses 1e-4, without a dot, as a string.
    try:
        return float(value)
    except ValueError:
        pass
    # A path typed in a shell is usually relative to the working directory, not to the recipe.
    if key in PATH_KEYS and not (folder / value).exists() and Path(value).exists():
        return str(Path(value).absolute())
    return value


# Paths


def resolve_paths(document: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A copy of the document with every path under PATH_KEYS made absolute, relative ones from `folder`."""
    resolved = dict(document)
    for name, kind in PATH_KEYS.items():
        resolved = _resolve_under(resolved, name.split("."), folder, kind)
    return resolved


def resolve_source_path(path: str) -> str:
    """A data path from the command line, made absolute; a dataset's hub id is returned unchanged."""
    resolved: str = _resolve_path(path, Path.cwd(), "dataset")
    return resolved


def _resolve_under(value: Any, keys: Sequence[str], folder: Path, kind: str) -> Any:
    """A copy of part of a document with the paths under `keys` made absolute, in every item where it is a list."""
    if isinstance(value, list):
        return [_resolve_under(item, keys, folder, kind) for item in value]
    key, *inner = keys
    if not isinstance(value, Mapping) or key not in value:
        return value
    child = value[key]
    return {**value, key: _resolve_under(child, inner, folder, kind) if inner else _resolve_path(child, folder, kind)}


def _resolve_path(value: Any, folder: Path, kind: str) -> Any:
    """A path, a mapping with a path, or a list of these, made absolute.

    What could be a hub id is left alone unless the path exists or is written as one (`./x`, `/x`, `~/x`). Values of
    other types pass through, for validation to report.
    """
    if isinstance(value, list):
        return [_resolve_path(item, folder, kind) for item in value]
    if isinstance(value, Mapping) and "path" in value:
        return {**value, "path": _resolve_path(value["path"], folder, kind)}
    if not isinstance(value, str):
        return value
    try:
        path = folder / Path(value).expanduser()
        if not path.exists() and not value.startswith((".", "/", "~")) and _may_be_hub_id(value, kind):
            return value
        return str(path.resolve())
    # ValueError: a null byte; RuntimeError: `~user` without a home folder.
    except (OSError, ValueError, RuntimeError) as error:
        raise RecipeError(f"invalid path: {error}", where=value, fix="write the path of an existing file") from None


def _may_be_hub_id(value: str, kind: str) -> bool:
    """Whether a string could be a hub id; a dataset's has no alphabetic suffix, as files have (`mix-v1.2` is one)."""
    return kind == "model" or (kind == "dataset" and not Path(value).suffix[1:].isalpha())


def without_paths(value: Any) -> Any:
    """Part of a document with every path of this machine cut to its last part."""
    if isinstance(value, Mapping):
        return {key: without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    is_path = isinstance(value, str) and Path(value).is_absolute() and Path(value).exists()
    return without_folders(value) if is_path else value


def without_folders(name: str) -> str:
    """The last part of a path, which for the result of a run is the name of the run; a hub id unchanged."""
    path = Path(name)
    if not path.is_absolute():
        return name
    return path.parent.name if path.name in ("model", "adapter") else path.name
