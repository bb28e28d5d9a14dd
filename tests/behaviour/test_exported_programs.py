"""The programs on the page of exports run as they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import bottega
from bottega.inference.runtimes import is_installed
from making import make_model, page_file, write_jsonl

TEMPLATE = """{% for m in messages %}{% if m['role'] == 'assistant' %}
{% generation %}{{ m['content'] }}</s>{% endgeneration %}
{% else %}{{ m['content'] }}{{ '\\n' }}{% endif %}{% endfor %}"""


@pytest.mark.parametrize(("format", "runtime"), [("merged", "transformers"), ("genai", "genai"), ("gguf", "llama_cpp")])
def test_a_program(format: str, runtime: str, tmp_path: Path) -> None:
    """It prints what the run answers."""
    if not is_installed(runtime):
        pytest.skip(f"{runtime} is not installed")
    turns = [{"role": "user", "content": "Where is my parcel?"}]
    rows = [{"messages": [*turns, {"role": "assistant", "content": "on the mat"}]}] * 4
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    base, run = make_model(tmp_path / "base", head_dim=16), tmp_path / "support"
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    recipe = {
        "model": {"base": str(base), "dtype": "float32"},
        "data": {"train": str(data), "template": str(tmp_path / "template.jinja")},
        "objective": {"kind": "sft"},
        "adapter": {"rank": 8},
        "optim": {"steps": 60, "examples": 4, "lr": 1e-2},
    }
    list(bottega.train(bottega.Recipe.parse(recipe), out=run))
    assert bottega.load(run).chat(turns).text == "on the mat"
    alone = format == "merged"
    bottega.export(run if alone else base, tmp_path / format, format=format, adapters=[] if alone else [run])
    (tmp_path / "program.py").write_text(page_file(f"use_{runtime}.py", "exporting"))
    command = [sys.executable, "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "on the mat"
