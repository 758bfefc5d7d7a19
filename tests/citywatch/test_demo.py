import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

# One demo at a time: each is a whole city, and is judged by how fast it is.
pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.xdist_group("demo")]

# 0.25 s between two readings of a sensor: faults fit into a short run.
CITY = ["--sensors", "120", "--rate", "480", "--faults", "5", "--console-port", "0"]


def demo(data_dir: Path, *options: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "citywatch", "demo", "--data-dir", str(data_dir), *options]
    return subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str], timeout_s: float) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out, err


def wait_until_up(process: subprocess.Popen[str], said: str = "everything is up") -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(said):
            return
    raise AssertionError("the demo ended before it was up")


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def assert_all_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert [process.name() for process in alive] == []


@pytest.mark.timeout(150)
def test_a_short_demo_is_well_twice_in_one_directory(tmp_path: Path) -> None:
    for _ in range(2):
        process = demo(tmp_path, *CITY, "--duration", "20", "--headless", "--json")
        code, out, err = finish(process, 90)

        facts: dict[str, Any] = json.loads(out.splitlines()[-1])
        assert code == 0, (facts["complaints"], err)
        assert facts["balanced"]
        assert facts["ok"]
        assert facts["stored"] + facts["late_conflicts"] > 30_000
        assert facts["readings"] == (
            facts["stored"] + facts["duplicates"] + facts["late_conflicts"]
        )
        assert facts["rejected"] > 0
        assert facts["withheld"] > 0
        assert facts["duplicates"] > 0
        assert facts["faults_injected"] == facts["faults_alerted"] == facts["faults_paged"] > 0
        # One a cause: alerts of one zone and kind may share a page.
        assert 0 < facts["pages_delivered"] <= facts["alerts_opened"]
        assert 0 < facts["stored_latency_ms"]["p50"] <= facts["stored_latency_ms"]["p99"] < 2000
        assert facts["page_latency_ms"]["p99"] > 0


@pytest.mark.timeout(90)
def test_ctrl_c_ends_every_process_and_gives_the_verdict(tmp_path: Path) -> None:
    process = demo(tmp_path, *CITY, "--no-recordings", "--faults", "0")
    wait_until_up(process)
    children = descendants(process.pid)
    assert len(children) >= 8

    time.sleep(2)  # some readings: an interrupted run must balance as well
    os.kill(process.pid, signal.SIGINT)
    code, out, err = finish(process, 60)

    assert code == 0, err
    assert "balanced" in out
    assert_all_gone(children)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("said", ["starting MQTT broker", "starting bridge", "everything is up"])
def test_ctrl_c_at_any_moment_leaves_nothing_behind(tmp_path: Path, said: str) -> None:
    process = demo(tmp_path, *CITY, "--no-recordings", "--faults", "0", "--headless")
    wait_until_up(process, said)
    children = descendants(process.pid)

    os.kill(process.pid, signal.SIGINT)
    code, _, err = finish(process, 60)

    early = "stopped before everything was up" in err
    assert (code, early) == ((0, False) if said == "everything is up" else (1, True)), err
    assert_all_gone(children)


def test_options_that_cannot_work_are_refused_before_anything_starts(tmp_path: Path) -> None:
    process = demo(tmp_path, "--duration", "10")
    code, _, err = finish(process, 30)

    assert code == 2
    assert "52 s" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(120)
def test_a_part_that_dies_is_started_again_and_nothing_is_lost(tmp_path: Path) -> None:
    options = ["--no-recordings", "--faults", "0", "--headless", "--json"]
    process = demo(tmp_path, *CITY, *options)
    wait_until_up(process)
    for name in ("worker", "pager"):
        next(one for one in descendants(process.pid) if one.cmdline()[-1] == name).kill()
        wait_until_up(process, f"{name} was killed by SIGKILL; starting it again in 1 s")
        wait_until_up(process, f"{name} was started again")
    children = descendants(process.pid)

    os.kill(process.pid, signal.SIGINT)
    _, out, err = finish(process, 80)

    facts = json.loads(out.splitlines()[-1])
    assert facts["balanced"], err
    assert facts["readings"] > 0
    # Who waited for the new worker waited longer than what is promised of one that lives.
    assert all("latency" in complaint for complaint in facts["complaints"])
    assert_all_gone(children)


@pytest.mark.timeout(120)
def test_a_part_that_dies_again_and_again_stops_the_demo_and_is_named(tmp_path: Path) -> None:
    process = demo(tmp_path, *CITY, "--no-recordings", "--faults", "0", "--headless")
    wait_until_up(process)
    children = descendants(process.pid)

    for left in reversed(range(6)):
        next(one for one in descendants(process.pid) if one.cmdline()[-1] == "pager").kill()
        if left:
            wait_until_up(process, "pager was started again")
    code, _, err = finish(process, 60)

    assert code == 1
    assert "ended too often: pager was killed by SIGKILL" in err
    assert_all_gone(children)


@pytest.mark.timeout(90)
def test_nothing_outlives_a_demo_that_is_killed(tmp_path: Path) -> None:
    process = demo(tmp_path, *CITY, "--no-recordings", "--faults", "0", "--headless")
    wait_until_up(process)
    children = descendants(process.pid)

    process.kill()
    process.communicate()

    assert_all_gone(children)
