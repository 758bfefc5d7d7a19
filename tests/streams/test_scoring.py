"""Scoring is a function of the log alone, however it is cut into flushes."""

from collections import Counter
from dataclasses import fields
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid5

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors import KIND_NAMES, StateError, SuiteConfig
from ingest.ledger import SensorCard, Tally
from ingest.records import HeaderError, Provenance
from ingest.topics import SeriesKey
from storage.flush import Change, Moved, Opened, Resolved, Ruled, Shadowed, ShadowEnded
from storage.rows import Rows
from storage.sink import Resumption
from streams.alerts import changes, ruled, shadow_changes
from streams.partition import STATE_VERSION, UNREGISTERED, Partition
from streams.scoring import NOBODY, Ledger, Message, score
from tests.streams.citylog import FACTS, NAMESPACE, READINGS, START_NS, Log, batch_message, city_log

CONFIG = SuiteConfig()
NEW = Resumption(0, 0, None, None)
SPEED = "traffic/harbour/loop-1/averageVehicleSpeed"
SIGNAL = "cameras/harbour/cam-7/signalLoss"


def messages_of(log: Log, partition: int = 0) -> list[Message]:
    found = []
    for delivery in log.messages[READINGS, partition]:
        try:
            provenance = Provenance.read(delivery.headers, NAMESPACE)
        except HeaderError:
            provenance = NOBODY
        found.append(Message(delivery.offset, provenance, delivery.value))
    return found


def message(offset: int, readings: list[tuple[str, int, float]], **more: Any) -> Message:
    headers, value = batch_message(readings, **more)
    return Message(offset, Provenance.read(dict(headers), NAMESPACE), value)


def register(partition: Partition) -> None:
    """Give every series its slot as id: what the database would do, repeatably."""
    partition.series_id[:] = np.arange(len(partition.keys))


class Run:
    """What came out of a partition, flush by flush."""

    def __init__(self, resumption: Resumption = NEW) -> None:
        self.partition = Partition(resumption, CONFIG, FACTS)
        self.rows: list[Rows] = []
        self.fresh: list[np.ndarray] = []
        self.changes: list[Change] = []
        self.shadowed: list[Shadowed | ShadowEnded] = []
        self.ruled: list[Ruled] = []
        self.letters: list[Any] = []
        self.counts: dict[tuple[str, str, int], Counter[str]] = {}

    def flush(self, messages: list[Message]) -> None:
        ledger = Ledger()
        parts, letters = score(self.partition, messages, ledger)
        register(self.partition)
        self.letters += letters
        offered = np.zeros(max(len(ledger.tallies), 1), np.int64)
        for scored in parts:
            rows = scored.rows(self.partition)
            self.rows.append(rows)
            self.fresh.append(scored.verdicts.fresh)
            self.changes += changes(self.partition, scored, NAMESPACE)
            self.shadowed += shadow_changes(self.partition, scored, NAMESPACE)
            if scored.new_rules:
                self.ruled.append(ruled(READINGS, 0, scored.new_rules))
            offered += np.bincount(rows.tally, minlength=len(offered))
        for line, count in zip(ledger.tallies, offered.tolist(), strict=False):
            tally = line.tally
            total = self.counts.setdefault((line.bridge, tally.source, tally.minute_s), Counter())
            names = ("messages", "readings", "passed", "rejected", "refused", "withheld")
            total.update({name: getattr(tally, name) for name in names} | {"offered": count})
            total["late"] += line.late
            total.update({f"reason {reason}": many for reason, many in tally.reasons.items()})
            total.update({f"kind {kind}": many for kind, many in tally.kinds.items()})

    def total(self, name: str) -> int:
        return sum(counts[name] for counts in self.counts.values())

    def outcome(self) -> dict[str, Any]:
        whole = Rows.concatenate(self.rows)
        columns = {
            field.name: getattr(whole, field.name).tobytes()
            for field in fields(Rows)
            if field.name != "tally"  # numbered anew in every flush
        }
        return columns | {
            "fresh": np.concatenate([np.empty(0, bool), *self.fresh]).tobytes(),
            "changes": self.changes,
            "shadowed": self.shadowed,
            "ruled": self.ruled,
            "letters": self.letters,
            "counts": self.counts,
            "state": self.partition.snapshot(),
            "seen": self.partition.seen,
        }


