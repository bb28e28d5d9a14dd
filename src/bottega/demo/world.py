"""The demo's generated data: a small invented world, another for every seed, and a shop's support desk in it.

documents     texts about the world, and letters to the shop with its replies; for pre-training
tickets       letters with their topic and fields; for fine-tuning
preferences   a kind and a rude reply to the same letter, equally often the longer one; for alignment
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

# Language code → module of `phrases`.
LANGUAGES = {"en": "english", "it": "italian"}


@dataclass(frozen=True)
class Ticket:
    """A letter to the shop.

    fields  what is to be extracted from it
    names   value of every placeholder that its text, and the reply, may contain
    """

    text: str
    topic: str
    fields: dict[str, str]
    names: dict[str, str]


class World:
    """Generates letters and texts about one invented world. The same seed and calls give the same texts."""

    def __init__(self, seed: int, language: str = "en") -> None:
        self.phrases: Any = import_module(f"{__package__}.phrases.{LANGUAGES[language]}")
        self.random = random.Random(f"demo {language} {seed}")
        self.topics = list(self.phrases.TICKETS)
        self.towns = [self._invent_name(self.phrases.TOWN_ENDINGS) for _ in range(24)]
        self.rivers = [self._invent_name(self.phrases.NAME_ENDINGS) for _ in range(12)]
        self.names = [self._invent_name(self.phrases.NAME_ENDINGS) for _ in range(60)]

    def _invent_name(self, endings: Sequence[str]) -> str:
        first, second = self.phrases.SYLLABLES
        name: str = self.random.choice(first) + self.random.choice(second) + self.random.choice(endings)
        return name.capitalize()

    def _choose_names(self) -> dict[str, str]:
        """A value for every placeholder of a phrase."""
        choose, phrases = self.random.choice, self.phrases
        # Sampled together, so that two towns or two names in a text differ.
        (town, place), (name, other) = self.random.sample(self.towns, 2), self.random.sample(self.names, 2)
        return {
            "name": name,
            "other": other,
            "town": town,
            "place": place,
            "river": choose(self.rivers),
            "product": choose(phrases.PRODUCTS),
            "colour": choose(phrases.COLOURS),
            "day": choose(phrases.DAYS),
            "month": choose(phrases.MONTHS),
            "trade": choose(phrases.TRADES),
            "order": f"#{choose('ABCDEFGHJK')}{self.random.randrange(100, 1000)}",
        }

    def ticket(self, topic: str | None = None) -> Ticket:
        """A letter, with an opening and a closing in most cases; on a random topic by default."""
        topic = topic or self.random.choice(self.topics)
        names = self._choose_names()
        text = self.random.choice(self.phrases.TICKETS[topic])
        if self.random.random() < 0.8:
            text = _join(self.random.choice(self.phrases.OPENINGS), text)
        if self.random.random() < 0.7:
            text = _join(text, self.random.choice(self.phrases.CLOSINGS))
        fields = {label: names[field] for field, label in self.phrases.FIELDS.items()}
        return Ticket(_capitalize(text.format(**names)), topic, fields, names)

    def reply(self, ticket: Ticket, *, kind: bool = True) -> str:
        """The shop's reply to a letter, kind or rude in its first and last sentence only."""
        before, after = self.random.choice(self.phrases.KIND if kind else self.phrases.RUDE)
        body = self.random.choice(self.phrases.REPLIES[ticket.topic])
        return " ".join((before, body, after)).format(**ticket.names)

    def document(self) -> str:
        """One to six pieces: a text about the world, the history of an order, or a letter with the shop's reply."""
        return "\n\n".join(self._piece() for _ in range(self.random.randint(1, 6)))

    def _piece(self) -> str:
        choice = self.random.random()
        if choice < 0.2:
            count = self.random.randint(1, 3)
            return "\n".join(
                self.random.choice(self.phrases.DOCUMENTS).format(**self._choose_names()) for _ in range(count)
            )
        if choice < 0.65:
            names, count = self._choose_names(), self.random.randint(4, len(self.phrases.HISTORY))
            return "\n".join(line.format(**names) for line in self.random.sample(self.phrases.HISTORY, count))
        ticket = self.ticket()
        return f"{ticket.text}\n{self.reply(ticket, kind=self.random.random() < 0.7)}"

    def documents(self, count: int) -> Iterator[dict[str, Any]]:
        return ({"text": self.document()} for _ in range(count))

    def tasks(self, tickets: Sequence[Ticket]) -> Iterator[dict[str, Any]]:
        """Three questions about each ticket: its topic, its fields as JSON, the reply."""
        for ticket in tickets:
            for template, answer in (
                (self.phrases.CLASSIFY, ticket.topic),
                (self.phrases.EXTRACT, json.dumps(ticket.fields, ensure_ascii=False)),
                (self.phrases.ANSWER, self.reply(ticket)),
            ):
                yield {"instruction": template.format(ticket=ticket.text), "output": answer}

    def preferences(self, tickets: Sequence[Ticket]) -> Iterator[dict[str, Any]]:
        """A kind and a rude reply to each letter."""
        for ticket in tickets:
            # A coin decides which one is longer, so that length alone predicts nothing.
            longer = self.random.random() < 0.5
            while True:
                kind, rude = self.reply(ticket), self.reply(ticket, kind=False)
                if (len(kind) > len(rude)) == longer:
                    break
            yield {"instruction": self.phrases.ANSWER.format(ticket=ticket.text), "chosen": kind, "rejected": rude}


def _join(before: str, after: str) -> str:
    """Join two parts of a letter; after a comma the sentence continues, so the next word is lower-case."""
    if not before.endswith(","):
        return f"{before} {_capitalize(after)}"
    return f"{before} {after if after.startswith('I ') else after[0].lower() + after[1:]}"


def _capitalize(text: str) -> str:
    return text[0].upper() + text[1:]
