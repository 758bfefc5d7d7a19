"""Thresholds of the minute stage: each counts where rules say it, and nowhere else."""

import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.topics import SeriesKey
from storage.flush import Opened
from streams.facts import CityFacts, Group
from streams.minutes import MinuteStage, Standing
from streams.rules import Rules, RulesError, without_effect
from streams.ruling import Ruling
from streams.thresholds import MinuteRules
from tests.streams.test_minutes import (
    CLOCKS,
    CONFIG,
    ROAD,
    START_NS,
    Drive,
    S,
    Value,
    busy,
    days,
    noisy,
    road,
)

BLOCKED = road(range(30, 45))
ROAD_SPEED = CityFacts(groups={"ring": Group(("a",), kind="road", free_flow_kmh=80.0)})
NOWHERE = CityFacts()
MARKET = CityFacts(groups={"market": Group(("cam",), area_m2=100.0)})
PARK = CityFacts(groups={"park": Group(tuple("abcde"), kind="neighbours")})


def steady(key: str, level: float, spread: float) -> dict[str, Value]:
    return {key: noisy(level, spread)}


def changed(key: str, before: tuple[float, float], after: tuple[float, float]) -> dict[str, Value]:
    one, other = noisy(*before), noisy(*after)
    return {key: lambda minute: (other if minute > 300 else one)(minute)}


def spiky(minute: int) -> float:
    return 60.0 if minute in {100, 110, 125} else CALM(minute)


CALM = noisy(15.0, 0.2)
LAEQ = steady("environment/z/mic/LAeq", 72.0, 1.0)


