"""What a run is compared with: the base model prompted well, the nearest known rows, another model, another run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from bottega.errors import RunError
from bottega.evaluation.openai_client import Endpoint
from bottega.runs.resolve import resolve

Method = Literal["zero-shot", "few-shot", "retrieval", "bm25", "dense", "run", "endpoint"]

# The methods a user can name. The first three take a model: `few-shot=FOLDER`; `dense` takes an encoder.
METHODS: dict[str, str] = {
    "zero-shot": "the prompt alone",
    "few-shot": "the prompt after the most similar training rows and their answers",
    "retrieval": "the prompt after the most similar passages of --documents",
    "bm25": "the answer of the nearest training rows by BM25 (Robertson and Zaragoza 2009)",
    "dense": "the answer of the nearest training rows by embeddings",
}


@dataclass(frozen=True)
class Baseline:
    """A method and the model it uses.

    model  None for the base model of the run
    spec   as the user wrote it
    """

    method: Method
    model: str | None
    spec: str

    def describe(self, base: str | None = None) -> str:
        """A short description: the model's name and the method."""
        model = self.model or base
        # The model of an endpoint is a name, which may hold slashes, not a path.
        short = model if self.method == "endpoint" or model is None else Path(model).name
        if self.method in ("run", "endpoint"):
            return str(short)
        return f"{short}, {self.method}" if short else self.method


def parse_baseline(spec: str) -> Baseline:
    """A baseline as the user writes it: a method, `method=MODEL`, a run, a model, or `http://…/v1#model` of a server.

    A RunError lists the methods where it is none of these.
    """
    name, sign, model = spec.partition("=")
    if spec.startswith(("http://", "https://")):
        return Baseline("endpoint", Endpoint.parse(spec).model, spec)
    if name in METHODS and (not sign or model):
        return Baseline(_parse_method(name), model or None, spec)
    folder = Path(spec).expanduser()
    kind = resolve(folder).kind
    # What an export computes is a contender like another run: the quality that its precision costs is measured.
    if kind in ("run", "export"):
        return Baseline("run", str(folder), spec)
    if kind in ("model", "adapter"):
        return Baseline("zero-shot", str(folder), spec)
    fix = f"one of {', '.join(METHODS)}; or the folder of a run, an export or a model; or http://…/v1#model"
    raise RunError("not a baseline", where=spec, fix=fix)


def _parse_method(name: str) -> Method:
    return next(method for method in get_args(Method) if method == name)
