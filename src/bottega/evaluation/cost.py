"""The cost of an answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Cost:
    """Prompt tokens read, tokens generated, and seconds: each the mean over `requests`."""

    requests: int
    read: float
    written: float
    seconds: float

    def document(self) -> dict[str, float]:
        """Plain data."""
        return asdict(self)
