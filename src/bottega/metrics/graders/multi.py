"""Several graders, and a formula over their grades."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from bottega.metrics.graders import GradedText, Grader, UngradableError, parse_grader

OPERATORS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}

FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}

# Letters of a formula.
MAX_FORMULA = 1000


class Multi(Grader):
    """A formula over the grades of others: + − * / ^ and min max abs floor ceil exp sqrt log."""

    type: Literal["multi"]
    graders: dict[str, Any] = Field(min_length=1)
    calculate_output: str = Field(min_length=1, max_length=MAX_FORMULA)

    @field_validator("graders", mode="before")
    @classmethod
    def _by_name(cls, graders: Any) -> Any:
        # One may stand there alone, under its own name.
        return (
            {graders["name"]: graders} if isinstance(graders, dict) and {"type", "name"} <= graders.keys() else graders
        )

    @model_validator(mode="after")
    def _check(self) -> Multi:
        if any(isinstance(grader, Multi) for grader in self.parts.values()):
            raise ValueError("a multi grader within another")
        names = {node.id for node in ast.walk(self._formula) if isinstance(node, ast.Name)}
        if unknown := names - self.parts.keys() - FUNCTIONS.keys():
            raise ValueError(f"the formula names {min(unknown)}, which is no grader; known: {', '.join(self.parts)}")
        return self

    @cached_property
    def _formula(self) -> ast.expr:
        try:
            formula = ast.parse(self.calculate_output.replace("^", "**"), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ValueError(f"not a formula: {self.calculate_output}") from None
        _check_formula(formula)
        return formula

    @cached_property
    def parts(self) -> Mapping[str, Grader]:
        return {name: parse_grader(document) for name, document in self.graders.items()}

    def renamed(self, models: Mapping[str, str]) -> Grader:
        parts = {name: part.renamed(models).model_dump() for name, part in self.parts.items()}
        return parse_grader({**self.model_dump(), "graders": parts})

    def grade(self, text: GradedText) -> float:
        return self.grade_with_parts(text)[0]

    def grade_with_parts(self, text: GradedText) -> tuple[float, dict[str, float]]:
        grades = {name: grader.grade(text) for name, grader in self.parts.items()}
        try:
            value = float(_evaluate(self._formula, grades))
        except (ArithmeticError, ValueError, TypeError) as error:
            raise UngradableError("formula_parse_error", f"{self.calculate_output}: {error}") from None
        if not math.isfinite(value):
            raise UngradableError("formula_parse_error", f"{self.calculate_output} is not finite")
        return value, grades


def _check_formula(node: ast.AST) -> None:
    """Raise a ValueError for anything but numbers, names, operators and the functions above."""
    if isinstance(node, ast.BinOp | ast.UnaryOp):
        children: list[ast.AST] = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.operand]
        fits = type(node.op) in OPERATORS
    elif isinstance(node, ast.Call):
        children = list(node.args)
        fits = isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS and not node.keywords
    else:
        children = []
        fits = isinstance(node, ast.Name) or (isinstance(node, ast.Constant) and type(node.value) in (int, float))
    if not fits:
        raise ValueError(f"the formula may not have {ast.unparse(node)[:60]}")
    for child in children:
        _check_formula(child)


def _evaluate(node: ast.AST, grades: Mapping[str, float]) -> float:
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left, grades), _evaluate(node.right, grades)
        return OPERATORS[type(node.op)](float(left), float(right))
    if isinstance(node, ast.UnaryOp):
        return OPERATORS[type(node.op)](_evaluate(node.operand, grades))
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name), "checked when it was parsed"
        return FUNCTIONS[node.func.id](*(_evaluate(argument, grades) for argument in node.args))
    if isinstance(node, ast.Name):
        return grades[node.id]
    assert isinstance(node, ast.Constant), "checked when it was parsed"
    return float(node.value)  # type: ignore[arg-type]