LOG = messages_of(city_log(3, messages=60))
WHOLE = Run()
WHOLE.flush(LOG)


def test_the_log_has_everything_in_it() -> None:
    kinds = {
        (f"Moved {one.state}", one.category)
        if isinstance(one, Moved)
        else (type(one).__name__, one.page.category)
        for one in WHOLE.changes
    }
    assert kinds == {
        ("Opened", "city"),
        ("Opened", "sensor-health"),
        ("Resolved", "city"),
        ("Resolved", "sensor-health"),
        ("Moved stale", "city"),
        ("Moved open", "city"),
    }
    assert {one.page.kind for one in WHOLE.changes if isinstance(one, Opened)} >= {
        "silence",
        "incident",
        "service-level",
    }
    by_minutes = [one for one in WHOLE.changes if not _is_of_suite(one)]
    assert {type(one) for one in by_minutes} == {Opened, Resolved, Moved}
    assert len(WHOLE.letters) > 4
    fresh = np.concatenate(WHOLE.fresh)
    assert fresh.sum() > 500
    assert (~fresh).sum() > 10


def _is_of_suite(change: Change) -> bool:
    kinds = change.kinds if isinstance(change, Moved) else (change.page.kind,)
    return set(kinds) <= set(KIND_NAMES)


@given(st.sets(st.integers(1, len(LOG) - 1)))
@settings(deadline=None, max_examples=40)
def test_any_cuts_give_the_same_to_the_bit(cuts: set[int]) -> None:
    run = Run()
    bounds = [0, *sorted(cuts), len(LOG)]
    for start, stop in pairwise(bounds):
        run.flush(LOG[start:stop])
    assert run.outcome() == WHOLE.outcome()


@given(st.integers(0, len(LOG)), st.integers(0, len(LOG)))
@settings(deadline=None, max_examples=40)
def test_a_saved_state_and_the_rest_give_the_same_to_the_bit(one: int, other: int) -> None:
    """Saved at one offset, stored up to another, behind or at it: the rows come out once."""
    saved, stored = sorted((one, other))
    first, before = Run(), Run()
    first.flush(LOG[:stored])
    before.flush(LOG[:saved])
    state = before.partition.snapshot()
    after = Run(Resumption(stored, saved, STATE_VERSION, state))
    after.flush(LOG[saved:])
    for name in ("rows", "fresh", "changes", "letters"):
        getattr(first, name).extend(getattr(after, name))
    for key, counts in after.counts.items():
        first.counts.setdefault(key, Counter()).update(counts)
    first.partition = after.partition
    assert first.outcome() == WHOLE.outcome()


def test_the_ledger_balances_with_every_message_accounted_for() -> None:
    assert WHOLE.counts
    for counts in WHOLE.counts.values():
        assert counts["offered"] == counts["readings"]
        assert counts["messages"] == counts["passed"] + counts["rejected"]
    received = sum(tally.messages for one in LOG for tally in one.provenance.tallies)
    lost = {
        one.offset: sum(tally.readings for tally in one.provenance.tallies) or 1
        for one, letter in zip(LOG, _letters_by_offset(), strict=True)
        if letter
    }
    assert WHOLE.total("messages") == received
    assert WHOLE.total("refused") == sum(lost.values()) > 0
    assert WHOLE.total("refused") == WHOLE.total("reason unreadable-batch")
    records = sum(one.letter.records for one in WHOLE.letters)
    assert WHOLE.total("refused") == records


def _letters_by_offset() -> list[bool]:
    places = {int(one.letter.place.split(":")[0].split()[1]) for one in WHOLE.letters}
    return [one.offset in places for one in LOG]


