"""An HTTP endpoint for machines: `/metrics`, `/healthz`, `/readyz`.

Served by threads, so that it answers while the event loop hangs, and says so.
"""

import socket
import socketserver
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from prometheus_client import CollectorRegistry, MetricsHandler, disable_created_metrics

# A client that says nothing for longer is hung up on.
_PATIENCE_S: Final = 5.0
# Prometheus comes alone; more at a time are strays.
_MAX_CLIENTS: Final = 16
# A second series beside each counter, which says what process_start_time_seconds says already.
disable_created_metrics()  # type: ignore[no-untyped-call]

Complaint = Callable[[], str | None]


class Endpoint:
    """The endpoint of one process.

    Parameters
    ----------
    host : str
    port : int
        0 takes a free one.
    registry : CollectorRegistry
    alive, ready : callable to str or None
        Say why not; thread-safe.

    Raises
    ------
    OSError
        If it cannot listen there.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        alive: Complaint,
        ready: Complaint,
    ) -> None:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self._server = _Server(family, address, _handler(registry, alive, ready))
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="endpoint", daemon=True
        )

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    """Not http.server's, which looks its own name up in the DNS before it listens."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, family: int, address: Any, handler: type[MetricsHandler]) -> None:
        self.address_family = family
        self._slots = threading.BoundedSemaphore(_MAX_CLIENTS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up."""


def _handler(
    registry: CollectorRegistry, alive: Complaint, ready: Complaint
) -> type[MetricsHandler]:
    asked = {"/healthz": alive, "/readyz": ready}

    class Handler(MetricsHandler.factory(registry)):  # type: ignore[misc]  # made at run time
        timeout = _PATIENCE_S

        def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
            path = self.path.partition("?")[0]
            if path == "/metrics":
                super().do_GET()
            elif path in asked:
                complaint = asked[path]()
                status = HTTPStatus.SERVICE_UNAVAILABLE if complaint else HTTPStatus.OK
                self._answer(status, complaint or "ok")
            else:
                self._answer(HTTPStatus.NOT_FOUND, "/metrics, /healthz or /readyz")

        def _answer(self, status: HTTPStatus, text: str) -> None:
            body = f"{text}\n".encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
