"""Classifiers and taggers over HTTP."""

from __future__ import annotations

from serving import Running

import bottega


def test_classes_are_those_of_the_library(server: Running) -> None:
    texts = ["the cat sat", "the dog sat"]
    with server.http() as http:
        answer = http.post("/v1/classify", json={"model": "classes", "input": texts}).json()
        single = http.post("/v1/classify", json={"model": "classes", "input": texts[0]}).json()
    library = bottega.load(server.folder / "classes", dtype="float32").classify(texts)
    for found, expected in zip(answer["data"], library, strict=True):
        assert found["label"] == expected.label
        assert found["probabilities"].keys() == expected.probabilities.keys()
    assert [one["label"] for one in single["data"]] == [answer["data"][0]["label"]]


def test_entities_are_those_of_the_library(server: Running) -> None:
    text = "the cat sat"
    with server.http() as http:
        answer = http.post("/v1/tag", json={"model": "tags", "input": [text]}).json()
    (expected,) = bottega.load(server.folder / "tags", dtype="float32").tag([text])
    found = [(one["start"], one["stop"], one["label"]) for one in answer["data"][0]["entities"]]
    assert found == [tuple(entity) for entity in expected]
    assert all(one["text"] == text[one["start"] : one["stop"]] for one in answer["data"][0]["entities"])


def test_other_models_are_refused(server: Running) -> None:
    with server.http() as http:
        for path, model in (("/v1/classify", "tags"), ("/v1/tag", "base")):
            answer = http.post(path, json={"model": model, "input": "the cat"})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
        answer = http.post("/v1/classify", json={"input": "the cat"})
        assert answer.json()["error"]["code"] == "missing_required_parameter"
