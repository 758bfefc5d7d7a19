"""Children: they die with their parent, leave nothing behind, and their logs are bounded."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from citywatch.embedded import EmbeddedError, process
from citywatch.embedded.process import ChildProcess

DEADLINE_S = 20.0
FOREVER = "while :; do sleep 0.05; done"


def shell(tmp_path: Path, script: str, **options: Any) -> ChildProcess:
    return ChildProcess(
        "a child", ["sh", "-c", script], dict(os.environ), tmp_path / "log", **options
    )


def written(child: ChildProcess, text: str) -> None:
    child.wait_ready(lambda: text in child.log_path.read_text(), DEADLINE_S)


def ended(pid: int) -> bool:
    """Say whether a process is gone; a zombie is, whoever may reap it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def await_end(*pids: int) -> None:
    ticks = threading.Event()
    for _ in range(int(DEADLINE_S / 0.02)):
        if all(map(ended, pids)):
            return
        ticks.wait(0.02)
    pytest.fail(f"still there: {[pid for pid in pids if not ended(pid)]}")


def test_output_goes_to_the_log_and_stop_ends_in_order(tmp_path: Path) -> None:
    child = shell(tmp_path, f"trap 'echo bye; exit 3' TERM; echo ready; {FOREVER}")
    child.start()
    written(child, "ready")
    assert child.running
    child.stop()
    assert child.exit_code == 3
    assert child.log_path.read_text() == "ready\nbye\n"
    assert child.log_path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(EmbeddedError, match="a child is not running"):
        child.check()


def test_a_child_that_ignores_the_stop_signal_is_killed(tmp_path: Path) -> None:
    child = shell(tmp_path, f"trap '' TERM; echo ready; {FOREVER}", grace_s=0.2)
    child.start()
    written(child, "ready")
    child.stop()
    assert child.exit_code == -signal.SIGKILL


def test_stop_takes_the_whole_process_group(tmp_path: Path) -> None:
    child = shell(tmp_path, f"({FOREVER}) & echo $! ready; wait")
    child.start()
    written(child, "ready")
    grandchild = int(child.log_path.read_text().split()[0])
    assert not ended(grandchild)
    child.stop()
    await_end(grandchild)


def test_a_crash_is_told_with_the_tail_of_the_log(tmp_path: Path) -> None:
    child = shell(tmp_path, "echo because; kill -9 $$")
    child.start()
    child.wait(DEADLINE_S)
    with pytest.raises(EmbeddedError, match=r"a child was killed by SIGKILL\nbecause"):
        child.check()
    child.stop()


def test_a_program_that_does_not_exist(tmp_path: Path) -> None:
    child = ChildProcess("a child", ["no-such-program"], {"PATH": "/bin"}, tmp_path / "log")
    child.start()
    with pytest.raises(
        EmbeddedError, match=r"exit code 127\ncannot start no-such-program: No such"
    ):
        child.wait_ready(lambda: False, DEADLINE_S)
    child.stop()


def test_a_child_that_is_never_ready(tmp_path: Path) -> None:
    with (
        shell(tmp_path, FOREVER) as child,
        pytest.raises(EmbeddedError, match=r"not ready after 0.1 s"),
    ):
        child.wait_ready(lambda: False, 0.1)


def test_a_child_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    child = shell(tmp_path, f"echo ready; {FOREVER}")
    thread = threading.Thread(target=child.start)
    thread.start()
    thread.join()
    written(child, "ready")
    # The kernel would have sent the signal by now: it does so while the thread exits.
    assert child.wait(0.3) is None
    child.stop()


def test_a_child_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = f"""
import os, signal, threading
from pathlib import Path
from citywatch.embedded.process import ChildProcess
log = Path({str(tmp_path)!r}) / "log"
child = ChildProcess("x", ["sh", "-c", "{FOREVER}"], dict(os.environ), log)
starter = threading.Thread(target=child.start)
starter.start()
starter.join()
print(child.pid, flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        assert not ended(pid)
        parent.kill()
    await_end(pid)


def test_a_log_that_grows_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MAX_LOG_BYTES", 2000)
    child = shell(tmp_path, f"trap 'echo end; exit 0' TERM; head -c 3000 /dev/zero; {FOREVER}")
    child.start()
    child.wait_ready(lambda: child.log_path.stat().st_size >= 3000, DEADLINE_S)
    child.bound_log()
    assert child.log_path.stat().st_size == 0
    assert (tmp_path / "log.1").read_bytes() == bytes(3000)
    child.stop()
    assert child.log_path.read_text() == "end\n"


def test_the_keeper_bounds_logs_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MAX_LOG_BYTES", 2000)
    monkeypatch.setattr(process, "_LOG_CHECK_S", 0.05)
    with shell(tmp_path, f"head -c 3000 /dev/zero; {FOREVER}") as child:
        child.wait_ready((tmp_path / "log.1").exists, DEADLINE_S)


def test_the_log_of_the_last_start_is_kept(tmp_path: Path) -> None:
    child = shell(tmp_path, "date +%s%N")
    child.start()
    child.wait(DEADLINE_S)
    first = child.log_path.read_text()
    child.start()
    child.wait(DEADLINE_S)
    child.stop()
    assert (tmp_path / "log.1").read_text() == first
    assert child.log_path.read_text() > first


def test_no_link_is_followed_to_the_log(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("keep")
    (tmp_path / "log.1").mkdir()  # the link cannot be put aside
    (tmp_path / "log").symlink_to(target)
    with pytest.raises(EmbeddedError, match="cannot be started"):
        shell(tmp_path, "echo overwritten").start()
    assert target.read_text() == "keep"
