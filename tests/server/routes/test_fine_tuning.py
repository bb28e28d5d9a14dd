"""Fine-tuning through the unmodified client: from a file to an answer of the tuned model."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from serving import TEMPLATE, Running, start_with_folder

import bottega
from making import make_model

PATIENCE = 120
HELLO: Any = [{"role": "user", "content": "the cat"}]


def chat_rows(count: int = 12) -> list[dict[str, Any]]:
    rows = [("the cat", "sat on the mat"), ("a dog", "ran to a tree")]
    return [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        for asked, answer in rows * (count // 2)
    ]


def pair_rows(count: int = 12) -> list[dict[str, Any]]:
    return [
        {
            "input": {"messages": row["messages"][:1]},
            "preferred_output": row["messages"][1:],
            "non_preferred_output": [{"role": "assistant", "content": "one two three"}],
        }
        for row in chat_rows(count)
    ]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture(scope="module")
def tuning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with a base, which keeps files and jobs."""
    folder = tmp_path_factory.mktemp("tuning")
    base = make_model(folder / "base", template=TEMPLATE, max_position_embeddings=512)
    with start_with_folder(folder / "state", base=base) as running:
        yield running._replace(folder=folder)


@pytest.fixture(scope="module")
def client(tuning: Running) -> Iterator[openai.OpenAI]:
    with tuning.client() as client:
        yield client


def upload(client: openai.OpenAI, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    return client.files.create(file=(name, jsonl(rows)), purpose="fine-tune").id


def until(client: openai.OpenAI, job_id: str, done: Callable[[Any], bool]) -> Any:
    """The job, once it is in some state."""
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if done(job):
            return job
        time.sleep(0.1)
    raise AssertionError(f"{job.status}: {client.fine_tuning.jobs.list_events(job_id).data}")


def is_final(job: Any) -> bool:
    return job.status in ("succeeded", "failed", "cancelled")


@pytest.fixture(scope="module")
def tuned(client: openai.OpenAI) -> Any:
    """A supervised job that has succeeded."""
    files = {"training_file": upload(client, chat_rows()), "validation_file": upload(client, chat_rows(4))}
    numbers: Any = {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 20}
    job = client.fine_tuning.jobs.create(
        model="base", **files, suffix="my-x", seed=7, metadata={"a": "b"}, hyperparameters=numbers
    )
    assert job.status == "validating_files"
    return until(client, job.id, is_final)


def test_a_job_from_a_file_to_an_answer(tuning: Running, client: openai.OpenAI, tuned: Any) -> None:
    assert tuned.status == "succeeded", tuned.error
    assert tuned.fine_tuned_model.startswith("ft:base:local:my-x:")
    assert tuned.trained_tokens > 0
    assert (tuned.seed, tuned.metadata) == (7, {"a": "b"})
    assert tuned.finished_at >= tuned.created_at
    answer = client.chat.completions.create(model=tuned.fine_tuned_model, messages=HELLO, temperature=0, max_tokens=12)
    run = tuning.folder / "state" / "jobs" / tuned.id / "run"
    expected = bottega.load(run, dtype="float32").chat(HELLO, bottega.Sampling(tokens=12)).text
    assert answer.choices[0].message.content == expected
    assert (
        expected != bottega.load(tuning.folder / "base", dtype="float32").chat(HELLO, bottega.Sampling(tokens=12)).text
    )
    assert tuned.fine_tuned_model in {model.id for model in client.models.list()}


def test_events_tell_what_happened(client: openai.OpenAI, tuned: Any) -> None:
    """Newest first, in pages, to the end."""
    events = list(client.fine_tuning.jobs.list_events(tuned.id, limit=5))
    messages = [event.message for event in reversed(events)]
    assert len({event.id for event in events}) == len(events) > 10
    assert messages[0] == f"Created fine-tuning job: {tuned.id}"
    assert messages[1].startswith("Validating training file: file-")
    assert messages[2:4] == ["Files validated, moving job to queued state", "Fine-tuning job started"]
    assert messages[-2:] == [
        f"New fine-tuned model created: {tuned.fine_tuned_model}",
        "The job has successfully completed",
    ]
    steps = [event for event in reversed(events) if event.type == "metrics"]
    assert [event.data["step"] for event in steps] == list(range(1, 10))  # type: ignore[index]
    assert steps[0].message.startswith("Step 1/9: training loss=")
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.list_events(tuned.id, after="ftevent-nope")


def test_checkpoints_are_models(tuning: Running, client: openai.OpenAI, tuned: Any) -> None:
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(tuned.id))
    assert [one.step_number for one in checkpoints] == [9, 6, 3]
    run = tuning.folder / "state" / "jobs" / tuned.id / "run"
    for one in checkpoints:
        folder = run if one.step_number == 9 else run / "checkpoints" / f"step-{one.step_number:08d}"
        assert one.fine_tuned_model_checkpoint == f"{tuned.fine_tuned_model}:ckpt-step-{one.step_number}"
        assert one.metrics.train_loss
        name = one.fine_tuned_model_checkpoint
        answer = client.chat.completions.create(model=name, messages=HELLO, temperature=0, max_tokens=8)
        expected = bottega.load(folder, dtype="float32").chat(HELLO, bottega.Sampling(tokens=8)).text
        assert answer.choices[0].message.content == expected