@pytest.mark.parametrize(
    "key",
    [
        "traffic/harbour/loop-1",
        "traffic/harbour/loop-1/speedOfLight",
        "traffic/har\x00bour/loop-1/intensity",
        "traffic//loop-1/intensity",
        "traffic/harbour/loop 1/intensity",
    ],
)
def test_a_batch_with_a_false_key_is_a_dead_letter_and_leaves_no_series(key: str) -> None:
    run = Run()
    run.flush([message(0, [(SPEED, START_NS, 50.0), (key, START_NS, 50.0)])])
    assert run.partition.keys == []
    assert (run.rows, run.partition.seen) == ([], 1)
    (buried,) = run.letters
    assert (buried.bridge, buried.source) == ("bridge-1", "traffic")
    assert (buried.letter.reason, buried.letter.records) == ("unreadable-batch", 2)
    assert buried.letter.place.startswith("offset 0: ")
    assert [run.total(name) for name in ("messages", "passed", "refused")] == [2, 2, 2]
    assert run.total("readings") == 0


@pytest.mark.parametrize("value", [b"", b"rubbish", b"\xff" * 64, bytes(2000)])
def test_rubbish_is_a_dead_letter(value: bytes) -> None:
    run = Run()
    run.flush([message(0, [(SPEED, START_NS, 50.0)])._replace(value=value)])
    (buried,) = run.letters
    assert buried.letter.payload == value
    assert buried.letter.received_ns == 1_700_000_000 // 60 * 60 * 10**9


