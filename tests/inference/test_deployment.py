"""Models by name: loaded when they are used, adapters of one base together, and forgotten when there are too many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from test_scheduler import Caller

import bottega
from bottega.errors import DataError, ModelError, Overloaded
from bottega.inference.continuous_decoder import ContinuousDecoder
from bottega.inference.deployment import Deployment, DeploymentSettings
from bottega.inference.row_decoder import SerialDecoder
from bottega.models.native import operators
from bottega.sampling import Sampling
from making import CAT_ROWS, make_model, write_jsonl

SETTINGS = Sampling(tokens=12)


@pytest.fixture
def deployment() -> Iterator[Deployment]:
    deployment = Deployment(DeploymentSettings(dtype="float32", max_loaded=2))
    yield deployment
    deployment.close()


@pytest.fixture
def two_runs(llama: Path, tmp_path: Path, train: Callable[..., Path]) -> list[Path]:
    """Two adapters of one base."""
    rows = [{**row, "completion": "ran to a tree"} for row in CAT_ROWS]
    optim = {"steps": 8, "examples": 4, "lr": 2e-2}
    return [
        train(llama, tmp_path / "one", adapter={"rank": 2}, optim=optim),
        train(llama, tmp_path / "two", rows, adapter={"rank": 3}, optim=optim),
    ]


def ask(deployment: Deployment, name: str, prompt: str = "the cat ") -> list[int]:
    caller = Caller()
    deployment.language(name).submit([prompt], SETTINGS, lambda _, updates: caller(updates))
    return caller.wait()[0].tokens


def alone(source: Path, prompt: str = "the cat ") -> list[int]:
    return bottega.load(source, dtype="float32").generate([prompt], SETTINGS)[0][0].tokens


def test_adapters_of_a_base_share_it(deployment: Deployment, llama: Path, two_runs: list[Path]) -> None:
    """And answer together what each answers alone."""
    sources = {"base": llama, "one": two_runs[0], "two": two_runs[1]}
    for name, source in sources.items():
        deployment.add(name, source)
    assert deployment.stats() == {}
    assert list(deployment.names) == list(sources)
    callers = {name: Caller() for name in sources}
    for name, caller in callers.items():
        deployment.language(name).submit(["the cat "], SETTINGS, lambda _, updates, caller=caller: caller(updates))  # type: ignore[misc]
    found = {name: caller.wait()[0].tokens for name, caller in callers.items()}
    assert found == {name: alone(source) for name, source in sources.items()}
    assert len({tuple(tokens) for tokens in found.values()}) == 3
    assert list(deployment.stats()) == ["base"]
    deployment.remove("one")
    with pytest.raises(ModelError, match="no such model"):
        deployment.language("one")
    deployment.add("one", two_runs[1])
    assert ask(deployment, "one") == found["two"]


def test_adapters_that_cannot_share_a_base_are_loaded_by_themselves(
    deployment: Deployment, tmp_path: Path, train: Callable[..., Path]
) -> None:
    """Of a base that computes one row at a time, of another kind, and of a base kept in 8 bits."""
    bloom = make_model(tmp_path / "bloom", "bloom")
    runs = {"bloom": train(bloom, tmp_path / "run", adapter={"rank": 2})}
    deployment.add("bloom", runs["bloom"])
    assert ask(deployment, "bloom") == alone(runs["bloom"])
    assert isinstance(deployment.language("bloom").scheduler.decoder, SerialDecoder)


def test_a_base_in_eight_bits_takes_adapters(tmp_path: Path, train: Callable[..., Path]) -> None:
    """Though it cannot give its weights back, which PEFT would ask for."""
    if operators() is None:
        pytest.skip("8 bits need the operators in C++")
    base = make_model(tmp_path / "base", hidden_size=128, head_dim=32, intermediate_size=96)
    run = train(base, tmp_path / "run", adapter={"rank": 2}, optim={"steps": 8, "examples": 4, "lr": 2e-2})
    deployment = Deployment(DeploymentSettings(dtype="int8"))
    try:
        for name, source in {"base": base, "one": run}.items():
            deployment.add(name, source)
        assert ask(deployment, "one") != ask(deployment, "base")
        assert ask(deployment, "one") == bottega.load(run, dtype="int8").generate(["the cat "], SETTINGS)[0][0].tokens
    finally:
        deployment.close()


def test_a_name_is_switched_while_it_answers(deployment: Deployment, llama: Path, two_runs: list[Path]) -> None:
    """Requests under way end with the adapter that they began with, which then leaves its base."""
    for name, source in {"base": llama, "support": two_runs[0], "next": two_runs[1]}.items():
        deployment.add(name, source)
    served = deployment.language("support")
    under_way = Caller()
    served.submit(["the cat "], SETTINGS, lambda _, updates: under_way(updates))
    deployment.switch("support", "next")
    assert ask(deployment, "support") == alone(two_runs[1])
    assert under_way.wait()[0].tokens == alone(two_runs[0])
    (loaded,) = deployment._loaded.values()
    adapters = loaded.adapters
    assert adapters is not None
    deployment.thread.call(lambda: None)
    assert len(adapters.names) == 1, "the one that two names have"
    deployment.switch("support", "base")
    assert ask(deployment, "support") == alone(llama)
    assert ask(deployment, "next") == alone(two_runs[1])


def test_a_name_switched_to_itself_is_what_it_was(deployment: Deployment, llama: Path, two_runs: list[Path]) -> None:
    for name, source in {"support": two_runs[0], "next": two_runs[1]}.items():
        deployment.add(name, source)
    deployment.switch("support", "next")
    assert ask(deployment, "support") == alone(two_runs[1])
    deployment.switch("support", "support")
    assert ask(deployment, "support") == alone(two_runs[0])


def test_a_switch_while_the_name_is_loaded_holds(
    deployment: Deployment, llama: Path, two_runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was loaded meanwhile is not what the name means any more, and is taken off again."""
    for name, source in {"support": two_runs[0], "next": two_runs[1]}.items():
        deployment.add(name, source)
    put, switched = deployment._put_adapter_on, []

    def switch_meanwhile(*args: Any) -> Any:
        model = put(*args)
        if not switched:
            switched.append(True)
            deployment.add("support", llama)
        return model

    monkeypatch.setattr(deployment, "_put_adapter_on", switch_meanwhile)
    assert ask(deployment, "support") == alone(llama)
    assert ask(deployment, "support") == alone(llama)
    deployment.thread.call(lambda: None)
    adapters = next(iter(deployment._loaded.values())).adapters
    assert adapters is not None
    assert adapters.names == []


