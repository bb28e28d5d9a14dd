"""Labelling: pairs of answers that people choose between, kept so that a preference data set and a win rate follow.

LABELS/NAME/session.json    the two models, and what was asked for
LABELS/NAME/pairs.jsonl     prompt, and the answers of the first and of the second model
LABELS/NAME/choices.jsonl   what was chosen, in order; an undone choice is followed by one that says so
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import bottega
from bottega.studio.names import check_name

SESSION, PAIRS, CHOICES = "session.json", "pairs.jsonl", "choices.jsonl"

# What can be said of two answers. `skip` says nothing, and the pair does not come again to that person.
Preferred = Literal["first", "second", "tie", "bad", "skip"]


@dataclass(frozen=True)
class LabelChoice:
    """What a person said of a pair.

    swapped  whether the second model's answer was shown on the left
    edited   the chosen answer as it was corrected; None if it is right as it is
    undo     takes the choice before back
    """

    pair: int
    rater: str
    verdict: Preferred
    swapped: bool
    edited: str | None = None
    undo: bool = False
    time: float = 0.0


class LabelSessions:
    """The sessions of labelling in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._lock = folder, threading.Lock()

    def names(self) -> list[str]:
        """Every session, the newest first."""
        found = [path.parent for path in self.folder.glob(f"*/{SESSION}")]
        return [path.name for path in sorted(found, key=lambda path: -path.stat().st_mtime)]

    def check_new(self, name: str) -> None:
        """Raise a DataError unless a session can have this name."""
        if (self._folder(name) / SESSION).exists():
            raise bottega.DataError("there is such a session already", where=name, fix="choose another name")

    def create(self, name: str, models: Sequence[str], pairs: Sequence[dict[str, str]]) -> None:
        """A new session; a DataError if there is one of this name."""
        self.check_new(name)
        folder = self._folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
        (folder / PAIRS).write_text(lines, encoding="utf-8", errors="backslashreplace")
        bottega.write_json(folder / SESSION, {"name": name, "models": list(models), "created": time.time()})

    def add_pair(
        self, name: str, models: Sequence[str], pair: dict[str, str], choose: Callable[[int], LabelChoice]
    ) -> dict[str, Any]:
        """Add a pair with a choice to a session, which is made if there is none; returns its summary."""
        with self._lock:
            if name not in self.names():
                self.create(name, models, [])
            if bottega.read_json(self._existing(name) / SESSION)["models"] != list(models):
                raise bottega.DataError("this session compares other models", where=name, fix="delete its folder")
            number = len(self.pairs(name))
            with (self._existing(name) / PAIRS).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(json.dumps(pair, ensure_ascii=False) + "\n")
            self.choose(name, choose(number))
        return self.summary(name)

    def pairs(self, name: str) -> list[dict[str, str]]:
        """The pairs of a session: `prompt`, `first`, `second`."""
        return [json.loads(line) for line in _lines(self._existing(name) / PAIRS)]

    def choices(self, name: str) -> list[LabelChoice]:
        """What holds: without choices that were taken back; the last word of each person on each pair."""
        kept: dict[tuple[str, int], LabelChoice] = {}
        for choice in self._log(name):
            kept.pop((choice.rater, choice.pair), None)
            if not choice.undo:
                kept[choice.rater, choice.pair] = choice
        return list(kept.values())

    def choose(self, name: str, choice: LabelChoice) -> None:
        """Keep a choice."""
        if not 0 <= choice.pair < len(self.pairs(name)):
            raise bottega.DataError("no such pair", where=f"{name}: {choice.pair}", fix="choose one of the session")
        with (self._existing(name) / CHOICES).open("a", encoding="utf-8") as file:
            file.write(json.dumps({**asdict(choice), "time": time.time()}) + "\n")

    def undo(self, name: str, rater: str) -> int | None:
        """Take a person's last choice back; returns its pair, or None if there is none."""
        last = next((choice for choice in reversed(self.choices(name)) if choice.rater == rater), None)
        if last is None:
            return None
        self.choose(name, LabelChoice(last.pair, rater, last.verdict, last.swapped, undo=True))
        return last.pair

    def next_pair(self, name: str, rater: str) -> dict[str, Any] | None:
        """The first pair that a person has not seen, with its sides in an order of chance; None after the last."""
        pairs, seen = self.pairs(name), {choice.pair for choice in self.choices(name) if choice.rater == rater}
        number = next((number for number in range(len(pairs)) if number not in seen), None)
        if number is None:
            return None
        swapped, pair = is_swapped(name, number, rater), pairs[number]
        left, right = (pair["second"], pair["first"]) if swapped else (pair["first"], pair["second"])
        done = {"done": len(seen), "total": len(pairs)}
        return {"pair": number, "prompt": pair["prompt"], "left": left, "right": right, "swapped": swapped, **done}

    def summary(self, name: str) -> dict[str, Any]:
        """What was found: wins, the win rate of the second model with its interval, agreement and position bias."""
        session, choices = bottega.read_json(self._existing(name) / SESSION), self.choices(name)
        counts = {verdict: sum(choice.verdict == verdict for choice in choices) for verdict in get_args(Preferred)}
        decided = [choice for choice in choices if choice.verdict in ("first", "second")]
        left = sum((choice.verdict == "second") == choice.swapped for choice in decided)
        return {
            **session,
            "pairs": len(self.pairs(name)),
            "choices": len(choices),
            "raters": sorted({choice.rater for choice in choices}),
            "counts": counts,
            "win_rate": _rate(counts["second"], len(decided)),
            "left": _rate(left, len(decided)),
            "agreement": _agreement(choices),
        }

    def preferences(self, name: str) -> Iterator[dict[str, str]]:
        """Rows of a preference data set: of each pair that people prefer one answer of, by majority."""
        by_pair: dict[int, list[LabelChoice]] = {}
        for choice in self.choices(name):
            if choice.verdict in ("first", "second"):
                by_pair.setdefault(choice.pair, []).append(choice)
        for number, pair in enumerate(self.pairs(name)):
            votes = by_pair.get(number, [])
            firsts = sum(choice.verdict == "first" for choice in votes)
            if 2 * firsts == len(votes):  # nobody, or as many for one as for the other
                continue
            better, worse = ("first", "second") if 2 * firsts > len(votes) else ("second", "first")
            edited = next((one.edited for one in reversed(votes) if one.edited and one.verdict == better), None)
            chosen = edited or pair[better]
            if chosen != pair[worse]:
                yield {"prompt": pair["prompt"], "chosen": chosen, "rejected": pair[worse]}

    def _log(self, name: str) -> list[LabelChoice]:
        path = self._existing(name) / CHOICES
        return [LabelChoice(**json.loads(line)) for line in _lines(path)] if path.exists() else []

    def _existing(self, name: str) -> Path:
        folder = self._folder(name)
        if not (folder / SESSION).exists():
            raise bottega.DataError("no such session", where=name, fix="choose one of the list")
        return folder

    def _folder(self, name: str) -> Path:
        return self.folder / check_name(name, "a session")


def _lines(path: Path) -> list[bytes]:
    """The lines of a file, as bytes: a text may hold characters at which Python, too, would end a line."""
    return [line for line in path.read_bytes().split(b"\n") if line]


def is_swapped(name: str, pair: int, rater: str) -> bool:
    """Whether a person sees the second model's answer on the left: by chance, and the same when asked again."""
    return bool(hashlib.blake2b(f"{name} {pair} {rater}".encode(), digest_size=1).digest()[0] & 1)


def _rate(right: int, count: int) -> dict[str, Any] | None:
    """A fraction with its Wilson interval."""
    if not count:
        return None
    low, high = bottega.proportion_interval(right, count)
    return {"value": right / count, "low": low, "high": high, "count": count}


def _agreement(choices: Sequence[LabelChoice]) -> dict[str, Any] | None:
    """How often two people who saw the same pair said the same; None if no two did."""
    by_pair: dict[int, list[str]] = {}
    for choice in choices:
        if choice.verdict != "skip":
            by_pair.setdefault(choice.pair, []).append(choice.verdict)
    same = [one == other for said in by_pair.values() for place, one in enumerate(said) for other in said[:place]]
    return _rate(sum(same), len(same))
