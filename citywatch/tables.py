"""Rows of text for a terminal: aligned, and free of what a terminal would obey."""

from collections.abc import Iterable, Sequence
from typing import Final

# A topic or a place may be as long as its sender likes.
_MAX_CELL: Final = 60


def aligned(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table: numbers to the right, all else to the left."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    lines = [list(heading), *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    # A column without any row has none that is no number; it does not matter.
    right = [all(_is_number(row[index]) for row in cells) for index in range(len(heading))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def printable(text: str, most: int = _MAX_CELL) -> str:
    """Return text that came from elsewhere on one line, cut to `most` characters."""
    shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def _is_number(text: str) -> bool:
    return text == "-" or text.lstrip("-").isdecimal()
