"""Compiling the operators in C++ of `models.native`: one call of the compiler that is there, for this processor.

The library lies in the user's cache, under a name that changes with all it was made from, so that one home may serve
machines with different processors.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from bottega.errors import ModelError

SOURCES = Path(__file__).parent.parent / "models" / "native"

# The preferred one first; Clang has other names for the vector operations of the sources.
COMPILERS = ("g++", "c++")

# Else GCC fuses products and sums for some processors only where several sums are computed at once: what a row gets
# would depend on the rows beside it.
X86_FLAGS = ("--param=avoid-fma-max-bits=0",) if platform.machine() == "x86_64" else ()

# GNU's dialect, which lets a product and a sum become one instruction.
FLAGS = (
    *("-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-std=gnu++20", "-fno-math-errno", "-Wno-psabi"),
    *X86_FLAGS,
)


def compiler() -> str | None:
    """The compiler; None if there is none."""
    names = (os.environ.get("CXX"), *COMPILERS)
    return next((path for name in names if name and (path := shutil.which(name))), None)


@cache
def library_path() -> str | None:
    """Where the library is, or would be after `build_native`; None on systems that have none."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if platform.system() != "Linux" or not os.path.isabs(folder):  # a user without a home
        return None
    # Here and not above, so that `import bottega` stays fast.
    import torch

    digest = hashlib.sha256()
    for source in sorted([*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp")]):
        digest.update(source.read_bytes())
    digest.update(repr((torch.__version__, FLAGS, _processor())).encode())
    return os.path.join(folder, "bottega", f"native-{digest.hexdigest()[:16]}.so")


def is_built() -> bool:
    """Whether the library is there."""
    path = library_path()
    # Not pathlib's: in a folder that may not be read, there is none.
    return path is not None and os.path.exists(path)


def build_native() -> Path:
    """Compile the operators, unless that was done; returns the path of the library. A ModelError if that fails."""
    if (name := library_path()) is None or (command := compiler()) is None:
        raise ModelError(
            "the operators in C++ need Linux, a home folder and a compiler",
            fix="sudo apt-get install g++; all works without them, only slower",
        )
    path = Path(name)
    if is_built() and _loads(path):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            # Whole before it has its name: two processes may build at once.
            _compile(command, unfinished := Path(folder) / path.name)
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(path)
    except OSError as error:
        raise ModelError(
            f"cannot write the operators in C++: {error.strerror}",
            where=str(path.parent),
            fix="set XDG_CACHE_HOME to a folder that you can write",
        ) from None
    return path


def _compile(command: str, out: Path) -> None:
    import torch

    folder = Path(torch.__file__).parent
    includes = [f"-isystem{folder / 'include' / part}" for part in ("", "torch/csrc/api/include")]
    libraries = [f"-L{folder / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    result = subprocess.run(
        [command, *FLAGS, *includes, str(SOURCES / "kernels.cpp"), "-o", str(out), *libraries],
        capture_output=True,
        text=True,
    )
    if result.returncode:
        errors = [line for line in result.stderr.splitlines() if "error" in line] or result.stderr.splitlines()
        raise ModelError(
            f"the operators in C++ did not compile: {errors[0] if errors else f'exit status {result.returncode}'}",
            where=command,
            fix="install g++ 12 or newer, or name it in CXX; all works without them, only slower",
        )


def _loads(path: Path) -> bool:
    """Whether a library can be loaded: tried in a process of its own, which a damaged file may end."""
    code = "import sys, torch; torch.ops.load_library(sys.argv[1])"
    return subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True).returncode == 0


def native_advice() -> str | None:
    """What to do for models to answer faster on this CPU; None if that was done, or cannot be."""
    if is_built() or library_path() is None or compiler() is None:
        return None
    return "on this CPU models would train and answer faster: bottega build-native (half a minute, once)"


def _processor() -> str:
    """What the processor can do, as the system says."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