def by_minutes(
    values: dict[str, Value], minutes: int, facts: CityFacts = NOWHERE, stride: int = 1
) -> Callable[[Rules], Drive]:
    """Return a story of series that report once in so many minutes."""

    def story(rules: Rules) -> Drive:
        drive = told(facts, rules)
        for _ in range(minutes // stride):
            drive.run(1, values)
            drive.minute += stride - 1
        return drive

    return story


def told(facts: CityFacts, rules: Rules) -> Drive:
    drive = Drive(facts)
    drive.partition.obey(drive.partition.ruled(rules))
    return drive


def lagging(lag_s: float) -> Callable[[Rules], Drive]:
    """Return a story of a sensor whose messages come so long after they were written."""

    def story(rules: Rules) -> Drive:
        drive = told(CityFacts(), rules)
        drive._send([], arrived_ns=START_NS, complete_ns=START_NS - 60 * S)
        for minute in range(150):
            at = START_NS + minute * 60 * S
            arrived_ns = at + 250 * S
            reading = ("traffic/z/a/intensity", arrived_ns - int(lag_s * S), 100.0 + minute % 7)
            drive._send([reading], arrived_ns=arrived_ns)
            drive._send([(key, at, 300.0) for key in CLOCKS])
        return drive

    return story


def walking(rules: Rules) -> Drive:
    """A thermometer stands 0.3 degrees higher from the third week on."""
    drive = told(PARK, rules)
    noise = np.random.default_rng(7).normal(0.0, 0.01, (5, 60_000))
    for at in range(0, 24 * 1440, 60):
        drive.run(
            1,
            {
                f"environment/z/{name}/temperature": lambda minute, one=one: float(
                    15.0 + noise[one, minute] + 0.3 * (one == 0 and minute > 18 * 1440)
                )
                for one, name in enumerate("abcde")
            },
        )
        drive.minute = at + 60
    return drive


def covered(rules: Rules, crowd: float = 0.25) -> Drive:
    """A lens is covered for half an hour, on which something flickers."""
    noise = np.random.default_rng(4).normal(0, 1, 10_000)
    dark = range(4 * 1440 + 240, 4 * 1440 + 270)

    def count(minute: int) -> float:
        usual = busy(minute) * crowd
        people = usual + np.sqrt(usual) * noise[minute]
        return float(minute % 2) if minute in dark else float(np.rint(max(people, 0.0)))

    drive = told(CityFacts(), rules)
    days(drive, 5, {"cameras/z/cam/peopleCount": count})
    return drive


NO2 = "environment/z/air/no2"
TEMPERATURE = "environment/z/air/temperature"
Story = Callable[[Rules], Drive]
# What happens, of which sensor and quantity, a threshold, and whether it speaks by that one; by the
# default it is the other way round.
STORIES: dict[tuple[str, str], tuple[Story, str, str, Any, bool]] = {
    ("incident", "difference"): (by_minutes(BLOCKED, 60, ROAD), "b", "occupancy", 0.6, False),
    ("incident", "relative_difference"): (
        by_minutes(BLOCKED, 60, ROAD), "b", "occupancy", 0.96, False,
    ),
    ("incident", "downstream_fall"): (by_minutes(BLOCKED, 60, ROAD), "b", "occupancy", 0.9, False),
    ("incident", "speed_fall"): (by_minutes(BLOCKED, 60, ROAD), "b", "occupancy", 0.8, False),
    ("service-level", "speak_from"): (
        by_minutes(steady("traffic/z/a/averageVehicleSpeed", 28.0, 1.0), 40, ROAD_SPEED),
        "a", "averageVehicleSpeed", "E", True,
    ),
    ("air-quality", "speak_from"): (
        by_minutes(steady(NO2, 40.0, 1.0), 90), "air", "no2", 3, True,
    ),
    ("exceedance", "limits"): (
        by_minutes(steady("environment/z/air/o3", 110.0, 1.0), 420, stride=5),
        "air", "o3", "WHO 2021", True,
    ),
    ("exceedance", "hour"): (by_minutes(steady(NO2, 40.0, 1.0), 90), "air", "no2", 30.0, True),
    ("exceedance", "eight_hours"): (
        by_minutes(steady("environment/z/air/o3", 50.0, 1.0), 420, stride=5),
        "air", "o3", 40.0, True,
    ),
    ("exceedance", "calendar_day"): (
        by_minutes(steady("environment/z/air/pm25", 12.0, 1.0), 2_520, stride=5),
        "air", "pm25", 10.0, True,
    ),
    ("noise", "day_db"): (by_minutes(LAEQ, 180), "mic", "LAeq", 65.0, True),
    ("noise", "evening_db"): (by_minutes(LAEQ, 900, stride=5), "mic", "LAeq", 65.0, True),
    ("noise", "night_db"): (by_minutes(LAEQ, 1_140, stride=5), "mic", "LAeq", 65.0, True),
    ("crowd", "persons_per_m2"): (
        by_minutes(steady("cameras/z/cam/peopleCount", 200.0, 5.0), 20, MARKET),
        "cam", "peopleCount", 1.5, True,
    ),
    ("spike", "spreads"): (
        by_minutes({"environment/z/air/o3": spiky}, 150), "air", "o3", 900.0, False,
    ),
    ("noise-change", "louder"): (
        by_minutes(changed(TEMPERATURE, (15.0, 0.2), (15.0, 2.0)), 400),
        "air", "temperature", 1e5, False,
    ),
    ("noise-change", "quieter"): (
        by_minutes(changed(TEMPERATURE, (15.0, 2.0), (15.0, 0.2)), 400),
        "air", "temperature", 1e5, False,
    ),
    ("drift", "tolerance"): (walking, "a", "temperature", 0.1, True),
    ("clock-skew", "ahead_s"): (lagging(-3.0), "a", "", 2.0, True),
    ("clock-skew", "behind_s"): (lagging(30.0), "a", "", 20.0, True),
    ("tampering", "chance"): (covered, "cam", "peopleCount", 1e-290, False),
    ("tampering", "least_s"): (covered, "cam", "peopleCount", 3_600.0, False),
}  # fmt: skip


BLIND = {"detectors": {"tampering": False}}
# Of days: to tell them a third time shows nothing that the others do not.
LONG = (walking, covered)


def said_of(sensor: str, quantity: str, minutes: dict[str, Any]) -> Rules:
    own: dict[str, Any] = {"minutes": minutes}
    if quantity:
        own = {"quantity": {quantity: own}}
    rules = Rules.read({"sensor": {sensor: own}})
    assert without_effect(rules) == []
    return rules


@cache
def of_defaults(story: Story) -> Drive:
    return story(Rules())


def opened(drive: Drive, kind: str) -> set[str]:
    return {
        one.page.sensor
        for one in drive.changes
        if isinstance(one, Opened) and one.page.kind == kind
    }


@pytest.mark.parametrize("name", STORIES, ids=".".join)
def test_a_threshold_of_a_series_counts_for_that_one_alone(name: tuple[str, str]) -> None:
    story, sensor, quantity, value, speaks = STORIES[name]
    kind, threshold = name
    by_default = of_defaults(story)
    assert opened(by_default, kind) == (set() if speaks else {sensor})
    rules = {kind: {threshold: value}}
    assert opened(story(said_of(sensor, quantity, rules)), kind) == ({sensor} if speaks else set())
    if story not in LONG:
        of_another = story(said_of("somebody", quantity, rules))
        assert of_another.changes == by_default.changes


@pytest.mark.parametrize(("lag_s", "told_of"), [(-4.0, set()), (-6.0, {"a"}), (3600.0, set())])
def test_by_default_a_clock_may_be_five_seconds_ahead_and_late_without_end(
    lag_s: float, told_of: set[str]
) -> None:
    assert opened(of_defaults(lagging(lag_s)), "clock-skew") == told_of


def test_a_shadow_hears_how_late_messages_come() -> None:
    rules = Rules.read({"shadow": {"strict": {"minutes": {"clock-skew": {"ahead_s": 2.0}}}}})
    drive = lagging(-3.0)(rules)
    assert opened(drive, "clock-skew") == set()
    (stage,) = drive.partition.shadow_minutes.values()
    (clocks,) = (one for one in stage._running if one.kernel.of_clocks)
    assert len(clocks.standing()) == 1


def test_a_covered_camera_says_nothing_of_the_hour() -> None:
    # So crowded that an empty square is unusual as well; without the other that would be told.
    for rules, kind in ((Rules(), "tampering"), (Rules.read(BLIND), "season")):
        drive = covered(rules, 3.0)
        assert opened(drive, "tampering") | opened(drive, "season") == {"cam"}
        assert opened(drive, kind) == {"cam"}
        assert opened(drive, {"tampering": "season", "season": "tampering"}[kind]) == set()


def test_every_threshold_has_a_story() -> None:
    fields = {
        (field.alias or name, threshold)
        for name, field in MinuteRules.model_fields.items()
        for threshold in type(field.default).model_fields
    }
    assert set(STORIES) == fields


def test_where_no_series_has_its_own_there_is_one_number_for_all() -> None:
    rules = {"minutes": {"incident": {"difference": 0.1}, "spike": {"spreads": 12.0}}}
    for told_rules in (Rules(), Rules.read(rules)):
        stage = MinuteStage(ROAD)
        stage.add([SeriesKey("traffic", "z", one, "occupancy") for one in "abc"])
        stage.judge_by(Ruling(told_rules, CONFIG))
        nothing = np.zeros(3, np.bool_)
        stage.check(START_NS, Standing(nothing, nothing, nothing))
        for running in stage._running:
            own = running.ruled.keys() - running.terms.keys()
            assert all(running.ruled[name].ndim == 0 for name in own)


def test_a_threshold_that_is_withdrawn_leaves_what_was_there_before() -> None:
    """A limit of a city, a law or a quantity: rules are laid over it, not written into it."""
    facts = replace(PARK, noise_limits_db=(80.0, 80.0, 80.0))
    keys = [SeriesKey("environment", "z", one, "no2") for one in "abcde"]
    keys.append(SeriesKey("environment", "z", "mic", "LAeq"))
    stage = MinuteStage(facts)
    stage.add(keys)
    nothing = np.zeros(len(keys), np.bool_)
    stage.check(START_NS, Standing(nothing, nothing, nothing))
    names = {"limit", "limit_db", "tolerance"}

    def limits() -> dict[str, list[Any]]:
        return {
            name: running.ruled[name].tolist()
            for running in stage._running
            for name in running.ruled.keys() & names
        }

    before = repr(limits())
    rules = """
        [sensor.mic.minutes.noise]
        night_db = 40.0
        [sensor.a.quantity.no2.minutes]
        exceedance.hour = 30.0
        drift.tolerance = 0.5
        """
    stage.judge_by(Ruling(Rules.read(tomllib.loads(rules)), CONFIG))
    told = limits()
    assert told.keys() == names
    assert told["limit_db"] == [[80.0], [80.0], [40.0]]
    assert (told["limit"][0][0], told["tolerance"][0]) == (30.0, 0.5)
    stage.judge_by(Ruling(Rules(), CONFIG))
    assert repr(limits()) == before


@pytest.mark.parametrize(("limit_db", "is_one"), [(140.0, True), (140.5, False), (-0.5, False)])
def test_a_limit_of_noise_is_a_level_that_there_is(limit_db: float, is_one: bool) -> None:
    said = {"minutes": {"noise": {"night_db": limit_db}}}
    if is_one:
        assert Rules.read(said).minutes.noise.night_db == limit_db
    else:
        with pytest.raises(RulesError, match=r"^minutes\.noise\.night_db: Input should be"):
            Rules.read(said)


def test_the_closest_section_wins() -> None:
    rules = Rules.read(
        tomllib.loads(
            """
            [minutes.incident]
            difference = 0.1
            speed_fall = 0.3
            [quantity.occupancy.minutes.incident]
            difference = 0.2
            [sensor.b.minutes.incident]
            difference = 0.3
            [sensor.c.quantity.occupancy.minutes.incident]
            difference = 0.4
            """
        )
    )
    ruling = Ruling(rules, CONFIG)
    found = {
        sensor: ruling.thresholds(SeriesKey("traffic", "z", sensor, "occupancy"))["incident"]
        for sensor in "abc"
    }
    assert found == {
        "a": {"difference": 0.2, "speed_fall": 0.3},
        "b": {"difference": 0.3, "speed_fall": 0.3},
        "c": {"difference": 0.4, "speed_fall": 0.3},
    }
    assert ruling.is_about_minutes


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[minutes.season]\nspreads = 3.0", "minutes.season: no such rule"),
        ("[minutes.incident]\ndense = 0.3", "minutes.incident.dense: no such rule"),
        ("[minutes.incident]\ndifference = 2.0", "minutes.incident.difference: Input should be"),
        ("[minutes.incident]\nrelative_difference = 1", "minutes.incident.relative_difference: "),
        ("[minutes.service-level]\nspeak_from = 'A'", "minutes.service-level.speak_from: Input"),
        ("[minutes.exceedance]\nlimits = 'mine'", "minutes.exceedance.limits: Input should be"),
        ("[minutes.noise-change]\nlouder = 1.0", "minutes.noise-change.louder: Input should be"),
        ("[minutes.crowd]\npersons_per_m2 = nan", "minutes.crowd.persons_per_m2: Input should be"),
        ("[minutes.tampering]\nchance = 0.0", "minutes.tampering.chance: Input should be"),
        ("[sensor.a.minutes.spike]\nspreads = '9'", "sensor.a.minutes.spike.spreads: Input"),
    ],
)
def test_what_is_no_threshold_is_refused_with_its_place(text: str, fault: str) -> None:
    with pytest.raises(RulesError, match=f"^{re.escape(fault)}"):
        Rules.read(tomllib.loads(text))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "[minutes.exceedance]\nhour = 9.0",
            "minutes.exceedance.hour: is that of a quantity: [quantity.<name>]",
        ),
        (
            "[sensor.a.minutes.drift]\ntolerance = 9.0",
            "sensor.a.minutes.drift.tolerance: is that of a quantity: [sensor.a.quantity.<name>]",
        ),
        (
            "[quantity.no2.minutes.clock-skew]\nahead_s = 9.0",
            "quantity.no2.minutes.clock-skew.ahead_s: clock-skew judges a sensor: [sensor.<id>]",
        ),
        (
            "[sensor.a.quantity.no2.minutes.crowd]\npersons_per_m2 = 2.0",
            "sensor.a.quantity.no2.minutes.crowd.persons_per_m2: crowd does not judge no2",
        ),
        (
            "[shadow.x.minutes.drift]\ntolerance = 2.0",
            "shadow.x.minutes.drift.tolerance: is that of a quantity: [shadow.x.quantity.<name>]",
        ),
    ],
)
def test_what_has_no_effect_where_it_stands_is_refused(text: str, fault: str) -> None:
    assert without_effect(Rules.read(tomllib.loads(text))) == [fault]


