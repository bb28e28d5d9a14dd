"""Commands for the fine-tuning jobs of a server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

import bottega
from bottega.cli.api_client import DEFAULT_URL, ApiClient, Url
from bottega.cli.app import USE, Json, app, errors
from bottega.cli.local_server import Local, api_client
from bottega.cli.server_state import Database, name_and_source

jobs_app = typer.Typer(help="Create, follow, pause and cancel the fine-tuning jobs of a server.", no_args_is_help=True)
app.add_typer(jobs_app, name="jobs", rich_help_panel=USE)

JobId = Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")]
JOBS = "/fine_tuning/jobs"
FINAL = ("succeeded", "failed", "cancelled")

# Seconds between looks at a job that is followed.
FOLLOW_SECONDS = 1.0


@jobs_app.command("create")
def create(
    model: Annotated[str, typer.Argument(help="A model that is served.")],
    training: Annotated[
        str, typer.Argument(metavar="FILE", help="Training rows: a file here, or the id of one there.")
    ],
    validation: Annotated[str | None, typer.Option(help="Validation rows, in the same way.")] = None,
    method: Annotated[str, typer.Option(help="supervised, dpo or reinforcement.")] = "supervised",
    suffix: Annotated[str | None, typer.Option(help="Part of the name of the tuned model.")] = None,
    seed: Annotated[int | None, typer.Option(help="Equal seeds and rows make equal models.")] = None,
    hyperparameters: Annotated[
        str | None, typer.Option("--hyperparameters", "-H", help='A JSON object: {"n_epochs": 3}.')
    ] = None,
    grader: Annotated[Path | None, typer.Option(help="Of reinforcement: a JSON file with the grader.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for its end, and show what happens.")] = False,
    url: Url = DEFAULT_URL,
    local: Local = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Create a job; files that are here are uploaded. Without a server it is trained now, and MODEL may be a folder."""
    name, source = (model, model) if local is None else name_and_source(model)
    models = {} if name.startswith("ft:") else {name: source}
    with errors(as_json), api_client(url, local, database, models=models, runs_jobs=True) as client:
        options: dict[str, Any] = {}
        if hyperparameters is not None:
            options["hyperparameters"] = _parsed("--hyperparameters", hyperparameters)
        if grader is not None:
            options["grader"] = _parsed(str(grader), grader.read_text(encoding="utf-8"))
        body = {
            "model": name,
            "training_file": _file_id(client, training),
            "validation_file": None if validation is None else _file_id(client, validation),
            "suffix": suffix,
            "seed": seed,
            "method": {"type": method, method: options},
        }
        job = client.post(JOBS, {name: value for name, value in body.items() if value is not None})
        if follow or local is not None:
            _follow(client, job["id"], quiet=as_json)
            job = client.get(f"{JOBS}/{job['id']}")
        if as_json:
            print(json.dumps(job))
        elif local is not None:
            print(f"next: bottega serve --folder {local}, and ask {job['fine_tuned_model']}")
        elif not follow:
            print(f"{job['id']}\nnext: bottega jobs events {job['id']} --follow")


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise bottega.RecipeError(f"not JSON: {error}", where=where, fix="write a JSON object") from None


def _file_id(client: ApiClient, name: str) -> str:
    path = Path(name)
    if path.is_file():
        return str(client.upload(path, "fine-tune")["id"])
    if not name.startswith("file-"):
        fix = "name a file here, or the id of one there: bottega files list"
        raise bottega.DataError("no such file", where=name, fix=fix)
    return name


@jobs_app.command("list")
def list_all(
    limit: Annotated[int | None, typer.Option("--limit", "-l", help="Most jobs; default: all.", min=1)] = None,
    url: Url = DEFAULT_URL,
    local: Local = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """List jobs, the newest first."""
    with errors(as_json), api_client(url, local, database) as client:
        jobs = list(client.pages(JOBS, limit))
        if as_json:
            print(json.dumps(jobs))
            return
        for job in jobs:
            method, tuned = job["method"]["type"], job["fine_tuned_model"] or ""
            print(f"{job['id']}  {job['status']:<16}  {method:<13}  {job['model']}  {tuned}".rstrip())


@jobs_app.command("retrieve")
def retrieve(job_id: JobId, url: Url = DEFAULT_URL, local: Local = None, database: Database = None) -> None:
    """Show a job, as JSON."""
    with errors(as_json=False), api_client(url, local, database) as client:
        print(json.dumps(client.get(f"{JOBS}/{job_id}"), indent=1))


@jobs_app.command("events")
def events(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
    url: Url = DEFAULT_URL,
    local: Local = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Show what has happened in a job, the oldest first. Without a server, --follow trains it meanwhile."""
    with errors(as_json), api_client(url, local, database, runs_jobs=follow) as client:
        if follow:
            _follow(client, job_id)
            return
        told = list(client.pages(f"{JOBS}/{job_id}/events"))[::-1]
        if as_json:
            print(json.dumps(told))
        else:
            for event in told:
                print(_line(event))


def _follow(client: ApiClient, job_id: str, *, quiet: bool = False) -> None:
    """Print the events of a job as they come, or wait `quiet`, until it ends; raise a RunError if it failed."""
    seen: set[str] = set()
    while True:
        job = client.get(f"{JOBS}/{job_id}")
        for event in list(client.pages(f"{JOBS}/{job_id}/events"))[::-1]:
            if event["id"] not in seen:
                seen.add(event["id"])
                if not quiet:
                    print(_line(event), flush=True)
        if job["status"] in FINAL:
            break
        time.sleep(FOLLOW_SECONDS)
    if job["status"] == "failed":
        raise bottega.RunError(job["error"]["message"], where=job_id, fix="correct this, and create another job")


def _line(event: dict[str, Any]) -> str:
    at = datetime.fromtimestamp(event["created_at"], UTC).strftime("%H:%M:%S")
    return f"{at} {'' if event['level'] == 'info' else event['level'] + ': '}{event['message']}"


@jobs_app.command("checkpoints")
def checkpoints(
    job_id: JobId, url: Url = DEFAULT_URL, local: Local = None, database: Database = None, as_json: Json = False
) -> None:
    """List the models of a job after each pass; each can be asked by its name."""
    with errors(as_json), api_client(url, local, database) as client:
        found = list(client.pages(f"{JOBS}/{job_id}/checkpoints"))
        if as_json:
            print(json.dumps(found))
        else:
            for one in found:
                print(f"{one['step_number']:>8}  {one['fine_tuned_model_checkpoint']}")


def _verb(name: str, words: str) -> Callable[..., None]:
    """A command that asks something of a job."""

    def ask(job_id: JobId, url: Url = DEFAULT_URL, local: Local = None, database: Database = None) -> None:
        with errors(as_json=False), api_client(url, local, database) as client:
            job = client.post(f"{JOBS}/{job_id}/{name}")
            print(f"{job_id} is {job['status']}")

    ask.__doc__ = words
    jobs_app.command(name)(ask)
    return ask


cancel = _verb("cancel", "End a job.")
pause = _verb("pause", "Let a running job save where it is, and give way to others.")
resume = _verb("resume", "Let a paused job go on.")
