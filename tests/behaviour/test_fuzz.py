"""A minute of `make fuzz`: what is mutated ends in a result or in one of our own errors, and in time."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_minute_of_mutated_inputs(fuzz: ModuleType, tmp_path: Path) -> None:
    counts = fuzz.run(1_000_000, tmp_path, seed=1, seconds=60)
    assert counts["result"] > 100
    assert counts["refused"] > 100
    failed = sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".txt")
    assert not failed, (tmp_path / failed[0]).read_text()


@pytest.mark.filterwarnings("ignore")
def test_inputs_are_decided_by_their_numbers_and_runs_go_on(fuzz: ModuleType, tmp_path: Path) -> None:
    made = [[fuzz.mutate(fuzz.Rng(f"0 rows {number}"), fuzz.ROWS[0]) for number in range(20)] for _ in range(2)]
    assert repr(made[0]) == repr(made[1])
    part = fuzz.run(300, tmp_path, only="conll")
    whole = fuzz.run(600, tmp_path, only="conll")
    assert (part.total(), whole.total()) == tuple(round(count * fuzz.SHARES["conll"]) for count in (300, 600))
    assert fuzz.try_call(lambda: 1 / 0)[0] == "failed"
