"""Lines of the log: what happened, then each fact of it as `name=value`, all on one line.

Facts hold what others wrote: a title, what a server answered. So none of them can break out of its
line or send a terminal a command, and none is longer than a bound. Of libraries nothing is added:
what they attach is not meant for a log.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
_ROOMS: Final = frozenset(
    {"citywatch", "dashboards", "detectors", "ingest", "paging", "simulators", "storage", "streams"}
)
# A routes file may have hundreds of faults; the first few say where to look.
_MAX_VALUE: Final = 2_000
_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Lines(logging.Formatter):
    """Writes a record with what its `extra` holds; a traceback follows on lines of its own."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - as logging names it
        """Return the line without a traceback."""
        line = super().formatMessage(record)
        if record.name.partition(".")[0] not in _ROOMS:
            return line
        return " ".join([line, *_facts(vars(record))])


def _facts(record: Mapping[str, object]) -> Iterator[str]:
    for name, value in record.items():
        if name not in _OWN:
            yield f"{name}={_written(value)}"


def _written(value: object) -> str:
    """Return a value as one word, or quoted."""
    if isinstance(value, float):
        return f"{value:.3f}"
    is_many = isinstance(value, Iterable) and not isinstance(value, str | bytes)
    text = ",".join(map(str, value)) if is_many else str(value)  # type: ignore[call-overload]
    if len(text) > _MAX_VALUE:
        text = f"{text[: _MAX_VALUE - 1]}\N{HORIZONTAL ELLIPSIS}"
    shown = "".join(map(_letter, text))
    return shown if shown == text and _is_word(text) else f'"{shown}"'


def _letter(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode()


def _is_word(text: str) -> bool:
    return bool(text) and " " not in text and "=" not in text
