"""The connections of the API: how long one may take over a request, and which goes first.

Anybody can open connections without a token, and send half a request on each. So a connection that
has no whole request yet keeps nobody out: it is cut off after a time, and the one that has waited
longest makes room for one that comes.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from paging.api.problems import answer

# Half of what a process may have open by default.
MOST: Final = 512
# From the connection, or from the answer before, to the last byte: a telephone at the edge of a
# cell sends 64 KiB in less.
REQUEST_S: Final = 10.0
# Some statements at their bounds.
ANSWER_S: Final = 30.0


class Impatient(H11Protocol):
    """A connection that is cut off when nothing comes of it."""

    _since: float = 0.0
    _cut: asyncio.TimerHandle | None = None

    @property
    def is_asking(self) -> bool:
        """Say whether a request has come as a whole, and is not yet answered."""
        cycle = self.cycle
        # uvicorn's types do not say that there is none at first.
        return bool(cycle) and not (cycle.more_body or cycle.response_complete)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it in; of too many one goes."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > MOST:
            waiting = (
                one for one in self.connections if isinstance(one, Impatient) and not one.is_asking
            )
            # This one, if all others ask.
            oldest = min(waiting, key=lambda one: one._since)  # noqa: SLF001 - it is one of these
            # At once: that it is lost, it hears later, and more may come before.
            self.connections.discard(oldest)
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        if self._cut is not None:
            self._cut.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._wait()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as all else is answered."""
        problem = answer(400, msg)
        headers = [*problem.raw_headers, (b"connection", b"close")]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=bytes(problem.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _wait(self) -> None:
        self._since = self.loop.time()
        self._cut_in(REQUEST_S, self._look)

    def _look(self) -> None:
        if self.is_asking:
            self._cut_in(ANSWER_S, self.transport.abort)
        else:
            self.transport.abort()

    def _cut_in(self, seconds: float, cut: Callable[[], object]) -> None:
        if self._cut is not None:
            self._cut.cancel()
        self._cut = self.loop.call_later(seconds, cut)
