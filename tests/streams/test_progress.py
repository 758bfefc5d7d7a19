"""When a worker is taken to hang, by a table: the clock is an argument."""

from dataclasses import replace
from typing import Any

import pytest

from streams.progress import Activity, Progress, Snapshot, stall, unreadiness

PATIENCE_S = 60.0
NOW_S = 1000.0
PLACE = ("live.readings", 3)
WELL = Snapshot(
    activity=Activity.IDLE,
    activity_s=NOW_S - 0.1,
    loop_s=NOW_S - 0.5,
    excused_s=0.0,
    idle_s=0.2,
    database_up=True,
    joined=True,
    behind_s={},
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"loop_s": NOW_S - 60}, None),
        ({"loop_s": NOW_S - 61}, "the event loop has not run for 61 s"),
        # The first thing to look at explains the others.
        ({"loop_s": NOW_S - 61, "activity_s": NOW_S - 70}, "the event loop has not run for 61 s"),
        # It goes round even when nothing comes; a long interval is not a stall.
        ({"activity_s": NOW_S - 61}, "the worker waits for messages for 61 s"),
        ({"activity_s": NOW_S - 61, "idle_s": 5.0}, None),
        (
            {"activity": Activity.FLUSHING, "activity_s": NOW_S - 61, "idle_s": 5.0},
            "the worker prepares or settles a flush for 61 s",
        ),
        ({"activity": Activity.ASKING, "activity_s": NOW_S - 60}, None),
        (
            {"activity": Activity.ASKING, "activity_s": NOW_S - 61},
            "the worker waits for an answer of the database for 61 s",
        ),
        ({"activity": Activity.STARTING, "activity_s": NOW_S - 90}, None),
        ({"activity": Activity.STARTING, "activity_s": NOW_S - 91}, "the worker is starting"),
        ({"activity": Activity.STOPPING, "activity_s": NOW_S - 61}, "the worker is stopping"),
        # Each failed try is a mark, and the pause after it is part of it.
        ({"activity": Activity.AWAY, "activity_s": NOW_S + 10, "excused_s": NOW_S}, None),
        (
            {"activity": Activity.AWAY, "activity_s": NOW_S - 61},
            "the worker tries to reach the database again for 61 s",
        ),
        ({"behind_s": {PLACE: NOW_S - 60}}, None),
        (
            {"behind_s": {PLACE: NOW_S - 61}},
            "nothing of live.readings/3 is taken for 61 s, though it has more",
        ),
        # Kafka or the database was away, for hours perhaps.
        ({"behind_s": {PLACE: NOW_S - 9999}, "excused_s": NOW_S - 60}, None),
    ],
)
def test_what_is_a_stall(changes: dict[str, Any], expected: str | None) -> None:
    found = stall(replace(WELL, **changes), NOW_S, PATIENCE_S, 0.0)
    assert found == expected or (expected and found and found.startswith(expected))


@pytest.mark.parametrize(
    "changes",
    [
        {"loop_s": 10.0},
        {"activity_s": 10.0},
        {"activity": Activity.ASKING, "activity_s": 10.0},
        {"behind_s": {PLACE: 10.0}},
    ],
)
def test_what_was_before_the_process_woke_up_does_not_count(changes: dict[str, Any]) -> None:
    slept = replace(WELL, **changes)
    assert stall(slept, NOW_S, PATIENCE_S, 0.0)
    assert stall(slept, NOW_S, PATIENCE_S, NOW_S - 60) is None
    assert stall(slept, NOW_S, PATIENCE_S, NOW_S - 61)


@pytest.mark.parametrize(
    ("changes", "lag_s", "expected"),
    [
        ({}, 30.0, None),
        ({}, 31.0, "31 s behind the log"),
        ({"joined": False}, 0.0, "the consumer group has given out no partitions yet"),
        ({"database_up": False}, 0.0, "the database is away"),
    ],
)
def test_what_is_ready(changes: dict[str, Any], lag_s: float, expected: str | None) -> None:
    assert unreadiness(replace(WELL, **changes), lag_s, 30.0) == expected


