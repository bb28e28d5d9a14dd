"""The demo's data, invented anew for every seed: a small world, and a shop's support desk in it.

documents     texts about the world, and letters to the shop with its replies, to pre-train on
tickets       letters with their topic and fields, to fine-tune on
preferences   a kind and a rude reply to the same letter, of like length
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

LANGUAGES = {"en": "english", "it": "italian"}


@dataclass(frozen=True)
class Ticket:
    """A letter to the shop, what it is about, what it names, and the names in it."""

    text: str
    topic: str
    fields: dict[str, str]
    names: dict[str, str]


class World:
    """Names, letters and texts of one invented world; the same seed invents the same world."""

    def __init__(self, seed: int, language: str = "en") -> None:
        self.phrases: Any = import_module(f"{__package__}.{LANGUAGES[language]}")
        self.draw = random.Random(f"demo {language} {seed}")
        self.topics = list(self.phrases.TICKETS)
        self.towns = [self._invented(self.phrases.TOWN_ENDINGS) for _ in range(24)]
        self.rivers = [self._invented(self.phrases.NAME_ENDINGS) for _ in range(12)]
        self.names = [self._invented(self.phrases.NAME_ENDINGS) for _ in range(60)]

    def _invented(self, endings: Sequence[str]) -> str:
        first, second = self.phrases.SYLLABLES
        name: str = self.draw.choice(first) + self.draw.choice(second) + self.draw.choice(endings)
        return name.capitalize()

    def _named(self) -> dict[str, str]:
        """One choice for every place in a phrase."""
        pick, phrases = self.draw.choice, self.phrases
        (town, place), (name, other) = self.draw.sample(self.towns, 2), self.draw.sample(self.names, 2)
        return {
            "name": name,
            "other": other,
            "town": town,
            "place": place,
            "river": pick(self.rivers),
            "product": pick(phrases.PRODUCTS),
            "colour": pick(phrases.COLOURS),
            "day": pick(phrases.DAYS),
            "month": pick(phrases.MONTHS),
            "trade": pick(phrases.TRADES),
            "order": f"#{pick('ABCDEFGHJK')}{self.draw.randrange(100, 1000)}",
        }

    def ticket(self, topic: str | None = None) -> Ticket:
        topic = topic or self.draw.choice(self.topics)
        names = self._named()
        text = self.draw.choice(self.phrases.TICKETS[topic])
        if self.draw.random() < 0.8:
            text = _joined(self.draw.choice(self.phrases.OPENINGS), text)
        if self.draw.random() < 0.7:
            text = _joined(text, self.draw.choice(self.phrases.CLOSINGS))
        fields = {shown: names[field] for field, shown in self.phrases.FIELDS.items()}
        return Ticket(_capital(text.format(**names)), topic, fields, names)

    def reply(self, ticket: Ticket, *, kind: bool = True) -> str:
        before, after = self.draw.choice(self.phrases.KIND if kind else self.phrases.RUDE)
        body = self.draw.choice(self.phrases.REPLIES[ticket.topic])
        return " ".join((before, body, after)).format(**ticket.names)

    def document(self) -> str:
        """One to six pieces: a text of the world, the history of an order, or a letter with the shop's reply."""
        return "\n\n".join(self._piece() for _ in range(self.draw.randint(1, 6)))

    def _piece(self) -> str:
        kind = self.draw.random()
        if kind < 0.2:
            count = self.draw.randint(1, 3)
            return "\n".join(self.draw.choice(self.phrases.DOCUMENTS).format(**self._named()) for _ in range(count))
        if kind < 0.65:
            names, count = self._named(), self.draw.randint(4, len(self.phrases.HISTORY))
            return "\n".join(line.format(**names) for line in self.draw.sample(self.phrases.HISTORY, count))
        ticket = self.ticket()
        return f"{ticket.text}\n{self.reply(ticket, kind=self.draw.random() < 0.7)}"

    def documents(self, count: int) -> Iterator[dict[str, Any]]:
        return ({"text": self.document()} for _ in range(count))

    def tasks(self, tickets: Sequence[Ticket]) -> Iterator[dict[str, Any]]:
        """Three questions about each ticket: its topic, its fields as JSON, the reply."""
        for ticket in tickets:
            for asked, answer in (
                (self.phrases.CLASSIFY, ticket.topic),
                (self.phrases.EXTRACT, json.dumps(ticket.fields, ensure_ascii=False)),
                (self.phrases.ANSWER, self.reply(ticket)),
            ):
                yield {"instruction": asked.format(ticket=ticket.text), "output": answer}

    def preferences(self, tickets: Sequence[Ticket]) -> Iterator[dict[str, Any]]:
        """A kind and a rude reply to each; which is the longer one is a toss of a coin, so length tells nothing."""
        for ticket in tickets:
            longer = self.draw.random() < 0.5
            while True:
                kind, rude = self.reply(ticket), self.reply(ticket, kind=False)
                if (len(kind) > len(rude)) == longer:
                    break
            yield {"instruction": self.phrases.ANSWER.format(ticket=ticket.text), "chosen": kind, "rejected": rude}


def _joined(before: str, after: str) -> str:
    """Two parts of a letter: after a comma the sentence goes on, after anything else one begins."""
    if not before.endswith(","):
        return f"{before} {_capital(after)}"
    return f"{before} {after if after.startswith('I ') else after[0].lower() + after[1:]}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
