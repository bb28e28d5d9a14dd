"""A server with tiny models."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from serving import TEMPLATE, Running, start, start_with_folder, train

import bottega
from making import CAT_ROWS, make_model


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A base, an adapter on it, a classifier, a tagger and an embedder."""
    folder = tmp_path_factory.mktemp("server")
    base = make_model(folder / "base", template=TEMPLATE, max_position_embeddings=512)
    bert = make_model(folder / "bert", "bert")
    texts = [{"text": f"the {word} sat", "label": word} for word in ("cat", "dog") for _ in range(3)]
    tags = [{"tokens": ["the", "cat", "sat"], "tags": ["O", "B-animal", "O"]} for _ in range(4)]
    pairs = [{"anchor": f"the {word}", "positive": f"a {word}"} for word in ("cat", "dog", "tree", "mat")]
    sources = {
        "base": base,
        "org/tuned": train(folder / "tuned", base, "sft", CAT_ROWS, adapter={"rank": 2}),
        "classes": train(folder / "classes", bert, "classify", texts),
        "tags": train(folder / "tags", bert, "tag", tags),
        "vectors": train(folder / "vectors", bert, "contrastive", pairs),
    }
    deployment = bottega.Deployment(bottega.DeploymentSettings(dtype="float32"))
    for name, source in sources.items():
        deployment.add(name, source)
    url, end = start(deployment)
    yield Running(url, deployment, folder)
    end()
    deployment.close()


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server without models, which keeps files."""
    with start_with_folder(tmp_path_factory.mktemp("kept")) as running:
        yield running
