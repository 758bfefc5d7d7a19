"""What the three parts of the stack have in common: a port, a child process, readiness."""

import os
import socket
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final

from citywatch.embedded.errors import EmbeddedError
from citywatch.embedded.process import ChildProcess

HOST: Final = "127.0.0.1"
# Crash recovery of a full max_wal_size on a slow disk is the longest of the three.
_START_DEADLINE_S: Final = 120.0
# A free port can be taken between its choice and the child's bind; twice in a row is bad luck.
_PORT_ATTEMPTS: Final = 3
PROBE_TIMEOUT_S: Final = 2.0


class Service(ABC):
    """A broker or database as a child process on 127.0.0.1.

    Parameters
    ----------
    directory : Path
        Its own folder in the data directory.
    port : int
        TCP port; 0 takes a free one at the first start and keeps it.
    """

    name: str

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self._child: ChildProcess | None = None

    @property
    @abstractmethod
    def version(self) -> str:
        """Name and version of the program."""

    @property
    def pid(self) -> int | None:
        """Process id of the program, None when it was not started."""
        return self._child.pid if self._child is not None else None

    def start(self) -> None:
        """Start the program and return when it answers.

        Raises
        ------
        EmbeddedError
            If it runs already, its port is taken, a wheel is missing, or it does not come up.
        """
        if self._child is not None:
            if self._child.running:
                raise EmbeddedError(f"{self.name} is running already")
            self.stop()
        self._prepare()
        for left in reversed(range(1 if self.port else _PORT_ATTEMPTS)):
            port = self.port or _free_port()
            if self.port and not _is_free(port):
                raise EmbeddedError(f"{self.name}: port {port} of {HOST} is in use")
            try:
                self._start_at(port)
            except EmbeddedError:
                if left and not _is_free(port):
                    continue
                raise
            self.port = port
            return

    def stop(self) -> None:
        """Stop the program in good order; no error if it does not run."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def kill(self) -> None:
        """Kill the program with SIGKILL, as a crash would."""
        if self._child is not None:
            self._child.kill()

    def restart(self) -> None:
        """Stop the program, or clear away the dead one, and start it on the same port."""
        self.stop()
        self.start()

    def check(self) -> None:
        """Raise EmbeddedError if the program does not run."""
        if self._child is None:
            raise EmbeddedError(f"{self.name} is not running")
        self._child.check()

    def _start_at(self, port: int) -> None:
        child = self._program(port)
        try:
            child.start()
            child.wait_ready(lambda: self._answers(port), _START_DEADLINE_S)
        except BaseException:
            child.stop()
            raise
        self._child = child

    def _prepare(self) -> None:
        """Lay out the folder before the program starts."""
        self.directory.mkdir(mode=0o700, exist_ok=True)

    @abstractmethod
    def _program(self, port: int) -> ChildProcess:
        """Return the program, not started yet."""

    @abstractmethod
    def _answers(self, port: int) -> bool:
        """Say whether the program serves clients."""


def environment() -> dict[str, str]:
    """Return the environment of every program: what it needs to run, and nothing it obeys."""
    # LD_LIBRARY_PATH: some Python builds find their own library only with it.
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {"LC_ALL": "C", "TZ": "UTC"} | kept


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file in one step, with `mode` from the first moment on."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)


def exchange(port: int, request: bytes, length: int) -> bytes | None:
    """Send `request` and return the first `length` bytes of the answer; None if there is none."""
    try:
        with socket.create_connection((HOST, port), timeout=PROBE_TIMEOUT_S) as connection:
            connection.sendall(request)
            answer = b""
            while len(answer) < length:
                part = connection.recv(length - len(answer))
                if not part:
                    return None
                answer += part
            return answer
    except OSError:
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: connections of the last run that linger in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
