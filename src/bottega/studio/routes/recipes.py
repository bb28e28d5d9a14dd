"""Recipes: made from what was chosen, checked, previewed and planned."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

import bottega
from bottega.studio.calls import in_thread, parse_yaml, workshop_of
from bottega.studio.methods import METHODS, methods
from bottega.studio.workshop import Workshop

router = APIRouter(prefix="/recipes")

# Rows of which the objective is suggested, and rows that are previewed at once.
PREVIEW_ROWS = 8


class RunChoices(BaseModel):
    """What the first steps of a new run ask for.

    data     a data set, with its version
    model    a run, a folder or a hub id
    method   the id of a method
    changes  values of further keys, by their path: `optim.lr`
    """

    model_config = ConfigDict(extra="forbid")

    data: str
    version: int | None = None
    validation: str | float | None = 0.1
    model: str
    method: str
    name: str = "run"
    changes: dict[str, Any] = {}


class Draft(BaseModel):
    """A recipe that is being written: as a document, or as YAML."""

    model_config = ConfigDict(extra="forbid")

    document: dict[str, Any] | None = None
    text: str | None = None


class PreviewRequest(BaseModel):
    """Rows of a data set as an objective reads them."""

    model_config = ConfigDict(extra="forbid")

    data: str
    version: int | None = None
    model: str
    objective: str
    start: int = Field(0, ge=0)


@router.get("/methods")
async def list_methods() -> Any:
    """The ways of training to choose from."""
    return [asdict(method) for method in methods()]


@router.get("/row-formats")
async def list_formats() -> Any:
    """The row formats with their fields."""
    return await in_thread(lambda: [asdict(format) for format in bottega.row_formats()])


@router.get("/fields/{objective}")
async def list_fields(objective: str, adapter: str | None = None) -> Any:
    """The fields of a recipe with this objective, as the form draws them."""
    return await in_thread(lambda: bottega.recipe_form(objective, adapter))


@router.get("/suggestion/{data}")
async def suggest(request: Request, data: str, version: int | None = None) -> Any:
    """The objective that the rows of a data set suggest, and all others."""
    path, reading = split_source(workshop_of(request).data.source(data, version))
    kinds = bottega.objective_kinds()
    try:
        return {"objective": await in_thread(lambda: bottega.suggest_objective(path, reading)), "objectives": kinds}
    except bottega.DataError as error:
        return {"objective": None, "objectives": kinds, "why": error.what, "fix": error.fix}


@router.post("/make")
async def make_recipe(request: Request, body: RunChoices) -> Any:
    """A recipe of what was chosen."""
    return await in_thread(lambda: _check(workshop_of(request), _document(workshop_of(request), body)))


def _document(workshop: Workshop, choices: RunChoices) -> dict[str, Any]:
    method = next((method for method in METHODS if method.id == choices.method), None)
    objective = choices.method if method is None else method.objective
    validation = choices.validation
    rows = workshop.data.source(choices.data, choices.version)
    document = starting_document(objective, workshop.model_source(choices.model), rows)
    document["name"] = choices.name
    document["data"]["validation"] = (
        _brief(workshop.data.source(validation)) if isinstance(validation, str) else validation
    )
    # The objective's own recipe has an adapter where the model has a language head.
    document.pop("adapter", None)
    if method is not None and method.adapter is not None:
        document["adapter"] = dict(method.adapter)
    if method is not None and method.quantize != "none":
        document["model"]["quantize"] = method.quantize
    for path, value in choices.changes.items():
        *sections, key = path.split(".")
        place = document
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return document


def starting_document(objective: str, model: str, source: dict[str, Any]) -> dict[str, Any]:
    """The recipe that `bottega init` writes, without its comments; `source` as a data set gives it."""
    path, reading = split_source(source)
    document = dict(yaml.safe_load(bottega.init(objective, model=model, data=path, layout=reading)))
    # Of this source alone: the validation rows may come from another file.
    kept = {key: value for key, value in document["data"].items() if key not in source}
    return {**document, "data": {**kept, "train": _brief(source)}}


def split_source(source: dict[str, Any]) -> tuple[str, bottega.Reading]:
    """(path, how its rows are read) of a data set."""
    return source["path"], bottega.Reading(**{key: value for key, value in source.items() if key != "path"})


def _brief(source: dict[str, Any]) -> str | dict[str, Any]:
    """A source without options is its path."""
    return source if len(source) > 1 else str(source["path"])


@router.post("/check")
async def check_recipe(request: Request, body: Draft) -> Any:
    """A recipe with every key, and how to start it elsewhere; or what is wrong with it."""
    document = parse_yaml(body.text) if body.text is not None else body.document or {}
    return await in_thread(lambda: _check(workshop_of(request), document))


def _check(workshop: Workshop, document: dict[str, Any]) -> dict[str, Any]:
    recipe = bottega.Recipe.parse(document, folder=workshop.runs.parent)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    command = f"cat > recipe.yaml <<'END'\n{text}END\n{shlex.join(['bottega', 'train', 'recipe.yaml'])}"
    python = _openai_code(document, recipe)
    return {"document": document, "full": recipe.document(), "text": text, "command": command, "python": python}


OPENAI_CODE = """from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="…")
rows = client.files.create(file=open({rows}, "rb"), purpose="fine-tune")
job = client.fine_tuning.jobs.create(
    model={model},  # as it is served: bottega serve {name}={source}
    training_file=rows.id,
    method={method},
)
"""


def _openai_code(document: dict[str, Any], recipe: bottega.Recipe) -> str | None:
    """A script that trains the same by the API of hosted fine-tuning; None if that has no such method."""
    base, adapter = str(recipe.model.base), document.get("adapter")
    method = next((one for one in METHODS if one.api and one.objective == recipe.objective.kind), None)
    if method is None or not adapter or recipe.model.quantize != "none":
        return None
    values = {"n_epochs": recipe.optim.epochs, "batch_size": recipe.optim.examples}
    given = {name: value for name, value in values.items() if value is not None}
    return OPENAI_CODE.format(
        rows=repr(recipe.data.train[0].path),
        model=repr(Path(base).name),
        name=Path(base).name,
        source=shlex.quote(base),
        method={"type": method.api, method.api: {"hyperparameters": given}},
    )


@router.post("/preview")
async def preview_rows(request: Request, body: PreviewRequest) -> Any:
    """Rows as tokens, with their weights in the loss."""
    workshop = workshop_of(request)
    source = workshop.data.source(body.data, body.version)

    def work() -> dict[str, Any]:
        document = starting_document(body.objective, workshop.model_source(body.model), source)
        part = f"train[{body.start}:{body.start + PREVIEW_ROWS}]"
        document["data"] = {"train": {**source, "split": part}, "bad_rows": "drop"}
        document = {key: document[key] for key in ("model", "data", "objective")}
        return asdict(bottega.preview(bottega.Recipe.parse(document, folder=workshop.runs.parent), PREVIEW_ROWS))

    return await in_thread(work)


@router.post("/plan")
async def plan_recipe(request: Request, body: Draft) -> Any:
    """What a recipe will take, counted and not tried."""
    recipe = bottega.Recipe.parse(body.document or {}, folder=workshop_of(request).runs.parent)
    return (await in_thread(lambda: bottega.plan(recipe, measured=False))).document()


@router.post("/measure")
async def measure_recipe(request: Request, body: Draft) -> Any:
    """What a recipe will take, measured by short runs: a task, after those that wait."""
    workshop = workshop_of(request)
    recipe = bottega.Recipe.parse(body.document or {}, folder=workshop.runs.parent)
    return {"task": await in_thread(lambda: workshop.submit_plan(recipe))}
