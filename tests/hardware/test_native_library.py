"""The operators are compiled once for a machine, and what goes wrong is said."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bottega.errors import ModelError
from bottega.hardware import native_library as library
from bottega.models import native
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
    monkeypatch.setattr(library, "_loads", lambda path: path.read_text() == "library")
    assert "bottega build-native" in (library.native_advice() or "")
    path = library.build_native()
    assert library.native_advice() is None
    assert str(library.build_native()) == str(path) == library.library_path()
    assert path.parent == tmp_path / "bottega"
    assert path.read_text() == "library"
    assert (tmp_path / "calls").read_text() == "call\n"
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    path.write_text("damaged")
    assert library.build_native().read_text() == "library"


def test_a_damaged_library_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(library.library_path() or "")
    path.parent.mkdir()
    path.write_bytes(b"")
    assert not library._loads(path)
    monkeypatch.setattr(native, "_load", native._load.__wrapped__)
    with pytest.warns(UserWarning, match="bottega build-native"):
        assert operators() is None


def test_folders_that_are_no_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(write_compiler(tmp_path, WRITES_OUTPUT)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "compiler"))
    library.library_path.cache_clear()
    assert not library.is_built()
    with pytest.raises(ModelError, match="cannot write") as raised:
        library.build_native()
    assert "XDG_CACHE_HOME" in str(raised.value.fix)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(library.os.path, "expanduser", lambda path: path)
    library.library_path.cache_clear()
    assert library.library_path() is None
    assert not library.is_built()


def test_the_error_of_the_compiler_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails = "import sys; sys.exit('kernels.cpp:3: note\\nkernels.cpp:7: error: no such header')"
    monkeypatch.setenv("CXX", str(write_compiler(tmp_path, fails)))
    with pytest.raises(ModelError, match=r"kernels\.cpp:7: error: no such header"):
        library.build_native()
    assert not list((tmp_path / "bottega").iterdir())


def test_a_compiler_is_needed_to_build_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    assert library.library_path() is not None
    assert library.native_advice() is None
    with pytest.raises(ModelError, match="need Linux"):
        library.build_native()


def test_they_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOTTEGA_NATIVE", "0")
    assert operators() is None
