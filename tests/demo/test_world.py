"""The demo's world: another for every seed, and its letters, tasks and preferences."""

from __future__ import annotations

import json

import pytest

from bottega.demo.world import LANGUAGES, World, _join


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_seed_always_invents_the_same_world(language: str) -> None:
    first, again, other = (list(World(seed, language).documents(30)) for seed in (1, 1, 2))
    assert first == again != other
    assert not {row["text"] for row in first} & {row["text"] for row in other}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_placeholder_is_filled(language: str) -> None:
    world = World(0, language)
    tickets = [world.ticket() for _ in range(400)]
    texts = [row["text"] for row in world.documents(200)] + [ticket.text for ticket in tickets]
    texts += [world.reply(ticket, kind=kind) for ticket in tickets for kind in (True, False)]
    plain = [text for text in texts if '{"' not in text]
    assert len(plain) > 900
    for text in plain:
        assert "{" not in text
        assert "  " not in text
        assert text[0].isupper() or text.startswith("#")
    assert {ticket.topic for ticket in tickets} == set(world.topics)
    assert set(world.topics) == set(world.phrases.REPLIES)
    for ticket in tickets:
        assert all(value in ticket.text for value in ticket.fields.values()), "what is to be extracted is there"


@pytest.mark.parametrize("language", LANGUAGES)
def test_tasks_hold_the_fields_and_preferences_are_not_decided_by_length(language: str) -> None:
    world = World(0, language)
    tickets = [world.ticket() for _ in range(300)]
    tasks = list(world.tasks(tickets))
    assert len(tasks) == 900
    for ticket, row in zip(tickets, tasks[1::3], strict=True):
        assert json.loads(row["output"]) == ticket.fields
    pairs = list(world.preferences(tickets))
    longer = sum(len(pair["chosen"]) > len(pair["rejected"]) for pair in pairs)
    assert 0.4 < longer / len(pairs) < 0.6
    assert all(pair["chosen"] != pair["rejected"] for pair in pairs)


def test_a_sentence_goes_on_in_lower_case_after_a_comma() -> None:
    assert _join("Hello,", "My lamp broke.") == "Hello, my lamp broke."
    assert _join("Hello,", "I want a lamp.") == "Hello, I want a lamp."
    assert _join("My name is Ada.", "my lamp broke.") == "My name is Ada. My lamp broke."


def test_a_ticket_may_have_a_given_topic() -> None:
    world = World(0)
    assert {world.ticket("refund").topic for _ in range(5)} == {"refund"}


def test_two_towns_and_two_names_in_a_text_differ() -> None:
    world = World(0)
    for _ in range(100):
        names = world._choose_names()
        assert names["town"] != names["place"]
        assert names["name"] != names["other"]
