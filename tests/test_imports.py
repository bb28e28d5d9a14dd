"""The import direction between layers, and the time the command line takes to start."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bottega

SOURCE = Path(bottega.__file__).parent
# From the top down: a module may import from its own layer and those below.
LAYERS = [
    {"cli", "__main__"},
    {"studio"},
    {"demo", "server"},
    {"__init__"},
    {"explaining", "exporting", "planning", "reporting"},
    {"evaluation"},
    {"training"},
    {"engine", "auditing"},
    {"inference"},
    {"models"},
    {"data"},
    {"runs"},
    {"recipe"},
    {"objectives", "adapters"},
    {"metrics"},
    {"tokenization"},
    {"records"},
    {"hardware", "packing", "plugins", "sampling", "progress", "suggestions"},
    {"batch", "events", "seeding"},
    {"errors"},
]


def layer(module: str) -> int:
    return next(index for index, names in enumerate(LAYERS) if module in names)


def own_imports(path: Path) -> set[str]:
    """The top-level parts of bottega a file imports, at any depth; TYPE_CHECKING imports do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bottega":
            parts = node.module.split(".")[1:2] or [alias.name for alias in node.names]
            found |= set(parts)
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_modules_import_from_lower_layers_only(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    for other in own_imports(path):
        assert layer(other) >= layer(own), f"{own} imports {other}, which stands above it"


def test_every_module_has_a_layer() -> None:
    tops = {
        path.name.removesuffix(".py")
        for path in SOURCE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert tops == set().union(*LAYERS)


CLIENTS = ("cli", "demo", "server", "studio")


@pytest.mark.parametrize(
    "path",
    [path for client in CLIENTS for path in sorted((SOURCE / client).rglob("*.py"))],
    ids=lambda path: str(path.relative_to(SOURCE)),
)
def test_clients_import_the_public_interface_only(path: Path) -> None:
    """Only `bottega` itself and their own package; imports for types count too."""
    client = path.relative_to(SOURCE).parts[0]
    allowed = {"bottega", f"bottega.{client}"}
    # Commands start them, and the studio's first page starts the demo.
    allowed |= {"cli": {"bottega.demo", "bottega.server", "bottega.studio"}, "studio": {"bottega.demo"}}.get(
        client, set()
    )
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "bottega" else [f"bottega.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            assert parts[0] != "bottega" or ".".join(parts[:2]) in allowed, f"imports {name}"


def test_the_public_names() -> None:
    before = "BottegaError Recipe advise audit evaluate load load_classifier load_embedder load_masked load_tagger"
    before += " plan preview report resume train"
    assert sorted(bottega.__all__) == bottega.__all__
    assert set(before.split()) <= set(bottega.__all__) <= set(dir(bottega))
    for name in bottega.__all__:
        assert getattr(bottega, name) is not None
    with pytest.raises(AttributeError, match="trian"):
        getattr(bottega, "trian")  # noqa: B009, mypy knows there is none


def test_a_recipe_loads_without_torch() -> None:
    code = (
        "import sys, bottega; bottega.Recipe; import bottega.cli.commands; "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
