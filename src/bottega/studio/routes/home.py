"""What is here and what is under way, and the demo."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from bottega.studio.calls import in_thread, workshop_of
from bottega.studio.workshop import Workshop

router = APIRouter()

# Tasks that the first page shows besides those under way.
RECENT_TASKS = 4


class Demo(BaseModel):
    """The demo: a small invented world, in a language."""

    model_config = ConfigDict(extra="forbid")

    language: Literal["en", "it"] = "en"
    seed: int = 0


@router.get("/home")
async def home(request: Request) -> Any:
    """Everything on the first page."""
    return await in_thread(lambda: _home(workshop_of(request)))


def _home(workshop: Workshop) -> dict[str, Any]:
    tasks = [
        {key: value for key, value in task.items() if key not in ("log", "arguments")}
        for task in workshop.tasks.documents()
        # A form measures what is in it, and shows that itself.
        if task["verb"] != "plan"
    ]
    under_way = [task for task in tasks if task["status"] in ("running", "waiting")]
    recent = [task for task in tasks if task["status"] not in ("running", "waiting")][:RECENT_TASKS]
    return {
        "tasks": [*under_way, *recent],
        "runs": workshop.run_names(),
        "data": [{"name": name, **asdict(workshop.data.versions(name)[0])} for name in workshop.data.names()],
        "models": list(workshop.models()),
        "machine": _machine(),
    }


def _machine() -> dict[str, Any]:
    """What this machine has: cores, and bytes of memory, in all and free."""
    page = os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": os.cpu_count(),
        "memory": page * os.sysconf("SC_PHYS_PAGES"),
        "free": page * os.sysconf("SC_AVPHYS_PAGES"),
    }


@router.post("/demo")
async def start_demo(request: Request, body: Demo) -> Any:
    """Data sets of an invented world, a tokenizer and a small model that has read them: a task."""
    workshop = workshop_of(request)
    folders = {"data": str(workshop.data.folder), "made": str(workshop.made)}
    more = {"language": body.language, "seed": body.seed}

    def work() -> dict[str, Any]:
        task, _ = workshop.submit_run("demo", "demo-base", lambda _, run: {**folders, **more, "run": str(run)})
        return {"task": task}

    return await in_thread(work)
