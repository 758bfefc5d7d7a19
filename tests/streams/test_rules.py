"""Rules as people write them: what is refused, where, and what they mean for a series."""

import re
import tomllib
from contextlib import suppress
from dataclasses import fields
from datetime import date
from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors import KIND_NAMES, Suite, SuiteConfig, Terms
from detectors.calibration import SPEAKS_FROM
from ingest.quantities import QUANTITIES
from ingest.topics import SeriesKey
from streams.facts import CityFacts, Group
from streams.rules import (
    BY_MINUTES,
    MAX_CITY_BYTES,
    MAX_RULES_BYTES,
    SCORED,
    SWITCHES,
    QuantityRules,
    Rules,
    RulesError,
    Scope,
    SuiteRules,
    decode_rules,
    encode_rules,
)
from streams.ruling import Ruling

DEFAULTS = SuiteConfig()
ROAD = CityFacts(
    groups={"ring": Group(("traffic-0-0", "traffic-0-1"), kind="road", free_flow_kmh=90.0)}
)
STRICT = CityFacts(
    time_zone="Europe/Madrid",
    air_quality_index="US",
    limits="WHO 2021",
    noise_limits_db=(50.0, None, 40.5),
    groups={
        "square": Group(("cameras-0-0",), area_m2=50.0),
        "park": Group(("a", "b"), kind="neighbours"),
    },
    holidays=(date(2026, 12, 25),),
)
PLAIN = Ruling(Rules(), DEFAULTS)


def key(quantity: str = "pm25", sensor: str = "air-1") -> SeriesKey:
    return SeriesKey("environment", "harbour", sensor, quantity)


def ruled(text: str) -> Ruling:
    return Ruling(Rules.read(tomllib.loads(text)), DEFAULTS)


def of(ruling: Ruling, one: SeriesKey) -> dict[str, float]:
    """Return the thresholds and limits of a series, as the suite is told them."""
    columns = ruling.columns([key("no2", "nobody"), one])
    limits = ruling.limits([one])
    found = ruling.terms._asdict() | {name: column[1] for name, column in columns.items()}
    return found | {name: getattr(limits, name)[0] for name in ("low", "high", "max_rate")}


FAULTS = """
[suite]
city_open_spreads = 4
nonsense = 1
level_weight = 2.0
[detectors]
reported = false
rate = "no"
[severity]
silence = "loud"
loudness = "minor"
[score]
spike = -1
crowd = 3.0
[quantity.foo]
high = 3
[quantity.pm25]
max_rate = -1
low = nan
[sensor.air-17]
silence_floor_s = 0
low = 3
warm_up = "5"
city_open_after = true
[sensor."a b"]
warm_up = 5
[shadow.tight]
suite = { city_open_spreads = inf, floor_absolute = -1 }
severity = { level = "minor" }
[shadow."X Y"]
[else]
"""


def test_every_fault_is_told_with_its_place() -> None:
    with pytest.raises(RulesError) as caught:
        Rules.read(tomllib.loads(FAULTS))
    places = [fault.split(": ")[0] for fault in caught.value.faults]
    assert sorted(places) == sorted(
        [
            "suite.nonsense",
            "suite.level_weight",
            "detectors.reported",
            "detectors.rate",
            "severity.silence",
            "severity.loudness",
            "score.spike",
            "score.crowd",
            "quantity.foo",
            "quantity.pm25.max_rate",
            "quantity.pm25.low",
            "sensor.air-17.silence_floor_s",
            "sensor.air-17.low",
            "sensor.air-17.warm_up",
            "sensor.air-17.city_open_after",
            "sensor.a b",
            "shadow.tight.suite.city_open_spreads",
            "shadow.tight.suite.floor_absolute",
            "shadow.tight.severity",
            "shadow.X Y",
            "else",
        ]
    )
    told = "\n".join(caught.value.faults)
    for words in (
        "quantity.foo: no such quantity",
        "suite.nonsense: no such rule",
        "[sensor.air-17.quantity.<name>]",
        "level, flatline, range, rate, silence, clock-skew, ",
        "'informational', 'minor', 'major' or 'critical'",
    ):
        assert words in told


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[suite]\ncity_open_spreads = 2.0", "suite: city_close_spreads must not exceed"),
        ("[quantity.pm25]\nlow = 9e3", r"quantity.pm25: low \(9000\) must not exceed high \(2000"),
        ("[sensor.s]\ncity_open_spreads = 2", r"sensor.s: city_close_spreads \(3\) must not"),
        (
            "[sensor.s]\ncity_open_spreads = 5\n[quantity.no2]\ncity_close_spreads = 6\n",
            "sensor.s with quantity.no2: city_close_spreads",
        ),
        (
            "[sensor.s.quantity.no2]\nhigh = -1",
            r"sensor.s.quantity.no2: low \(0\) must not exceed high \(-1\)",
        ),
        ("[shadow.x.quantity.pm25]\nhigh = -1", "shadow.x: quantity.pm25: low"),
    ],
)
def test_thresholds_that_contradict_each_other_are_refused(text: str, fault: str) -> None:
    with pytest.raises(RulesError, match=fault):
        ruled(text)


