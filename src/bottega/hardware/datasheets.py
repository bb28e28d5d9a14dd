"""Memory, speed and power of known GPUs, from their datasheets, to plan a run for a machine that is not here."""

from __future__ import annotations

from typing import NamedTuple

from bottega.errors import RunError

GB = 10**9


class Datasheet(NamedTuple):
    """A device: memory in bytes, peak dense bfloat16 FLOP/s, and watts; 0 where unknown."""

    memory: int
    flops: float = 0.0
    watts: float = 0.0


DEVICES: dict[str, Datasheet] = {
    # The T4 has no bfloat16 units: its figure is float16.
    "t4": Datasheet(16 * GB, 65e12, 70),
    "l4": Datasheet(24 * GB, 121e12, 72),
    "rtx4090": Datasheet(24 * GB, 165e12, 450),
    # The SXM versions of the A100, H100 and H200. Sparse figures, twice as high, are not reached in training.
    "a100": Datasheet(80 * GB, 312e12, 400),
    "h100": Datasheet(80 * GB, 989e12, 700),
    "h200": Datasheet(141 * GB, 989e12, 700),
}

# Units of memory, without the B that may follow. Decimal, as datasheets have them.
_UNITS = {"m": 10**6, "g": GB, "t": 10**12}


def find_datasheet(name: str | None) -> Datasheet | None:
    """The device with a name in DEVICES, or with the memory that `name` states (`24GB`); None for this machine.

    This machine is None, `cpu`, `auto` or `here`. Any other name raises RunError.
    """
    if name is None or name in ("cpu", "auto", "here"):
        return None
    known = DEVICES.get(name.lower().replace(" ", ""))
    if known is not None:
        return known
    text = name.lower().removesuffix("b").rstrip()  # "24 GB" → "24 g"
    try:
        return Datasheet(round(float(text[:-1]) * _UNITS[text[-1:]]))
    except (KeyError, ValueError, OverflowError):  # OverflowError: infGB
        fix = f"one of {', '.join(DEVICES)}; or its memory, such as 24GB"
        raise RunError("unknown device", where=name, fix=fix) from None
