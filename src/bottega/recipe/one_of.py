"""Values of a recipe that are names of plug-ins: known only once the folder of plug-ins is listed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticKnownError, core_schema


class OneOf:
    """For use in `Annotated[str, OneOf(…)]`: the value must be one of the names, as with a `Literal` of them.

    names  is called at each validation: a plug-in may be added after the recipe's classes are defined
    """

    def __init__(self, names: Callable[[], Sequence[str]]) -> None:
        self.names = names

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.names())}

    def _check(self, value: Any) -> str:
        names = self.names()
        if not isinstance(value, str) or value not in names:
            # The error of a Literal, in pydantic's wording, which `suggestions.describe_errors` takes apart.
            quoted = [f"'{name}'" for name in names]
            raise PydanticKnownError("literal_error", {"expected": f"{', '.join(quoted[:-1])} or {quoted[-1]}"})
        return value
