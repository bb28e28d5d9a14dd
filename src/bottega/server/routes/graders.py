"""Graders, tried out on one answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

import bottega
from bottega.server.errors import from_bottega, unsupported
from bottega.server.generation import in_thread
from bottega.server.wire import WireModel

router = APIRouter()

# What can go wrong, as the API names it; all of them are in every answer.
FLAGS = (
    "formula_parse_error", "sample_parse_error", "truncated_observation_error", "unresponsive_reward_error",
    "invalid_variable_error", "other_error", "python_grader_server_error", "python_grader_runtime_error",
    "model_grader_server_error", "model_grader_refusal_error", "model_grader_parse_error",
)  # fmt: skip


class ValidateRequest(WireModel):
    """A grader to check."""

    grader: dict[str, Any]


class GradeRequest(ValidateRequest):
    """A grader, and what to grade: an answer, and the row it belongs to."""

    model_sample: str
    item: dict[str, Any] = Field(default_factory=dict)


@router.post("/v1/fine_tuning/alpha/graders/validate")
async def validate_grader(request: Request, body: ValidateRequest) -> Any:
    """The grader, if it can be used."""
    await in_thread(lambda: parse_allowed(request, body.grader, "grader"))
    return {"grader": body.grader}


@router.post("/v1/fine_tuning/alpha/graders/run")
async def run_grader(request: Request, body: GradeRequest) -> Any:
    """The grade of one answer."""
    grader, began = await in_thread(lambda: parse_allowed(request, body.grader, "grader")), time.monotonic()
    text = bottega.GradedText(body.model_sample, body.item, _asker(request.app.state.deployment))
    flags: dict[str, Any] = dict.fromkeys(FLAGS, False)
    details: dict[str, str] = {}
    reward, grades = 0.0, dict[str, Any]()
    try:
        reward, grades = await in_thread(lambda: grader.grade_with_parts(text), "grader")
    except bottega.UngradableError as error:
        flags[error.flag] = True
        details[error.flag] = error.reason
    errors = {
        **flags,
        "python_grader_runtime_error_details": details.get("python_grader_runtime_error"),
        "python_grader_server_error_type": details.get("python_grader_server_error"),
        "model_grader_server_error_details": details.get("model_grader_server_error"),
    }
    return {
        "reward": reward,
        "sub_rewards": grades,
        "model_grader_token_usage_per_model": {},
        "metadata": {
            "name": body.grader.get("name", ""),
            "type": grader.type,
            "errors": errors,
            "execution_time": time.monotonic() - began,
            "scores": grades,
            "token_usage": None,
            "sampled_model_name": None,
        },
    }


def parse_allowed(request: Request, document: dict[str, Any], place: str) -> bottega.Grader:
    """The grader in the field `place`; an ApiError for one that is wrong, or runs code where that is not allowed."""
    # Before it is parsed: code is compiled then.
    if _names_code(document) and not request.app.state.backend.jobs.runs_code:
        raise unsupported(place, "its operator allows no code of graders; bottega serve --allow-python would")
    try:
        return bottega.parse_grader(document)
    except bottega.DataError as error:
        raise from_bottega(error, place) from None


def _names_code(document: Any) -> bool:
    """Whether a grader, or one within it, is code."""
    if not isinstance(document, dict):
        return False
    parts = document.get("graders")
    within = [parts, *parts.values()] if isinstance(parts, dict) else []
    return document.get("type") == "python" or any(map(_names_code, within))


def _asker(deployment: bottega.Deployment) -> Callable[[str, Sequence[Mapping[str, Any]], bottega.Sampling], str]:
    """Asks a model that is served."""

    def ask(name: str, messages: Sequence[Mapping[str, Any]], settings: bottega.Sampling) -> str:
        return deployment.language(name).answer(messages, settings)

    return ask
