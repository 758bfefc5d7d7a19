"""A child that ends is started again, later each time, and given up in the end."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from citywatch.embedded import EmbeddedError
from citywatch.embedded.process import ChildProcess
from citywatch.embedded.supervision import Restarts, Supervised

DEADLINE_S = 20.0


def test_pauses_double_up_to_the_cap_and_then_it_is_given_up() -> None:
    restarts = Restarts(most=4, within_s=100.0, pause_s=1.0, cap_s=3.0)
    assert [restarts.pause(at) for at in (0.0, 1.0, 3.0, 6.0, 9.0)] == [1.0, 2.0, 3.0, 3.0, None]


def test_what_is_long_past_does_not_count() -> None:
    restarts = Restarts(most=2, within_s=100.0, pause_s=1.0, cap_s=3.0)
    assert [restarts.pause(at) for at in (0.0, 100.5, 201.0, 202.0)] == [1.0, 1.0, 1.0, 2.0]


def supervised(tmp_path: Path, script: str) -> Supervised:
    child = ChildProcess("a child", ["sh", "-c", script], dict(os.environ), tmp_path / "log")
    child.start()
    return Supervised(child, Restarts(most=2, pause_s=0.05))


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    there = tmp_path / "there"
    one = supervised(tmp_path, f"test -e {there} && exec sleep 60; touch {there}; exit 75")
    said: list[str] = []

    def runs_again() -> bool:
        said.extend(filter(None, [one.look(time.monotonic())]))
        return len(said) == 2

    try:
        until(runs_again)
        assert said == [
            "a child ended with exit code 75; starting it again in 0.05 s",
            "a child was started again",
        ]
        assert one.child.running
        assert one.look(time.monotonic()) is None
    finally:
        one.child.stop()


def test_a_child_that_dies_again_and_again_is_given_up_and_told(tmp_path: Path) -> None:
    one = supervised(tmp_path, "echo because; exit 3")

    def look() -> bool:
        one.look(time.monotonic())
        return False

    try:
        with pytest.raises(EmbeddedError, match=r"too often: a child .* code 3\nbecause"):
            until(look)
    finally:
        one.child.stop()