def test_a_shadow_judges_by_its_own_threshold_and_nobody_is_told() -> None:
    rules = Rules.read({"shadow": {"dense": {"minutes": {"crowd": {"persons_per_m2": 1.5}}}}})
    assert without_effect(rules) == []
    drive = STORIES["crowd", "persons_per_m2"][0](rules)
    assert opened(drive, "crowd") == set()
    (stage,) = drive.partition.shadow_minutes.values()
    (crowd,) = (one for one in stage._running if one.kernel.name == "crowd")
    assert len(crowd.standing()) == 1


def test_a_threshold_comes_through_a_restart() -> None:
    rules = said_of("cam", "peopleCount", {"crowd": {"persons_per_m2": 1.5}})
    values = steady("cameras/z/cam/peopleCount", 200.0, 5.0)
    drive = told(MARKET, rules)
    drive.run(1, values)
    again = drive.restarted(MARKET)
    again.run(19, values)
    assert opened(again, "crowd") == {"cam"}


def test_the_page_names_every_threshold() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    table = page.partition("## Thresholds of the minute stage")[2].partition("\n## ")[0]
    found: set[tuple[str, str]] = set()
    kind = ""
    for line in table.splitlines():
        if line.startswith(("| `", "| | `")):
            first, names, *_ = (cell.strip() for cell in line.strip("|").split("|"))
            kind = first.strip("`") or kind
            found |= {(kind, name) for name in re.findall("`(.+?)`", names)}
    assert found == set(STORIES)
