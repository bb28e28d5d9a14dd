"""Fine-tuning jobs."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field, ValidationError
from sqlalchemy import select

import bottega
from bottega.server.errors import ApiError, from_validation, no_such_model, unsupported
from bottega.server.generation import in_thread
from bottega.server.jobs.methods import DEFAULT, METHODS
from bottega.server.jobs.runner import JobRunner
from bottega.server.pages import page_document
from bottega.server.routes.files import existing_file
from bottega.server.routes.graders import parse_allowed
from bottega.server.state import Job, JobEvent, State, TunedModel
from bottega.server.wire import RETRY_SECONDS, WireModel, is_retry

router = APIRouter()

# A condition of a list: metadata[key].
METADATA = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)

Auto = Literal["auto"]


class Hyperparameters(WireModel):
    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] = "auto"
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] = "auto"
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0)] = "auto"


class PairHyperparameters(Hyperparameters):
    beta: Auto | Annotated[float, Field(gt=0, le=2)] = "auto"


class RewardHyperparameters(Hyperparameters):
    """`eval_interval`, `eval_samples` and `reasoning_effort` are accepted, and change nothing here."""

    compute_multiplier: Auto | Annotated[float, Field(gt=1e-5, le=8)] = "auto"


HYPERPARAMETERS = {"answers": Hyperparameters, "pairs": PairHyperparameters, "prompts": RewardHyperparameters}


class MethodFields(WireModel):
    """The method, and beside it a field with its name, which has its hyper-parameters."""

    type: str


class JobRequest(WireModel):
    """The body of a new job; `hyperparameters` is where they stood before there were methods."""

    model: str
    training_file: str
    validation_file: str | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]*$")] | None = None
    seed: int | None = Field(None, ge=0, le=(1 << 31) - 1)
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        None, max_length=16
    )
    integrations: list[dict[str, Any]] | None = None
    hyperparameters: Hyperparameters | None = None
    method: MethodFields | None = None


def job_document(job: Job) -> dict[str, Any]:
    """A job, as the API describes it."""
    hyperparameters = dict(job.hyperparameters)
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "estimated_finish": job.estimated_finish,
        "model": job.model,
        "fine_tuned_model": job.fine_tuned_model,
        "organization_id": "org-local",
        "result_files": [] if job.result_file is None else [job.result_file],
        "status": job.status,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        # Only where they were before there were methods: the client knows no others there.
        "hyperparameters": hyperparameters if job.method == DEFAULT else {},
        "trained_tokens": job.trained_tokens,
        "error": job.error,
        "user_provided_suffix": job.suffix,
        "seed": job.seed,
        "integrations": job.integrations or [],
        "metadata": job.details,
        "method": {"type": job.method, job.method: _method_document(job)},
    }


def _method_document(job: Job) -> dict[str, Any]:
    document: dict[str, Any] = {"hyperparameters": dict(job.hyperparameters)}
    return document if job.grader is None else {"grader": job.grader, **document}


@router.post("/v1/fine_tuning/jobs")
async def create_job(request: Request, body: JobRequest) -> Any:
    """Create a job; its files are validated afterwards."""
    method, asked, grader = await in_thread(lambda: _method_and_options(request, body))
    deployment: bottega.Deployment = request.app.state.deployment
    if body.model not in deployment.names:
        raise no_such_model(body.model)
    for field in ("training_file", "validation_file"):
        file_id = getattr(body, field)
        if file_id is not None:
            _check_file(request, file_id, field)
    source = await in_thread(lambda: _source(deployment, body.model), "model")
    digest = hashlib.sha256(json.dumps(body.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
    key = request.headers.get("idempotency-key")
    digest = hashlib.sha256(key.encode()).hexdigest() if key else digest
    if key or is_retry(request):
        earlier = _earlier(request, digest)
        if earlier is not None:
            return job_document(earlier)
    job = Job(
        id=f"ftjob-{secrets.token_hex(12)}",
        created_at=int(time.time()),
        model=body.model,
        source=source,
        training_file=body.training_file,
        validation_file=body.validation_file,
        suffix=body.suffix,
        seed=secrets.randbelow(1 << 31) if body.seed is None else body.seed,
        method=method,
        hyperparameters=asked,
        grader=grader,
        details=body.metadata,
        integrations=body.integrations,
        request=digest,
    )
    runner: JobRunner = request.app.state.jobs
    judges = await in_thread(lambda: _judges(deployment, method, grader), f"method.{method}.grader")
    await in_thread(lambda: runner.submit(job, judges))
    return job_document(_existing_job(request, job.id))


def _judges(deployment: bottega.Deployment, method: str, grader: dict[str, Any] | None) -> dict[str, str]:
    """Where the models are that a grader asks."""
    names = () if grader is None else bottega.parse_grader(grader).model_names
    return {name: _source(deployment, name) for name in names}


def _method_and_options(request: Request, body: JobRequest) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    """(the method, the hyper-parameters asked for, those that were not as "auto", the grader if the method has one)."""
    name = DEFAULT if body.method is None else body.method.type
    if name not in METHODS:
        raise unsupported("method.type", f"'{name}' is none of {', '.join(METHODS)}")
    options = (body.method.model_extra or {}).get(name) if body.method is not None else None
    options = options if isinstance(options, dict) else {}
    given = options.get("hyperparameters")
    if given is None:
        given = {} if body.hyperparameters is None else body.hyperparameters.model_dump()
    kind = HYPERPARAMETERS[METHODS[name].rows]
    try:
        asked = kind.model_validate(given)
    except ValidationError as error:
        place = ("body", "method", name, "hyperparameters")
        raise from_validation([{**one, "loc": (*place, *one["loc"])} for one in error.errors()]) from None
    grader = _checked_grader(request, name, options) if METHODS[name].rows == "prompts" else None
    return name, asked.model_dump(include=set(kind.model_fields)), grader


def _checked_grader(request: Request, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The grader of a method that learns from grades."""
    place, grader = f"method.{name}.grader", options.get("grader")
    if options.get("response_format") is not None:
        raise unsupported(f"method.{name}.response_format", "answers are plain text")
    if not isinstance(grader, dict):
        message = f"Missing required parameter: '{place}'."
        raise ApiError(400, message, param=place, code="missing_required_parameter")
    parse_allowed(request, grader, place)
    return grader


