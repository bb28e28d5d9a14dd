"""Tasks: what is done, waits and was done."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from bottega.studio.calls import in_thread, workshop_of

router = APIRouter(prefix="/tasks")


@router.get("")
async def list_tasks(request: Request) -> Any:
    """All tasks, the newest first; results only of those asked for one by one."""
    documents = await in_thread(workshop_of(request).tasks.documents)
    return [{key: value for key, value in document.items() if key not in ("result", "log")} for document in documents]


@router.get("/{task}")
async def get_task(request: Request, task: str) -> Any:
    """One task, with its result."""
    return await in_thread(lambda: workshop_of(request).tasks.document(task))


@router.post("/{task}/stop")
async def stop_task(request: Request, task: str) -> Any:
    """Ask a task to stop in order."""
    return await in_thread(lambda: workshop_of(request).tasks.stop(task))


@router.delete("/{task}")
async def forget_task(request: Request, task: str) -> Any:
    """Forget a task that has ended."""
    await in_thread(lambda: workshop_of(request).tasks.forget(task))
    return {}