def test_a_batch_that_cannot_be_read_is_kept_whole_for_each_of_its_sources() -> None:
    """Once it can be read its readings can be stored."""
    run = Run()
    readings = [(SPEED, START_NS, 50.0), (SPEED, START_NS + 1000, 50.0), (SIGNAL, START_NS, 0.0)]
    run.flush([message(0, readings)._replace(value=bytes(10**6))])
    found = [(one.source, one.letter.records, one.letter.payload) for one in run.letters]
    assert found == [("traffic", 2, bytes(10**6)), ("cameras", 1, bytes(10**6))]
    for source, lost in (("traffic", 2), ("cameras", 1)):
        counts = run.counts["bridge-1", source, 1_700_000_000 // 60 * 60]
        assert (counts["refused"], counts["reason unreadable-batch"]) == (lost, lost)


def test_what_else_an_unreadable_batch_counts_is_counted() -> None:
    run = Run()
    minute_s = 1_700_000_000 // 60 * 60
    tallies = [
        Tally("traffic", minute_s, messages=1, passed=1, readings=1, reasons={}, repeated=2),
        Tally("cameras", minute_s, messages=1, passed=1, withheld=3, kinds={"plate": 3}),
    ]
    run.flush([Message(0, Provenance("bridge-1", tallies), b"rubbish")])
    (buried,) = run.letters
    assert (buried.source, buried.letter.records) == ("traffic", 1)
    assert (run.total("messages"), run.total("passed"), run.total("refused")) == (2, 2, 1)
    assert run.total("kind plate") == 3


def test_an_unreadable_batch_without_readings_is_one_record() -> None:
    """It says that it had none, and cannot be asked."""
    run = Run()
    tally = Tally("cameras", 60, messages=1, passed=1, withheld=3, kinds={"plate": 3})
    run.flush([Message(0, Provenance("bridge-1", [tally]), b"rubbish")])
    (buried,) = run.letters
    assert (buried.source, buried.letter.records) == ("cameras", 1)
    assert run.total("refused") == run.total("reason unreadable-batch") == 1


def test_a_readable_batch_of_nobody_is_not_stored() -> None:
    """It may be another namespace's, and nobody has counted its readings."""
    run = Run()
    run.flush([message(0, [(SPEED, START_NS, 50.0)])._replace(provenance=NOBODY)])
    assert run.rows == []
    (buried,) = run.letters
    assert (buried.bridge, buried.source, buried.letter.records) == ("unknown", "unknown", 1)
    assert run.counts["unknown", "unknown", 0]["refused"] == 1


def test_of_what_nobody_wrote_not_all_is_kept() -> None:
    run = Run()
    run.flush([Message(0, NOBODY, bytes(10**6))])
    assert len(run.letters[0].letter.payload) == 65_536


def test_an_empty_batch_counts_its_message() -> None:
    run = Run()
    run.flush([message(0, [], domains={"traffic": 0})])
    assert run.letters == []
    assert len(Rows.concatenate(run.rows)) == 0
    assert run.partition.seen == 1


def test_values_that_are_no_numbers_are_stored_and_page_the_sensor() -> None:
    run = Run()
    values = [np.nan, np.inf, -np.inf, np.nan]
    readings = [(SPEED, START_NS + n * 10**9, value) for n, value in enumerate(values)]
    run.flush([message(0, readings)])
    assert np.array_equal(run.rows[0].value, values, equal_nan=True)
    (alert,) = run.changes
    assert isinstance(alert, Opened)
    assert alert.page.category == "sensor-health"
    assert msgspec.json.encode(alert.page)


def test_a_lost_signal_pages_at_once_and_so_does_its_return() -> None:
    run = Run()
    for offset, value in enumerate([0.0, 1.0, 0.0]):
        reading = (SIGNAL, START_NS + offset * 10**9, value)
        run.flush([message(offset, [reading])])
    opened, resolved = run.changes
    assert isinstance(opened, Opened)
    assert isinstance(resolved, Resolved)
    assert (opened.page.category, opened.page.kind) == ("sensor-health", "range")
    assert (opened.page.seen, resolved.page.seen) == (1.0, 0.0)
    assert opened.page.expected is None
    assert Rows.concatenate(run.rows).quality.tolist() == [1, 4, 1]


def test_a_sensor_that_moved_keeps_its_series() -> None:
    run = Run()
    moved = SPEED.replace("harbour", "airport")
    run.flush([message(0, [(SPEED, START_NS, 50.0), (moved, START_NS + 10**9, 51.0)])])
    run.flush([message(1, [(moved, START_NS + 2 * 10**9, 52.0), (SPEED, START_NS, 50.0)])])
    assert [str(key) for key in run.partition.keys] == [moved]
    assert np.concatenate(run.fresh).tolist() == [True, True, True, False]
    again = Partition(Resumption(2, 2, STATE_VERSION, run.partition.snapshot()), CONFIG)
    assert again.keys == run.partition.keys
    assert again.slots([SPEED, moved]).tolist() == [0, 0]
    assert len(again.suite) == 1


def test_an_alert_is_named_by_what_it_is_about() -> None:
    """The id is stable over restarts, and differs by namespace."""
    run, other = Run(), Run()
    readings = [(SPEED, START_NS + n * 10**9, -1.0) for n in range(2)]
    run.flush([message(0, readings)])
    ledger = Ledger()
    card = SensorCard("loop-1", "traffic", "harbour", 9.9, 53.5)
    (scored,), _ = score(other.partition, [message(0, readings, cards=[card])], ledger)
    register(other.partition)
    (theirs,) = changes(other.partition, scored, "live")
    (ours,) = run.changes
    identity = f"{NAMESPACE}|loop-1|averageVehicleSpeed|sensor-health|{START_NS + 10**9}"
    assert ours.page.alert_id == uuid5(UUID("4c0d2f5e-5a6b-4a83-9f0b-6a0b7f9d7c11"), identity)
    assert ours.page.alert_id != theirs.page.alert_id
    assert (theirs.page.longitude, theirs.page.latitude) == (9.9, 53.5)
    assert ours.page.since == datetime.fromisoformat("2023-11-14T22:13:21+00:00")


def test_new_series_have_no_id_until_they_are_registered() -> None:
    partition = Partition(NEW, CONFIG)
    assert partition.slots([SPEED, SPEED]).tolist() == [0, 0]
    assert partition.unregistered().tolist() == [0]
    assert partition.series_id.tolist() == [UNREGISTERED]
    partition.series_id[0] = 77
    partition.slots([SPEED, SPEED.replace("loop-1", "loop-2")])
    assert partition.unregistered().tolist() == [1]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "version", "keys"])
