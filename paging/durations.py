"""Spans of time as people write them: `30s`, `5m`, `4h`, `7d`."""

import re
from datetime import timedelta
from typing import Final

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
# Longer than anything that is waited for; the calendar ends where nothing bounds a span.
LONGEST: Final = timedelta(days=3_650)
_SPAN: Final = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])")


def span_of(text: str) -> timedelta:
    """Return a span of time.

    Raises
    ------
    ValueError
        If `text` is not a number with one of s, m, h and d, or more than ten years.
    """
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"a span of time like 30s, 5m, 4h or 7d is expected, not {text!r}")
    seconds = float(found[1]) * _UNITS[found[2]]
    if seconds > LONGEST.total_seconds():
        raise ValueError(f"at most ten years, {spoken(LONGEST)}, are expected, not {text!r}")
    return timedelta(seconds=seconds)


def spoken(span: timedelta) -> str:
    """Return a span in its largest whole unit: `90s`, `2m`, `4h`."""
    seconds = span.total_seconds()
    for unit, length in reversed(_UNITS.items()):
        if seconds >= length and seconds % length == 0:
            return f"{int(seconds // length)}{unit}"
    return f"{seconds:g}s"
