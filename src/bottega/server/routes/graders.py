"""Graders, tried out on one answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

import bottega
from bottega.server.errors import ApiError, from_bottega
from bottega.server.generation import in_thread
from bottega.server.wire import SamplingFields, WireModel

router = APIRouter()

# What can go wrong, as the API names it; all of them are in every answer.
FLAGS = (
    "formula_parse_error", "sample_parse_error", "truncated_observation_error", "unresponsive_reward_error",
    "invalid_variable_error", "other_error", "python_grader_server_error", "python_grader_runtime_error",
    "model_grader_server_error", "model_grader_refusal_error", "model_grader_parse_error",
)  # fmt: skip

# Tokens of the answer of a model that grades.
GRADE_TOKENS = 64


class ValidateRequest(WireModel):
    """A grader to check."""

    grader: dict[str, Any]


class GradeRequest(ValidateRequest):
    """A grader, and what to grade: an answer, and the row it belongs to."""

    model_sample: str
    item: dict[str, Any] = Field(default_factory=dict)


@router.post("/v1/fine_tuning/alpha/graders/validate")
async def validate_grader(body: ValidateRequest) -> Any:
    """The grader, if it can be used."""
    _parsed(body.grader)
    return {"grader": body.grader}


@router.post("/v1/fine_tuning/alpha/graders/run")
async def run_grader(request: Request, body: GradeRequest) -> Any:
    """The grade of one answer."""
    grader, began = _parsed(body.grader), time.monotonic()
    text = bottega.GradedText(body.model_sample, body.item, _asker(request.app.state.deployment))
    flags: dict[str, Any] = dict.fromkeys(FLAGS, False)
    reward, grades = 0.0, dict[str, Any]()
    try:
        reward = await in_thread(lambda: grader.grade(text), "grader")
        grades = await in_thread(lambda: {name: part.grade(text) for name, part in grader.parts.items()}, "grader")
    except bottega.UngradableError as error:
        flags[error.flag] = True
        flags["other_error"] = error.flag == "other_error"
    errors = {
        **flags,
        "python_grader_runtime_error_details": None,
        "python_grader_server_error_type": None,
        "model_grader_server_error_details": None,
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


def _parsed(document: dict[str, Any]) -> bottega.Grader:
    try:
        return bottega.parse_grader(document)
    except bottega.DataError as error:
        raise from_bottega(error, "grader") from None


def _asker(deployment: bottega.Deployment) -> Callable[[str, Sequence[Mapping[str, Any]], Mapping[str, Any]], str]:
    """Asks a model that is served."""

    def ask(name: str, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
        try:
            model = deployment.language(name)
            sampling = SamplingFields.model_validate({"temperature": 0, **settings}).sampling(GRADE_TOKENS)
            return model.answer(messages, sampling)
        except (bottega.BottegaError, ValueError, ApiError) as error:
            raise bottega.UngradableError("model_grader_server_error", str(error)) from None

    return ask
