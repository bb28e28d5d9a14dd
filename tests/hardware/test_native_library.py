"""The operators are compiled once for a machine, and what goes wrong is said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bottega.errors import ModelError
from bottega.hardware import native_library as library
from bottega.models.native import operators


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library.library_path.cache_clear()
    yield
    library.library_path.cache_clear()


def write_compiler(folder: Path, script: str) -> Path:
    """A program that is called as a compiler would be."""
    path = folder / "compiler"
    path.write_text(f"#!{sys.executable}\n{script}")
    path.chmod(0o755)
    return path


WRITES_OUTPUT = """
import sys
from pathlib import Path
arguments = sys.argv[1:]
Path(arguments[arguments.index("-o") + 1]).write_text("library")
with open(Path(__file__).with_name("calls"), "a") as calls:
    calls.write("call\\n")
"""


def test_what_is_built_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(write_compiler(tmp_path, WRITES_OUTPUT)))
    assert "bottega build-native" in (library.native_advice() or "")
    path = library.build_native()
    assert library.native_advice() is None
    assert library.build_native() == path == library.library_path()
    assert path.parent == tmp_path / "bottega"
    assert path.read_text() == "library"
    assert (tmp_path / "calls").read_text() == "call\n"
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_another_compiler_is_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = library.library_path()
    monkeypatch.setenv("CXX", str(write_compiler(tmp_path, WRITES_OUTPUT)))
    library.library_path.cache_clear()
    assert library.library_path() not in (first, None)


def test_the_error_of_the_compiler_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails = "import sys; sys.exit('kernels.cpp:3: note\\nkernels.cpp:7: error: no such header')"
    monkeypatch.setenv("CXX", str(write_compiler(tmp_path, fails)))
    with pytest.raises(ModelError, match=r"kernels\.cpp:7: error: no such header"):
        library.build_native()
    assert not list((tmp_path / "bottega").iterdir())


def test_without_a_compiler_there_are_no_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    assert library.library_path() is library.native_advice() is None
    with pytest.raises(ModelError, match="no compiler"):
        library.build_native()


def test_they_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOTTEGA_NATIVE", "0")
    assert operators() is None
