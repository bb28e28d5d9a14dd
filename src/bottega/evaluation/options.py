"""The options of an evaluation, as one value: `bottega.evaluate`, the command line and the reference pages use it.

Imports neither torch nor the schema of recipes, so that the command line can show its help at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from bottega.errors import RecipeError
from bottega.suggestions import describe_errors


def _as_texts(value: Any) -> Any:
    # A single path is a list of one; paths may be `Path`, which pydantic does not take for a text.
    paths = [value] if isinstance(value, (str, Path)) else value
    return (
        tuple(str(path) if isinstance(path, Path) else path for path in paths)
        if isinstance(paths, (list, tuple))
        else paths
    )


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _without_none(baselines: tuple[str, ...]) -> tuple[str, ...]:
    # The command line cannot give an empty list, so `none` stands for it.
    return tuple(baseline for baseline in baselines if baseline != "none")


def _as_layout(value: Any) -> Any:
    # Imported here: the schema takes as long to import as all else that the help needs.
    from bottega.recipe.schema import Layout

    return value if value is None else Layout.model_validate(value, from_attributes=True)


Text = Annotated[str, BeforeValidator(_as_text)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_as_texts)]


class EvaluateOptions(BaseModel):
    """How a run is evaluated, and against what.

    In `json_schema_extra`, `option` is the name on the command line where it is not the field's, None for none at all,
    and `metavar` what stands for the value in the help.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    data: Texts | None = Field(
        None, description="Rows to use instead of the run's validation rows; several times to mix."
    )
    layout: Annotated[Any, BeforeValidator(_as_layout)] = Field(
        None, description="Layout of the files of `data`; default: as in the run.", json_schema_extra={"option": None}
    )
    rows: int = Field(500, ge=1, description="Maximum number of examples, sampled with the run's seed.")
    against: Annotated[Texts, AfterValidator(_without_none)] | None = Field(
        None,
        description="A baseline, instead of the default ones: few-shot, retrieval, bm25, dense, few-shot=MODEL, a run, "
        "a model, http://…/v1#model; or none; several times.",
        json_schema_extra={"metavar": "BASELINE"},
    )
    shots: int = Field(5, ge=1, description="Maximum number of examples in a few-shot prompt.")
    answers: int = Field(
        200, ge=0, description="Maximum number of answers that each model generates; generation is slow."
    )
    documents: Texts = Field((), description="Texts that retrieval searches; several times.")
    encoder: Text | None = Field(
        None,
        description="Find the nearest texts by the embeddings of this model; default: by BM25.",
        json_schema_extra={"metavar": "MODEL"},
    )
    judge: str | None = Field(
        None,
        description="A model that scores generated answers.",
        json_schema_extra={"metavar": "http://…/v1#model"},
    )
    scorers: Texts = Field(
        (),
        description="Python file with score(answer, reference), a further metric of generated answers; several times.",
        json_schema_extra={"option": "--scorer", "metavar": "FILE.py"},
    )
    known: Texts = Field((), description="Rows that baselines use instead of the training rows; several times.")
    seeds: int = Field(
        1, ge=1, description="Train this many runs in all, each with another seed, to measure their spread."
    )
    lm_eval: tuple[str | Mapping[str, Any], ...] = Field(
        (),
        description="A task of the lm-evaluation-harness; arc_easy:5 is 5-shot; several times.",
        json_schema_extra={"metavar": "TASK"},
    )
    general: Texts = Field((), description="Other texts or rows, to measure forgetting; several times.")
    harmful: Text | None = Field(
        None, description="Requests that the model should refuse.", json_schema_extra={"metavar": "FILE"}
    )
    harmless: Text | None = Field(
        None, description="Requests that the model should not refuse.", json_schema_extra={"metavar": "FILE"}
    )


def parse_options(values: Mapping[str, Any]) -> EvaluateOptions:
    """The options given as keyword arguments; a RecipeError names the first that is not valid."""
    unknown = [name for name in values if name not in EvaluateOptions.model_fields]
    if unknown:
        # As Python says it of any function.
        raise TypeError(f"evaluate() got an unexpected keyword argument {unknown[0]!r}")
    try:
        return EvaluateOptions(**values)
    except ValidationError as error:
        problem = error.errors()[0]
        what, fix = describe_errors([problem])
        where = str(problem["loc"][0]) if problem["loc"] else None
        raise RecipeError(what, where=where, fix=fix or "see the options of bottega evaluate") from None
