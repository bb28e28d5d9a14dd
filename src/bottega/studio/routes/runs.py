"""Runs: started, watched, paused, evaluated, exported."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict

import bottega
from bottega.studio.calls import in_thread, parse_yaml, workshop_of
from bottega.studio.workshop import Workshop

router = APIRouter(prefix="/runs")

# Events of a run that are sent at once.
MAX_EVENTS = 5000


class NewRun(BaseModel):
    """A run to start: a recipe, as a document or as YAML with its comments."""

    model_config = ConfigDict(extra="forbid")

    recipe: dict[str, Any] | None = None
    text: str | None = None


class Questions(BaseModel):
    """How a run is evaluated: fields of `bottega.EvaluateOptions`."""

    model_config = ConfigDict(extra="forbid")

    options: dict[str, Any] = {}


class NewExport(BaseModel):
    """A format to export a run to."""

    model_config = ConfigDict(extra="forbid")

    format: str


@router.get("")
async def list_runs(request: Request) -> Any:
    """All runs at a glance, the most recent first."""
    return await in_thread(workshop_of(request).run_names)


@router.post("")
async def start_run(request: Request, body: NewRun) -> Any:
    """Start a run: a task."""
    return await in_thread(lambda: _start(workshop_of(request), body))


def _start(workshop: Workshop, body: NewRun) -> dict[str, Any]:
    document = body.recipe if body.text is None else parse_yaml(body.text)
    if document is None:
        raise bottega.RecipeError("not a recipe", where="recipe", fix="send one")
    recipe = bottega.Recipe.parse(document, folder=workshop.runs.parent)
    more = {"recipe": recipe.document(), "written": body.text}
    task, name = workshop.submit_run("train", recipe.name, lambda _, run: {"run": str(run), **more})
    return {"task": task, "run": name}


@router.get("/{run}")
async def get_run(request: Request, run: str, since: int = 0, generation: int | None = None) -> Any:
    """A run and its events from number `since` on; `next` is the number to ask from the next time.

    generation  that of the last answer; in another one, events are sent from the beginning
    """
    return await in_thread(lambda: _overview(workshop_of(request), run, since, generation))


def _overview(workshop: Workshop, run: str, since: int, generation: int | None) -> dict[str, Any]:
    folder = workshop.run_folder(run)
    tasks = [task for task in workshop.tasks.documents() if tuple(task["subject"]) == ("run", run)]
    under_way = [
        {key: task.get(key) for key in ("id", "verb", "status", "progress", "failure", "log")} for task in tasks
    ]
    if not (folder / "recipe.yaml").exists() and tasks:  # it waits, or failed before its first update
        return {"id": run, "status": tasks[0]["status"], "tasks": under_way, "events": [], "since": 0, "next": 0}
    follower = workshop.follow(run)
    history, summary = follower.history, follower.summary()
    # A resume takes back the events of updates that it repeats: whoever has seen them begins again.
    since = since if since <= len(history) and generation in (None, follower.generation) else 0
    events = history[since : since + MAX_EVENTS]
    return {
        **summary,
        "generation": follower.generation,
        "id": run,
        "tasks": under_way,
        "events": [_finite(event) for event in events],
        "since": since,
        "next": since + len(events),
        "more": since + len(events) < len(history),
        "has_report": (folder / "report.json").exists(),
    }


def _finite(value: Any) -> Any:
    """Plain data without NaN and infinities, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list) else value


@router.get("/{run}/recipe")
async def get_recipe(request: Request, run: str) -> Any:
    """The recipe of a run: as written, and with every key."""
    folder = workshop_of(request).run_folder(run)
    recipe = await in_thread(lambda: bottega.stored_recipe(folder, own_code=False))
    return {"text": (folder / "recipe.yaml").read_text(encoding="utf-8"), "document": recipe.document()}


@router.post("/{run}/stop")
async def stop_run(request: Request, run: str) -> Any:
    """Let a run save where it is, and end."""
    return await in_thread(lambda: _stop(workshop_of(request), run))


def _stop(workshop: Workshop, run: str) -> dict[str, Any]:
    for task in workshop.tasks.documents():
        if tuple(task["subject"]) == ("run", run) and task["status"] in ("running", "waiting"):
            return workshop.tasks.stop(task["id"])
    fix = "stop it where it was started"
    raise bottega.RunError("it is not running here", where=run, fix=fix)


@router.post("/{run}/resume")
async def resume_run(request: Request, run: str) -> Any:
    """Let a run go on where it was stopped: a task."""
    workshop = workshop_of(request)
    folder = workshop.run_folder(run)
    await in_thread(lambda: bottega.show(folder))
    return {"task": workshop.tasks.submit("train", {"run": str(folder), "resume": True}, ("run", run)).id}


@router.post("/{run}/evaluate")
async def evaluate_run(request: Request, run: str, body: Questions) -> Any:
    """Evaluate a run against its baselines: a task."""
    workshop = workshop_of(request)
    folder = workshop.run_folder(run)
    await in_thread(lambda: bottega.show(folder))
    arguments = {"run": str(folder), "options": body.options}
    return {"task": workshop.tasks.submit("evaluate", arguments, ("run", run)).id}


@router.get("/{run}/report")
async def get_report(request: Request, run: str) -> Any:
    """The report of an evaluated run, as data."""
    path = workshop_of(request).run_folder(run) / "report.json"
    return _finite(json.loads(await in_thread(lambda: _read(path, run))))


@router.get("/{run}/report.html")
async def get_report_page(request: Request, run: str) -> HTMLResponse:
    """The report of an evaluated run, as a page to keep."""
    path = workshop_of(request).run_folder(run) / "report.html"
    return HTMLResponse(await in_thread(lambda: _read(path, run)))


def _read(path: Path, run: str) -> str:
    if not path.exists():
        raise bottega.RunError("it has no verdict yet", where=run, fix="evaluate it first")
    return path.read_text(encoding="utf-8")


@router.post("/{run}/export")
async def export_run(request: Request, run: str, body: NewExport) -> Any:
    """Export a run: a task."""
    workshop = workshop_of(request)
    bottega.check_format(body.format)
    out = workshop.made / f"{run}-{body.format}"
    arguments = {"run": str(workshop.run_folder(run)), "format": body.format, "out": str(out)}
    return {"task": workshop.tasks.submit("export", arguments, ("run", run)).id, "folder": str(out)}


@router.delete("/{run}")
async def delete_run(request: Request, run: str) -> Any:
    """Delete a run that is not running."""
    await in_thread(lambda: _delete(workshop_of(request), run))
    return {}


def _delete(workshop: Workshop, run: str) -> None:
    folder = workshop.run_folder(run)
    tasks = [task for task in workshop.tasks.documents() if tuple(task["subject"]) == ("run", run)]
    under_way = any(task["status"] in ("waiting", "running") for task in tasks)
    # A run that failed before its first update has left no folder, only what is known of its task.
    if under_way or (folder.exists() and bottega.show(folder).summary["status"] == "running"):
        raise bottega.RunError("it is running", where=run, fix="stop it first")
    for task in tasks:
        with contextlib.suppress(KeyError):
            workshop.tasks.forget(task["id"])
    workshop.forget_run(run)
    if folder.exists():
        shutil.rmtree(folder)
