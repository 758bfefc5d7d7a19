"""Become another program that dies with its parent.

Run as a script between the parent and the program it starts. Setting the parent-death signal in
`preexec_fn` would run Python between fork and exec of a process with threads, which can deadlock;
here it happens after an exec, in a fresh interpreter. The order matters: the kernel clears the
signal whenever a process changes its user, so privileges go first. Nothing but the standard
library is imported, so the interpreter starts without `site` and stays quick.

Usage: launcher.py PARENT_PID SIGNAL UID:GID|- PROGRAM [ARGUMENT ...]
"""

import ctypes
import os
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_CANNOT_START: Final = 127  # what shells answer for a program that cannot be run


def main(arguments: list[str]) -> int:
    """Drop privileges, ask for the signal, and become the program; return only on failure."""
    parent, signal_number, owner, *argv = arguments
    try:
        if owner != "-":
            uid, gid = map(int, owner.split(":"))
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        _die_with_parent(int(signal_number))
        if os.getppid() != int(parent):
            return _CANNOT_START  # the parent died before the signal was set
        os.execvp(argv[0], argv)  # noqa: S606 - the point: no shell, the list is the caller's
    except OSError as error:
        sys.stderr.write(f"cannot start {argv[0]}: {error.strerror}\n")
    return _CANNOT_START


def _die_with_parent(signal_number: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
