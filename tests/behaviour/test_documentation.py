"""Every example in the documentation runs as it stands, and the generated pages are up to date."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from bottega.cli.commands import app
from bottega.recipe.schema import Recipe
from making import ROOT, make_model, write_jsonl

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?P<kind>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))]

# Pages whose examples measure for long.
LONG = ("evaluating", "planning", "training")

# Pages whose examples need a package that `make setup` does not install.
NEEDED = {"exporting": "llama_cpp"}


def marks(page: str) -> list[pytest.MarkDecorator]:
    slow = [pytest.mark.slow] if page in LONG else []
    is_missing = page in NEEDED and find_spec(NEEDED[page]) is None
    return [*slow, pytest.mark.skipif(is_missing, reason=f"{NEEDED.get(page)} is not installed: make engines")]


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that often ends its answers early: generation to the last position takes long."""
    folder = make_model(tmp_path_factory.mktemp("models") / "smol", "llama", max_position_embeddings=512)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[model.config.eos_token_id] *= 8
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem, marks=marks(page.stem)) for page in EXAMPLES])
def test_the_examples_of_a_page_run(
    page: Path,
    smol: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    plug_in: Callable[..., None],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(smol, "models/smol")
    write_jsonl(Path("tickets.jsonl"), [{"instruction": f"the cat {n}", "output": f"sat on {n}"} for n in range(20)])
    write_jsonl(Path("greetings.jsonl"), [{"instruction": f"hello {n}", "output": f"sat on {n}"} for n in range(20)])
    names: dict[str, object] = {}
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        text, kind, title = block["text"], block["kind"], block["title"]
        if title is not None:
            Path(title).parent.mkdir(parents=True, exist_ok=True)
            Path(title).write_text(text, encoding="utf-8")
            if title.startswith("src/bottega/"):
                package = import_module(".".join(Path(title).parent.parts[1:]))
                plug_in(package, Path(title).stem, text)
        elif kind == "python":
            exec(compile(text, str(page), "exec"), names)
        elif kind == "sh":
            for line in text.splitlines():
                run(line)
        elif kind == "yaml":
            assert set(yaml.safe_load(text)) <= set(Recipe.model_fields)


def run(line: str) -> None:
    program, *arguments = shlex.split(line, comments=True)
    assert program == "bottega", line
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")}