def test_no_more_shadows_than_there_is_time_for() -> None:
    with pytest.raises(RulesError, match="shadow: Dictionary should have at most 4"):
        Rules.read({"shadow": {f"s{n}": {} for n in range(5)}})


def test_rules_are_bounded() -> None:
    many = {f"sensor-{n}": {"warm_up": 5} for n in range(MAX_RULES_BYTES // 25)}
    with pytest.raises(RulesError, match="at most 262144 go through the log"):
        Rules.read({"sensor": many})
    with pytest.raises(RulesError, match="at most 786432 are read"):
        decode_rules(b" " * (MAX_RULES_BYTES + MAX_CITY_BYTES + 1001))


def test_the_closer_section_wins() -> None:
    ruling = ruled(
        """
        [suite]
        warm_up = 30
        [detectors]
        rate = false
        [quantity.temperature]
        warm_up = 40
        silence_factor = 6
        high = 50.0
        detectors = { rate = true, flatline = false }
        [sensor.mast]
        warm_up = 50
        detectors = { silence = false }
        [sensor.mast.quantity.temperature]
        low = -20
        detectors = { flatline = true }
        """
    )
    everywhere = of(PLAIN, key("no2")) | {"warm_up": 30.0, "max_rate": inf}
    assert of(ruling, key("no2")) == everywhere
    temperature = of(PLAIN, key("temperature")) | {
        "warm_up": 40.0,
        "silence_factor": 6.0,
        "high": 50.0,
        "flatline_chance": 0.0,
    }
    assert temperature["max_rate"] == 2.0
    assert of(ruling, key("temperature")) == temperature
    assert of(ruling, key("no2", "mast")) == everywhere | {"warm_up": 50, "silence_floor_s": inf}
    assert of(ruling, key("temperature", "mast")) == temperature | {
        "warm_up": 50.0,
        "low": -20.0,
        "silence_floor_s": inf,
        "flatline_chance": DEFAULTS.flatline_chance,
    }


def test_severity_is_by_the_closest_section_that_says_it() -> None:
    ruling = ruled(
        """
        [severity]
        level = "minor"
        [quantity.pm25.severity]
        level = "critical"
        [sensor.mast.severity]
        silence = "informational"
        """
    )
    assert ruling.severity("level", key("no2")) == "minor"
    assert ruling.severity("level", key("pm25", "mast")) == "critical"
    assert ruling.severity("silence", key("pm25", "mast")) == "informational"
    assert ruling.severity("silence", key("pm25")) is None


def test_a_shadow_lies_over_the_rules() -> None:
    ruling = ruled(
        """
        [suite]
        warm_up = 30
        [quantity.pm25]
        close_after = 9
        [shadow.tight.suite]
        city_open_spreads = 3.5
        [shadow.tight.quantity.pm25]
        high = 100.0
        [shadow.tight.quantity.no2]
        detectors = { level = false }
        """
    )
    shadow = ruling.shadows["tight"]
    assert shadow.shadows == {}
    assert shadow.suite.city_open_spreads == 3.5
    assert ruling.suite.city_open_spreads == DEFAULTS.city_open_spreads
    assert of(shadow, key()) == of(ruling, key()) | {"city_open_spreads": 3.5, "high": 100.0}
    assert of(shadow, key("no2"))["city_open_after"] == inf


def test_nobody_with_rules_of_his_own_makes_no_column() -> None:
    keys = [key("no2", f"air-{n}") for n in range(5)]
    assert PLAIN.columns(keys) == {}
    ruling = ruled("[suite]\nwarm_up = 5\n[quantity.pm25]\nwarm_up = 6")
    assert ruling.columns(keys) == {}
    assert ruling.columns([*keys, key()])["warm_up"].tolist() == [5, 5, 5, 5, 5, 6]


def test_a_suite_is_told_ranges_that_are_taken_back_too() -> None:
    keys = [key(), key("no2")]
    suite = Suite()
    suite.add(PLAIN.limits(keys))
    before = suite.save()
    ruled("[quantity.pm25]\nhigh = 10.0").rule(suite, keys, limits=True)
    assert suite.save() != before
    verdicts = suite.step(
        np.array([0, 1], np.int32),
        np.array([1, 1], np.int64),
        np.array([20.0, 20.0]),
        np.ones(2, np.uint8),
    )
    assert verdicts.quality.tolist() == [4, 1]
    PLAIN.rule(suite, keys, limits=True)
    again = suite.step(
        np.array([0, 1], np.int32),
        np.array([2, 2], np.int64),
        np.array([20.0, 20.0]),
        np.ones(2, np.uint8),
    )
    assert again.quality.tolist() == [1, 1]


def test_a_quantity_that_is_not_known_any_more_keeps_its_range() -> None:
    old = SeriesKey("traffic", "harbour", "loop-1", "speedOfLight")
    suite = Suite()
    suite.add(PLAIN.limits([key(), key()]))
    before = suite.save()
    ruled("[quantity.pm25]\nhigh = 2000.0").rule(suite, [key(), old], limits=True)
    assert suite.save() == before


# On the wire


@st.composite
def rules(draw: st.DrawFn) -> Rules:
    """Rules with any of the sections, that contradict nothing."""
    terms = st.fixed_dictionaries(
        {},
        optional={
            "warm_up": st.integers(1, 50),
            "city_open_spreads": st.floats(3.0, 9.0),
            "close_after": st.integers(1, 9),
            "silence_floor_s": st.floats(0.5, 900.0),
            "detectors": st.dictionaries(st.sampled_from(SWITCHES), st.booleans()),
        },
    )
    of_quantity = st.builds(
        dict.__or__, terms, st.fixed_dictionaries({}, optional={"high": st.floats(1, 1e4)})
    )
    quantities = st.dictionaries(st.sampled_from(["no2", "intensity"]), of_quantity)
    sensors = st.dictionaries(
        st.sampled_from(["traffic-0-0", "environment-0-1"]),
        st.builds(dict.__or__, terms, st.fixed_dictionaries({"quantity": quantities})),
    )
    layer: dict[str, Any] = {
        "suite": st.fixed_dictionaries({}, optional={"city_open_spreads": st.floats(3.0, 9.0)}),
        "quantity": quantities,
        "sensor": sensors,
    }
    shadow = st.dictionaries(
        st.sampled_from(["tight", "loose"]), st.fixed_dictionaries({}, optional=layer)
    )
    severity = st.dictionaries(
        st.sampled_from([*KIND_NAMES, *BY_MINUTES]), st.sampled_from(["minor", "major", "critical"])
    )
    score = st.dictionaries(st.sampled_from(SCORED), st.floats(0.0, 9.0))
    city = st.sampled_from([CityFacts().said(), ROAD.said(), STRICT.said()])
    optional = layer | {"shadow": shadow, "severity": severity, "score": score, "city": city}
    return Rules.read(draw(st.fixed_dictionaries({}, optional=optional)))


@given(rules())
def test_what_goes_through_the_log_comes_out_the_same(one: Rules) -> None:
    data = encode_rules(one)
    again = decode_rules(data)
    assert again == one
    assert encode_rules(again) == data
    assert again.fingerprint == one.fingerprint
    Ruling(one, DEFAULTS)


def test_the_same_rules_have_one_fingerprint_however_they_are_written() -> None:
    one = Rules.read(
        tomllib.loads("[suite]\nwarm_up=5\ncity_open_spreads=4\n[quantity.no2]\nhigh=9")
    )
    other = Rules.read(
        tomllib.loads("[quantity]\nno2={high=9.0}\n[suite]\ncity_open_spreads=4.0\nwarm_up=5")
    )
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint != Rules().fingerprint


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "not rules"),
        (b"\xff\xfe", "not rules"),
        (b"[" * 100_000, "not rules"),
        (b"[]", "not rules"),
        (b"{}", "rules of version None, version 1 is read"),
        (b'{"version":2,"rules":{}}', "rules of version 2, version 1 is read"),
        (b'{"version":true,"rules":{}}', "rules of version True"),
        (b'{"version":1}', "not rules: there are none"),
        (b'{"version":1,"rules":{"suite":{"novelty":1}}}', "suite.novelty: no such rule"),
        (b'{"version":1,"rules":{}}', "the fingerprint is not that of the rules"),
    ],
)
def test_what_is_damaged_is_refused_with_the_reason(data: bytes, fault: str) -> None:
    with pytest.raises(RulesError, match=fault):
        decode_rules(data)