def test_a_damaged_state_is_refused(damage: str) -> None:
    state, version = WHOLE.partition.snapshot(), STATE_VERSION
    if damage == "cut":
        state = state[:-1]
    elif damage == "flipped":
        state = state[:-1] + bytes([state[-1] ^ 1])
    elif damage == "empty":
        state = b""
    elif damage == "version":
        version += 1
    else:
        suite = msgspec.msgpack.decode(state)[1]
        state = msgspec.msgpack.encode([[str(SeriesKey.parse(SPEED))], suite])
    with pytest.raises(StateError):
        Partition(Resumption(9, 9, version, state), CONFIG)


def city(offset: int, second: int, *sensors: int, **more: Any) -> Message:
    """Return a message in which some speeds report at once."""
    noise = np.random.default_rng(offset)
    at = START_NS + second * 10**9
    keys = (f"traffic/harbour/loop-{sensor}/averageVehicleSpeed" for sensor in sensors)
    return message(offset, [(key, at, 50.0 + noise.normal()) for key in keys], **more)


def test_a_sensor_whose_clock_jumps_makes_nobody_late_or_silent() -> None:
    run = Run()
    offset = 0
    for second in range(0, 1800, 10):
        ahead = 4 * 3600 if second > 900 else 0
        run.flush([city(offset, second, 1, 2, 3), city(offset + 1, second + ahead, 4)])
        offset += 2
    assert run.changes == []
    assert run.total("late") == 0


def test_late_readings_are_counted_stored_flagged_and_not_scored() -> None:
    run = Run()
    for offset in range(200):
        run.flush([city(offset, offset * 10, 1, 2)])
    scored = len(run.rows)
    run.flush([city(200, 2000 - 1000, 3), city(201, 2001, 1, 2), city(202, 2001 - 910, 3)])
    assert run.total("late") == 2
    late = Rows.concatenate(run.rows[scored:])
    assert late.quality.tolist() == [2, 1, 1, 2]
    assert np.isnan(late.score).tolist() == [True, False, False, True]
    assert np.concatenate(run.fresh[scored:]).all()


def test_a_silent_sensor_is_told_of_once_for_all_its_quantities() -> None:
    run = Run()
    pair = [f"traffic/harbour/loop-9/{name}" for name in ("averageVehicleSpeed", "occupancy")]
    for offset in range(100):
        at = START_NS + offset * 10**10
        readings = [(key, at, 0.5 + 0.01 * (offset % 7)) for key in pair if offset < 50]
        run.flush([city(2 * offset, offset * 10, 1, 2), message(2 * offset + 1, readings)])
    assert [(one.page.kind, one.page.quantity, one.is_told) for one in run.changes] == [
        ("silence", "averageVehicleSpeed", True),
        ("silence", "occupancy", False),
    ]
    page = run.changes[0].page
    assert page.since == datetime.fromisoformat("2023-11-14T22:21:30+00:00")
    assert page.sentence == (
        "averageVehicleSpeed of loop-9 (harbour) is silent since 22:21:30 UTC;"
        " expected within 134 s; its last value was 0.5 km/h"
    )


def test_all_sensors_of_a_partition_are_silent_when_the_bridge_says_that_nothing_came() -> None:
    run = Run()
    for offset in range(100):
        run.flush([city(offset, offset, 1, 2, arrived_ns=START_NS + offset * 10**9)])
    for offset in range(100, 200):
        now_ns = START_NS + (offset - 99) * 10**10
        run.flush([message(offset, [], arrived_ns=now_ns, complete_ns=now_ns - 30 * 10**9)])
    assert [(one.page.sensor, one.page.kind) for one in run.changes] == [
        ("loop-1", "silence"),
        ("loop-2", "silence"),
    ]


def test_a_bridge_that_catches_up_an_hour_makes_nobody_silent() -> None:
    run = Run()
    for offset in range(100):
        run.flush([city(offset, offset, 1, 2, arrived_ns=START_NS + offset * 10**9)])
    # Away for an hour; what sensors sent meanwhile comes at once, and vouching comes after it.
    back_ns = START_NS + 3700 * 10**9
    run.flush([city(offset, offset, 1, 2, arrived_ns=back_ns) for offset in range(100, 3700)])
    run.flush([message(3700, [], arrived_ns=back_ns + 10**10, complete_ns=back_ns - 20 * 10**9)])
    run.flush([city(offset, offset, 1, 2, arrived_ns=back_ns) for offset in range(3701, 3800)])
    assert run.changes == []


