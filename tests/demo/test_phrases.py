"""The phrases of the demo in English and in Italian: the module of each, `english` and `italian`."""

from __future__ import annotations

import string
from types import ModuleType

import pytest

from bottega.demo.phrases import english, italian
from bottega.demo.world import LANGUAGES, World

MODULES = pytest.mark.parametrize("phrases", [english, italian], ids=["english", "italian"])

# Phrases whose placeholders stand for what a world invents, and those that stand for other things.
WORLD_PHRASES = ("OPENINGS", "CLOSINGS", "TICKETS", "REPLIES", "KIND", "RUDE", "DOCUMENTS", "HISTORY")
TEMPLATES = {
    "CLASSIFY": {"ticket"},
    "EXTRACT": {"ticket"},
    "ANSWER": {"ticket"},
    "PLAIN": {"ticket"},
    "CHOICES": {"labels"},
}


def texts(value: object) -> list[str]:
    """All texts in nested lists and dicts."""
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return [text for item in items for text in texts(item)]  # type: ignore[attr-defined]


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def names(phrases: ModuleType) -> set[str]:
    return {name for name in vars(phrases) if name.isupper()}


def test_every_language_has_its_module_with_the_same_names() -> None:
    assert set(LANGUAGES.values()) == {"english", "italian"}
    assert names(english) == names(italian)


@MODULES
def test_phrases_contain_only_what_a_world_invents(phrases: ModuleType) -> None:
    known = set(World(0)._choose_names())
    for name in WORLD_PHRASES:
        for text in texts(getattr(phrases, name)):
            assert placeholders(text) <= known, text
            assert text == text.strip()
    for name, wanted in TEMPLATES.items():
        assert placeholders(getattr(phrases, name)) == wanted


@MODULES
def test_no_phrase_stands_twice_in_a_list(phrases: ModuleType) -> None:
    for name in names(phrases) - {"SYLLABLES", "FIELDS"}:
        lines = texts(getattr(phrases, name))
        assert len(lines) == len(set(lines)), name


@MODULES
def test_every_letter_holds_the_fields_to_extract_and_every_topic_has_replies(phrases: ModuleType) -> None:
    assert set(phrases.TICKETS) == set(phrases.REPLIES)
    for text in texts(phrases.TICKETS):
        assert set(phrases.FIELDS) <= placeholders(text), text
    assert len({len(letters) for letters in phrases.TICKETS.values()}) == 1, "topics have equally many letters"


@MODULES
def test_replies_continue_the_sentence_of_their_greeting(phrases: ModuleType) -> None:
    for before, after in (*phrases.KIND, *phrases.RUDE):
        assert before.endswith(":")
        assert "{name}" in before
        assert after.endswith(".")
    for text in texts(phrases.REPLIES):
        assert text.endswith(".")
        assert text[0].islower() or text.startswith("{")
