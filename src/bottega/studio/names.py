"""Names of what people make in the studio: safe in a path on every system, and readable in an address."""

from __future__ import annotations

import re

import bottega

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")


def check_name(name: str, what: str) -> str:
    """The name, if `what` can have it; else a DataError."""
    if not NAME.fullmatch(name):
        fix = "use up to 60 letters, digits, - and _, and begin with a letter or digit"
        raise bottega.DataError(f"not a name for {what}", where=name, fix=fix)
    return name
