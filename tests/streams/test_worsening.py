"""An open alert of minutes that gets worse: told once, and by no single minute."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors import crowd
from detectors.saved import from_bytes, to_bytes
from ingest.records import Provenance
from ingest.topics import SeriesKey
from storage.flush import Change, Moved, Opened, Worsened
from storage.pages import decode_page
from streams.alerts import shadow_changes
from streams.facts import CityFacts, Group
from streams.kernels import kernels
from streams.minutes import MinuteStage, Move, Standing
from streams.rules import Rules
from streams.ruling import Ruling
from streams.scoring import Ledger, Message, score
from tests.detectors.naive_stage import Episode
from tests.storage.database import Database
from tests.streams.citylog import NAMESPACE, READINGS, Log, batch_message
from tests.streams.sessions import Kafka, Session
from tests.streams.test_minutes import CLOCKS, CONFIG, START_NS, Drive, S, Value, noisy

CALM, MAJOR, CRITICAL = 0.5, 4.0, 7.0
MARKET = CityFacts(groups={"market": Group(("cam", "other"), area_m2=100.0)})
(KIND,) = (kind for one in kernels(MARKET) for kind in one.kinds if kind.name == "crowd")
KEY = SeriesKey("cameras", "z", "cam", "peopleCount")
NOTHING = np.zeros(1, np.bool_)
# What a series shows, minute by minute: persons a square metre, None where it says nothing.
Densities = Sequence[float | None]
Told = tuple[str, int, str]


class Square:
    """A camera alone, and what the minute stage says of its crowd."""

    def __init__(self, saved: bytes | None = None, minute: int = 0) -> None:
        self.stage = MinuteStage(MARKET)
        self.stage.add([KEY])
        if saved is not None:
            self.stage.load(saved)
        self.minute = minute
        self.moves: list[Move] = []

    def show(self, densities: Densities, *, in_doubt: bool = False) -> list[Told]:
        """Let minutes pass; return what was said: state, minute, and severity of what was seen."""
        before = len(self.moves)
        standing = Standing(np.array([in_doubt]), NOTHING, NOTHING)
        for density in densities:
            start_ns = START_NS + self.minute * 60 * S
            if density is not None:
                count = np.array([density * 100.0 + self.minute % 7])
                self.stage.take(np.zeros(1, np.int32), np.array([start_ns]), count)
            self.moves += self.stage.check(start_ns + 90 * S, standing)
            self.minute += 1
        return [told(move) for move in self.moves[before:] if move.kind.name == "crowd"]

    def rule(self, rules: Rules) -> None:
        self.stage.judge_by(Ruling(rules, CONFIG))

    def restarted(self) -> "Square":
        return Square(self.stage.save(), self.minute)

    def columns(self) -> dict[str, int]:
        """Return how much is saved of what is recorded of crowds."""
        saved = from_bytes(self.stage.save())
        return {
            name.rpartition(".")[2]: column.size
            for name, column in saved.items()
            if name.startswith("crowd.crowd.recorded.")
        }


def told(move: Move) -> Told:
    minute = (move.at_ns - START_NS) // (60 * S)
    return move.state, minute, move.kind.severity_of(move.level)


def test_a_crowd_that_grows_gets_worse_once() -> None:
    found = Square().show([CALM, *[MAJOR] * 5, *[CRITICAL] * 20, *[MAJOR] * 9, *[CRITICAL] * 9])
    assert found == [("opened", 3, "major"), ("worse", 8, "critical")]


def test_what_it_says_then_is_what_it_sees_then() -> None:
    square = Square()
    square.show([MAJOR] * 5 + [CRITICAL] * 3)
    opened, worse = (one for one in square.moves if one.kind.name == "crowd")
    assert worse.opened_ns == opened.opened_ns
    assert (worse.seen, worse.upper) == (7.06, crowd.SPEAKS_FROM)


@pytest.mark.parametrize(
    "densities",
    [
        pytest.param([CRITICAL], id="one minute"),
        pytest.param([CRITICAL, MAJOR] * 10, id="around the boundary"),
        pytest.param([CRITICAL, CALM] * 10, id="for moments"),
        # Sensors that report every hour are judged all the same; a break is another matter.
        pytest.param([CRITICAL, *[None] * 125, CRITICAL], id="hours later"),
    ],
)
def test_it_takes_more_than_one_minute_in_a_row(densities: Densities) -> None:
    found = Square().show([MAJOR, MAJOR, *densities, *[MAJOR] * 5])
    assert found == [("opened", 2, "major")]


def test_a_minute_that_cannot_be_judged_counts_for_neither() -> None:
    square = Square()
    assert square.show([MAJOR, MAJOR, CRITICAL, None]) == [("opened", 2, "major")]
    assert square.show([CRITICAL], in_doubt=True) == []
    assert square.show([CRITICAL]) == [("worse", 6, "critical")]


def test_what_opened_as_the_worst_gets_no_worse_and_what_is_over_is_forgotten() -> None:
    square = Square()
    first = [CRITICAL, CRITICAL, *[MAJOR] * 5, *[CRITICAL] * 5]
    assert square.show(first) == [("opened", 2, "critical")]
    over = square.show([CALM] * 30)
    assert [state for state, *_ in over] == ["resolved"]
    assert square.show([MAJOR, MAJOR, CRITICAL, CRITICAL]) == [
        ("opened", 44, "major"),
        ("worse", 46, "critical"),
    ]


def test_half_a_run_of_minutes_is_forgotten_with_its_alert() -> None:
    square = Square()
    square.show([MAJOR, MAJOR, CRITICAL, *[CALM] * 30, MAJOR, MAJOR])
    assert square.show([CRITICAL]) == []


def test_state_is_kept_of_what_is_open_alone() -> None:
    square = Square()
    nothing = {"slots": 0, "rank": 0, "minutes": 0}
    assert square.columns() == nothing
    square.show([MAJOR] * 5)
    assert square.columns() == dict.fromkeys(nothing, 1)
    square.show([CALM] * 30)
    assert square.columns() == nothing


def test_what_can_no_longer_be_judged_is_forgotten() -> None:
    square = Square()
    square.show([MAJOR] * 5)
    square.rule(Rules.read({"detectors": {"crowd": False}}))
    assert square.show([MAJOR]) == [("resolved", 6, "major")]
    assert square.columns()["slots"] == 0


def test_what_rules_made_of_it_is_what_is_recorded() -> None:
    square = Square()
    square.rule(Rules.read({"severity": {"crowd": "minor"}}))
    square.show([MAJOR] * 5)
    square.rule(Rules())
    assert square.show([MAJOR] * 3) == [("worse", 7, "major")]


def test_a_state_from_before_severities_were_recorded_is_read() -> None:
    square = Square()
    square.show([MAJOR] * 5)
    columns = from_bytes(square.stage.save())
    older = {name: column for name, column in columns.items() if ".recorded." not in name}
    assert len(older) < len(columns)
    again = Square(to_bytes(older), square.minute)
    # Nobody knows as what it is recorded, so it is said again: where that is nothing new, the
    # database does nothing.
    assert again.show([MAJOR] * 2) == [("worse", 7, "major")]
    assert again.show([CRITICAL] * 9) == [("worse", 9, "critical")]


ANY = st.sampled_from([CALM, MAJOR, CRITICAL, None])


class Naive:
    """The same, minute by minute."""

    def __init__(self) -> None:
        self.episode = Episode(KIND.rule)
        self.recorded = ""
        self.run = 0

    def step(self, minute: int, density: float | None) -> Told | None:
        if density is None:
            return None
        count = density * 100.0 + minute % 7
        severity = "critical" if count >= 555.0 else "major"
        end = minute + 1
        is_open = self.episode.opened_ns > 0
        if is_open and end * 60 * S + START_NS - self.episode.judged_ns > 7200 * S:
            self.run = 0
        flip = self.episode.step(START_NS + end * 60 * S, True, count >= 357.0)
        if flip is not None:
            self.recorded, self.run = severity, 0
            return "opened" if flip[0] else "resolved", end, severity
        if not is_open:
            return None
        is_worse = (self.recorded, severity) == ("major", "critical")
        self.run = self.run + 1 if is_worse else 0
        if self.run < 2:
            return None
        self.recorded = severity
        return "worse", end, severity


@given(
    st.lists(st.tuples(ANY, st.sampled_from([1, 1, 1, 2, 20, 130])), max_size=40),
    st.sets(st.integers(0, 40)),
)
@settings(deadline=None)
def test_it_is_as_minute_by_minute_wherever_it_is_cut(
    runs: list[tuple[float | None, int]], cuts: set[int]
) -> None:
    whole, cut, naive = Square(), Square(), Naive()
    found, wanted = [], []
    for place, (density, minutes) in enumerate(runs):
        if place in cuts:
            cut = cut.restarted()
        shown = [density] if density is not None else [None] * minutes
        wanted += [naive.step(whole.minute + more, one) for more, one in enumerate(shown)]
        said = whole.show(shown)
        assert cut.show(shown) == said
        found += said
    assert found == [one for one in wanted if one is not None]
    assert cut.stage.save() == whole.stage.save()


# Through the scoring of a partition's log


CAMERAS = {name: f"cameras/z/{name}/peopleCount" for name in ("cam", "other")}


def growing(at: int) -> dict[str, Value]:
    """Two squares that are crowded, and from a minute on dangerously so."""
    levels = {MAJOR: noisy(400.0, 5.0), CRITICAL: noisy(700.0, 5.0, seed=2)}
    return {
        key: lambda minute: levels[CRITICAL if minute >= at else MAJOR](minute)
        for key in CAMERAS.values()
    }


def of_crowds(changes: list[Change]) -> list[tuple[str, str, str]]:
    return [
        (type(one).__name__, one.page.sensor, one.page.severity)
        for one in changes
        if not isinstance(one, Moved) and one.page.kind == "crowd"
    ]


def test_a_page_of_what_got_worse_is_that_of_the_same_alert_as_it_is_now() -> None:
    drive = Drive(MARKET)
    found = drive.run(30, {CAMERAS["cam"]: growing(15)[CAMERAS["cam"]]})
    opened, worse = found
    assert isinstance(opened, Opened)
    assert isinstance(worse, Worsened)
    assert (opened.page.severity, worse.page.severity) == ("major", "critical")
    assert worse.series_id == opened.series_id
    assert (worse.page.alert_id, worse.page.since) == (opened.page.alert_id, opened.page.since)
    assert worse.at.timestamp() == START_NS / S + 17 * 60
    assert worse.page.event == "firing"
    assert worse.page.seen == pytest.approx(7.0, abs=0.3)
    assert worse.page.sentence == (
        "peopleCount of cam (z) tells of a crowd that is too dense, of"
        f" {worse.page.seen:.3g} persons/m²; expected at most 3.57 persons/m² since 06:02:00 UTC"
    )


def test_where_rules_say_how_severe_it_is_it_gets_no_worse_until_they_no_longer_do() -> None:
    drive = Drive(MARKET)
    fixed = Rules.read({"sensor": {"cam": {"severity": {"crowd": "minor"}}}})
    drive.partition.obey(drive.partition.ruled(fixed))
    assert of_crowds(drive.run(40, growing(15))) == [
        ("Opened", "cam", "minor"),
        ("Opened", "other", "major"),
        ("Worsened", "other", "critical"),
    ]
    again = drive.restarted(MARKET)
    assert of_crowds(again.run(10, growing(15))) == []
    again.partition.obey(again.partition.ruled(Rules()))
    assert of_crowds(again.run(10, growing(15))) == [("Worsened", "cam", "critical")]


def test_traffic_that_has_broken_down_after_it_was_slow() -> None:
    facts = CityFacts(groups={"ring": Group(("a",), kind="road", free_flow_kmh=80.0)})
    slow, jam = noisy(28.0, 0.5), noisy(12.0, 1.0)
    drive = Drive(facts)
    rules = Rules.read({"minutes": {"service-level": {"speak_from": "E"}}})
    drive.partition.obey(drive.partition.ruled(rules))
    values = {"traffic/z/a/averageVehicleSpeed": lambda m: (jam if m >= 30 else slow)(m)}
    found = [one for one in drive.run(60, values) if not isinstance(one, Moved)]
    assert [(type(one), one.page.kind, one.page.severity) for one in found] == [
        (Opened, "service-level", "minor"),
        (Worsened, "service-level", "major"),
    ]
    # As long as it takes to open.
    assert isinstance(found[1], Worsened)
    assert found[1].at.timestamp() == START_NS / S + 42 * 60


def test_of_a_shadow_nobody_hears_that_it_got_worse() -> None:
    drive = Drive(MARKET)
    dense = {"minutes": {"crowd": {"persons_per_m2": 3.0}}}
    drive.partition.obey(drive.partition.ruled(Rules.read({"shadow": {"low": dense}})))
    values = growing(15)
    shadowed, told_of = [], []
    for minute in range(30):
        at = START_NS + minute * 60 * S + 5 * S
        readings = [(key, at, value(minute)) for key, value in values.items()]
        headers, data = batch_message([*readings, *((key, at, 300.0) for key in CLOCKS)])
        message = Message(minute, Provenance.read(dict(headers), NAMESPACE), data)
        parts, _ = score(drive.partition, [message], Ledger())
        drive.partition.series_id[:] = np.arange(len(drive.partition.keys))
        for part in parts:
            told_of += [move.state for move in part.shadows["low"].moves]
            shadowed += shadow_changes(drive.partition, part, NAMESPACE)
    assert told_of == ["opened"] * 2 + ["worse"] * 2
    crowds = [one.change for one in shadowed if one.change.page.kind == "crowd"]
    assert [type(one) for one in crowds] == [Opened] * 2


def test_no_kind_has_more_than_two_severities() -> None:
    """With three, a run of minutes that are worse by one would make it worse by two."""
    for city in (MARKET, CityFacts(air_quality_index="US")):
        kinds = [kind for one in kernels(city) for kind in one.kinds]
        assert {kind.name for kind in kinds if kind.gets_worse} == {
            "air-quality",
            "noise",
            "service-level",
            "crowd",
        }
        assert all(len(set(kind.severity.values())) <= 2 for kind in kinds)


# Through a worker, into the database


def market_log(minutes: int) -> Log:
    log = Log()
    values = growing(8)
    for minute in range(minutes):
        at = START_NS + minute * 60 * S + 5 * S
        readings = [(key, at, value(minute)) for key, value in values.items()]
        headers, data = batch_message([*readings, *((key, at, 300.0) for key in CLOCKS)])
        log.add((READINGS, 0), headers, data)
    return log


ENDED = """
    SELECT s.name, a.severity, a.state, (extract(epoch FROM t.at) - %s)::integer / 60, t.cause
    FROM alert a JOIN alert_transition t USING (alert_id)
    JOIN series q USING (series_id) JOIN sensor s USING (sensor_id)
    WHERE a.kind = 'crowd' ORDER BY s.name, t.at
