"""Child processes that never outlive their parent, and whose logs are bounded.

The kernel sends a child its parent-death signal when the *thread* that forked it ends, not the
process. So one daemon thread, the keeper, forks every child and lives as long as the process:
children may be started from short-lived threads, and still die with a parent that is killed -9.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import cache
from pathlib import Path
from queue import Empty, Queue
from threading import Lock, Thread
from typing import Final, NamedTuple, Self

from citywatch.embedded.errors import EmbeddedError

# One old log is kept beside the current one, so a part holds at most twice this on disk, plus
# what it writes between two looks of the keeper.
MAX_LOG_BYTES: Final = 16 << 20
_LOG_CHECK_S: Final = 5.0
_TAIL_BYTES: Final = 4096
_TAIL_LINES: Final = 20
_POLL_S: Final = 0.02
# A process that was sent SIGKILL ends as soon as the kernel gets to it; on a starved machine
# that took seconds.
_KILL_DEADLINE_S: Final = 30.0
_MAX_REQUESTS: Final = 64
_LAUNCHER: Final = Path(__file__).with_name("launcher.py")


class Owner(NamedTuple):
    """The user and group a child runs as."""

    uid: int
    gid: int


class ChildProcess:
    """A program that runs in its own process group and dies with this process.

    Its output goes straight to a file, which is put aside as `<log>.1` at every start and, while
    the child runs, copied there and truncated as soon as it is found larger than
    `MAX_LOG_BYTES` (looked at every five seconds; lines written during the copy are lost).

    Parameters
    ----------
    name : str
        What messages call it.
    argv : sequence of str
        Program and arguments; the program is looked up on the PATH of `env`.
    env : mapping
        The whole environment of the child.
    log_path : Path
        Where standard output and error go; made readable by the owner only.
    owner : Owner, optional
        Run as this user. Needs to be root.
    cwd : Path, optional
        Working directory; this process's own by default.
    stop_signal : signal
        Asks for an orderly end.
    death_signal : signal
        Sent by the kernel when this process is gone. SIGKILL is the only one that is certain.
    grace_s : float
        How long `stop` waits after `stop_signal` before it sends SIGKILL.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        log_path: Path,
        *,
        owner: Owner | None = None,
        cwd: Path | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        death_signal: signal.Signals = signal.SIGKILL,
        grace_s: float = 10.0,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._argv = list(argv)
        self._env = dict(env)
        self._owner = owner
        self._cwd = cwd
        self._stop_signal = stop_signal
        self._death_signal = death_signal
        self._grace_s = grace_s
        self._process: subprocess.Popen[bytes] | None = None
        self._last_exit_code: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """Process id, also of a child that has died but was not stopped yet; None otherwise."""
        return self._process.pid if self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether the child was started and has not ended."""
        return self._process is not None and self.exit_code is None

    @property
    def exit_code(self) -> int | None:
        """Exit code, negative for a signal; None before the first start and while it runs."""
        process = self._process
        if process is None:
            return self._last_exit_code
        # WNOWAIT leaves the dead child in place: while it is not reaped, its id and its group's
        # cannot become another process's.
        try:
            ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return process.poll()  # another thread has just stopped it
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def start(self) -> None:
        """Start the program; it may need time before it is ready.

        Raises
        ------
        EmbeddedError
            If it is running already, or this system cannot run it.
        """
        if self._process is not None:
            if self.running:
                raise EmbeddedError(f"{self.name} is running already")
            self.stop()
        if not sys.platform.startswith("linux"):
            raise EmbeddedError(f"{self.name}: the embedded stack needs Linux")
        owner = f"{self._owner.uid}:{self._owner.gid}" if self._owner else "-"
        launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid())]
        argv = [*launcher, str(int(self._death_signal)), owner, *self._argv]
        try:
            self._process = _keeper(os.getpid()).spawn(
                self, lambda: _popen(argv, self._env, self._cwd, self.log_path)
            )
        except OSError as error:
            raise EmbeddedError(f"{self.name} cannot be started: {error}") from error

    def wait_ready(self, is_ready: Callable[[], bool], deadline_s: float) -> None:
        """Wait until `is_ready()` holds.

        Raises
        ------
        EmbeddedError
            If the child ends first, or `deadline_s` seconds pass; with the tail of its log.
        """
        end = time.monotonic() + deadline_s
        while True:
            self.check()
            if is_ready():
                return
            if time.monotonic() > end:
                raise EmbeddedError(
                    f"{self.name} was not ready after {deadline_s:g} s\n{self.log_tail()}"
                )
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Raise EmbeddedError with the tail of the log if the child is not running."""
        if self._process is None:
            raise EmbeddedError(f"{self.name} is not running")
        code = self.exit_code
        if code is not None:
            raise EmbeddedError(f"{self.name} {_describe(code)}\n{self.log_tail()}")

    def wait(self, deadline_s: float) -> int | None:
        """Wait for the child to end; return its exit code, or None if it still runs."""
        end = time.monotonic() + deadline_s
        while self.running and time.monotonic() < end:
            time.sleep(_POLL_S)
        return self.exit_code

    def kill(self) -> None:
        """Kill the child with SIGKILL and wait for its end; `check` will then tell."""
        if self._process is not None and self.running:
            self._process.kill()
            self.wait(_KILL_DEADLINE_S)

    def stop(self) -> None:
        """End the child and its process group: the stop signal, a grace, then SIGKILL."""
        process = self._process
        if process is None:
            return
        if self.running:
            os.kill(process.pid, self._stop_signal)
            self.wait(self._grace_s)
        self.kill()
        # What the child left behind in its group goes too, before its id is given back.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        self._last_exit_code = self.exit_code
        self._process = None
        process.wait(_KILL_DEADLINE_S)
        _keeper(os.getpid()).forget(self)

    def log_tail(self) -> str:
        """Return the last lines of the log."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError as error:
            return f"({self.log_path}: {error.strerror})"
        return "\n".join(lines[-_TAIL_LINES:]) or f"({self.log_path} is empty)"

    def bound_log(self) -> None:
        """Put the log aside and truncate it if it has grown too large."""
        with suppress(OSError):
            if self.log_path.stat().st_size > MAX_LOG_BYTES:
                shutil.copyfile(self.log_path, _old_log(self.log_path))
                os.truncate(self.log_path, 0)


class _Keeper:
    """The thread that forks the children and bounds their logs."""

    def __init__(self) -> None:
        self._requests: Queue[Callable[[], None]] = Queue(maxsize=_MAX_REQUESTS)
        self._children: set[ChildProcess] = set()
        self._lock = Lock()
        # A daemon: it must outlast every other thread, or the kernel ends the children early.
        Thread(target=self._run, name="child-keeper", daemon=True).start()

    def spawn(
        self, child: ChildProcess, popen: Callable[[], subprocess.Popen[bytes]]
    ) -> subprocess.Popen[bytes]:
        answer: Future[subprocess.Popen[bytes]] = Future()

        def fork() -> None:
            try:
                answer.set_result(popen())
            except OSError as error:
                answer.set_exception(error)

        self._requests.put(fork)
        process = answer.result()
        with self._lock:
            self._children.add(child)
        return process

    def forget(self, child: ChildProcess) -> None:
        with self._lock:
            self._children.discard(child)

    def _run(self) -> None:
        while True:
            try:
                self._requests.get(timeout=_LOG_CHECK_S)()
            except Empty:
                with self._lock:
                    children = list(self._children)
                for child in children:
                    child.bound_log()


@cache
def _keeper(_pid: int) -> _Keeper:
    # Keyed by process: threads do not come along into a forked one.
    return _Keeper()


def _popen(
    argv: Sequence[str], env: Mapping[str, str], cwd: Path | None, log_path: Path
) -> subprocess.Popen[bytes]:
    with suppress(FileNotFoundError):
        log_path.replace(_old_log(log_path))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    log = os.open(log_path, flags, 0o600)
    try:
        return subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
        )
    finally:
        os.close(log)


def _old_log(log_path: Path) -> Path:
    return log_path.with_name(f"{log_path.name}.1")


def _describe(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was killed by signal {-exit_code}"
