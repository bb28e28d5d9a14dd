"""What an answer takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Cost:
    """Tokens read and written, and seconds, on average over `requests`."""

    requests: int
    read: float
    written: float
    seconds: float

    def document(self) -> dict[str, float]:
        """Plain data."""
        return asdict(self)
