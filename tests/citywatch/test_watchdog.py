import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from citywatch.watchdog import STALLED, Watchdog, awake_since

PATIENCE_S = 40.0
# A process whose mark is as old as the process; its task waits for what never comes.
STALLING = """
import asyncio, sys, time
from citywatch.watchdog import Watchdog
async def hang_here():
    await asyncio.Event().wait()
async def main():
    born = time.monotonic()
    def judge(now_s, patience_s, awake_s):
        age = now_s - max(born, awake_s)
        return f"an age of {age:.0f} s" if age > patience_s else None
    Watchdog(judge, float(sys.argv[1]), asyncio.get_running_loop()).start()
    print("up", flush=True)
    await asyncio.create_task(hang_here(), name="hanging")
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("last_s", "now_s", "expected"),
    [
        (100.0, 101.0, 5.0),  # as it should be
        (100.0, 111.0, 5.0),  # a busy machine
        (100.0, 111.1, 111.1),  # stopped, or asleep
        (100.0, 9999.0, 9999.0),
    ],
)
def test_a_look_that_is_late_begins_a_fresh_period(
    last_s: float, now_s: float, expected: float
) -> None:
    assert awake_since(5.0, last_s, now_s, PATIENCE_S) == expected


def stalling(patience_s: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", STALLING, str(patience_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def test_a_stall_ends_the_process_and_is_told_with_all_stacks() -> None:
    process = stalling(1.0)
    _, told = process.communicate(timeout=30)
    assert process.returncode == STALLED == 75
    assert told.startswith("no progress: an age of")
    assert "Current thread" in told
    assert "most recent call first" in told
    # Down to where it waits, not only where it began.
    _, main, hanging = told.split("\nTask ")
    assert hanging.startswith("hanging:")
    assert "in hang_here" in hanging
    assert hanging.rstrip().endswith("in wait")
    assert "in main" in main


def test_a_process_that_was_stopped_is_given_a_fresh_period() -> None:
    process = stalling(8.0)
    try:
        os.kill(process.pid, signal.SIGSTOP)
        waiting = threading.Event()
        waiting.wait(10)  # longer than the patience: the time is what is tried
        os.kill(process.pid, signal.SIGCONT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(5)
        _, told = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == STALLED
    assert "an age of 8 s" in told or "an age of 9 s" in told


def test_standard_error_that_nobody_reads_does_not_keep_it() -> None:
    read, write = os.pipe()
    filling = os.open(f"/proc/self/fd/{write}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        while True:
            os.write(filling, b"x" * 4096)
    except BlockingIOError:
        pass
    process = subprocess.Popen(
        [sys.executable, "-c", STALLING, "1"], stdout=subprocess.DEVNULL, stderr=write
    )
    try:
        assert process.wait(30) == STALLED
    finally:
        process.kill()
        for each in (read, write, filling):
            os.close(each)


def test_systemd_is_told_as_long_as_all_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(address))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(10)
        watchdog = Watchdog(lambda *_: None, PATIENCE_S)
        watchdog.start()
        told = [systemd.recv(100) for _ in range(2)]
        watchdog.stop()
    assert told == [b"READY=1", b"WATCHDOG=1"]


def test_health_is_lost_at_half_of_the_patience() -> None:
    asked: list[float] = []

    def judge(_now_s: float, patience_s: float, _awake_s: float) -> str | None:
        asked.append(patience_s)
        return "idle"

    async def work() -> str | None:
        return Watchdog(judge, PATIENCE_S, asyncio.get_running_loop()).complaint()

    assert asyncio.run(work()) == "idle"
    assert asked == [PATIENCE_S / 2]
