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