def test_a_hole_in_the_log_makes_nobody_silent_who_speaks_again() -> None:
    run = Run()
    for offset in range(100):
        run.flush([city(offset, offset, 1, 2, 3, 4)])
    for offset in range(100, 300):
        # 1 and 2 speak a moment before the others do.
        run.flush([city(offset, offset // 2 + 7200, *((1, 2) if offset % 2 else (3, 4)))])
    assert run.changes == []


@pytest.mark.parametrize(("version", "fields"), [(1, 2), (2, 4)])
def test_states_of_older_versions_are_read(version: int, fields: int) -> None:
    run = Run()
    run.flush(LOG[:20])
    whole = msgspec.msgpack.decode(run.partition.snapshot())
    older = msgspec.msgpack.encode(whole[:fields])
    partition = Partition(Resumption(20, 20, version, older), CONFIG, FACTS)
    assert (partition.watermark.now_ns < 0) == (version == 1)
    assert partition.suite.save() == run.partition.suite.save()
    assert partition.sensor.tolist() == run.partition.sensor.tolist()
    # Minutes begin anew.
    assert len(partition.minutes) == len(partition.keys)
    after = Run(Resumption(20, 20, version, older))
    after.flush(LOG[20:])
    assert {one.page.kind for one in after.changes if isinstance(one, Opened)} >= {"incident"}
    with pytest.raises(StateError, match="version 4, this worker reads versions up to 3"):
        Partition(Resumption(20, 20, 4, older), CONFIG)


def restless(seed: int) -> list[Message]:
    """Return a log of a bus that moves to and fro, whose clock drifts and that raises alerts."""
    rng = np.random.default_rng(seed)
    made = []
    for offset in range(60):
        zone = ("centre", "harbour", "airport")[int(rng.integers(3))]
        key = f"traffic/{zone}/bus-1/intensity"
        other = "traffic/centre/loop-2/intensity"
        at = START_NS + offset * 10**9
        value = -5.0 if 6 < offset % 20 < 14 else 400.0 + float(rng.normal())
        readings = [(key, at, value), (other, at, 400.0 + float(rng.normal()))]
        if offset % 7 == 3:  # comes twice, under another zone
            readings.append(("traffic/west/bus-1/intensity", at - 10**9, value))
        cards = [
            SensorCard("bus-1", "traffic", zone, 2.0 + offset, 41.0, float(offset // 3) or None)
        ]
        made.append(message(offset, readings, cards=cards if offset % 3 == 0 else []))
    return made


RESTLESS = restless(5)
STILL = Run()
STILL.flush(RESTLESS)


def test_the_restless_log_tells_of_a_sensor_in_several_places() -> None:
    pages = [one.page for one in STILL.changes]
    assert len(pages) >= 4
    assert len({page.zone for page in pages}) > 1
    assert len({page.longitude for page in pages}) > 1
    assert len({page.clock_offset_s for page in pages}) > 1
    assert "west" not in {page.zone for page in pages}


@given(st.sets(st.integers(1, len(RESTLESS) - 1)), st.integers(0, len(RESTLESS)))
@settings(deadline=None, max_examples=40)
def test_what_alerts_say_depends_neither_on_cuts_nor_on_a_restart(
    cuts: set[int], restarted: int
) -> None:
    run = Run()
    for start, stop in pairwise([0, *sorted(cuts), len(RESTLESS)]):
        run.flush(RESTLESS[start:stop])
    assert run.outcome() == STILL.outcome()
    before = Run()
    before.flush(RESTLESS[:restarted])
    state = before.partition.snapshot()
    after = Run(Resumption(restarted, restarted, STATE_VERSION, state))
    after.flush(RESTLESS[restarted:])
    assert before.changes + after.changes == STILL.changes
    assert after.partition.snapshot() == STILL.partition.snapshot()
