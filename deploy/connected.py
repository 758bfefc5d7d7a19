# ruff: noqa: INP001 - a script of the image, in no package
"""Check that a service without a web server is connected to what it needs.

Usage:

    python connected.py PORT...

Exits 0 when this network namespace has an established TCP connection to every PORT given. In a
container of its own that is the service's connection: this check opens none. A service that is
stuck in a retry has none, and one that hangs loses its own to the other side's keepalive.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_TABLES: Final = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
# proc(5): the state TCP_ESTABLISHED of include/net/tcp_states.h.
_ESTABLISHED: Final = "01"


def connected_ports(table: str) -> Iterator[int]:
    """Give the remote port of every established connection in a table of proc(5)."""
    for line in table.splitlines()[1:]:
        _, _, remote, state, *_ = line.split()
        if state == _ESTABLISHED:
            yield int(remote.rpartition(":")[2], 16)


def main(arguments: list[str]) -> int:
    """Say which ports have no connection; 1 if there is one, 2 for arguments that are no ports."""
    if not arguments or not all(argument.isdecimal() for argument in arguments):
        sys.stderr.write("usage: connected.py PORT...\n")
        return 2
    tables = (path.read_text(encoding="ascii") for path in _TABLES if path.exists())
    present = {port for table in tables for port in connected_ports(table)}
    missing = sorted(set(map(int, arguments)) - present)
    for port in missing:
        sys.stderr.write(f"no connection to port {port}\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
