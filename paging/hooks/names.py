"""The addresses of a host, asked for by each hook on threads of its own.

The system is asked, as every other program here asks it: hosts file, search list, and whatever else
it is told to look at. It answers when it likes, and goes on waiting for a dead name service when
the attempt that asked is long over; in the event loop's pool, a few hooks with such names would be
all that it has threads for.
"""

import socket
from functools import partial

from aiohttp.abc import AbstractResolver, ResolveResult

from paging.threads import in_thread


class Names(AbstractResolver):
    """Looks up names for one hook.

    A connector asks once for all attempts that want the same name, and not again before there is
    an answer. So as many threads hang as a hook has names: its own, and that of a proxy.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host.

        Raises
        ------
        OSError
            If it has none, or nobody knows.
        """
        return await in_thread(partial(_addresses, host, port, family), "name")

    async def close(self) -> None:
        """Let threads that hang be."""


def _addresses(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    # As aiohttp's own: no IPv6 address on a host that has no IPv6.
    found = socket.getaddrinfo(
        host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    return [
        ResolveResult(
            hostname=host,
            # Says of a link-local address which link, too.
            host=socket.getnameinfo(address, numeric)[0],
            port=port,
            family=kind,
            proto=protocol,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for kind, _, protocol, _, address in found
    ]
