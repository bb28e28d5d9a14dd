"""Entities written in the CoNLL format: every word once, every entity with its tag."""

from __future__ import annotations

from bottega.records import Entity
from bottega.tokenization.conll import to_conll


def conll_lines(text: str, spans: list[Entity]) -> list[str]:
    return to_conll(text, spans).splitlines()


def test_a_line_for_each_word() -> None:
    lines = conll_lines("Mr. Fox, in Rome", [Entity(0, 7, "person"), Entity(12, 16, "place")])
    assert lines == ["Mr\tB-person", ".\tI-person", "Fox\tI-person", ",\tO", "in\tO", "Rome\tB-place"]


def test_entities_that_no_blank_separates_have_tags_of_their_own() -> None:
    lines = to_conll("田中と佐藤", [Entity(0, 2, "PER"), Entity(3, 5, "PER")], [(0, 5)]).splitlines()
    assert lines == ["田中\tB-PER", "と\tO", "佐藤\tB-PER"]
    spans = [Entity(0, 3, "PER"), Entity(4, 8, "PER")]
    assert conll_lines("ida_nils ran", spans) == ["ida\tB-PER", "_\tO", "nils\tB-PER", "ran\tO"]


def test_lines_are_the_given_words() -> None:
    lines = to_conll("New York!", [Entity(0, 8, "LOC")], [(0, 3), (4, 6), (6, 8), (8, 9)]).splitlines()
    assert lines == ["New\tB-LOC", "Yo\tI-LOC", "rk\tI-LOC", "!\tO"]
