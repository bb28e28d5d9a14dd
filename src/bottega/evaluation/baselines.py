"""What a run must beat: the same model asked well, the nearest rows that are known, another model, another run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from bottega.errors import RunError
from bottega.evaluation.openai_client import Endpoint
from bottega.runs.resolve import resolve

Method = Literal["zero-shot", "few-shot", "retrieval", "bm25", "dense", "run", "endpoint"]

METHODS: dict[str, str] = {
    "zero-shot": "the question alone",
    "few-shot": "the question after the likest training rows and their answers",
    "retrieval": "the question after the likest passages of --documents",
    "bm25": "the answer of the training rows that share most words (Robertson and Zaragoza 2009)",
    "dense": "the answer of the training rows whose vectors are nearest",
}
"""Ways to answer that can be named, and what each is; the first three take a model: `few-shot=FOLDER`."""


@dataclass(frozen=True)
class Baseline:
    """A way to answer, and by which model; None for what the run was tuned from."""

    way: Method
    model: str | None
    given: str

    def named(self, base: str | None = None) -> str:
        """It in a few words."""
        model = self.model or base
        short = model if self.way == "endpoint" or model is None else Path(model).name
        return str(short) if self.way in ("run", "endpoint") else f"{short}, {self.way}" if short else self.way


def parse_baseline(given: str) -> Baseline:
    """A rival as one writes it: a way, `way=MODEL`, a run, a model, or `http://…/v1#model` of a server.

    A RunError names the ways where it is none of these.
    """
    way, sign, model = given.partition("=")
    if given.startswith(("http://", "https://")):
        return Baseline("endpoint", Endpoint.given_as(given).model, given)
    if way in METHODS and (not sign or model):
        return Baseline(_parse_method(way), model or None, given)
    folder = Path(given).expanduser()
    kind = resolve(folder).kind
    if kind == "run":
        return Baseline("run", str(folder), given)
    if kind in ("model", "adapter"):
        return Baseline("zero-shot", str(folder), given)
    fix = f"one of {', '.join(METHODS)}; or the folder of a run or model; or http://…/v1#model"
    raise RunError("nothing to compare with", where=given, fix=fix)


def _parse_method(name: str) -> Method:
    return next(way for way in get_args(Method) if way == name)