def _source(deployment: bottega.Deployment, name: str) -> str:
    if deployment.head(name) != "language":
        raise bottega.ModelError("only language models are tuned here", where=name, fix="bottega train tunes others")
    return deployment.source(name)


def _check_file(request: Request, file_id: str, field: str) -> None:
    try:
        file = existing_file(request, file_id)
    except ApiError:
        raise ApiError(400, f"invalid {field}: {file_id}", param=field) from None
    if file.purpose != "fine-tune":
        message = f"invalid {field}: {file_id} was uploaded with the purpose '{file.purpose}', not 'fine-tune'"
        raise ApiError(400, message, param=field)


def _earlier(request: Request, digest: str) -> Job | None:
    """The job that the same request made a moment ago."""
    state: State = request.app.state.tables
    with state.transaction() as session:
        since = int(time.time()) - RETRY_SECONDS
        return session.scalars(select(Job).filter_by(request=digest).where(Job.created_at > since)).first()


def _existing_job(request: Request, job_id: str) -> Job:
    state: State = request.app.state.tables
    job = state.get(Job, job_id)
    if job is None:
        raise ApiError(404, f"Could not find fine tune: {job_id}", param="fine_tune_id", code="fine_tune_not_found")
    return job


@router.get("/v1/fine_tuning/jobs")
async def list_jobs(request: Request, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20) -> Any:
    """All jobs, the newest first; `metadata[key]=value` selects those with it, `metadata=null` those without any."""
    where = await in_thread(lambda: _by_metadata(request))
    return page_document(request, Job, job_document, after=after, limit=limit, where=where)


