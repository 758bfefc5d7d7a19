"""From readings to the alerts of the minute stage, through the scoring of a partition's log."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest

from detectors import StateError, SuiteConfig
from detectors.calibration import SPEAKS_FROM
from detectors.saved import from_bytes, to_bytes
from ingest.quantities import QUANTITIES
from ingest.topics import SeriesKey
from simulators.city import City
from storage.flush import Change, Moved, Opened, Resolved
from storage.sink import Resumption
from streams.facts import CityFacts, Group
from streams.judging import Wave
from streams.kernels import kernels
from streams.minutes import MinuteStage, Move, Standing
from streams.partition import STATE_VERSION, Partition
from streams.rules import Rules
from tests.streams.citylog import said_of

S = 10**9
# On the stroke of an hour, 06:00 UTC, a Monday.
START_NS = 1_700_460_000 * S
assert START_NS % (3600 * S) == 0
CONFIG = SuiteConfig()
ROAD = CityFacts(groups={"ring": Group(("a", "b", "c"), kind="road")})
Value = Callable[[int], float | None]


class Drive:
    """Series that report once a minute, and what their alerts do."""

    def __init__(
        self,
        facts: CityFacts,
        resumption: Resumption | None = None,
        config: SuiteConfig = CONFIG,
    ) -> None:
        self.facts, self.config = facts, config
        self.partition = Partition(resumption or Resumption(0, 0, None, None), config, facts)
        self.changes: list[Change] = []
        self.minute = 0

    def run(self, minutes: int, values: dict[str, Value]) -> list[Change]:
        """Let series report for some minutes; return what became of alerts of minutes."""
        before = len(self.changes)
        for _ in range(minutes):
            at = START_NS + self.minute * 60 * S + 5 * S
            readings = [
                (key, at + second * S, value)
                for second, key in enumerate(values)
                if (value := values[key](self.minute)) is not None
            ]
            # Two that agree on the time.
            readings += [(f"traffic/z/clock-{n}/averageTravelTime", at, 300.0) for n in range(2)]
            self._send(readings)
            self.minute += 1
        return [one for one in self.changes[before:] if not is_of_suite(one)]

    def _send(self, readings: list[tuple[str, int, float]], **moments: int) -> None:
        self.changes += said_of(self.partition, readings, **moments)

    def restarted(self, facts: CityFacts) -> "Drive":
        """Return one that goes on from the saved state."""
        seen, state = self.partition.seen, self.partition.snapshot()
        other = Drive(facts, Resumption(seen, seen, STATE_VERSION, state), self.config)
        other.minute = self.minute
        return other


def is_of_suite(change: Change) -> bool:
    kinds = change.kinds if isinstance(change, Moved) else (change.page.kind,)
    return not set(kinds) & {kind.name for kernel in kernels(CityFacts()) for kind in kernel.kinds}


def told(found: list[Change]) -> list[tuple[str, str, str]]:
    return [
        ("", f"{one.kinds[0]} {one.state}", str(one.series_id))
        if isinstance(one, Moved)
        else (type(one).__name__, one.page.kind, f"{one.page.sensor} {one.page.severity}")
        for one in found
    ]


def noisy(level: float, spread: float, seed: int = 1) -> Value:
    values = np.random.default_rng(seed).normal(level, spread, 5000)
    return lambda minute: float(values[minute])


def road(blocked: range) -> dict[str, Value]:
    """Three stations; an obstacle between the second and the third."""
    quiet = {name: noisy(0.2, 0.005, seed) for seed, name in enumerate("abc")}
    fast = {name: noisy(80.0, 2.0, seed) for seed, name in enumerate("abc")}

    def occupancy(name: str) -> Value:
        # Never twice the same, which would be a sensor that is stuck.
        jam = {"a": 0.2, "b": 0.55, "c": 0.03}[name]
        return lambda minute: jam + minute % 7 / 1000 if minute in blocked else quiet[name](minute)

    def speed(name: str) -> Value:
        return lambda minute: fast[name](minute) - 55.0 * (minute in blocked and name == "b")

    return {f"traffic/z/{name}/occupancy": occupancy(name) for name in "abc"} | {
        f"traffic/z/{name}/averageVehicleSpeed": speed(name) for name in "abc"
    }


def test_an_obstacle_on_a_road_is_told_once_and_taken_back() -> None:
    drive = Drive(ROAD)
    found = drive.run(60, road(range(30, 45)))
    assert told(found) == [
        ("Opened", "incident", "b major"),
        ("Resolved", "incident", "b major"),
    ]
    opened, resolved = found
    assert isinstance(opened, Opened)
    assert isinstance(resolved, Resolved)
    page = opened.page
    # Tentative in the first minute of it, confirmed in the second.
    assert page.since.timestamp() == START_NS / S + 32 * 60
    assert (page.quantity, page.seen, page.expected) == ("occupancy", 0.553, 0.033)
    assert page.sentence == (
        "occupancy of b (z) tells of an obstacle before the next station, at 0.553;"
        " expected 0.033, at most 0.066 since 06:32:00 UTC"
    )
    assert resolved.page.alert_id == page.alert_id
    assert (resolved.cause, resolved.kinds) == ("minutes without it", ())
    assert resolved.page.resolved_at.timestamp() == START_NS / S + 48 * 60


def test_stations_without_a_road_have_no_incidents() -> None:
    assert Drive(CityFacts()).run(60, road(range(30, 45))) == []


def test_a_polluted_hour() -> None:
    drive = Drive(CityFacts())
    calm, thick = noisy(20.0, 1.0), noisy(240.0, 2.0)
    found = drive.run(300, {"environment/z/air/no2": lambda m: (thick if m > 90 else calm)(m)})
    # Over 100 on the average of an hour it is very poor, over 150 extremely so; over 200 it breaks
    # the limit.
    found = [one for one in found if one.page.kind != "forecast"]
    assert told(found) == [
        ("Opened", "air-quality", "air minor"),
        ("Worsened", "air-quality", "air major"),
        ("Opened", "exceedance", "air major"),
    ]
    index, limit = (one.page for one in found if isinstance(one, Opened))
    assert (index.upper, limit.upper) == (100.0, 200.0)
    assert limit.sentence.startswith("no2 of air (z) is over the limit, on average 20")
    assert limit.sentence.endswith(
        "µg/m³ over an hour; expected at most 200 µg/m³ since 08:42:00 UTC"
    )


def test_the_us_index_speaks_in_its_own_numbers() -> None:
    thick = noisy(140.0, 1.0)
    drive = Drive(CityFacts(air_quality_index="US"))
    found = drive.run(420, {"environment/z/air/pm25": thick})
    page = next(one.page for one in found if isinstance(one, Opened))
    assert (page.kind, page.unit, page.upper) == ("air-quality", "1", 150.0)
    assert 200 < page.seen < 300


@pytest.mark.parametrize(
    ("index", "quantity", "level", "upper"),
    [
        # In the band from 100 on; 230 before it was revised, and particles over a day.
        ("EU", "no2", 120.0, 100.0),
        ("EU before 2024", "no2", 120.0, None),
        ("EU before 2024", "no2", 300.0, 230.0),
        ("US", "pm25", 130.0, 150.0),
        ("US 2018", "pm25", 130.0, 150.0),
    ],
)
def test_the_city_says_which_version_of_which_index(
    index: str, quantity: str, level: float, upper: float | None
) -> None:
    drive = Drive(CityFacts(air_quality_index=index))
    found = drive.run(200, {f"environment/z/air/{quantity}": noisy(level, 1.0)})
    pages = [one.page for one in found if one.page.kind == "air-quality"]
    assert [page.upper for page in pages] == ([] if upper is None else [upper])
    # On the U.S. scale 130 ug/m3 are 205 today and were 190 before.
    wanted = {"US": 205.0, "US 2018": 190.0}
    assert all(page.seen == pytest.approx(wanted.get(index, level), rel=0.02) for page in pages)


def test_a_loud_day_where_the_city_has_a_limit() -> None:
    values = {"environment/z/mic/LAeq": noisy(72.0, 1.0)}
    assert Drive(CityFacts()).run(180, values) == []
    found = Drive(CityFacts(noise_limits_db=(65.0, None, None))).run(180, values)
    assert told(found) == [("Opened", "noise", "mic minor")]
    assert found[0].page.unit == "dB"


@pytest.mark.parametrize(("hour", "is_night"), [(4, True), (5, False)])
def test_a_night_ends_by_the_clocks_that_changed_in_it(hour: int, is_night: bool) -> None:
    """At seven, which is an hour earlier by UTC on the last Sunday of March than the day before."""
    facts = CityFacts(time_zone="Europe/Madrid", noise_limits_db=(None, None, 50.0))
    stage = MinuteStage(facts)
    stage.add([SeriesKey("environment", "z", "mic", "LAeq")])
    nothing = np.zeros(1, np.bool_)
    begin_ns = int(datetime(2026, 3, 29, tzinfo=UTC).timestamp()) * S
    moves = []
    for minute in range(6 * 60):
        at = begin_ns + minute * 60 * S
        level = 90.0 if hour * 60 <= minute < hour * 60 + 30 else 35.0
        value = np.array([level + minute % 7 / 10])
        stage.take(np.zeros(1, np.int32), np.array([at]), value)
        moves += stage.check(at, Standing(nothing, nothing, nothing))
    assert [one.state for one in moves if one.kind.name == "noise"] == ["opened"] * is_night


def test_a_wave_that_is_made_whole_is_of_the_same_moment() -> None:
    place = np.array([1, 3])
    wave = Wave(
        np.full(2, START_NS),
        np.array([1.0, 2.0]),
        np.array([True, False]),
        np.full(2, 3600 * S),
        np.arange(9.0),
    )
    whole = wave.whole(place, 5)
    assert whole.time_ns.tolist() == [START_NS] * 5
    assert whole.utc_offset_ns.tolist() == [3600 * S] * 5
    assert np.array_equal(whole.value, [np.nan, 1.0, np.nan, 2.0, np.nan], equal_nan=True)
    assert whole.usable.tolist() == [False, True, False, False, False]
    assert whole.means is wave.means
    assert wave.whole(np.arange(2), 2) is wave


def test_sound_levels_of_a_minute_are_averaged_by_their_energy() -> None:
    drive = Drive(CityFacts())
    key = "environment/z/mic/LAeq"
    for minute in range(3):
        at = START_NS + minute * 60 * S
        clocks = [(f"traffic/z/clock-{n}/averageTravelTime", at, 300.0) for n in range(2)]
        drive._send([(key, at, 50.0), (key, at + S, 60.0), *clocks])
    closed = drive.partition.minutes._minutes.close(START_NS + 60 * S)
    ours = closed.series == 0
    assert closed.readings[ours].tolist() == [2]
    assert np.allclose(10 * np.log10(closed.mean[ours]), 10 * np.log10((1e5 + 1e6) / 2))


def test_a_dense_crowd() -> None:
    facts = CityFacts(groups={"market": Group(("cam",), area_m2=100.0)})
    calm, dense = noisy(60.0, 5.0), noisy(600.0, 5.0)
    values = {"cameras/z/cam/peopleCount": lambda m: (dense if 40 <= m < 60 else calm)(m)}
    found = Drive(facts).run(90, values)
    assert told(found) == [("Opened", "crowd", "cam critical"), ("Resolved", "crowd", "cam major")]
    page = found[0].page
    assert page.unit == "{person}/m2"
    assert page.sentence == (
        f"peopleCount of cam (z) tells of a crowd that is too dense, of {page.seen:.2f} persons/m²;"
        " expected at most 3.57 persons/m² since 06:42:00 UTC"
    )


def test_a_road_that_has_broken_down() -> None:
    facts = CityFacts(groups={"ring": Group(("a",), kind="road", free_flow_kmh=80.0)})
    fast, slow = noisy(75.0, 2.0), noisy(12.0, 1.0)
    values = {"traffic/z/a/averageVehicleSpeed": lambda m: (slow if 40 <= m < 80 else fast)(m)}
    found = Drive(facts).run(120, values)
    assert told(found) == [
        ("Opened", "service-level", "a major"),
        ("Resolved", "service-level", "a minor"),
    ]
    assert found[0].page.since.timestamp() == START_NS / S + 52 * 60


def test_a_thermometer_that_begins_to_jitter() -> None:
    calm, wild = noisy(15.0, 0.05), noisy(15.0, 2.0)
    values = {"environment/z/air/temperature": lambda m: (wild if m > 300 else calm)(m)}
    found = Drive(CityFacts()).run(400, values)
    assert ("Opened", "noise-change", "air minor") in told(found)
    assert {one.page.category for one in found if isinstance(one, Opened)} == {"sensor-health"}


def test_a_loose_plug_is_told_after_three_spikes_and_one_is_not() -> None:
    calm = noisy(15.0, 0.2)
    for spikes, opened in (({100}, []), ({100, 110, 125}, [("Opened", "spike", "air minor")])):
        values = {"environment/z/air/o3": lambda m, s=spikes: 120.0 if m in s else calm(m)}
        assert told(Drive(CityFacts()).run(150, values)) == opened


def test_what_is_told_is_rare_by_the_record_of_its_series_and_rules_say_how_rare() -> None:
    calm = noisy(15.0, 0.2)
    # A loose plug, a spike every ten minutes; of another series, just three of them.
    plug = {"environment/z/air/o3": lambda m: 120.0 if m > 60 and m % 10 == 0 else calm(m)}
    loose = Drive(CityFacts())
    (opened,) = loose.run(150, plug)
    assert isinstance(opened, Opened)
    score = opened.page.score
    assert score is not None
    assert score >= SPEAKS_FROM
    assert opened.page.sentence.endswith(" UTC, which it does less than once in two years")
    asked = Drive(CityFacts())
    rules = Rules.read({"sensor": {"air": {"score": {"spike": score + 0.5}}}})
    asked.partition.obey(asked.partition.ruled(rules))
    assert asked.run(150, plug) == []
    asked.partition.obey(asked.partition.ruled(Rules()))
    assert told(asked.run(30, plug)) == [("Opened", "spike", "air minor")]


def test_a_state_from_before_scores_were_compared_is_read() -> None:
    drive = Drive(CityFacts())
    calm = noisy(15.0, 0.2)
    drive.run(100, {"environment/z/air/o3": calm})
    (running,) = (one for one in drive.partition.minutes._running if one.kernel.name == "spike")
    (scores,) = (state for _, state in running.scored())
    assert scores.hours.max() >= 1.0
    columns = from_bytes(drive.partition.minutes.save())
    stage = MinuteStage(CityFacts())
    stage.add(drive.partition.keys)
    older = {name: column for name, column in columns.items() if ".scores" not in name}
    assert len(older) < len(columns)
    stage.load(to_bytes(older))
    assert not next(state for _, state in stage._running[1].scored()).hours.any()
    stage.load(drive.partition.minutes.save())
    assert stage.save() == drive.partition.minutes.save()


def test_a_sensor_in_doubt_says_nothing_of_the_city() -> None:
    facts = CityFacts(groups={"market": Group(("cam",), area_m2=100.0)})
    count = noisy(600.0, 5.0)
    # Every reading is beside one that no camera can have seen.
    values = {"cameras/z/cam/peopleCount": lambda m: -5.0 if m < 20 else count(m)}
    drive = Drive(facts)
    assert drive.run(24, values) == []
    # Trusted again after five good ones.
    assert told(drive.run(10, values)) == [("Opened", "crowd", "cam critical")]


def test_an_alert_is_stale_while_its_sensor_is_silent_and_loss_of_data_is_no_all_clear() -> None:
    facts = CityFacts(groups={"market": Group(("cam",), area_m2=100.0)})
    count = noisy(600.0, 5.0)
    drive = Drive(facts)
    values = {
        "cameras/z/cam/peopleCount": lambda m: None if 30 <= m < 60 else count(m),
        "traffic/z/other/intensity": noisy(100.0, 3.0),
    }
    found = drive.run(80, values)
    slot = str([key.quantity for key in drive.partition.keys].index("peopleCount"))
    assert told(found) == [
        ("Opened", "crowd", "cam critical"),
        ("", "crowd stale", slot),
        ("", "crowd open", slot),
    ]


def test_an_alert_that_can_no_longer_be_judged_is_taken_back() -> None:
    facts = CityFacts(groups={"market": Group(("cam",), area_m2=100.0)})
    values = {"cameras/z/cam/peopleCount": noisy(600.0, 5.0)}
    drive = Drive(facts)
    assert told(drive.run(20, values)) == [("Opened", "crowd", "cam critical")]
    again = drive.restarted(CityFacts())
    (resolved,) = again.run(5, values)
    assert isinstance(resolved, Resolved)
    assert (resolved.page.kind, resolved.cause) == ("crowd", "no longer judged")
    assert resolved.page.sentence.startswith("peopleCount of cam (z) is no longer judged; alert ")


def test_what_a_kernel_has_learned_comes_through_a_restart() -> None:
    whole, cut = Drive(ROAD), Drive(ROAD)
    values = road(range(30, 45))
    whole.run(60, values)
    cut.run(33, values)
    after = cut.restarted(ROAD)
    after.run(27, values)
    assert cut.changes + after.changes == whole.changes
    assert after.partition.snapshot() == whole.partition.snapshot()


def test_a_kernel_saved_with_other_columns_begins_anew_and_its_alerts_go_on() -> None:
    drive = Drive(ROAD)
    values = road(range(30, 80))
    drive.run(40, values)
    saved = drive.partition.minutes
    for running in saved._running:
        if running.kernel.name == "incident":
            kept = running.alerts[0].opened_ns.copy()
            running.state = running.state._replace(phase=np.zeros((2, len(running.slots))))
    again = drive.restarted(ROAD)
    (incident,) = (one for one in again.partition.minutes._running if one.kernel.name == "incident")
    assert incident.state.phase.tolist() == [0.0, 0.0, 0.0]
    assert incident.alerts[0].opened_ns.tolist() == kept.tolist()


def test_a_quantity_that_is_not_known_any_more_is_not_judged() -> None:
    stage = MinuteStage(ROAD)
    stage.add([SeriesKey("traffic", "z", "a", "headwind"), SeriesKey("traffic", "z", "a", "pm10")])
    nothing = np.zeros(2, np.bool_)
    for minute in range(3):
        at = START_NS + minute * 60 * S
        stage.take(np.array([0, 1], np.int32), np.array([at, at]), np.ones(2))
        assert stage.check(at, Standing(nothing, nothing, nothing)) == []


@pytest.mark.parametrize("damage", ["flipped", "other series", "rubbish"])
def test_a_damaged_stage_is_refused(damage: str) -> None:
    drive = Drive(ROAD)
    drive.run(3, road(range(0)))
    fields = msgspec.msgpack.decode(drive.partition.snapshot())
    if damage == "flipped":
        fields[4] = fields[4][:-1] + bytes([fields[4][-1] ^ 1])
    elif damage == "rubbish":
        fields[4] = b"rubbish"
    else:
        fields[4] = Drive(ROAD).partition.minutes.save()
    with pytest.raises(StateError):
        Partition(Resumption(3, 3, STATE_VERSION, msgspec.msgpack.encode(fields)), CONFIG, ROAD)


def city_day(sensors: int, minutes: int) -> Iterator[list[tuple[str, int, float]]]:
    """Yield what a simulated city without faults reports, minute by minute."""
    city = City(sensors, 3)
    everybody = np.arange(len(city))
    for minute in range(minutes):
        at = START_NS + minute * 60 * S + everybody * (50 * S // len(city))
        values = city.observe(everybody, at)
        yield [
            (f"{sensor.domain}/{sensor.zone}/{sensor.name}/{quantity}", int(at[row]), float(value))
            for row, sensor in enumerate(city.sensors)
            for quantity, value in zip(sensor.quantities, values[row], strict=False)
        ]


def test_a_day_without_faults_opens_no_alert_of_minutes() -> None:
    city = City(40, 3)
    facts = CityFacts(
        noise_limits_db=(80.0, 80.0, 80.0),
        groups={
            "ring": Group(
                tuple(one.name for one in city.sensors if one.zone == "ring-road")[:3],
                kind="road",
            )
        },
    )
    drive = Drive(facts)
    for readings in city_day(40, 1440):
        drive._send(readings)
    found = [one for one in drive.changes if not is_of_suite(one)]
    assert told(found) == []
    placed = {one.kernel.name: len(one.slots) for one in drive.partition.minutes._running}
    assert min(placed.values()) > 0


def test_the_least_difference_is_known_of_every_measure() -> None:
    assert {name for name, row in QUANTITIES.items() if row.least == 0} == {
        name for name, row in QUANTITIES.items() if row.is_state
    }


def test_of_a_series_each_kind_is_judged_once() -> None:
    ours = kernels(CityFacts())
    assert len({kernel.name for kernel in ours}) == len(ours)
    for quantity in QUANTITIES:
        kinds = [kind.name for one in ours if quantity in one.quantities for kind in one.kinds]
        assert len(set(kinds)) == len(kinds)


def test_those_that_judge_sensors_are_asked_first() -> None:
    asked = [kernel.is_of_sensors for kernel in kernels(CityFacts())]
    assert asked == sorted(asked, reverse=True)


# What learns first what is usual


def days(drive: Drive, count: int, values: dict[str, Value]) -> list[Change]:
    """Let series report every minute, in messages of half an hour."""
    return half_hours(drive, count * 48, values)


def half_hours(
    drive: Drive, count: int, values: dict[str, Value], *, every: int = 1
) -> list[Change]:
    before = len(drive.changes)
    for _ in range(count):
        minutes = range(drive.minute, drive.minute + 30, every)
        drive._send(
            [
                (key, START_NS + minute * 60 * S + 5 * S, value)
                for minute in minutes
                for key in [*values, CLOCKS[0], CLOCKS[1]]
                if (value := values[key](minute) if key in values else 300.0) is not None
            ]
        )
        drive.minute += 30
    return [one for one in drive.changes[before:] if not is_of_suite(one)]


CLOCKS = tuple(f"traffic/z/clock-{n}/averageTravelTime" for n in range(2))


def busy(minute: int) -> float:
    """People on a square, by the hour of the day."""
    hour = (minute / 60 + 6) % 24
    return 400.0 * max(np.sin((hour - 6) / 16 * np.pi), 0.05)


def test_a_camera_that_is_covered_is_told_as_stuck_and_says_nothing_of_the_city() -> None:
    """It is stuck at zero before there is evidence of more: one cause, one alert."""
    noise = np.random.default_rng(4).normal(0, 1, 10_000)
    covered = range(4 * 1440 + 240, 4 * 1440 + 300)  # on a Friday morning

    def count(minute: int) -> float:
        people = busy(minute) + np.sqrt(busy(minute)) * noise[minute]
        return 0.0 if minute in covered else float(np.rint(max(people, 0.0)))

    drive = Drive(CityFacts())
    assert told(days(drive, 5, {"cameras/z/cam/peopleCount": count})) == []
    assert ("Opened", "flatline", "cam minor") in told(drive.changes)


def test_what_is_unusual_for_the_hour_is_told_where_nothing_else_is_open() -> None:
    noise = np.random.default_rng(4).normal(0, 1, 10_000)
    festival = range(4 * 1440, 4 * 1440 + 120)  # on a Friday morning

    def count(minute: int) -> float:
        # Slowly, so that no level is left at once.
        more = 40.0 * (minute - festival.start) / 2 if minute in festival else 0.0
        return float(np.rint(busy(minute) + more + np.sqrt(busy(minute)) * noise[minute]))

    drive = Drive(CityFacts())
    found = days(drive, 5, {"cameras/z/cam/peopleCount": count})
    season = [one for one in found if not isinstance(one, Moved) and one.page.kind == "season"]
    assert [type(one) for one in season] == [Opened, Resolved]
    opened = season[0]
    assert isinstance(opened, Opened)
    level = [
        one
        for one in drive.changes
        if not isinstance(one, Moved) and one.page.kind == "level" and one.page.category == "city"
    ]
    is_open = False
    for change in level:
        at = change.page.resolved_at or change.page.since
        if at <= opened.page.since:
            is_open = isinstance(change, Opened)
    assert opened.is_told == (not is_open)
    assert opened.page.seen > opened.page.upper > opened.page.expected > 0
    # By its spreads it would be less than nobody.
    assert opened.page.expected - (opened.page.upper - opened.page.expected) < 0
    assert opened.page.lower == 0.0
    assert opened.page.sentence.startswith("peopleCount of cam (z) is unusual for the hour, at ")
    assert {
        one.is_told for one in found if isinstance(one, Opened) and one.page.kind == "shift"
    } <= {False}


STREET = "traffic/z/street/intensity"


def street(closed: range) -> Value:
    """Cars in a street with two rush hours, of which a twenty-fifth are left while it is closed."""
    noise = np.random.default_rng(1).normal(0, 1, 20_000)

    def cars(minute: int) -> float:
        hour = (minute / 60 + 6) % 24
        rush = np.exp(-(((hour - 8) / 2.5) ** 2)) + np.exp(-(((hour - 17.5) / 3) ** 2))
        more = 500.0 * (rush + 0.35 * (7 < hour < 22)) * (0.04 if minute in closed else 1.0)
        return float(np.rint(40.0 + more + np.sqrt(40.0 + more) * noise[minute]))

    return cars


def lives(changes: list[Change], kind: str) -> list[tuple[str, bool, float]]:
    """Return what became of alerts of a kind: what, whether people are told, at which minute."""
    return [
        (
            type(one).__name__,
            isinstance(one, Opened) and one.is_told,
            ((one.page.resolved_at or one.page.since).timestamp() - START_NS / S) / 60,
        )
        for one in changes
        if not isinstance(one, Moved) and one.page.kind == kind
    ]


def test_what_nobody_is_told_of_mutes_nothing() -> None:
    """A street that closes at night leaves no level; that it has changed is told to nobody."""
    closed = range(9 * 1440 + 20 * 60, 9 * 1440 + 26 * 60)  # from two on, on a Thursday
    drive = Drive(CityFacts())
    values = {STREET: street(closed)}
    half_hours(drive, closed.start // 30 - 2, values, every=5)
    half_hours(drive, 14, values)
    (shift,), (season, _) = lives(drive.changes, "shift"), lives(drive.changes, "season")
    assert shift[:2] == ("Opened", False)
    assert closed.start < shift[2] < season[2] < closed.stop
    assert season[:2] == ("Opened", True)


@pytest.mark.parametrize("adopt_after", [40, 200])
def test_what_outlasts_the_alert_that_spoke_for_it_is_told_then(adopt_after: int) -> None:
    """Until a level is taken for the usual one its alert speaks; what was back is over with it."""
    noise = np.random.default_rng(1).normal(0, 1, 10_000)
    closed = range(4 * 1440 + 240, 4 * 1440 + 330)  # an hour and a half, on a Friday morning

    def cars(minute: int) -> float:
        return float(np.rint([1000 + 30 * noise[minute], 20 + 4 * noise[minute]][minute in closed]))

    drive = Drive(CityFacts(), config=SuiteConfig(adopt_after=adopt_after))
    half_hours(drive, closed.start // 30 - 8, {STREET: cars}, every=5)
    half_hours(drive, 8, {STREET: cars})
    drive.run(35, {STREET: cars})
    # What people have not been told comes through a restart.
    again = drive.restarted(drive.facts)
    said = [(again.minute, one) for _ in range(100) for one in again.run(1, {STREET: cars})]
    changes = drive.changes + again.changes
    level, over, *_ = lives(changes, "level")
    opened, *told, resolved = lives(changes, "season")
    assert level[:2] == ("Opened", True)
    assert level[2] < opened[2] < over[2]
    assert opened[:2] == ("Opened", False)
    assert resolved[0] == "Resolved"
    if adopt_after == 200:
        # It speaks for some minutes longer, and nobody needs to know.
        assert closed.stop <= over[2] < resolved[2]
        assert told == []
        return
    assert over[2] < closed.stop - 30
    assert told == [("Opened", True, opened[2])]
    first, second = (
        one.page for one in changes if isinstance(one, Opened) and one.page.kind == "season"
    )
    assert second.alert_id == first.alert_id
    # A quarter of an hour after the other was over, and what it says is of then.
    (minute,) = (at for at, one in said if isinstance(one, Opened) and one.page == second)
    assert 14 < minute - over[2] < 18
    assert second.seen == pytest.approx(cars(int(over[2]) + 15), abs=20)
    assert second.seen < second.lower


def test_what_was_never_seen_is_found_once_and_only_after_two_weeks() -> None:
    noise = np.random.default_rng(5).normal(0, 1, 15 * 288)
    day = 1440
    # An hour in each week, and twice on the last day; the second plume is as the first one was.
    plumes = [range(at, at + 60) for at in (6 * day, 9 * day, 14 * day + 360, 14 * day + 1080)]

    def pm25(minute: int) -> float:
        usual = 20.0 + 5.0 * np.sin(minute / day * 2 * np.pi) + noise[minute // 5]
        height = {6 * day: 15.0, 9 * day: 25.0}
        return float(usual) + sum(height.get(one.start, 60.0) for one in plumes if minute in one)

    drive = Drive(CityFacts())
    found: list[Change] = []
    for _ in range(15 * 288):
        found += drive.run(1, {"environment/z/air/pm25": pm25})
        drive.minute += 4
    alerts = [one for one in found if not isinstance(one, Moved) and one.page.kind == "novelty"]
    assert told(alerts) == [
        ("Opened", "novelty", "air minor"),
        ("Resolved", "novelty", "air minor"),
    ]
    opened, resolved = alerts
    assert isinstance(opened, Opened)
    assert isinstance(resolved, Resolved)
    page = opened.page
    # With the first minute behind the first five of it.
    assert page.since.timestamp() == START_NS / S + (plumes[2].start + 6) * 60
    assert page.seen > page.upper > page.expected > page.lower > 0
    assert page.score > SPEAKS_FROM
    assert page.sentence.startswith("pm25 of air (z) goes beyond all that it has done so far, at ")
    ends_s = START_NS / S + plumes[2].stop * 60
    # Once it no longer grows, it is no longer beyond.
    assert 0 < resolved.page.resolved_at.timestamp() - ends_s <= 4200


def test_a_clock_that_runs_off_is_told_by_the_trend_of_its_lag() -> None:
    keys = ["traffic/z/slow/intensity", "traffic/z/right/intensity"]
    alerts = {}
    for vouched in (True, False):  # as in the live city, and as in a replay
        drive = Drive(CityFacts())
        if vouched:
            drive._send([], arrived_ns=START_NS, complete_ns=START_NS - 60 * S)
        for minute in range(14 * 60):
            at = START_NS + minute * 60 * S
            lag_ns = minute * S // 240  # a second in four minutes
            arrived_ns = at + 250 * S
            for key, time_ns in zip(keys, (arrived_ns - lag_ns, arrived_ns - S), strict=True):
                drive._send([(key, time_ns, 100.0 + minute % 7)], arrived_ns=arrived_ns)
            drive._send([(key, at, 300.0) for key in CLOCKS])
        found = [one for one in drive.changes if not is_of_suite(one)]
        alerts[vouched] = told(found)
    assert alerts == {True: [("Opened", "clock-skew", "slow minor")], False: []}


def heard_early(stage: MinuteStage, minute: int, standing: Standing) -> list[Move]:
    """Let a message come that was written ten seconds after it came."""
    now_ns = START_NS + minute * 60 * S
    stage.hear(np.zeros(1, np.int32), np.array([now_ns + 10 * S]), now_ns)
    return stage.check(now_ns + 60 * S, standing)


@pytest.mark.parametrize("in_doubt", [False, True])
def test_a_clock_whose_sensor_is_in_doubt_is_not_judged(in_doubt: bool) -> None:
    stage = MinuteStage(CityFacts())
    stage.add([SeriesKey("traffic", "z", "a", "intensity")])
    no = np.zeros(1, np.bool_)
    standing = Standing(np.array([in_doubt]), no, no)
    moves = [move for minute in range(9) for move in heard_early(stage, minute, standing)]
    assert [move.kind.name for move in moves] == ([] if in_doubt else ["clock-skew"])


def test_a_lag_that_waits_for_its_minute_comes_through_a_restart() -> None:
    keys = [SeriesKey("traffic", "z", "a", "intensity")]
    no = np.zeros(1, np.bool_)
    stage, again = MinuteStage(CityFacts()), MinuteStage(CityFacts())
    stage.add(keys)
    again.add(keys)
    heard_early(stage, 0, Standing(no, no, no))
    stage.hear(np.zeros(1, np.int32), np.array([START_NS + 90 * S]), START_NS + 80 * S)
    again.load(stage.save())
    assert again.save() == stage.save()
    check_ns = START_NS + 120 * S
    for one in (stage, again):
        one.check(check_ns, Standing(no, no, no))
    assert again.save() == stage.save()


def test_a_station_ahead_that_is_at_fault_itself_is_compared_with_nobody() -> None:
    calm = road(range(100, 130))
    ahead = "traffic/z/c/occupancy"
    steady = calm[ahead]
    loose = calm | {ahead: lambda m: 0.9 if m in {60, 70, 80} else steady(m)}
    found = {
        name: {kind for _, kind, _ in told(Drive(ROAD).run(140, values))}
        for name, values in (("calm", calm), ("loose", loose))
    }
    assert found["calm"] == {"incident"}
    assert found["loose"] == {"spike"}


def test_neighbours_are_of_the_same_quantity_and_of_one_group() -> None:
    names = tuple("abcde")
    drive = Drive(CityFacts(groups={"park": Group(names, kind="neighbours")}))
    values = {f"environment/z/{name}/no2": noisy(20.0, 1.0) for name in (*names, "far")}
    values |= {"environment/z/a/o3": noisy(30.0, 1.0)}
    drive.run(3, values)
    (running,) = (one for one in drive.partition.minutes._running if one.kernel.name == "drift")
    keys = [drive.partition.keys[slot] for slot in running.slots]
    found = {
        str(key): {drive.partition.keys[slot].sensor for slot in slots if slot >= 0}
        for key, slots in zip(keys, running.terms["neighbours"].T, strict=True)
    }
    assert found["environment/z/a/no2"] == {"b", "c", "d", "e"}
    assert found["environment/z/far/no2"] == found["environment/z/a/o3"] == set()
    assert running.watched[0].tolist() == [
        key.sensor != "far" and key.quantity == "no2" for key in keys
    ]


def test_what_a_stage_keeps_to_be_quick_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    city = City(60, 3)
    keys = [
        SeriesKey(one.domain, one.zone, one.name, quantity)
        for one in city.sensors
        for quantity in one.quantities
    ]
    owner = np.repeat(np.arange(len(city)), [len(one.quantities) for one in city.sensors])
    column = np.concatenate([np.arange(len(one.quantities)) for one in city.sensors])
    names = [one.name for one in city.sensors]
    facts = CityFacts(
        groups={
            "road": Group(tuple(name for name in names if "traffic" in name), kind="road"),
            "air": Group(tuple(name for name in names if "air" in name), kind="neighbours"),
        },
        noise_limits_db=(60.0, 60.0, 50.0),
    )
    one, other = MinuteStage(facts), MinuteStage(facts)
    one.add(keys)
    other.add(keys)
    count, moved = len(keys), 0
    away = np.zeros(count, np.int64)
    for minute in range(300):
        at = START_NS + minute * 60 * S
        value = city.observe(np.arange(len(city)), np.full(len(city), at))[owner, column]
        away[rng.random(count) < 0.002] = rng.integers(1, 40)
        value = np.where(away > 0, value * 3.0 + rng.normal(0.0, 1.0, count), value)
        away -= away > 0
        there = rng.permutation(np.flatnonzero(rng.random(count) < rng.choice([1.0, 0.9, 0.2])))
        standing = Standing(*(rng.random(count) < share for share in (0.01, 0.1, 0.01)))
        told = []
        for stage in (one, other):
            stage.hear(there.astype(np.int32), np.full(len(there), at), at + S)
            stage.take(there.astype(np.int32), np.full(len(there), at), value[there])
            told.append(stage.check(at, standing))
        assert repr(told[0]) == repr(told[1])
        moved += len(told[0])
        if minute % 3 == 0:
            # Whatever it kept besides its state is gone.
            saved = other.save()
            assert saved == one.save()
            other = MinuteStage(facts)
            other.add(keys)
            other.load(saved)
    assert moved > 50
