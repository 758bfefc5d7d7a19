"""Starts a child again that has ended, as Docker or systemd would, and not without end."""

from collections import deque
from typing import Final

from citywatch.embedded.errors import EmbeddedError
from citywatch.embedded.process import ChildProcess

# A part that cannot start at all is given up after half a minute; one that dies once in a while
# is always started again.
_MOST: Final = 5
_WITHIN_S: Final = 600.0
_PAUSE_S: Final = 1.0
_PAUSE_CAP_S: Final = 30.0


class Restarts:
    """Decides whether a process is started again, and when.

    Parameters
    ----------
    most : int
        How often it may end ...
    within_s : float
        ... in such a time.
    pause_s, cap_s : float
        The first pause; every further one is twice as long, up to the cap.
    """

    def __init__(
        self,
        most: int = _MOST,
        within_s: float = _WITHIN_S,
        pause_s: float = _PAUSE_S,
        cap_s: float = _PAUSE_CAP_S,
    ) -> None:
        self._most = most
        self._within_s = within_s
        self._pause_s = pause_s
        self._cap_s = cap_s
        self._ends: deque[float] = deque()

    def pause(self, now_s: float) -> float | None:
        """Note that it has ended; return the pause before it starts again, None to give up."""
        while self._ends and now_s - self._ends[0] > self._within_s:
            self._ends.popleft()
        self._ends.append(now_s)
        if len(self._ends) > self._most:
            return None
        return min(self._cap_s, self._pause_s * 2.0 ** (len(self._ends) - 1))


class Supervised:
    """A child that is started again when it ends.

    Parameters
    ----------
    child : ChildProcess
        Started already.
    restarts : Restarts, optional
    """

    def __init__(self, child: ChildProcess, restarts: Restarts | None = None) -> None:
        self.child = child
        self._restarts = restarts or Restarts()
        self._due_s: float | None = None

    def look(self, now_s: float) -> str | None:
        """Start the child again if it is time to; return what there is to say.

        Raises
        ------
        EmbeddedError
            If it has ended too often; with the tail of its log.
        """
        if self._due_s is None:
            return None if self.child.running else self._ended(now_s)
        if now_s < self._due_s:
            return None
        self._due_s = None
        self.child.start()
        return f"{self.child.name} was started again"

    def _ended(self, now_s: float) -> str:
        pause_s = self._restarts.pause(now_s)
        try:
            self.child.check()
        except EmbeddedError as error:
            if pause_s is None:
                raise EmbeddedError(f"given up, it has ended too often: {error}") from error
            self._due_s = now_s + pause_s
            return f"{str(error).splitlines()[0]}; starting it again in {pause_s:g} s"
        raise AssertionError("a child that has ended is said to run")
