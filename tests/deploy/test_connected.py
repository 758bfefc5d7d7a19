import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def script(repository: Path) -> Path:
    return repository / "deploy/connected.py"


def _run(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, script, *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)


def test_sees_a_connection_come_and_go(script: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        # Listening is not being connected.
        assert _run(script, port).returncode == 1
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            assert _run(script, port).returncode == 0
            local = client.getsockname()[1]
        accepted.close()
    gone = _run(script, port, local)
    assert gone.returncode == 1
    assert f"no connection to port {port}" in gone.stderr


def test_wants_every_port(script: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_connection(server.getsockname()),
    ):
        port, silent = server.getsockname()[1], other.getsockname()[1]
        done = _run(script, port, silent)
    assert done.returncode == 1
    assert done.stderr == f"no connection to port {silent}\n"


@pytest.mark.parametrize("arguments", [[], ["kafka"], ["9092", "-1"]])
def test_refuses_what_is_no_port(script: Path, arguments: list[str]) -> None:
    assert _run(script, *arguments).returncode == 2


def test_reads_ipv6_and_skips_other_states(script: Path) -> None:
    table = (
        "  sl  local_address remote_address st tx_queue\n"
        "   0: 0100007F:0CEA 0100007F:2384 01 00000000:00000000\n"
        "   1: 0100007F:0CEA 0100007F:1538 06 00000000:00000000\n"
        "   2: 00000000000000000000000000000000:0016 "
        "0000000000000000FFFF00000100007F:075B 01 00000000:00000000\n"
    )
    connected_ports = runpy.run_path(str(script))["connected_ports"]
    assert list(connected_ports(table)) == [9092, 1883]
