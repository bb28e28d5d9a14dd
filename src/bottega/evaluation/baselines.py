"""What a run must beat: the same model asked well, the nearest rows that are known, another model, another run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from bottega.errors import RunError
from bottega.evaluation.openai_client import Endpoint

Way = Literal["zero-shot", "few-shot", "retrieval", "bm25", "dense", "run", "endpoint"]

WAYS: dict[str, str] = {
    "zero-shot": "the question alone",
    "few-shot": "the question after the likest training rows and their answers",
    "retrieval": "the question after the likest passages of --documents",
    "bm25": "the answer of the training rows that share most words (Robertson and Zaragoza 2009)",
    "dense": "the answer of the training rows whose vectors are nearest",
}
"""Ways to answer that can be named, and what each is; the first three take a model: `few-shot=FOLDER`."""


@dataclass(frozen=True)
class Rival:
    """A way to answer, and by which model; None for what the run was tuned from."""

    way: Way
    model: str | None
    given: str

    def named(self, base: str | None = None) -> str:
        """It in a few words."""
        model = self.model or base
        short = model if self.way == "endpoint" or model is None else Path(model).name
        return str(short) if self.way in ("run", "endpoint") else f"{short}, {self.way}" if short else self.way


def rival(given: str) -> Rival:
    """A rival as one writes it: a way, `way=MODEL`, a run, a model, or `http://…/v1#model` of a server.

    A RunError names the ways where it is none of these.
    """
    way, sign, model = given.partition("=")
    if given.startswith(("http://", "https://")):
        return Rival("endpoint", Endpoint.given_as(given).model, given)
    if way in WAYS and (not sign or model):
        return Rival(_way(way), model or None, given)
    folder = Path(given).expanduser()
    if (folder / "resolved.json").exists():
        return Rival("run", str(folder), given)
    if (folder / "config.json").exists() or (folder / "adapter_config.json").exists():
        return Rival("zero-shot", str(folder), given)
    fix = f"one of {', '.join(WAYS)}; or the folder of a run or model; or http://…/v1#model"
    raise RunError("nothing to compare with", where=given, fix=fix)


def _way(name: str) -> Way:
    return next(way for way in get_args(Way) if way == name)