"""


async def lives(kafka: Kafka, *ends: int) -> None:
    """Let workers read on to these offsets, one after another; few of them save their state."""
    for life, end in enumerate(ends, 1):
        async with Session(kafka, facts=MARKET) as session:
            session.assign()
            # From the last saved state on: what has been stored since is said again.
            await session.deliver((READINGS, 0), end - session.read[READINGS, 0])
            await session.worker.flush(save=life % 4 == 0)
    async with Session(kafka, facts=MARKET) as session:
        session.assign()
        await session.finish()


@pytest.mark.integration
def test_what_gets_worse_is_told_once_whatever_befalls_the_worker(database: Database) -> None:
    log = market_log(18)
    asyncio.run(lives(Kafka(log, database)))
    assert database.all(ENDED, START_NS // S) == [
        (name, "critical", "open", *rest)
        for name in ("cam", "other")
        for rest in ((2, "crowd"), (10, "worse: critical, was major"))
    ]
    events = database.all(
        "SELECT event, payload::text FROM outbox"
        " WHERE payload ->> 'sensor' = 'cam' AND payload ->> 'kind' = 'crowd' ORDER BY outbox_id"
    )
    assert [event for event, _ in events] == ["firing", "worse"]
    first, second = (decode_page(payload) for _, payload in events)
    assert (first.alert_id, first.since) == (second.alert_id, second.since)
    assert (first.severity, second.severity) == ("major", "critical")
    expected = database.contents()
    database.clear()
    asyncio.run(lives(Kafka(log, database), *range(1, 18)))
    assert database.contents() == expected
