"""Names of what people make in the studio: safe in a path on every system, and readable in an address."""

from __future__ import annotations

import hashlib
import re

import bottega

MAX_LENGTH = 60

NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_LENGTH - 1}}}")


def check_name(name: str, what: str) -> str:
    """The name, if `what` can have it; else a DataError."""
    if not NAME.fullmatch(name):
        fix = "use up to 60 letters, digits, - and _, and begin with a letter or digit"
        raise bottega.DataError(f"not a name for {what}", where=name, fix=fix)
    return name


def derived_name(name: str, what: str) -> str:
    """A name for something made of what has a name: that and a word, with a digest in place of what is too long."""
    whole = f"{name}-{what}"
    if len(whole) <= MAX_LENGTH:
        return whole
    ending = f"-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}-{what}"
    return name[: MAX_LENGTH - len(ending)] + ending
