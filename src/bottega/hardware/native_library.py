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
from functools import cache
from pathlib import Path

from bottega.errors import ModelError

SOURCES = Path(__file__).parent.parent / "models" / "native"

# Compilers with the vector extensions that the sources use, the preferred one first.
COMPILERS = ("g++", "clang++", "c++")

# GNU's dialect, which lets a product and a sum become one instruction.
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-std=gnu++20", "-fno-math-errno", "-Wno-psabi")


def compiler() -> str | None:
    """The compiler; None if there is none, or if the system is another one than Linux."""
    if platform.system() != "Linux":
        return None
    names = (os.environ.get("CXX"), *COMPILERS)
    return next((path for name in names if name and (path := shutil.which(name))), None)


@cache
def library_path() -> Path | None:
    """Where the library is, or would be after `build_native`; None where it cannot be built."""
    if compiler() is None:
        return None
    # Here and not above, so that `import bottega` stays fast.
    import torch

    digest = hashlib.sha256()
    for source in sorted([*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp")]):
        digest.update(source.read_bytes())
    digest.update(repr((torch.__version__, FLAGS, compiler(), _processor())).encode())
    cache_folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache_folder / "bottega" / f"native-{digest.hexdigest()[:16]}.so"


def build_native() -> Path:
    """Compile the operators, unless that was done; returns the path of the library. A ModelError if that fails."""
    import torch

    path, command = library_path(), compiler()
    if path is None or command is None:
        raise ModelError(
            "no compiler for C++ on Linux was found", fix="sudo apt-get install g++; all works without it, only slower"
        )
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # Under a name of its own until it is whole: two processes may build at once.
    unfinished = path.with_suffix(f".{os.getpid()}.so")
    folder = Path(torch.__file__).parent
    includes = [f"-isystem{folder / 'include' / part}" for part in ("", "torch/csrc/api/include")]
    libraries = [f"-L{folder / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    result = subprocess.run(
        [command, *FLAGS, *includes, str(SOURCES / "kernels.cpp"), "-o", str(unfinished), *libraries],
        capture_output=True,
        text=True,
    )
    if result.returncode:
        errors = [line for line in result.stderr.splitlines() if "error" in line] or result.stderr.splitlines()
        raise ModelError(
            f"the operators in C++ did not compile: {errors[0] if errors else f'exit status {result.returncode}'}",
            where=command,
            fix="install g++ 12 or newer, or name another compiler in CXX; all works without them, only slower",
        )
    unfinished.replace(path)
    return path


def native_advice() -> str | None:
    """What to do for models to answer faster on this CPU; None if that was done, or cannot be."""
    path = library_path()
    if path is None or path.exists():
        return None
    return "on this CPU models answer at about half their speed: bottega build-native (half a minute, once)"


def _processor() -> str:
    """What the processor can do, as the system says."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