def test_the_curves_are_a_file(client: openai.OpenAI, tuned: Any) -> None:
    (file_id,) = tuned.result_files
    assert client.files.retrieve(file_id).purpose == "fine-tune-results"
    lines = client.files.content(file_id).text.splitlines()
    assert lines[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert len(lines) == 10
    assert any(line.split(",")[3] for line in lines[1:])


def test_preferences_after_supervision(tuning: Running, client: openai.OpenAI, tuned: Any) -> None:
    """DPO trains the adapter of a tuned model further; "auto" becomes numbers."""
    job = client.fine_tuning.jobs.create(
        model=tuned.fine_tuned_model,
        training_file=upload(client, pair_rows()),
        method={"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1, "beta": 0.2}}},
    )
    done = until(client, job.id, is_final)
    assert done.status == "succeeded", done.error
    assert done.method.dpo.hyperparameters.beta == 0.2
    assert (done.method.dpo.hyperparameters.n_epochs, done.method.dpo.hyperparameters.batch_size) == (1, 1)
    assert done.fine_tuned_model.startswith("ft:base:local::")
    recipe = bottega.stored_recipe(tuning.folder / "state" / "jobs" / job.id / "run")
    assert recipe.objective.kind == "dpo"
    assert recipe.adapter is not None
    assert recipe.adapter.start is not None
    client.chat.completions.create(model=done.fine_tuned_model, messages=HELLO, max_tokens=3)
    client.models.delete(done.fine_tuned_model)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=done.fine_tuned_model, messages=HELLO, max_tokens=3)


ALIKE: Any = {
    "type": "text_similarity",
    "name": "alike",
    "evaluation_metric": "fuzzy_match",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}


def prompt_rows() -> list[dict[str, Any]]:
    return [{"messages": row["messages"][:1], "answer": row["messages"][1]["content"]} for row in chat_rows()]


def test_reinforcement_by_a_model_that_is_asked(tuning: Running, client: openai.OpenAI) -> None:
    """It gives one of these letters in any answer."""
    judge = {
        "type": "label_model",
        "name": "judge",
        "model": "base",
        "input": [{"role": "user", "content": "{{sample.output_text}}"}],
        "labels": ["e", "a", "o", "t"],
        "passing_labels": ["e", "a"],
        "sampling_params": {"max_completions_tokens": 40},
    }
    grader: Any = {
        "type": "multi",
        "name": "both",
        "graders": judge,
        "calculate_output": "judge / 10",
    }
    options: Any = {"grader": grader, "hyperparameters": {"n_epochs": 1, "compute_multiplier": 0.25}}
    job = client.fine_tuning.jobs.create(
        model="base",
        training_file=upload(client, prompt_rows()),
        method={"type": "reinforcement", "reinforcement": options},
    )
    done = until(client, job.id, is_final)
    assert done.status == "succeeded", done.error
    assert done.method.reinforcement.grader.name == "both"
    assert done.method.reinforcement.hyperparameters.batch_size == 4
    recipe = bottega.stored_recipe(tuning.folder / "state" / "jobs" / job.id / "run")
    assert recipe.objective.kind == "grpo"
    assert str(tuning.folder / "base") in recipe.objective.model_names
    client.chat.completions.create(model=done.fine_tuned_model, messages=HELLO, max_tokens=3)


def test_code_is_run_only_where_it_is_allowed(client: openai.OpenAI) -> None:
    code: Any = {"type": "python", "name": "code", "source": "def grade(sample, item): return 1.0"}
    both: Any = {"type": "multi", "name": "m", "graders": {"code": code, "alike": ALIKE}, "calculate_output": "code"}
    for grader in (code, both):
        with pytest.raises(openai.BadRequestError, match="allows no code") as raised:
            client.fine_tuning.jobs.create(
                model="base",
                training_file=upload(client, prompt_rows()),
                method={"type": "reinforcement", "reinforcement": {"grader": grader}},
            )
        assert raised.value.param == "method.reinforcement.grader"


def test_the_plain_and_asynchronous_client(tuning: Running) -> None:
    """All methods at once: each from its file to an answer of its model."""
    methods: dict[str, Any] = {
        "supervised": (chat_rows(), {}),
        "dpo": (pair_rows(), {}),
        "reinforcement": (prompt_rows(), {"grader": ALIKE}),
    }

    async def flow(client: openai.AsyncOpenAI, method: str) -> None:
        rows, options = methods[method]
        file = await client.files.create(file=("rows.jsonl", jsonl(rows)), purpose="fine-tune")
        numbers = {"n_epochs": 1, "batch_size": 6} | ({"compute_multiplier": 0.25} if "grader" in options else {})
        settings: Any = {"type": method, method: {"hyperparameters": numbers, **options}}
        job = await client.fine_tuning.jobs.create(
            model="base", training_file=file.id, method=settings, metadata={"flow": method}
        )
        while not is_final(job):
            await asyncio.sleep(0.1)
            job = await client.fine_tuning.jobs.retrieve(job.id)
        assert job.status == "succeeded", job.error
        events = [event async for event in client.fine_tuning.jobs.list_events(job.id, limit=4)]
        assert events[-1].message == f"Created fine-tuning job: {job.id}"
        (checkpoint,) = [one async for one in client.fine_tuning.jobs.checkpoints.list(job.id)]
        for name in (job.fine_tuned_model, checkpoint.fine_tuned_model_checkpoint):
            assert name is not None
            answer = await client.chat.completions.create(model=name, messages=HELLO, max_tokens=3)
            assert answer.usage
        (found,) = [one async for one in client.fine_tuning.jobs.list(metadata={"flow": method})]
        assert found.id == job.id

    async def all_flows() -> None:
        async with openai.AsyncOpenAI(base_url=f"{tuning.url}/v1", api_key="any", max_retries=0) as client:
            await asyncio.wait_for(asyncio.gather(*(flow(client, method) for method in methods)), PATIENCE)

    asyncio.run(all_flows())
    with tuning.client() as client:
        assert not list(client.fine_tuning.jobs.list(metadata={"flow": "none"}))
        without = list(client.fine_tuning.jobs.list(extra_query={"metadata": "null"}))
        assert all(job.metadata is None for job in without)
        odd = {'a "key"\n\\ §': "its value"}
        job = client.fine_tuning.jobs.create(model="base", training_file=upload(client, chat_rows(2)), metadata=odd)
        assert [found.id for found in client.fine_tuning.jobs.list(metadata=odd)] == [job.id]
        with pytest.raises(openai.BadRequestError) as raised:
            client.fine_tuning.jobs.list(extra_query={"metadata[]": "a"})
        assert raised.value.param == "metadata[]"


@pytest.mark.parametrize(
    ("rows", "method", "code", "words"),
    [
        (chat_rows(6), "supervised", "invalid_n_examples", "has 6 example(s), but must have at least 10 examples"),
        (pair_rows(), "supervised", "invalid_training_file", "fine-tune-preference format"),
        (chat_rows(), "dpo", "invalid_training_file", "(provided method=dpo)"),
        (
            [*chat_rows(), {"messages": [{"content": "a"}]}],
            "supervised",
            "invalid_training_file",
            "Example 13, message 1",
        ),
    ],
)
def test_files_are_validated(
    client: openai.OpenAI, rows: list[dict[str, Any]], method: Any, code: str, words: str
) -> None:
    job = client.fine_tuning.jobs.create(model="base", training_file=upload(client, rows), method={"type": method})
    done = until(client, job.id, is_final)
    assert done.status == "failed"
    assert done.error.code == code
    assert words in done.error.message
    assert done.error.param == "training_file"
    assert client.fine_tuning.jobs.list_events(job.id).data[0].level == "error"


def test_a_job_can_be_paused_resumed_and_cancelled(tuning: Running, client: openai.OpenAI) -> None:
    numbers: Any = {"n_epochs": 50, "batch_size": 1}
    job = client.fine_tuning.jobs.create(
        model="base", training_file=upload(client, chat_rows(40)), hyperparameters=numbers
    )
    until(client, job.id, lambda job: job.status == "running" and job.estimated_finish)
    with tuning.client(_strict_response_validation=False) as lenient:
        # The client's own types do not know this state.
        assert lenient.fine_tuning.jobs.pause(job.id).status == "paused"
        time.sleep(0.5)
        assert lenient.fine_tuning.jobs.resume(job.id).status == "queued"
    until(client, job.id, lambda job: job.status == "running")
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="is cancelled and cannot be cancelled"):
        client.fine_tuning.jobs.cancel(job.id)
    steps = [
        event.data["step"]
        for event in client.fine_tuning.jobs.list_events(job.id, limit=1000)
        if event.type == "metrics"
    ]  # type: ignore[index]
    assert len(steps) == len(set(steps)) > 0


