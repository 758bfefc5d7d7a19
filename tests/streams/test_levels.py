"""Limits of level alerts that each series' own hours call for: in the worker, by the log alone."""

from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detectors import StateError
from ingest.records import Provenance
from storage.flush import Opened
from storage.rows import Rows
from storage.sink import Resumption
from streams.partition import STATE_VERSION
from streams.rules import Rules, encode_rules
from streams.scoring import Message
from tests.streams.citylog import NAMESPACE, START_NS, batch_message
from tests.streams.test_scoring import NEW, Run

S = 10**9
MINUTE_NS = 60 * S
DAYS = 2
MINUTES = DAYS * 1440
# Of each message. A jump of the watermark by more than five would be a hole.
TOGETHER = 4
BURSTY = "environment/harbour/air-1/no2"
STEADY = "environment/harbour/air-2/no2"
SHY = "environment/harbour/air-3/no2"
KEYS = (BURSTY, STEADY, SHY)
RELAXED = settings(deadline=None, max_examples=4, suppress_health_check=[HealthCheck.too_slow])


def of_rules(**told: Any) -> Message:
    return Message(0, Provenance("rules", [], control="rules"), encode_rules(Rules.read(told)))


def numbered(log: list[Message]) -> list[Message]:
    return [one._replace(offset=offset) for offset, one in enumerate(log)]


def quiet_log() -> list[Message]:
    """Two days of three sensors; two of them leave their level for some minutes, often."""
    rng = np.random.default_rng(5)
    values = 40.0 + rng.normal(size=(MINUTES, len(KEYS)))
    for begins in range(120, MINUTES, 90):
        values[begins : begins + 6, [0, 2]] += rng.uniform(5.0, 9.0)
    log = []
    for first in range(0, MINUTES, TOGETHER):
        readings = [
            (key, START_NS + minute * MINUTE_NS, float(values[minute, place]))
            for minute in range(first, first + TOGETHER)
            for place, key in enumerate(KEYS)
        ]
        headers, value = batch_message(readings)
        log.append(Message(0, Provenance.read(dict(headers), NAMESPACE), value))
    return log


LOG = numbered(quiet_log())
# From the log's middle on.
TOLD = of_rules(
    score={"level": 5.0},
    sensor={"air-3": {"score": {"level": 0.0}}},
    shadow={
        "as-configured": {"score": {"level": 0.0}, "sensor": {"air-3": {"score": {"level": 4.0}}}},
        "wide": {"suite": {"city_open_spreads": 6.0}},
    },
)
RULED = numbered([*LOG[:300], TOLD, *LOG[300:]])


def cut(log: list[Message], cuts: set[int]) -> Run:
    run = Run()
    for start, stop in pairwise([0, *sorted(one for one in cuts if one < len(log)), len(log)]):
        run.flush(log[start:stop])
    return run


WHOLE = cut(LOG, set())
TALE = cut(RULED, set())


def bands(run: Run, key: str) -> np.ndarray:
    rows = Rows.concatenate(run.rows)
    return rows.band[rows.series_id == [str(one) for one in run.partition.keys].index(key)]


def opened(changes: list[Any], sensor: str) -> int:
    return sum(
        isinstance(one, Opened) and one.page.kind == "level" and one.page.sensor == sensor
        for one in changes
    )


def test_what_a_series_does_all_the_time_opens_fewer_alerts_by_and_by() -> None:
    fixed = cut(numbered([of_rules(score={"level": 0.0}), *LOG]), set())
    assert opened(fixed.changes, "air-1") > 15
    assert opened(WHOLE.changes, "air-1") < 0.7 * opened(fixed.changes, "air-1")
    # What keeps its level has the limit that it had.
    assert bands(WHOLE, STEADY).tobytes() == bands(fixed, STEADY).tobytes()
    # The band says what opens an alert.
    pages = [one.page for one in WHOLE.changes if isinstance(one, Opened)]
    assert all(not page.lower < page.seen < page.upper for page in pages if page.kind == "level")


