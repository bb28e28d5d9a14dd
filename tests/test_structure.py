"""The structure of the package, counted: what keeps it a code base that one person can hold in mind."""

from __future__ import annotations

import ast
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import bottega
from bottega import objectives

SOURCE = Path(bottega.__file__).parent
TESTS = Path(__file__).parent

MAX_NAMES, MAX_LEVELS, MAX_METHODS, MIN_COMMENTS = 32, 14, 12, 0.04


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def top(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for path in modules():
        yield from ((path, node) for node in ast.walk(parse(path)) if isinstance(node, ast.ClassDef))


def runtime_imports(path: Path) -> set[str]:
    """The names at the top of the package that a file imports, at any depth; not those for types alone."""
    typing_only = {
        id(child)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    names = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in typing_only:
            package, *rest = node.module.split(".")
            if package == "bottega":
                names |= set(rest[:1] or [alias.name for alias in node.names])
    return names


def test_names_at_the_top() -> None:
    names = {top(path) for path in modules()} - {"__init__", "__main__"}
    assert len(names) <= MAX_NAMES, sorted(names)


def test_levels_of_imports() -> None:
    """The longest chain of imports between names at the top."""
    names = {top(path) for path in modules()}
    below: dict[str, set[str]] = {name: set() for name in names}
    for path in modules():
        below[top(path)] |= (runtime_imports(path) & names) - {top(path)}

    @cache
    def level(name: str) -> int:
        return 1 + max((level(other) for other in below[name]), default=0)

    assert max(map(level, names)) <= MAX_LEVELS, {name: level(name) for name in sorted(names, key=level)}


def test_no_class_name_is_used_twice() -> None:
    names = Counter(node.name for _, node in classes())
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("folder", ["engine", "training"])
def test_classes_have_few_methods(folder: str) -> None:
    methods = {
        node.name: sum(isinstance(child, ast.FunctionDef) for child in node.body)
        for path, node in classes()
        if top(path) == folder
    }
    assert {name: count for name, count in methods.items() if count > MAX_METHODS} == {}


def test_reasons_stand_at_the_lines() -> None:
    """Comment lines among all lines."""
    comments = lines = 0
    for path in modules():
        with path.open("rb") as file:
            comments += sum(token.type == tokenize.COMMENT for token in tokenize.tokenize(file.readline))
        lines += len(path.read_text(encoding="utf-8").splitlines())
    assert comments / lines >= MIN_COMMENTS


def docstrings(tree: ast.Module) -> set[int]:
    """The constants that are docstrings."""
    return {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def named_objectives(path: Path) -> list[str]:
    """Where a file names an objective, as a string that is its kind or by importing its module."""
    tree, kinds = parse(path), set(objectives.kinds())
    places = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in kinds and id(node) not in docstrings(tree):
            places.append(f"line {node.lineno}: {node.value!r}")
        if isinstance(node, ast.ImportFrom) and node.module in {f"bottega.objectives.{kind}" for kind in kinds}:
            places.append(f"line {node.lineno}: {node.module}")
    return places


# Where a word that is the kind of an objective means something else.
OTHER_MEANINGS = {
    # Words of other tools' users, and commands of this one.
    "cli/hints.py": {"sft", "classify"},
    # The demo is a user: its recipes name what they train.
    "demo/run.py": {"causal", "sft", "dpo"},
    # A backend of the lm-evaluation-harness.
    "evaluation/lm_eval.py": {"causal"},
    # The metric of that name, and the label of a reward model's only score.
    "evaluation/reward_scores.py": {"reward"},
    "evaluation/verdict.py": {"reward"},
    "metrics/catalog.py": {"reward"},
    "training/judges.py": {"reward"},
    "training/answer_rewards.py": {"reward"},
    # The heading of a table of rewards.
    "recipe/reference.py": {"reward"},
    # The head of that name.
    "evaluation/tasks/__init__.py": {"masked"},
    "explaining/explain.py": {"masked"},
    "inference/loader.py": {"masked"},
    "inference/masked_lm.py": {"masked"},
    "recipe/schema.py": {"masked"},
    # The grade of an answer, as the API calls it.
    "server/routes/graders.py": {"reward"},
    # The API's methods of fine-tuning, and the objective that does each.
    "server/jobs/methods.py": {"sft", "dpo", "grpo"},
    # The cards of the studio are methods people ask for by name, several of one objective.
    "studio/methods.py": {
        *("sft", "dpo", "orpo", "kto", "reward", "grpo", "classify", "tag", "contrastive", "causal", "masked"),
    },
    # Fields of rows that others write.
    "records/detection.py": {"tag"},
    "records/formats/spans.py": {"tag"},
    "records/messages.py": {"masked"},
}


@pytest.mark.parametrize(
    "path",
    [path for path in modules() if top(path) != "objectives"],
    ids=lambda path: str(path.relative_to(SOURCE)),
)
def test_no_objective_is_named_outside_its_folder(path: Path) -> None:
    """Adding, renaming or deleting an objective touches its file alone."""
    allowed = OTHER_MEANINGS.get(str(path.relative_to(SOURCE)), set())
    assert [place for place in named_objectives(path) if place.rpartition(" ")[2].strip("'") not in allowed] == []


def test_every_exception_is_still_needed() -> None:
    """An entry that allows nothing any more goes."""
    for name, words in OTHER_MEANINGS.items():
        assert words <= {place.rpartition(" ")[2].strip("'") for place in named_objectives(SOURCE / name)}, name


# Folders whose modules are variants of one thing: the test of the folder covers those without a test of their own.
VARIANTS = (
    "auditing/checks",
    "demo/phrases",
    "evaluation/tasks",
    "inference/runtimes",
    "metrics/answers",
    "models/attention",
    "models/heads",
    "models/kernels",
    "models/quantization",
    "objectives/rewards",
    "records/formats",
    "reporting/formats",
)

# Tests that hold over the whole package, and of what is no module of it: pages, files of other tools, several modules.
OVER_ALL = ("behaviour", "test_imports.py", "test_structure.py")


def test_each_module_is_found_by_the_test_of_its_name() -> None:
    """`a/_b.py` by `tests/a/test_b.py`; a variant also by the test of its folder, if that names it."""
    missing = []
    for module in modules():
        path = module.relative_to(SOURCE)
        name = path.stem.strip("_")
        folder_test = TESTS / path.parents[1] / f"test_{path.parent.name}.py" if len(path.parts) > 2 else None
        own = (TESTS / path.parent / f"test_{name}.py").exists()
        in_folder = (
            path.parent.as_posix() in VARIANTS
            and folder_test is not None
            and folder_test.exists()
            and re.search(rf"\b_?{name}\b", folder_test.read_text(encoding="utf-8")) is not None
        )
        if path.stem != "__init__" and not own and not in_folder:
            missing.append(path.as_posix())
    assert missing == []


def test_each_test_is_named_after_a_module_or_a_folder() -> None:
    unknown = []
    for test in sorted(TESTS.rglob("test_*.py")):
        path = test.relative_to(TESTS)
        if path.parts[0] in OVER_ALL:
            continue
        name = path.stem.removeprefix("test_")
        homes = [
            path.parent / f"{name}.py",
            path.parent / f"_{name}.py",
            path.parent / f"__{name}__.py",
            path.parent / name,
        ]
        if not any((SOURCE / home).exists() for home in homes):
            unknown.append(path.as_posix())
    assert unknown == []
