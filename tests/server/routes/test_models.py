"""The models that are served."""

from __future__ import annotations

import openai
import pytest


def test_all_models_and_one(client: openai.OpenAI) -> None:
    """Also a name with a slash, as hub ids have."""
    names = {model.id for model in client.models.list()}
    assert names == {"base", "org/tuned", "classes", "tags", "vectors"}
    model = client.models.retrieve("org/tuned")
    assert (model.id, model.object, model.owned_by) == ("org/tuned", "model", "bottega")


def test_only_tuned_models_can_be_deleted(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("nope")
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.delete("nope")
    with pytest.raises(openai.PermissionDeniedError, match="was not tuned here"):
        client.models.delete("base")


def test_a_name_answers_with_another_model_of_its_base(client: openai.OpenAI) -> None:
    """Here with the base that its adapter stands on, and back again; no other client sees the names change."""

    def switch(name: str, to: str) -> dict[str, object]:
        return dict(client.post(f"/models/{name}", body={"model": to}, cast_to=dict[str, object]))

    def answer(name: str) -> str:
        return str(client.completions.create(model=name, prompt="the cat", max_tokens=8, temperature=0).choices[0].text)

    own = answer("org/tuned")
    assert own != answer("base")
    with pytest.raises(openai.NotFoundError, match="`nope` does not exist"):
        switch("base", "nope")
    with pytest.raises(openai.BadRequestError, match="stands on"):
        switch("org/tuned", "vectors")
    assert answer("org/tuned") == own
    assert switch("org/tuned", "base")["id"] == "org/tuned"
    assert answer("org/tuned") == answer("base")