@given(data=st.data())
def test_no_damage_goes_unnoticed(data: st.DataObject) -> None:
    whole = encode_rules(Rules.read({"suite": {"warm_up": 25}, "quantity": {"no2": {"high": 9.0}}}))
    damaged = bytearray(whole)
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RulesError):
        decode_rules(bytes(damaged))


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.dictionaries(st.text(), x)))
def test_any_values_are_rules_or_faults(values: Any) -> None:
    for name in ("suite", "quantity", "sensor", "shadow", "detectors"):
        with suppress(RulesError):
            assert decode_rules(encode_rules(Rules.read({name: values})))


def test_the_closest_section_says_from_which_score_on_a_kind_speaks() -> None:
    ruling = ruled(
        """
        [score]
        season = 5.0
        spike = 6.0
        [quantity.pm25]
        score = { season = 5.5 }
        [sensor.air-1.quantity.pm25]
        score = { season = 4.5 }
        """
    )
    asked = [("season", key("no2")), ("season", key(sensor="air-2")), ("season", key())]
    assert [ruling.speaks_from(*one) for one in asked] == [5.0, 5.5, 4.5]
    assert ruling.speaks_from("spike", key()) == 6.0
    assert ruling.speaks_from("shift", key()) == SPEAKS_FROM
    assert ruling.is_about_minutes
    assert ruled("[quantity.pm25]\nscore = { season = 5.5 }").is_about_minutes
    assert not ruled("[severity]\nseason = 'major'").is_about_minutes