def test_two_first_requests_load_a_model_once(deployment: Deployment, two_runs: list[Path]) -> None:
    deployment.add("support", two_runs[0])
    with ThreadPoolExecutor(4) as pool:
        served = list(pool.map(lambda _: deployment.language("support"), range(4)))
    assert len(set(map(id, served))) == 1


def test_a_request_for_a_replaced_adapter_is_refused(deployment: Deployment, llama: Path, two_runs: list[Path]) -> None:
    """It would be answered without any: the adapter is on its base no more."""
    deployment.add("one", two_runs[0])
    late, caller = deployment.language("one"), Caller()
    late.submit(["the cat "], SETTINGS, lambda _, updates: caller(updates))
    deployment.add("one", two_runs[1])
    with pytest.raises(Overloaded, match="being replaced"):
        late.submit(["the cat "], SETTINGS, lambda *_: None)
    assert caller.wait()[0].tokens == alone(two_runs[0])
    assert ask(deployment, "one") == alone(two_runs[1])
    with pytest.raises(Overloaded, match="being replaced"):
        late.submit(["the cat "], SETTINGS, lambda *_: None)


def test_only_models_of_one_base_are_switched(deployment: Deployment, two_runs: list[Path], tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=7)
    deployment.add("one", two_runs[0])
    deployment.add("other", other)
    before = ask(deployment, "one")
    with pytest.raises(ModelError, match=r"one stands on .*, and other on .*other"):
        deployment.switch("one", "other")
    with pytest.raises(ModelError, match="no such model"):
        deployment.switch("one", "nobody")
    assert ask(deployment, "one") == before


def test_too_many_models_are_forgotten(deployment: Deployment, tmp_path: Path) -> None:
    """The one that was not used for longest; it is loaded again when it is asked for."""
    for name in ("a", "b", "c"):
        deployment.add(name, make_model(tmp_path / name, seed=ord(name)))
    first = {name: ask(deployment, name) for name in ("a", "b")}
    assert ask(deployment, "a") == first["a"]
    ask(deployment, "c")
    assert sorted(deployment.stats()) == ["a", "c"]
    assert ask(deployment, "b") == first["b"]


def test_what_cannot_be_answered_is_refused_before_it_waits(deployment: Deployment, llama: Path) -> None:
    deployment.add("base", llama)
    served = deployment.language("base")
    assert isinstance(served.scheduler.decoder, ContinuousDecoder)
    for prompt, words in (([], "list of messages"), ("the cat " * 200, "positions"), ([7, 999], "vocab_size")):
        with pytest.raises((DataError, ModelError), match=words):
            served.submit(["the cat", prompt], SETTINGS, lambda *_: None)
    with pytest.raises(ModelError, match="vocab_size"):
        served.submit(["the cat"], Sampling(logit_bias=((999, 1.0),)), lambda *_: None)
    assert served.scheduler.stats.requests == 0
    with pytest.raises(ModelError, match="no such folder"):
        deployment.add("lost", llama / "nowhere")


def test_other_heads_are_computed_in_the_same_thread(
    deployment: Deployment, bert: Path, tmp_path: Path, train: Callable[..., Path]
) -> None:
    rows = [
        {"text": f"the {word} sat", "label": label} for word, label in (("cat", "a"), ("dog", "b")) for _ in range(3)
    ]
    recipe = {
        "model": {"base": str(bert)},
        "objective": {"kind": "classify"},
        "data": {"train": str(write_jsonl(tmp_path / "rows.jsonl", rows))},
        "optim": {"steps": 3, "examples": 4},
    }
    list(bottega.train(bottega.Recipe.parse(recipe), out=tmp_path / "run"))
    deployment.add("classes", tmp_path / "run")
    assert deployment.head("classes") == "sequence"
    found = deployment.compute("classes", "sequence", lambda model: model.classify(["the cat sat"])[0].label)
    assert found == bottega.load(tmp_path / "run").classify(["the cat sat"])[0].label
