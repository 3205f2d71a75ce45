"""Amounts of memory and of time as people write them and as the program counts them."""

import re

from ..errors import GrigriError

_UNITS = {
    **{"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12},
    **{"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40},
}
_LEAST_MEMORY = 2**20


def parse_bytes(text: str, flag: str) -> int:
    """Return the bytes that ``4GiB``, ``4GB``, ``3500 MiB`` or ``1.5gib`` means.

    Raises:
        GrigriError: if it is not an amount of memory, or less than a MiB; the message names
            ``flag``.
    """
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{0,9})?)\s*([a-zA-Z]*)\s*", text)
    unit = match[2].upper() if match else None
    if unit not in _UNITS:
        raise GrigriError(f"{flag} {text!r}: expected an amount of memory, like 4GiB or 3500MiB")
    num_bytes = int(float(match[1]) * _UNITS[unit])
    if num_bytes < _LEAST_MEMORY:
        raise GrigriError(f"{flag} {text!r} is less than a MiB; did you mean {match[1]}GiB?")
    return num_bytes


def parse_interval(text: str) -> tuple[int | None, float | None]:
    """Return the steps, or else the seconds, that ``--checkpoint-every`` means.

    Raises:
        GrigriError: if it is neither ``500`` nor ``10min``.
    """
    parts = re.fullmatch(r"(\d+(?:\.\d+)?) ?(min|steps?)?", text)
    amount = float(parts[1]) if parts else 0
    if not parts or amount <= 0 or (parts[2] != "min" and not amount.is_integer()):
        raise GrigriError(
            f"--checkpoint-every {text!r}: expected a number of steps, like 500, or of minutes,"
            f" like 10min"
        )
    return (None, amount * 60) if parts[2] == "min" else (int(amount), None)


def format_bytes(num_bytes: float) -> str:
    """Return an amount of memory: 1.50 GiB or 312 MiB."""
    if abs(num_bytes) >= 2**30:
        return f"{num_bytes / 2**30:.2f} GiB"
    return f"{num_bytes / 2**20:.0f} MiB"


def format_size(num_bytes: int) -> str:
    """Return a size as servers and disks give it: 2.9 GB, 207 kB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            number = num_bytes / size
            return f"{number:,.1f} {unit}" if number < 100 else f"{number:,.0f} {unit}"
    return f"{num_bytes} bytes"
