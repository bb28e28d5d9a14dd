"""What teaches nothing makes no example, and a run that learned nothing says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import bottega
from bottega.batch import Example
from bottega.data.sampler import validation_groups
from bottega.errors import DataError, RunError
from bottega.models.tokenizer import load_tokenizer
from bottega.objectives import build_objective
from bottega.objectives.contrastive import Contrastive
from bottega.recipe.schema import Recipe
from bottega.records import Compared, Message, Paired, Preference, Record, Unusable
from bottega.tokenization.codec import Codec
from making import WORDS, make_model, make_tokenizer, write_jsonl

PREFERRING = ["dpo", "simpo", "orpo", "cpo", "reward", "kto"]
TRIMS = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base") / "m", "bert")


def codec(folder: Path, *, length: int = 20, template: str | None = None) -> Codec:
    tokenizer = load_tokenizer(str(make_tokenizer(folder, template=template)))
    return Codec(tokenizer, max_length=length, too_long="truncate", both_ways=False)


@pytest.mark.parametrize("kind", PREFERRING)
def test_pairs_that_are_equal_after_the_cut_make_no_example(kind: str, tmp_path: Path) -> None:
    long = " the cat sat on the mat" * 4
    objective, cutting = build_objective({"kind": kind}), codec(tmp_path)
    with pytest.raises(Unusable, match="the same in every token, cut at 20"):
        objective.rows(Preference("1", "the", f"{long} red", f"{long} blue"), cutting)
    assert objective.rows(Preference("2", "the", " red", " blue"), cutting)


def test_pairs_that_a_template_makes_equal_make_no_example(tmp_path: Path) -> None:
    asked, said = (Message("user", "where"),), "on the mat"
    trimming = codec(tmp_path, length=100, template=TRIMS)
    with pytest.raises(Unusable, match=r"the same in every token$"):
        trimming.encode_pair(Preference("1", asked, said, f"{said} \n"))
    assert trimming.encode_pair(Preference("2", asked, said, f"{said}!"))


def test_texts_that_are_equal_after_the_cut_are_no_pair(tmp_path: Path) -> None:
    long = "the cat sat on the mat " * 4
    objective, cutting = Contrastive(), codec(tmp_path)
    for record in (Compared("1", f"{long} red", f"{long} blue", 0.1), Paired("2", f"{long} red", f"{long} blue")):
        with pytest.raises(Unusable, match="the two texts are the same in every token, cut at 20"):
            objective.rows(record, cutting)
        assert objective.evaluation_rows(record, cutting), "a benchmark keeps all its rows"
    with pytest.raises(Unusable, match=r"the same in every token$"):
        objective.rows(Compared("3", "a cat", "a cat", 0.1), cutting)
    assert objective.rows(Paired("4", "a cat", "a cat"), cutting), "meant: dropout tells the two apart"


def recipe(base: Path, folder: Path, rows: list[dict[str, Any]], **more: Any) -> Recipe:
    document: dict[str, Any] = {
        "model": {"base": str(base), "dtype": "float32", "dropout": 0.0},
        "data": {"train": str(write_jsonl(folder / "rows.jsonl", rows))},
        "objective": {"kind": "contrastive"},
        "optim": {"steps": 1, "examples": 4},
    }
    for name, section in more.items():
        document[name] = document.get(name, {}) | section
    return Recipe.parse(document)


def test_a_run_of_equal_pairs_does_not_start(tmp_path: Path) -> None:
    long = " the cat sat on the mat" * 4
    rows = [{"prompt": word, "chosen": f"{long} red", "rejected": f"{long} blue"} for word in WORDS[:4]]
    made = recipe(
        make_model(tmp_path / "m"), tmp_path, rows,
        objective={"kind": "dpo"}, data={"max_length": 20, "too_long": "truncate"},
    )  # fmt: skip
    with pytest.raises(DataError, match="nothing to learn: 4 rows: chosen and rejected are the same in every token"):
        list(bottega.train(made, tmp_path / "run"))


# What belongs together, and what is told apart


def examples(*records: Record, folder: Path) -> list[Example]:
    coding = codec(folder, length=100)
    return [Example(one.where, rows) for one in records for rows in Contrastive().rows(one, coding)]


def test_which_updates_have_something_to_tell_apart(tmp_path: Path) -> None:
    one, other = Paired("1", "a cat", "a dog"), Paired("2", "one red", "two blue")
    labelled = [Paired("1", "a cat", "a dog", label="x"), Paired("2", "one red", "two blue", label="x")]

    def teaches(*records: Record, **options: Any) -> bool:
        return Contrastive(**options).is_informative(examples(*records, folder=tmp_path))

    assert not teaches(one)
    assert not teaches(one, one)
    assert not teaches(*labelled)
    assert not teaches(one, Paired("2", "a cat", "a mat"))
    assert not teaches(one, Paired("2", "a cat", "a mat"), symmetric=True)
    assert teaches(one, other)
    assert teaches(*labelled, other)
    assert teaches(Paired("1", "a cat", "a dog", ("a mat",)))
    assert not teaches(Paired("1", "a cat", "a dog", ("a dog",))), "a negative that is the positive is none"
    assert teaches(Compared("1", "a cat", "a dog", 0.5))


def test_an_update_with_nothing_to_tell_apart_is_passed_over_and_told(base: Path, tmp_path: Path) -> None:
    rows = [{"anchor": f"the {w}", "positive": f"a {w}", "label": "ab"[n > 3]} for n, w in enumerate(WORDS[:6])]
    made = recipe(base, tmp_path, rows, optim={"steps": 9, "examples": 2, "lr": 1e-3}, save={"every": 1, "keep": 9})
    events = list(bottega.train(made, tmp_path / "run"))
    stepped = [event for event in events if event.type == "stepped"]
    assert len(stepped) == 9
    assert all(event.loss > 0 and event.grad_norm > 0 for event in stepped)
    passed = int(sum(event.metrics.get("passed_over", 0) for event in stepped))
    assert passed > 0
    assert stepped[-1].epoch == pytest.approx(2 * (9 + passed) / 6)
    notes = {event.subject: event.message for event in events if event.type == "noted"}
    assert "passed over for others" in notes["passed over"]
    assert notes["learning"].startswith(
        f"{passed} selections of examples were skipped, in which every text belongs to every other"
    )
    # Whoever goes on from before meets, and passes over, the same.
    first = next(event.step for event in stepped if "passed_over" in event.metrics)
    weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    later = [tmp_path / "run" / "checkpoints" / f"step-{step:08}" for step in range(first, 9)]
    for folder in (*later, tmp_path / "run" / "model"):
        shutil.rmtree(folder)
    list(bottega.resume(tmp_path / "run"))
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == weights


def test_a_run_with_nothing_to_tell_apart_does_not_start(base: Path, tmp_path: Path) -> None:
    alike = [{"anchor": f"the {word}", "positive": f"a {word}", "label": "1"} for word in WORDS[:6]]
    apart = [{"anchor": f"the {word}", "positive": f"a {word}"} for word in WORDS[:6]]
    for rows, optim in ((alike, {"examples": 4}), (apart, {"examples": 1}), (apart[:1], {"examples": 4})):
        with pytest.raises(DataError, match="nothing to tell apart"):
            bottega.preview(recipe(base, tmp_path, rows, optim=optim))
    assert bottega.preview(recipe(base, tmp_path, [*apart[:1], {**apart[1], "negative": "x"}], optim={"examples": 1}))


def test_validation_is_divided_evenly_and_a_lone_pair_is_refused(base: Path, tmp_path: Path) -> None:
    rows = [{"anchor": f"the {word}", "positive": f"a {word}"} for word in WORDS[:9]]
    lone = write_jsonl(tmp_path / "lone.jsonl", rows[:1])
    made = recipe(base, tmp_path, rows, data={"validation": str(lone)}, evaluate={})
    with pytest.raises(DataError, match="nothing to tell apart") as caught:
        list(bottega.train(made, tmp_path / "run"))
    assert "lone.jsonl line 1" in str(caught.value.where)
    pairs = [Paired(str(number), f"the {word}", f"a {word}") for number, word in enumerate(WORDS[:9])]
    parts = validation_groups(examples(*pairs, folder=tmp_path), made)
    assert [len(part) for part in parts] == [3, 3, 3]
    assert sorted(one.id for part in parts for one in part) == sorted(pair.where for pair in pairs)
    labelled = [Paired(str(number), f"the {number}", f"a {number}", label="ab"[number > 7]) for number in range(9)]
    told = validation_groups(examples(*labelled, folder=tmp_path), made)
    assert len(told) == 1, "only the part with b in it tells anything"


def test_two_positives_of_one_anchor_are_no_negatives(base: Path, tmp_path: Path) -> None:
    """In the loss as with a label, and in the measure; what cannot be told from anything is not counted."""
    pairs = [(f"the {word}", f"{kind} {word}") for word in WORDS[:4] for kind in ("a", "one")]
    rows = [{"anchor": anchor, "positive": positive} for anchor, positive in pairs]
    losses = []
    for name, made_of in (("plain", rows), ("labelled", [{**row, "label": row["anchor"]} for row in rows])):
        (tmp_path / name).mkdir()
        made = recipe(base, tmp_path / name, made_of, optim={"examples": 8}, data={"validation": None})
        losses += [e.loss for e in bottega.train(made, tmp_path / name / "run") if e.type == "stepped"]
    assert losses[0] == losses[1]
    same = write_jsonl(tmp_path / "same.jsonl", rows[:2])
    with pytest.raises(DataError, match="no ranking can be wrong"):
        bottega.evaluate(tmp_path / "plain" / "run", data=str(same), against=[])
    both = write_jsonl(tmp_path / "both.jsonl", rows)
    found, other = (bottega.evaluate(tmp_path / n / "run", data=str(both), against=[]) for n in ("plain", "labelled"))
    assert [one.run for one in found.estimates] == [one.run for one in other.estimates]


# Rewards


def grpo(folder: Path, reward: Any, **options: Any) -> Recipe:
    rows = [{"prompt": f"the {word}"} for word in WORDS[:4]]
    own = folder / "own.py"
    own.write_text(f"def score(written, right):\n    return {reward}\n", encoding="utf-8")
    rewards = [{"kind": "custom", "file": str(own)}]
    objective = {"kind": "grpo", "rewards": rewards, "tokens": 4, "group": 2, **options}
    return recipe(make_model(folder / "m"), folder, rows, objective=objective, optim={"steps": 2, "examples": 2})


def test_a_run_whose_answers_all_earn_the_same_says_that_nothing_was_learned(tmp_path: Path) -> None:
    events = list(bottega.train(grpo(tmp_path, "0.5"), tmp_path / "run"))
    notes = [event.message for event in events if event.type == "noted" and event.subject == "learning"]
    assert notes == ["nothing was learned: in every update all answers to a prompt had the same reward"]
    told = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["subject"] for event in told if event["type"] == "noted"][-1] == "learning"


def test_a_run_that_skips_all_its_answers_says_so(tmp_path: Path) -> None:
    made = grpo(tmp_path, "float(len(written))", unfinished="skip", tokens=1)
    events = list(bottega.train(made, tmp_path / "run"))
    unfinished = [event.metrics["unfinished"] for event in events if event.type == "stepped"]
    notes = [event.message for event in events if event.type == "noted" and event.subject == "learning"]
    assert bool(notes) == all(share == 1 for share in unfinished)


def test_rewards_that_cannot_be_computed_with_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"gives an answer -?1e\+300") as caught:
        list(bottega.train(grpo(tmp_path, "1e300 if len(written) % 2 else -1e300"), tmp_path / "run"))
    assert "rows.jsonl line" in str(caught.value.where)
    assert caught.value.fix
