"""A run folder of the first version resumes to the same bytes, loads, and is shown.

`earlier/` was written by commit 2764d27 on the processor that its place.json names: `run/` was stopped after two of
four updates, `whole/` holds the weights and events of the same run trained to its end.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import bottega
from bottega.cli.commands import app
from bottega.runs.atomic_files import checksum
from bottega.sampling import Sampling

EARLIER = Path(__file__).parent / "earlier"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The unfinished run, with its paths and checksums as if it had been written here."""
    folder = tmp_path / "earlier"
    shutil.copytree(EARLIER, folder)
    texts = [path for path in folder.rglob("*") if path.suffix in (".json", ".jsonl", ".yaml")]
    for path in texts:
        path.write_text(path.read_text(encoding="utf-8").replace("/earlier", str(folder)), encoding="utf-8")
    for manifest in folder.rglob("manifest.json"):
        sums = {name: checksum(manifest.parent / name) for name in json.loads(manifest.read_text())}
        manifest.write_text(json.dumps(sums), encoding="utf-8")
    return folder / "run"


def losses(folder: Path) -> list[tuple[str, int, float]]:
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [
        (event["type"], event["step"], event["loss"]) for event in events if event["type"] in ("stepped", "validated")
    ]


def test_it_resumes_to_the_same_bytes(run: Path) -> None:
    list(bottega.resume(run))
    result, wanted = run / "adapter" / "adapter_model.safetensors", EARLIER / "whole" / "adapter_model.safetensors"
    processor = json.loads((EARLIER / "run" / "place.json").read_text())["hardware"]["processor"]
    if torch.cpu.get_capabilities().get("cpu_name") == processor and checksum(result) == checksum(wanted):
        assert losses(run) == losses(EARLIER / "whole")
        return
    # Another processor, or another kind of the same maker, adds up in another order.
    for name, weight in load_file(wanted).items():
        torch.testing.assert_close(load_file(result)[name], weight, rtol=1e-4, atol=1e-6)
    for (kind, step, loss), one in zip(losses(run), losses(EARLIER / "whole"), strict=True):
        assert (kind, step) == one[:2]
        assert loss == pytest.approx(one[2], rel=1e-5)


def test_it_loads_and_is_shown(run: Path) -> None:
    shown = CliRunner().invoke(app, ["show", str(run)])
    assert shown.exit_code == 0, shown.output
    list(bottega.resume(run))
    assert bottega.load(run).generate(["the cat"], Sampling(tokens=3))[0][0].tokens
    for command in (["show", str(run)], ["runs", str(run)], ["evaluate", str(run), "--json"]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
