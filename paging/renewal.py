"""The routes file as it changes: what is taken up, and what is not.

A look costs one `stat`. What is read is a file that has changed and then stood still from one look
to the next, so nobody's half-written file is taken up. Whoever looks keeps what was last good.
"""

import logging
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

from paging.checking import faults_of
from paging.files import read_file
from paging.hooks import SecretError
from paging.routes import MAX_BYTES, Routes, RoutesError

log = logging.getLogger(__name__)

# Of a file that is not there.
_NONE: Final = (0, 0, 0)
_REFUSED: Final = "the routes file cannot be used, the last good one stays in force"

Mark = tuple[int, int, int]


def refused(error: Exception) -> None:
    """Log why a changed file is not taken up.

    A fault of the program is logged with its place and without its text: of what stands behind a
    hook's secret that may quote some.
    """
    if isinstance(error, RoutesError | SecretError):
        log.error(_REFUSED, extra={"error": str(error)})
    else:
        fault = RuntimeError(type(error).__name__)
        log.error(_REFUSED, exc_info=(RuntimeError, fault, error.__traceback__))


class RoutesFile:
    """A routes file that is read, and looked at again and again.

    Parameters
    ----------
    path : Path
    parse : callable
        Makes routes of its text, and raises `RoutesError`.
    """

    def __init__(self, path: Path, parse: Callable[[str], Routes]) -> None:
        self._path = path
        self._parse = parse
        self._digest = b""
        self._seen: Mark | None = None
        self._judged: Mark | None = None

    def read(self) -> Routes:
        """Return what the file says.

        Raises
        ------
        RoutesError
            If it cannot be read or is not well-formed; the message names it and every fault.
        """
        return self._routes(self._data())

    def changed(self) -> Routes | None:
        """Return what the file says, if it is not what was read last, whatever came of that.

        Raises
        ------
        RoutesError
            If it is new and cannot be used.
        """
        mark = self._mark()
        if mark == self._judged:
            return None
        if mark != self._seen:
            self._seen = mark
            return None
        self._judged = mark
        before = self._digest
        data = self._data()
        if self._digest == before:
            return None
        routes = self._routes(data)
        if faults := faults_of(routes):
            raise self._error("\n".join(faults))
        return routes

    def _mark(self) -> Mark:
        try:
            found = self._path.stat()
        except OSError:
            return _NONE
        return (found.st_mtime_ns, found.st_size, found.st_ino)

    def _data(self) -> bytes:
        try:
            # One more than may be read, so that what is too large is refused as that.
            data = read_file(self._path, MAX_BYTES + 1)
        except OSError as error:
            # Whatever comes back is new, also what was there before.
            self._digest = b""
            raise self._error(error.strerror) from error
        self._digest = sha256(data).digest()
        return data

    def _routes(self, data: bytes) -> Routes:
        try:
            return self._parse(data.decode())
        except (UnicodeDecodeError, RoutesError) as error:
            raise self._error(error) from error

    def _error(self, what: object) -> RoutesError:
        return RoutesError(f"{self._path}: {what}")