def _by_metadata(request: Request) -> list[Any]:
    """The conditions on metadata in a query."""
    wanted: dict[str, str] | None = {}
    for name, value in request.query_params.multi_items():
        found = METADATA.fullmatch(name)
        if name == "metadata" and value == "null":
            wanted = None
        elif found and wanted is not None:
            wanted[found[1]] = value
        elif name.startswith("metadata"):
            message = f"Invalid value for '{name}': write metadata[key]=value, or metadata=null."
            raise ApiError(400, message, param=name, code="invalid_value")
    if wanted == {}:
        return []
    state: State = request.app.state.tables
    with state.transaction() as session:
        # Compared here: what SQL finds in JSON differs between databases, for keys with signs of its paths.
        details = [(number, found) for number, found in session.execute(select(Job.number, Job.details))]
    fits = [number for number, found in details if _has(found, wanted)]
    return [Job.number.in_(fits)]


def _has(details: dict[str, Any] | None, wanted: dict[str, str] | None) -> bool:
    """Whether a job has this metadata; None is for a job without any."""
    if wanted is None or details is None:
        return wanted is None and not details
    return all(details.get(key) == value for key, value in wanted.items())


@router.get("/v1/fine_tuning/jobs/{job_id}")
async def retrieve_job(request: Request, job_id: str) -> Any:
    """One job."""
    return job_document(_existing_job(request, job_id))


@router.post("/v1/fine_tuning/jobs/{job_id}/cancel")
async def cancel_job(request: Request, job_id: str) -> Any:
    """End a job."""
    return _ask(request, job_id, "cancel")


@router.post("/v1/fine_tuning/jobs/{job_id}/pause")
async def pause_job(request: Request, job_id: str) -> Any:
    """Let a running job save where it is, and give way to others."""
    return _ask(request, job_id, "pause")


@router.post("/v1/fine_tuning/jobs/{job_id}/resume")
async def resume_job(request: Request, job_id: str) -> Any:
    """Let a paused job go on."""
    return _ask(request, job_id, "run")


def _ask(request: Request, job_id: str, wanted: str) -> dict[str, Any]:
    _existing_job(request, job_id)
    runner: JobRunner = request.app.state.jobs
    try:
        return job_document(runner.ask(job_id, wanted))
    except ValueError as error:
        raise ApiError(400, str(error), code="invalid_job_state") from None


@router.get("/v1/fine_tuning/jobs/{job_id}/events")
async def list_events(
    request: Request, job_id: str, after: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 20
) -> Any:
    """What has happened in a job, the newest first."""
    _existing_job(request, job_id)
    return page_document(request, JobEvent, _event_document, after=after, limit=limit, job_id=job_id)


def _event_document(event: JobEvent) -> dict[str, Any]:
    return {
        "object": "fine_tuning.job.event",
        "id": event.id,
        "created_at": event.created_at,
        "level": event.level,
        "message": event.message,
        "type": event.type,
        "data": event.data or {},
    }


@router.get("/v1/fine_tuning/jobs/{job_id}/checkpoints")
async def list_checkpoints(
    request: Request, job_id: str, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 10
) -> Any:
    """The models of a job after each pass, the newest first; each can be asked by its name."""
    _existing_job(request, job_id)
    return page_document(
        request, TunedModel, _checkpoint_document, after=after, limit=limit, job_id=job_id, is_checkpoint=True
    )


def _checkpoint_document(model: TunedModel) -> dict[str, Any]:
    return {
        "object": "fine_tuning.job.checkpoint",
        "id": model.id,
        "created_at": model.created_at,
        "fine_tuned_model_checkpoint": model.name,
        "fine_tuning_job_id": model.job_id,
        "step_number": model.step,
        "metrics": model.metrics,
    }
