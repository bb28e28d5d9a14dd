"""Graders tried out through the client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from serving import TEMPLATE, Running, start_with_folder

from making import make_model

CHECK: dict[str, Any] = {
    "type": "string_check",
    "name": "city",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.city}}",
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("graders")
    base = make_model(folder / "base", template=TEMPLATE, max_position_embeddings=512)
    with start_with_folder(folder / "state", base=base, runs_graders_code=True) as running:
        assert isinstance(running, Running)
        with running.client() as client:
            yield client


def test_an_answer_is_graded(client: openai.OpenAI) -> None:
    run = client.fine_tuning.alpha.graders.run
    for sample, reward in (("Siena", 1.0), ("Pisa", 0.0)):
        answer = run(grader=CHECK, model_sample=sample, item={"city": "Siena"})  # type: ignore[arg-type]
        assert (answer.reward, answer.metadata.name, answer.metadata.type) == (reward, "city", "string_check")
        assert not answer.metadata.errors.invalid_variable_error
    combined: Any = {"type": "multi", "name": "m", "graders": {"one": CHECK}, "calculate_output": "one / 2"}
    answer = run(grader=combined, model_sample="Siena", item={"city": "Siena"})
    assert (answer.reward, answer.sub_rewards) == (0.5, {"one": 1.0})
    lost = run(grader=CHECK, model_sample="Siena", item={})  # type: ignore[arg-type]
    assert (lost.reward, lost.metadata.errors.invalid_variable_error) == (0.0, True)


def test_a_model_that_is_served_grades(client: openai.OpenAI) -> None:
    """A random model answers no number, or any."""
    grader: Any = {
        "type": "score_model",
        "name": "judge",
        "model": "base",
        "input": [{"role": "user", "content": "Grade {{sample.output_text}}"}],
    }
    answer = client.fine_tuning.alpha.graders.run(grader=grader, model_sample="Siena")
    assert answer.metadata.errors.api_model_grader_parse_error or 0 <= answer.reward <= 1
    other = client.fine_tuning.alpha.graders.run(grader={**grader, "model": "nope"}, model_sample="Siena")
    assert other.metadata.errors.api_model_grader_server_error


def test_code_grades_where_it_is_allowed(client: openai.OpenAI) -> None:
    code: Any = {"type": "python", "name": "c", "source": "def grade(sample, item): return len(item['city'])"}
    assert client.fine_tuning.alpha.graders.run(grader=code, model_sample="", item={"city": "Siena"}).reward == 5
    lost = client.fine_tuning.alpha.graders.run(grader=code, model_sample="", item={})
    assert lost.metadata.errors.python_grader_runtime_error
    assert lost.metadata.errors.python_grader_runtime_error_details == "KeyError: 'city'"


def test_graders_are_validated(client: openai.OpenAI) -> None:
    answer = client.fine_tuning.alpha.graders.validate(grader=CHECK)  # type: ignore[arg-type]
    assert answer.grader is not None
    for wrong in ({**CHECK, "operation": "about"}, {"type": "python", "name": "p", "source": "x"}, {}):
        with pytest.raises(openai.BadRequestError) as raised:
            client.fine_tuning.alpha.graders.validate(grader=wrong)  # type: ignore[arg-type]
        assert raised.value.param == "grader"