def fresh() -> Progress:
    progress = Progress(0.0, 0.2)
    progress.assigned([PLACE])
    return progress


def test_a_log_that_grows_and_is_not_read_is_behind() -> None:
    progress = fresh()
    progress.log_end(PLACE, None, 40, 1.0)  # nothing is known of the consumer: it may be there
    assert progress.snapshot().behind_s == {}
    progress.log_end(PLACE, None, 41, 2.0)
    progress.log_end(PLACE, None, 50, 3.0)
    assert progress.snapshot().behind_s == {PLACE: 2.0}
    progress.took(PLACE, 40, 0.0)
    progress.let_in(PLACE[0])
    assert progress.snapshot().behind_s == {}
    progress.log_end(PLACE, 41, 50, 4.0)
    assert progress.snapshot().behind_s == {PLACE: 4.0}
    progress.took(PLACE, 49, 0.0)
    progress.let_in(PLACE[0])
    progress.log_end(PLACE, 50, 50, 5.0)
    assert progress.snapshot().behind_s == {}


def test_the_end_that_kafka_tells_too_low_takes_nothing_back() -> None:
    progress = fresh()
    progress.log_end(PLACE, 0, 9, 1.0)
    progress.log_end(PLACE, 0, 3, 2.0)
    assert progress.lags(2.0, 0.0) == {PLACE: (9, 1.0)}
    progress.took(PLACE, 8, 0.0)
    progress.let_in(PLACE[0])
    progress.log_end(PLACE, 9, 3, 3.0)
    assert progress.snapshot().behind_s == {}


def test_a_message_that_waits_for_room_keeps_the_others_waiting() -> None:
    progress = fresh()
    progress.took(PLACE, 0, 0.0)
    progress.log_end(PLACE, 1, 9, 1.0)
    assert progress.snapshot().behind_s == {}
    progress.let_in(PLACE[0])
    assert progress.snapshot().behind_s == {}
    progress.log_end(PLACE, 1, 9, 70.0)
    assert progress.snapshot().behind_s == {PLACE: 70.0}


def test_the_lag_is_what_is_not_committed() -> None:
    progress = fresh()
    for offset in range(5):
        progress.took(PLACE, offset, 100.0 + offset)
    progress.log_end(PLACE, 5, 8, 1.0)
    assert progress.lags(1.0, 110.0) == {PLACE: (8, 10.0)}
    progress.committed(PLACE, 2)
    assert progress.lags(1.0, 110.0) == {PLACE: (6, 8.0)}
    progress.committed(PLACE, 5)
    progress.let_in(PLACE[0])
    progress.log_end(PLACE, 5, 8, 2.0)
    assert progress.lags(6.0, 110.0) == {PLACE: (3, 4.0)}
    progress.took(PLACE, 7, 109.0)
    progress.committed(PLACE, 8)
    assert progress.lags(7.0, 110.0) == {PLACE: (0, 0.0)}


def test_the_database_is_up_when_it_has_answered() -> None:
    progress = fresh()
    progress.database_away(1.0, 5.0)
    assert not progress.snapshot().database_up
    progress.doing(Activity.ASKING, 6.0)
    assert not progress.snapshot().database_up
    progress.database_answered(7.0)
    assert progress.snapshot().database_up


def test_the_pause_before_the_next_try_is_not_held_against_it() -> None:
    progress = fresh()
    progress.beat(66.0)
    progress.database_away(1.0, 5.0)
    assert stall(progress.snapshot(), 66.0, 60.0, 0.0) is None
    assert stall(progress.snapshot(), 66.1, 60.0, 0.0)


def test_a_partition_that_has_gone_is_forgotten() -> None:
    progress = fresh()
    progress.log_end(PLACE, 0, 9, 1.0)
    progress.released([PLACE])
    progress.took(PLACE, 3, 0.0)
    progress.committed(PLACE, 3)
    progress.log_end(PLACE, 0, 9, 1.0)
    assert progress.lags(9.0, 9.0) == {}
    assert progress.snapshot().behind_s == {}
    assert progress.snapshot().joined