def test_of_what_opens_alerts_the_score_is_rare_and_of_readings_it_is_what_they_are() -> None:
    rows = Rows.concatenate(WHOLE.rows)
    keys = [key.sensor for key in WHOLE.partition.keys]
    pages = [
        one.page
        for one in WHOLE.changes
        if isinstance(one, Opened) and one.page.kind == "level" and one.page.sensor == "air-1"
    ]
    nominal, rated = [], []
    for page in pages:
        at = (rows.series_id == keys.index(page.sensor)) & (
            rows.time_ns == round(page.since.timestamp()) * S
        )
        off = abs(rows.value[at] - rows.expected[at])
        # By the band of a series that has learned nothing, 4.2 spreads, the score of the reading.
        assert (off > rows.band[at]).all()
        nominal.append(float(rows.score[at][0]))
        rated.append(page.score)
    assert min(rated) > 4.0 - 1e-9
    # What goes as far again and again is worth less and less.
    worth = np.array(rated) / np.array(nominal)
    assert worth[-1] < worth[0] / 1.2


def test_rules_say_how_rare_it_has_to_be_and_shadows_have_their_own() -> None:
    ruled = TALE.partition
    assert ruled.shadow_levels.keys() == {"as-configured", "wide"}
    found: dict[str, dict[str, int]] = {}
    for name in ruled.shadows:
        theirs = [one.change for one in TALE.shadowed if one.shadow == name]
        found[name] = {sensor: opened(theirs, sensor) for sensor in ("air-1", "air-2", "air-3")}
    # What it has is as configured, where it is asked for nothing; a shadow begins with nothing.
    assert found["as-configured"]["air-1"] > found["as-configured"]["air-3"]
    assert found["wide"]["air-1"] < found["as-configured"]["air-1"]
    # And the suite itself, of the two that do the same.
    assert opened(TALE.changes, "air-1") < opened(TALE.changes, "air-3")


@pytest.mark.slow
@given(cuts=st.sets(st.integers(1, len(RULED)), max_size=30))
@RELAXED
def test_any_cuts_give_the_same_to_the_bit(cuts: set[int]) -> None:
    assert cut(RULED, cuts).outcome() == TALE.outcome()


@pytest.mark.slow
@given(saved=st.integers(1, len(RULED)), stored=st.integers(0, 40))
@RELAXED
def test_a_crash_anywhere_gives_the_same_to_the_bit(saved: int, stored: int) -> None:
    stored = min(saved + stored, len(RULED))
    first, before = Run(), Run()
    first.flush(RULED[:stored])
    before.flush(RULED[:saved])
    after = Run(Resumption(stored, saved, STATE_VERSION, before.partition.snapshot()))
    after.flush(RULED[saved:])
    for name in ("rows", "fresh", "changes", "letters", "shadowed", "ruled"):
        getattr(first, name).extend(getattr(after, name))
    first.partition = after.partition
    wanted, found = TALE.outcome(), first.outcome()
    del wanted["counts"], found["counts"]
    assert found == wanted


def test_a_state_of_before_begins_with_what_is_configured() -> None:
    state = msgspec.msgpack.decode(WHOLE.partition.snapshot())
    old = msgspec.msgpack.encode(state[:6])
    run = Run(Resumption(len(LOG), len(LOG), STATE_VERSION, old))
    again = Run(NEW)
    again.partition.numbers(list(KEYS))
    assert run.partition.levels.save() == again.partition.levels.save()


def test_levels_of_other_series_are_refused() -> None:
    state = msgspec.msgpack.decode(WHOLE.partition.snapshot())
    other = Run(NEW)
    other.partition.numbers([BURSTY])
    state[7] = other.partition.levels.save()
    with pytest.raises(StateError, match="reach of 1 series, 3 keys"):
        Run(Resumption(0, len(LOG), STATE_VERSION, msgspec.msgpack.encode(state)))
