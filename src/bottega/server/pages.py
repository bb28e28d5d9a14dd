"""Lists in pages, as the client's iterators read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import Request

from bottega.server.errors import ApiError
from bottega.server.state import AnyTableRow, State


def page_document(
    request: Request,
    table: type[AnyTableRow],
    document: Callable[[AnyTableRow], dict[str, Any]],
    *,
    after: str | None,
    limit: int,
    ascending: bool = False,
    where: Sequence[Any] = (),
    **equal: Any,
) -> dict[str, Any]:
    """The rows behind `after`, newest first; an unknown `after` is an error, because a client would begin again.

    where  further conditions of SQLAlchemy; `equal` are columns with their values
    """
    state: State = request.app.state.tables
    try:
        rows, has_more = state.page(table, limit=limit, after=after, ascending=ascending, where=where, **equal)
    except KeyError:
        raise ApiError(400, f"There is no '{after}' to list from.", param="after", code="invalid_value") from None
    data = [document(row) for row in rows]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "has_more": has_more, "first_id": first, "last_id": last}
