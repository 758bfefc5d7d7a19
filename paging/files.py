"""Small files that somebody else writes: a bound on their size, and nothing that is no file."""

import errno
import os
import stat
from pathlib import Path


def read_file(path: Path, most: int) -> bytes:
    """Return at most so many bytes of a regular file.

    A disk that does not answer blocks it; a pipe or a device does not.

    Raises
    ------
    OSError
        If it cannot be read, or is no regular file.
    """
    # A pipe opens at once by this flag, whoever writes to it; of a regular file it changes nothing.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        check_regular(os.fstat(stream.fileno()))
        return stream.read(most)


def check_regular(found: os.stat_result) -> None:
    """Refuse what is no regular file.

    Raises
    ------
    OSError
    """
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "no regular file")
