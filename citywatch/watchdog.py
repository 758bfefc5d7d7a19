"""Ends a process that makes no progress, so that whatever started it starts it again.

A thread of its own, because it must look while the event loop hangs. It decides nothing: whether
there is progress says a pure function that is given the time. Ending at once loses nothing: what is
not committed was not acknowledged either.

A thread that holds Python's interpreter lock for good stops this one, too. Such a process is seen
from outside: its endpoint does not answer, and systemd misses the signs of life it gets from here.
"""

import asyncio
import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

# sysexits.h: a failure that another try may get over. Nothing else here ends with it.
STALLED: Final = os.EX_TEMPFAIL
_LOOK_S: Final = 1.0
# What telling may take: standard error may be a pipe that nobody reads.
_TELL_S: Final = 5.0

Judge = Callable[[float, float, float], str | None]


def awake_since(awake_s: float, last_s: float, now_s: float, patience_s: float) -> float:
    """Return since when a process runs without having been stopped.

    A look that is late by a quarter of the patience means that the process was stopped, or the
    machine asleep: a fresh period begins.

    Parameters
    ----------
    awake_s : float
        The same, as of the last look.
    last_s, now_s : float
        The last look, and this one.
    patience_s : float
    """
    return now_s if now_s - last_s > _LOOK_S + patience_s / 4 else awake_s


class Watchdog:
    """A thread that looks every second.

    Parameters
    ----------
    judge : callable of (now_s, patience_s, awake_s) to str or None
        Says why there is no progress; thread-safe.
    patience_s : float
        How long there may be none.
    loop : asyncio.AbstractEventLoop, optional
        Whose tasks are told before the end.
    """

    def __init__(
        self, judge: Judge, patience_s: float, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self._judge = judge
        self._patience_s = patience_s
        self._loop = loop
        self._awake_s = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        self._thread.join()

    def complaint(self) -> str | None:
        """Return why the process is not well: no progress for half of what would end it."""
        return self._judge(time.monotonic(), self._patience_s / 2, self._awake_s)

    def _run(self) -> None:
        last_s = time.monotonic()
        notify("READY=1")
        while not self._stopped.wait(_LOOK_S):
            now_s = time.monotonic()
            self._awake_s = awake_since(self._awake_s, last_s, now_s, self._patience_s)
            last_s = now_s
            reason = self._judge(now_s, self._patience_s, self._awake_s)
            if reason is not None:
                self._end(reason)
            notify("WATCHDOG=1")

    def _end(self, reason: str) -> None:
        telling = threading.Thread(target=self._tell, args=(reason,), daemon=True)
        telling.start()
        telling.join(_TELL_S)
        os._exit(STALLED)

    def _tell(self, reason: str) -> None:
        # Past logging, whose lock the hanging thread may hold.
        sys.stderr.write(f"no progress: {reason}; the process ends with {STALLED}\n")
        sys.stderr.flush()
        faulthandler.dump_traceback(all_threads=True)
        if self._loop is not None:
            with suppress(RuntimeError):  # tasks come and go meanwhile
                for task in sorted(asyncio.all_tasks(self._loop), key=asyncio.Task.get_name):
                    sys.stderr.write(f"\nTask {task.get_name()}:\n{_await_chain(task)}")
            sys.stderr.flush()


def _await_chain(task: asyncio.Task[Any]) -> str:
    """Return where a task waits, outermost first; a task's own stack is one frame only."""
    lines: list[str] = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
        if frame is not None:
            code = frame.f_code
            lines.append(f'  File "{code.co_filename}", line {frame.f_lineno}, in {code.co_name}\n')
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)
    return "".join(lines)


def notify(state: str) -> None:
    """Tell systemd, where it has started this process and wants to know (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # Who has been told too little starts the process again; nothing else could be done here.
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.setblocking(False)
        told.sendto(state.encode(), address.replace("@", "\0", 1))