def test_a_shadow_with_another_score_judges_the_minutes_by_it() -> None:
    ruling = ruled(
        """
        [score]
        season = 5.0
        [shadow.eager.score]
        season = 3.0
        [shadow.deaf.suite]
        warm_up = 30
        """
    )
    assert ruling.with_minutes == {"eager"}
    assert ruling.shadows["eager"].speaks_from("season", key()) == 3.0
    assert ruling.speaks_from("season", key()) == 5.0


# What the city says of itself


def test_what_a_city_says_comes_through_the_log() -> None:
    for facts in (CityFacts(), ROAD, STRICT):
        rules = Rules.read({"suite": {"warm_up": 5}}).of(facts)
        again = decode_rules(encode_rules(rules))
        assert (again, again.city) == (rules, facts)
        assert again.fingerprint != Rules.read({"suite": {"warm_up": 5}}).fingerprint
    # What is so by itself is not said, so that what later versions know changes no fingerprint.
    assert Rules().of(CityFacts()).canonical == b'{"city":{}}'
    assert ROAD.said() == {
        "groups": {
            "ring": {
                "sensors": ["traffic-0-0", "traffic-0-1"],
                "kind": "road",
                "free_flow_kmh": 90.0,
            }
        }
    }


@pytest.mark.parametrize(
    ("city", "fault"),
    [
        ({"time_zone": "Middle/Earth"}, "city: no time zone of this host: 'Middle/Earth'"),
        ({"limits": "mine"}, "city: no limits are known as 'mine'"),
        ({"weather": "fine"}, "city: facts that this version does not know"),
        ({"groups": {"a": {"sensors": ["b"], "colour": 3}}}, "city: facts that this version"),
        ({"noise_limits_db": ["loud", None, None]}, "city: Expected `float | null`"),
        ({"holidays": ["someday"]}, "city: Invalid RFC3339"),
        ("Paris", "city: Expected `object`"),
    ],
)
def test_a_city_that_is_not_understood_is_refused(city: object, fault: str) -> None:
    with pytest.raises(RulesError, match=f"^{re.escape(fault)}"):
        Rules.read({"city": city})


def test_what_a_city_says_is_bounded() -> None:
    many = CityFacts(groups={"all": Group(tuple(f"sensor-{n:09}" for n in range(30_000)))})
    with pytest.raises(
        RulesError, match=r"^city: 570032 bytes; at most 524288 go through the log$"
    ):
        Rules().of(many)


# Beside what they speak of


def test_every_threshold_of_the_suite_can_be_ruled() -> None:
    assert set(SuiteRules.model_fields) == {field.name for field in fields(SuiteConfig)}
    own = set(Scope.model_fields) - {"detectors", "severity", "score", "minutes"}
    assert own == set(Terms._fields)
    assert set(QuantityRules.model_fields) - set(Scope.model_fields) == {"low", "high", "max_rate"}


def test_the_defaults_are_within_the_bounds() -> None:
    defaults = {field.name: getattr(DEFAULTS, field.name) for field in fields(SuiteConfig)}
    assert Ruling(Rules.read({"suite": defaults}), DEFAULTS).suite == DEFAULTS
    for name, row in QUANTITIES.items():
        limits = {"low": row.low, "high": row.high}
        assert Rules.read({"quantity": {name: limits}})