def test_a_submission_that_is_repeated_is_one_job(tuning: Running, client: openai.OpenAI) -> None:
    body = {"model": "base", "training_file": upload(client, chat_rows(4))}
    with tuning.http() as http:
        first = http.post("/v1/fine_tuning/jobs", json=body).json()["id"]
        again = http.post("/v1/fine_tuning/jobs", json=body, headers={"x-stainless-retry-count": "1"}).json()["id"]
        other = http.post("/v1/fine_tuning/jobs", json=body).json()["id"]
        keyed = [
            http.post("/v1/fine_tuning/jobs", json=body, headers={"idempotency-key": "k"}).json()["id"]
            for _ in range(2)
        ]
    assert first == again != other
    assert len({first, other, *keyed}) == 3
    jobs = [job.id for job in client.fine_tuning.jobs.list(limit=2)]
    assert len(jobs) == len(set(jobs)) >= 3


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "nope"}, 404, None),
        ({"training_file": "file-nope"}, 400, "training_file"),
        ({"validation_file": "file-nope"}, 400, "validation_file"),
        ({"hyperparameters": {"n_epochs": 99}}, 400, None),
        ({"suffix": "a b"}, 400, "suffix"),
        ({"seed": -1}, 400, "seed"),
        ({"method": {"type": "magic"}}, 400, "method.type"),
        ({"method": {"type": "reinforcement"}}, 400, "method.reinforcement.grader"),
        (
            {"method": {"type": "reinforcement", "reinforcement": {"grader": {"type": "x"}}}},
            400,
            "method.reinforcement.grader",
        ),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 9}}}}, 400, None),
        ({"metadata": {"a": "x" * 600}}, 400, "metadata.a"),
    ],
)
def test_what_is_wrong_is_named(client: openai.OpenAI, change: dict[str, Any], status: int, param: str | None) -> None:
    body = {"model": "base", "training_file": upload(client, chat_rows(4)), **change}
    with pytest.raises(openai.APIStatusError) as raised:
        client.fine_tuning.jobs.create(**body)
    assert raised.value.status_code == status
    assert param is None or raised.value.param == param
    with pytest.raises(openai.NotFoundError, match="Could not find fine tune"):
        client.fine_tuning.jobs.retrieve("ftjob-nope")


def test_files_of_a_job_may_be_deleted(client: openai.OpenAI, tmp_path: Path) -> None:
    file = upload(client, chat_rows(20), name="perché.jsonl")
    assert client.files.retrieve(file).filename == "perché.jsonl"
    job = client.fine_tuning.jobs.create(model="base", training_file=file, hyperparameters={"n_epochs": 1})
    assert client.files.delete(file).deleted
    assert until(client, job.id, is_final).status == "succeeded"
