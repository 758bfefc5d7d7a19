"""The decoder of SenML packs: as RFC 8428 says, as fast as slow, and total."""

import json
import re
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from math import inf, isnan, nan
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingest import reject
from ingest.message import Acceptance, Channel, Message, Refused
from ingest.quantities import QUANTITIES
from ingest.reject import Reject
from ingest.senml import _LABELS, _Memory, _quick, _thorough, decode, resolve
from ingest.topics import MqttTopic
from ingest.units import senml_conversion

NOW_NS = 1_767_225_600_123_456_789  # 2026-01-01, and not a whole microsecond
NOW_S = 1_767_225_600
NOW_US = NOW_NS // 1000
DAY_NS = 86_400 * 10**9
AIR = MqttTopic("live", "environment", "centre", "s1")
GATE = MqttTopic("live", "environment", "centre", "gw-1")
TRAFFIC = MqttTopic("live", "traffic", "centre", "s1")
CAMERA = MqttTopic("live", "cameras", "centre", "s1")
ACCEPTANCE = Acceptance(gateways=frozenset({"gw-1"}))
REASONS = {value for name, value in vars(reject).items() if name.isupper()}
PLACE = re.compile(r"\$(\[\d+\](\.(n|u|v|vb|vs|vd|t|bver))?)?")
Decoder = Callable[[bytes, MqttTopic, int, Acceptance], Message | Reject | None]


def pack(*records: Any) -> bytes:
    return json.dumps(records).encode()


def read(*records: Any, topic: MqttTopic = AIR) -> Message | Reject:
    return decode(pack(*records), topic, NOW_NS, ACCEPTANCE)


def rows(message: Message | Reject) -> list[tuple[str, str, int, float]]:
    assert isinstance(message, Message), message
    columns = message.channels, message.time_ns, message.value
    return [(*channel, time_ns, value) for channel, time_ns, value in zip(*columns, strict=True)]


# --- as RFC 8428 says ---------------------------------------------------------------------------

OW = "urn:dev:ow:10e2073a01080063"
PERCENT = [21.2, 21.3, 21.4, 21.4, 21.5]
T = 1_320_067_464


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        pytest.param(
            [{"n": OW, "u": "Cel", "v": 23.1}], [(OW, "Cel", 23.1, None)], id="5.1.1 one datapoint"
        ),
        pytest.param(
            [
                {"bn": f"{OW}:", "n": "voltage", "u": "V", "v": 120.1},
                {"n": "current", "u": "A", "v": 1.2},
            ],
            [(f"{OW}:voltage", "V", 120.1, None), (f"{OW}:current", "A", 1.2, None)],
            id="5.1.2 two datapoints",
        ),
        pytest.param(
            [
                {
                    "bn": "urn:dev:ow:10e2073a0108006:",
                    "bt": 1.276020076001e9,
                    "bu": "A",
                    "bver": 5,
                    "n": "voltage",
                    "u": "V",
                    "v": 120.1,
                },
                {"n": "current", "t": -5, "v": 1.2},
                {"n": "current", "t": -4, "v": 1.3},
                {"n": "current", "v": 1.7},
            ],
            [
                ("urn:dev:ow:10e2073a0108006:voltage", "V", 120.1, 1_276_020_076_001_000_000),
                ("urn:dev:ow:10e2073a0108006:current", "A", 1.2, 1_276_020_071_001_000_000),
                ("urn:dev:ow:10e2073a0108006:current", "A", 1.3, 1_276_020_072_001_000_000),
                ("urn:dev:ow:10e2073a0108006:current", "A", 1.7, 1_276_020_076_001_000_000),
            ],
            id="5.1.2 time relative to the base time",
        ),
        pytest.param(
            [{"bn": OW, "bt": T, "bu": "%RH", "v": PERCENT[0]}]
            + [{"v": value, "t": 10 * step} for step, value in enumerate(PERCENT) if step],
            [(OW, "%RH", value, (T + 10 * step) * 10**9) for step, value in enumerate(PERCENT)],
            id="5.1.3 measurements over time",
        ),
        pytest.param(
            [
                {"bn": OW, "bt": T, "bu": "%RH", "v": 20},
                {"u": "lon", "v": 24.30621},
                {"u": "lat", "v": 60.07965},
                {"t": 60, "v": 20.3},
            ],
            [
                (OW, "%RH", 20, T * 10**9),
                (OW, "lon", 24.30621, T * 10**9),
                (OW, "lat", 60.07965, T * 10**9),
                (OW, "%RH", 20.3, (T + 60) * 10**9),
            ],
            id="5.1.4 a unit of its own",
        ),
        pytest.param(
            [
                {"bn": f"{OW}:", "n": "temp", "u": "Cel", "v": 23.1},
                {"n": "label", "vs": "Machine Room"},
                {"n": "open", "vb": False},
                {"n": "nfc-reader", "vd": "aGkgCg"},
            ],
            [
                (f"{OW}:temp", "Cel", 23.1, None),
                (f"{OW}:label", None, Reject(reject.VALUE, "$[1].v"), None),
                (f"{OW}:open", None, False, None),
                (f"{OW}:nfc-reader", None, Reject(reject.VALUE, "$[3].v"), None),
            ],
            id="5.1.5 multiple data types",
        ),
        pytest.param(
            [
                {"bn": "2001:db8::2/", "bt": T, "n": "temperature", "u": "Cel", "v": 25.2},
                {"n": "humidity", "u": "%RH", "v": 30},
                {"bn": "2001:db8::1/", "n": "temperature", "u": "Cel", "v": 12.3},
                {"n": "humidity", "u": "%RH", "v": 67},
            ],
            [
                ("2001:db8::2/temperature", "Cel", 25.2, T * 10**9),
                ("2001:db8::2/humidity", "%RH", 30, T * 10**9),
                ("2001:db8::1/temperature", "Cel", 12.3, T * 10**9),
                ("2001:db8::1/humidity", "%RH", 67, T * 10**9),
            ],
            id="5.1.6 collection of resources",
        ),
        pytest.param(
            [{"bt": T, "bu": "/", "n": "2001:db8::3", "v": 1}, {"n": "2001:db8::4", "v": 1}],
            [("2001:db8::3", "/", 1, T * 10**9), ("2001:db8::4", "/", 1, T * 10**9)],
            id="5.1.7 an actuator",
        ),
    ],
)
def test_the_examples_of_the_rfc_are_resolved(
    records: list[dict[str, Any]], expected: list[tuple[Any, ...]]
) -> None:
    found = resolve(records, NOW_NS)
    assert [(one.name, one.unit, one.value, one.time_ns) for one in found] == [
        (name, unit, value, NOW_US * 1000 if time_ns is None else time_ns)
        for name, unit, value, time_ns in expected
    ]


def test_labels_that_say_nothing_of_the_value_are_named() -> None:
    (found,) = resolve([{"n": "x", "vs": "a", "vd": "b", "l": [], "ut": 3, "s": 1}], NOW_NS)
    assert found.texts == ("vs", "vd")
    assert found.foreign == ("l",)


@pytest.mark.parametrize("shape", [pack, lambda *records: pack(*records).replace(b"}", b',"s":1}')])
def test_base_fields_hold_until_they_are_replaced(shape: Callable[..., bytes]) -> None:
    payload = shape(
        {"bn": "s1/", "bt": NOW_S, "bu": "K", "bv": 273.15, "n": "temperature", "v": 1},
        {"n": "temperature", "v": 2, "t": -1},
        {"n": "temperature", "u": "Cel", "bv": 0.5, "v": 3, "t": -2},
        {"bn": "s1:", "bu": "ug/m3", "bt": NOW_S - 10, "bv": 0, "n": "no2", "v": 4},
    )
    assert rows(decode(payload, AIR, NOW_NS, ACCEPTANCE)) == [
        ("s1", "temperature", NOW_S * 10**9, 273.15 + 1 - 273.15),
        ("s1", "temperature", (NOW_S - 1) * 10**9, 273.15 + 2 - 273.15),
        ("s1", "temperature", (NOW_S - 2) * 10**9, 3.5),
        ("s1", "no2", (NOW_S - 10) * 10**9, 4.0),
    ]


def test_a_record_of_base_fields_only_is_no_reading() -> None:
    header = {"bn": "s1/temperature", "bt": NOW_S, "bv": 20}
    assert rows(read(header, {"v": 1})) == [("s1", "temperature", NOW_S * 10**9, 21.0)]
    assert read(header) == Reject(reject.EMPTY, "$")


def test_a_base_value_stands_for_itself_where_there_is_no_other() -> None:
    first = {"bn": "s1/temperature", "bv": 20, "v": 1, "t": -5}
    values = [value for *_, value in rows(read(first, {"t": -4}, {"t": -3, "v": 2}))]
    assert values == [21.0, 20.0, 22.0]
    for nothing in ({"v": None}, {"s": 4}, {"vb": None}):
        message = read(first, {"t": -4, **nothing})
        assert len(rows(message)) == 1
        assert message.refused[0].fault == Reject(reject.VALUE, "$[1].v")


def test_null_is_how_some_writers_say_nothing() -> None:
    nothing = dict.fromkeys(["bn", "bt", "bu", "bv", "bver", "u", "t", "vs", "vb", "vd", "s", "x"])
    assert rows(read(nothing | {"n": "temperature", "v": 4})) == [
        ("s1", "temperature", NOW_US * 1000, 4.0)
    ]


@pytest.mark.parametrize("version", [1, 5, 10, 10.0, 26])
def test_versions_that_are_understood(version: float) -> None:
    assert len(rows(read({"bver": version, "n": "temperature", "v": 4}))) == 1


@pytest.mark.parametrize("version", [11, 25, 27, 1e300, 0, -1, 9.5, "10", True, [10], nan, inf])
def test_a_pack_of_any_other_version_is_refused(version: Any) -> None:
    sound = {"n": "temperature", "v": 4}
    assert read(sound, sound | {"bver": version}) == Reject(reject.SHAPE, "$[1].bver")


def test_what_must_be_understood_is_refused() -> None:
    sound = {"n": "temperature", "v": 4}
    message = read(sound, sound | {"t": -1, "x_": 1}, sound | {"t": -2, "x": 1})
    assert len(rows(message)) == 2
    assert message.refused == [Refused(Reject(reject.SHAPE, "$[1]"), 1, None)]
    # A base field is about every record that follows.
    message = read(sound, {"bx_": 1}, sound | {"t": -1}, sound | {"t": -2})
    assert len(rows(message)) == 1
    assert message.refused == [Refused(Reject(reject.SHAPE, "$[2]"), 2, None)]


# --- whose, what, and when ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "name", "expected"),
    [
        (AIR, "temperature", Channel("s1", "temperature")),
        (AIR, "s1/temperature", Channel("s1", "temperature")),
        (AIR, "s1:temperature", Channel("s1", "temperature")),
        (AIR, "s1:mast-2:temperature", Channel("s1:mast-2", "temperature")),
        (AIR, "s1.2/temperature", Channel("s1.2", "temperature")),
        (GATE, f"{OW}:temperature", Channel(OW, "temperature")),
        (GATE, "temperature", Channel("gw-1", "temperature")),
        (AIR, "s2/temperature", reject.IDENTITY),
        (AIR, "s10/temperature", reject.IDENTITY),
        (AIR, "s1-2/temperature", reject.IDENTITY),
        (AIR, "s1:/temperature", reject.IDENTITY),
        (AIR, "gw-1/temperature", reject.IDENTITY),
        (AIR, "s1/mast/temperature", reject.IDENTITY),
        (GATE, "a/b/temperature", reject.IDENTITY),
        (GATE, "x" * 101 + "/temperature", reject.IDENTITY),
        (AIR, "-/temperature", reject.IDENTITY),
        (AIR, "", reject.IDENTITY),
        (AIR, "temp erature", reject.IDENTITY),
        (AIR, "temperature\n", reject.IDENTITY),
        (AIR, "témperature", reject.IDENTITY),
        (AIR, "s1/", reject.QUANTITY),
        (AIR, "s1/battery", reject.QUANTITY),
        (AIR, "s1/Temperature", reject.QUANTITY),
        (AIR, "s1/intensity", reject.DOMAIN),
        (AIR, "peopleCount", reject.DOMAIN),
    ],
)
@pytest.mark.parametrize("extra", [{}, {"s": 0}])
def test_names(topic: MqttTopic, name: str, expected: Channel | str, extra: Any) -> None:
    found = read({"n": name, "v": 4} | extra, topic=topic)
    if isinstance(expected, str):
        assert found == Reject(expected, "$[0].n")
    else:
        assert rows(found) == [(*expected, NOW_US * 1000, 4.0)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"n": "temperature", "u": "K", "v": 283.15}, 283.15 - 273.15),
        ({"n": "temperature", "u": "Cel", "v": 10}, 10.0),
        ({"n": "relativeHumidity", "u": "%RH", "v": 40}, 40 * 0.01),
        ({"n": "relativeHumidity", "u": "%", "v": 0.4}, 0.4),  # RFC 8428, 12.1, note 2
        ({"n": "relativeHumidity", "bu": "%RH", "v": 40}, 40 * 0.01),
        ({"n": "relativeHumidity", "bu": "%RH", "u": "/", "v": 0.4}, 0.4),
        ({"n": "temperature", "u": "m/s", "v": 1}, "$[0].u"),
        ({"n": "temperature", "u": "", "v": 1}, "$[0].u"),
        ({"n": "temperature", "u": 4, "v": 1}, "$[0].u"),
        ({"n": "temperature", "bu": ["K"], "v": 1}, "$[0].u"),
    ],
)
@pytest.mark.parametrize("extra", [{}, {"s": 0}])
def test_units(fields: dict[str, Any], expected: float | str, extra: Any) -> None:
    found = read(fields | extra)
    if isinstance(expected, str):
        assert found == Reject(reject.UNIT, expected)
    else:
        assert [value for *_, value in rows(found)] == [expected]


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({}, "v"),
        ({"v": True}, "v"),
        ({"v": "21"}, "v"),
        ({"v": [21]}, "v"),
        ({"v": None}, "v"),
        ({"s": 21}, "v"),
        ({"bv": "20", "v": 1}, "v"),
        ({"bv": True}, "v"),
        ({"vb": True}, "vb"),
        ({"vb": 1}, "vb"),
        ({"vs": "21"}, "vs"),
        ({"vd": "MjE"}, "vd"),
        ({"v": 1, "vs": "21"}, "vs"),
        ({"v": 1, "vb": True}, "vb"),
    ],
)
def test_what_is_not_a_number(fields: dict[str, Any], place: str) -> None:
    assert read({"n": "temperature"} | fields) == Reject(reject.VALUE, f"$[0].{place}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("NaN", nan), ("-Infinity", -inf), ("1e999", inf), ("9" * 400, inf), ("-1e-999", -0.0)],
)
def test_numbers_that_json_cannot_say_are_kept_for_flagging(text: str, expected: float) -> None:
    payload = f'[{{"n":"temperature","v":{text}}},{{"n":"no2","v":3}}]'.encode()
    (first, second) = rows(decode(payload, AIR, NOW_NS, ACCEPTANCE))
    assert first[3] == expected or (isnan(first[3]) and isnan(expected))
    assert second[3] == 3.0


@pytest.mark.parametrize("value", [True, False])
def test_states_may_be_truths(value: bool) -> None:
    message = read({"n": "loitering", "vb": value}, topic=CAMERA)
    assert rows(message) == [("s1", "loitering", NOW_US * 1000, float(value))]
    wrong = Reject(reject.VALUE, "$[0].vb")
    assert read({"n": "peopleCount", "vb": value}, topic=CAMERA) == wrong
    assert read({"n": "loitering", "vb": value, "v": 1}, topic=CAMERA) == wrong


@pytest.mark.parametrize(
    ("fields", "expected_us"),
    [
        ({}, NOW_US),
        ({"t": 0}, NOW_US),
        ({"t": -0.000001}, NOW_US - 1),
        ({"bt": -10, "t": 2.5}, NOW_US - 7_500_000),
        ({"t": 60}, NOW_US + 60_000_000),
        ({"t": NOW_S + 0.123457}, NOW_S * 10**6 + 123_457),
        ({"bt": NOW_S, "t": 0.000001}, NOW_S * 10**6 + 1),
        ({"bt": NOW_S + 0.9, "t": -0.899999}, NOW_S * 10**6 + 1),
        ({"t": 300}, NOW_US + 300_000_000),
        # The arrival is not a whole microsecond, so the very oldest is too old.
        ({"t": -31 * 86_400 + 0.000001}, NOW_US - 31 * 86_400 * 10**6 + 1),
        ({"bt": 1e308, "t": -1e308}, NOW_US),
    ],
)
@pytest.mark.parametrize("extra", [{}, {"s": 0}])
def test_times(fields: dict[str, Any], expected_us: int, extra: Any) -> None:
    assert rows(read({"n": "temperature", "v": 4} | fields | extra)) == [
        ("s1", "temperature", expected_us * 1000, 4.0)
    ]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"t": 300.000002}, reject.FUTURE),
        ({"t": NOW_S + 301}, reject.FUTURE),
        ({"t": 2**28 - 1}, reject.FUTURE),
        ({"t": 1e300}, reject.FUTURE),
        ({"t": -31 * 86_400}, reject.PAST),
        ({"t": NOW_S - 32 * 86_400}, reject.PAST),
        ({"t": 2**28}, reject.PAST),
        ({"t": -1e300}, reject.PAST),
        ({"t": nan}, reject.TIME),
        ({"t": inf}, reject.TIME),
        ({"bt": -inf}, reject.TIME),
        ({"bt": 1e308, "t": 1e308}, reject.TIME),
        ({"t": 10**400}, reject.TIME),
        ({"t": "0"}, reject.TIME),
        ({"t": True}, reject.TIME),
        ({"bt": [0]}, reject.TIME),
        ({"t": "2026-01-01T00:00:00Z"}, reject.TIME),
    ],
)
def test_times_that_are_refused(fields: dict[str, Any], reason: str) -> None:
    assert read({"n": "temperature", "v": 4} | fields) == Reject(reason, "$[0].t")


def test_a_clock_that_was_never_set_is_refused_at_any_age() -> None:
    ages = Acceptance(max_age_ns=10**20)
    for seconds, taken in ((946_684_800, True), (946_684_799, False)):
        found = decode(pack({"n": "no2", "v": 1, "t": seconds}), AIR, NOW_NS, ages)
        assert isinstance(found, Message) is taken
        assert taken or found == Reject(reject.PAST, "$[0].t")


@given(st.lists(st.integers(-(31 * 86_400 - 1) * 10**6, 299 * 10**6), min_size=1, unique=True))
def test_microseconds_are_exact(offsets_us: list[int]) -> None:
    times_us = [NOW_US + offset for offset in offsets_us]
    absolute = [{"n": "no2", "v": 1, "t": time_us / 10**6} for time_us in times_us]
    relative = [{"n": "no2", "v": 1, "t": offset / 10**6} for offset in offsets_us]
    based = [{"n": "no2", "v": 1, "bt": times_us[0] / 10**6}] + [
        {"n": "no2", "v": 1, "t": (time_us - times_us[0]) / 10**6} for time_us in times_us[1:]
    ]
    for records in (absolute, relative, based):
        assert read(*records).time_ns == [time_us * 1000 for time_us in times_us]


# --- what is left of a pack that is not all good ------------------------------------------------


def test_a_bad_record_does_not_cost_the_pack() -> None:
    message = read(
        {"bn": "s1/", "bt": NOW_S, "n": "temperature", "v": 4},
        {"n": "battery", "v": 5},
        {"n": "no2", "u": "Cel", "v": 6},
        {"n": "o3", "v": 7},
        {"n": "so2", "u": "K", "v": 8, "t": 0.25},
        {"bn": "s2/", "n": "no2", "v": 9},
    )
    assert [value for *_, value in rows(message)] == [4.0, 7.0]
    seconds = f"{NOW_S}.0".encode()
    assert message.refused == [
        Refused(Reject(reject.QUANTITY, "$[1].n"), 1, None),
        Refused(
            Reject(reject.UNIT, "$[2].u"),
            2,
            b'[{"n":"s1/no2","u":"Cel","v":6.0,"t":%s},{"n":"s1/so2","u":"K","v":8.0,"t":%s}]'
            % (seconds, seconds.replace(b".0", b".25")),
        ),
        Refused(Reject(reject.IDENTITY, "$[5].n"), 1, b'[{"n":"s2/no2","v":9.0,"t":%s}]' % seconds),
    ]


def test_a_pack_of_which_nothing_is_taken_is_rejected_for_its_first_record() -> None:
    found = read({"n": "battery", "v": 5}, {"n": "no2", "v": True}, 3)
    assert found == Reject(reject.QUANTITY, "$[0].n")


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"[]", Reject(reject.EMPTY, "$")),
        (b"[3]", Reject(reject.SHAPE, "$[0]")),
        (b'[["n"]]', Reject(reject.SHAPE, "$[0]")),
        (b"[null]", Reject(reject.SHAPE, "$[0]")),
        (b"{}", Reject(reject.SHAPE, "$")),
        (b"[{}]", Reject(reject.IDENTITY, "$[0].n")),
        (b'[{"n":"no2","v":1}', Reject(reject.MALFORMED, "$")),
        (b"[" * 100_000, Reject(reject.TOO_DEEP, "$")),
        (b"[" * 20 + b"]" * 20, Reject(reject.TOO_DEEP, "$")),
        (b"", Reject(reject.MALFORMED, "$")),
        (b"\xff", Reject(reject.MALFORMED, "$")),
    ],
)
def test_what_is_no_pack(payload: bytes, expected: Reject) -> None:
    assert decode(payload, AIR, NOW_NS, ACCEPTANCE) == expected


def test_elements_that_are_not_objects_do_not_cost_the_pack() -> None:
    message = read({"n": "no2", "v": 1}, 3, "x", {"n": "o3", "v": 1})
    assert len(rows(message)) == 2
    assert message.refused == [Refused(Reject(reject.SHAPE, "$[1]"), 2, None)]


@pytest.mark.parametrize("extra", [{}, {"s": 0}])
def test_repeats_are_counted_and_contradictions_flagged(extra: Any) -> None:
    no2, o3 = {"n": "no2"} | extra, {"n": "o3"} | extra
    message = read(
        no2 | {"v": 1},
        o3 | {"v": 1},
        no2 | {"v": 1},
        o3 | {"v": 2},
        o3 | {"v": 3},
        no2 | {"v": 1, "t": -1},
        {"n": "s1:no2", "v": 0.001, "u": "mg/m3"},
    )
    assert [row[1:] for row in rows(message)] == [
        ("no2", NOW_US * 1000, 1.0),
        ("o3", NOW_US * 1000, 1.0),
        ("no2", (NOW_US - 10**6) * 1000, 1.0),
    ]
    assert message.repeated == 4
    assert message.doubtful == [1]


def test_a_missing_value_does_not_contradict_itself() -> None:
    payload = b'[{"n":"no2","v":NaN},{"n":"no2","v":NaN},{"n":"o3","v":NaN},{"n":"o3","v":1}]'
    message = decode(payload, AIR, NOW_NS, ACCEPTANCE)
    assert (message.repeated, message.doubtful) == (2, [1])


# --- privacy ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"n": "s1/peopleCount", "v": 1},
        {"n": "s1/AB-123", "v": 1},
        {"n": "no2", "u": "x" * 13, "v": 1},
        {"n": "no2", "u": "K", "v": 1, "plate": "AB-123"},
        {"n": "no2", "u": "K", "vs": "AB-123"},
        {"n": "no2", "v": 1, "vs": "AB-123"},
        {"n": "no2", "u": "K", "v": "AB-123"},
        {"n": "no2", "u": "K", "v": 1, "t": "AB-123"},
        {"n": "no2", "u": {"AB": 123}, "v": 1},
        {"n": "a/b/no2", "v": 1},
        {"n": "no2", "v": 1, "t": -NOW_S},  # would count from the arrival when read again
    ],
)
def test_what_is_not_listed_is_not_kept(fields: dict[str, Any]) -> None:
    message = read({"n": "o3", "v": 1}, fields)
    assert [(one.records, one.payload) for one in message.refused] == [(1, None)]


def test_one_record_that_may_not_be_kept_costs_no_other() -> None:
    message = read(
        {"n": "o3", "v": 1},
        {"n": "no2", "u": "K", "v": 1},
        {"n": "no2", "u": "K", "v": 1, "plate": "AB-123"},
        {"n": "s2/no2", "v": 1},
    )
    assert [(one.records, one.payload is None) for one in message.refused] == [
        (1, False),
        (1, True),
        (1, False),
    ]


def test_too_much_is_not_kept() -> None:
    bad = [{"bn": "x" * 90, "n": "/no2", "v": 1}] + [{"n": "/no2", "v": 1}] * 4_000
    message = read({"n": "o3", "v": 1}, *bad)
    assert [(one.records, one.payload) for one in message.refused] == [(4_001, None)]


def test_what_cameras_may_not_say_is_withheld_and_counted_by_kind() -> None:
    message = read(
        {"bn": "s1/", "n": "peopleCount", "v": 4, "l": 1, "bface": None},
        {"n": "plate", "vs": "AB-123"},
        {"n": "face", "vd": "aGkgCg"},
        {"n": "occupancyCount", "v": 2, "licensePlate": "AB-123"},
        topic=CAMERA,
    )
    assert [row[1] for row in rows(message)] == ["peopleCount", "occupancyCount"]
    assert message.withheld == {"unknown": 1, "plate": 2, "face": 1}
    assert message.refused == []


def test_what_is_withheld_alone_is_taken_note_of() -> None:
    message = read({"n": "plate", "vs": "AB-123"}, {"n": "AB-123", "v": 1}, topic=CAMERA)
    assert rows(message) == []
    assert message.withheld == {"plate": 1}
    assert message.refused == [Refused(Reject(reject.QUANTITY, "$[1].n"), 1, None)]


def test_nothing_refused_of_a_camera_is_kept() -> None:
    message = read({"n": "peopleCount", "v": 4}, {"n": "no2", "v": 4}, topic=CAMERA)
    assert message.refused == [Refused(Reject(reject.DOMAIN, "$[1].n"), 1, None)]


# --- against a twin -----------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What a pack comes to, in the words of the twin."""

    rows: list[tuple[str, str, int, float]]
    repeated: int
    doubtful: list[int]
    faults: dict[str, tuple[int, int]]  # by reason: first index, how many


def naive(payload: bytes, topic: MqttTopic) -> Outcome:  # noqa: C901 - one step after the other
    """Read a pack as RFC 8428 tells it, times in decimals."""
    name_rule = re.compile("[A-Za-z0-9][-A-Za-z0-9:./_]*", re.ASCII)
    level_rule = re.compile("[A-Za-z0-9][-A-Za-z0-9_.:]{0,99}", re.ASCII)
    base: dict[str, Any] = {"bn": "", "bt": Decimal(0), "bu": None, "bv": None}
    found: list[tuple[str, str, int, float]] = []
    repeated, contradicted, faults = 0, set(), {}

    def judge(record: dict[str, Any]) -> str | tuple[str, str, int, float]:  # noqa: C901, PLR0911
        if any(label.endswith("_") for label in record):
            return reject.SHAPE
        name = base["bn"] + record.get("n", "")
        if not name_rule.fullmatch(name):
            return reject.IDENTITY
        *parts, quantity = re.split("([/:])", name)
        sensor = "".join(parts[:-1]) if parts else topic.sensor
        own = [sensor == topic.sensor]
        own += [
            sensor.startswith(topic.sensor + mark) and sensor != topic.sensor + mark
            for mark in ":."
        ]
        if not level_rule.fullmatch(sensor) or not (any(own) or topic.sensor == "gw-1"):
            return reject.IDENTITY
        if quantity not in QUANTITIES:
            return reject.QUANTITY
        if QUANTITIES[quantity].domain != topic.domain:
            return reject.DOMAIN
        unit = record.get("u", base["bu"])
        conversion = (1.0, 0.0) if unit is None else senml_conversion(unit, quantity)
        if conversion is None:
            return reject.UNIT
        value = record.get("v")
        if "vs" in record or "vb" in record or isinstance(value, str | bool):
            return reject.VALUE
        if value is None:
            if base["bv"] is None or "s" in record:
                return reject.VALUE
            value = 0
        total = float(base["bv"] or 0) + float(value)
        seconds = base["bt"] + record.get("t", 0)
        time_us = round(seconds * 10**6) + (NOW_US if seconds < 2**28 else 0)
        if time_us * 1000 < max(946_684_800 * 10**9, NOW_NS - 31 * DAY_NS):
            return reject.PAST
        if time_us * 1000 > NOW_NS + 300 * 10**9:
            return reject.FUTURE
        return sensor, quantity, time_us * 1000, total * conversion[0] + conversion[1]

    for index, record in enumerate(json.loads(payload, parse_float=Decimal)):
        base |= {label: record[label] for label in base if label in record}
        if record and all(label in base for label in record):
            continue
        outcome = judge(record)
        if isinstance(outcome, str):
            first, count = faults.get(outcome, (index, 0))
            faults[outcome] = first, count + 1
            continue
        same = [at for at, row in enumerate(found) if row[:3] == outcome[:3]]
        if not same:
            found.append(outcome)
            continue
        repeated += 1
        if found[same[0]][3] != outcome[3]:
            contradicted.add(same[0])
    return Outcome(found, repeated, sorted(contradicted), faults)


NAMES = st.sampled_from(["temperature", "no2", "/no2", ":o3", "s1/co", "s1:2/co"]) | (
    st.sampled_from(["s2/no2", "gw-1:no2", "s1/a/no2", "intensity", "battery", "", "no 2"])
)
BASE_NAMES = st.sampled_from(["", "s1/", "s1:", "s1", "s1.4", "s2/", "gw-1:9:", "é", OW + ":"])
UNITS = st.sampled_from(["Cel", "K", "ug/m3", "mg/m3", "ppb", "%", "furlong", ""])
VALUES = st.integers(-3, 3) | st.floats(-1e6, 1e6) | st.integers(-(10**20), 10**20)
TIMES = st.one_of(
    st.integers(-3, 3),
    st.integers(-5 * 10**6, 5 * 10**6).map(lambda us: us / 10**6),
    st.integers(-40 * 86_400, 400),
)
BASE_TIMES = st.one_of(
    st.integers(-3, 3),
    st.integers(NOW_US - 10**7, NOW_US + 10**7).map(lambda us: us / 10**6),
    st.sampled_from([NOW_S, NOW_S - 31 * 86_400, NOW_S + 300, 2**28]),
)


def records(plain: bool) -> st.SearchStrategy[dict[str, Any]]:
    """Draw records, or plain ones: those that most gateways send, right or wrong."""
    seldom = {"bn": BASE_NAMES, "bt": BASE_TIMES, "bu": UNITS, "bv": VALUES, "u": UNITS}
    if plain:
        often = {"n": NAMES, "v": VALUES}
        return st.fixed_dictionaries(often, optional=seldom | {"t": TIMES, "ut": VALUES})
    values = VALUES | st.sampled_from([True, "1"])
    return st.fixed_dictionaries(
        {},
        optional=seldom
        | {"n": NAMES, "v": values, "t": TIMES}
        | {"s": VALUES, "vb": st.booleans(), "vs": st.just("x"), "x": st.none(), "x_": VALUES},
    )


def tidy(first: dict[str, Any], rest: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a pack whose base fields are in its first record: those of the rest are left out."""
    return [first] + [
        {label: value for label, value in record.items() if label[0] != "b"} for record in rest
    ]


PLAIN = st.lists(records(plain=True), min_size=1, max_size=8)
TIDY = st.builds(tidy, records(plain=True), st.lists(records(plain=True), max_size=12))
MIXED = st.lists(records(plain=True) | records(plain=False), min_size=1, max_size=8)
TOPICS = st.sampled_from([AIR, GATE, TRAFFIC, CAMERA])


@given(PLAIN | TIDY | MIXED, TOPICS)
@settings(max_examples=500, deadline=None)
def test_the_quick_way_and_the_thorough_way_agree(
    content: list[dict[str, Any]], topic: MqttTopic
) -> None:
    payload = pack(*content)
    quick = _quick(payload, topic, NOW_NS, ACCEPTANCE)
    thorough = _thorough(payload, topic, NOW_NS, ACCEPTANCE)
    assert quick is None or quick == thorough
    assert decode(payload, topic, NOW_NS, ACCEPTANCE) == thorough


@given(TIDY)
@settings(deadline=None)
def test_plain_packs_of_which_something_is_taken_go_the_quick_way(
    content: list[dict[str, Any]],
) -> None:
    found = decode(pack(*content), GATE, NOW_NS, ACCEPTANCE)
    if isinstance(found, Message) and not any("time" in one.fault.reason for one in found.refused):
        assert _quick(pack(*content), GATE, NOW_NS, ACCEPTANCE) is not None


@pytest.mark.parametrize("way", [decode, _thorough])
@given(content=PLAIN | TIDY | MIXED, topic=st.sampled_from([AIR, GATE, TRAFFIC]))
@settings(max_examples=500, deadline=None)
def test_readings_and_refusals_are_those_of_the_twin(
    way: Decoder, content: list[dict[str, Any]], topic: MqttTopic
) -> None:
    payload = pack(*content)
    expected = naive(payload, topic)
    found = way(payload, topic, NOW_NS, ACCEPTANCE)
    if isinstance(found, Reject):
        assert expected.rows == []
        if not expected.faults:
            assert found == Reject(reject.EMPTY, "$")
        else:
            first = min(expected.faults, key=expected.faults.__getitem__)
            assert found.reason == first
            assert found.place.startswith(f"$[{expected.faults[first][0]}]")
        return
    assert rows(found) == expected.rows
    assert (found.repeated, found.doubtful) == (expected.repeated, expected.doubtful)
    counts: Counter[str] = Counter()
    for one in found.refused:
        counts[one.fault.reason] += one.records
    assert counts == {reason: count for reason, (_, count) in expected.faults.items()}
    for reason, (first, _) in expected.faults.items():
        places = [one.fault.place for one in found.refused if one.fault.reason == reason]
        assert any(place.startswith(f"$[{first}]") for place in places)
    assert found.withheld == {}


@given(PLAIN | TIDY | MIXED)
@settings(max_examples=500, deadline=None)
def test_what_is_kept_says_the_same_when_it_is_read_again(content: list[dict[str, Any]]) -> None:
    # In front, so that something is taken; nothing else is so named.
    found = read({"n": "so2", "v": 1}, *content, topic=TRAFFIC._replace(domain="environment"))
    every = resolve([{"n": "so2", "v": 1}, *content], NOW_NS)
    assert isinstance(found, Message)
    for refused in found.refused:
        if refused.payload is None:
            continue
        later = resolve(json.loads(refused.payload), NOW_NS + DAY_NS)
        assert len(later) == refused.records
        said = [one[1:5] for one in every]
        for one in later:
            assert one[1:5] in said
            assert one.fault is None
        again = decode(refused.payload, AIR, NOW_NS, ACCEPTANCE)
        assert isinstance(again, Reject)
        assert again.reason == refused.fault.reason


def test_what_was_refused_is_taken_once_its_gateway_is_known() -> None:
    payload = pack(
        {"n": "no2", "v": 1},
        {"bn": "s7/", "bu": "mg/m3", "bt": NOW_US / 10**6, "bv": 1, "n": "no2", "v": 0.5},
        {"n": "o3", "v": 2, "t": -3.000001},
    )
    refused = decode(payload, AIR, NOW_NS, Acceptance()).refused
    later = Acceptance(gateways=frozenset({"s1"}))
    assert rows(decode(refused[0].payload, AIR, NOW_NS + DAY_NS, later)) == [
        ("s7", "no2", NOW_US * 1000, 1500.0),
        ("s7", "o3", (NOW_US - 3_000_001) * 1000, 3000.0),
    ]


# --- total --------------------------------------------------------------------------------------


def check_total(payload: bytes, topic: MqttTopic) -> None:
    found = decode(payload, topic, NOW_NS, ACCEPTANCE)
    quick = _quick(payload, topic, NOW_NS, ACCEPTANCE)
    assert quick is None or repr(quick) == repr(_thorough(payload, topic, NOW_NS, ACCEPTANCE))
    faults = [found] if isinstance(found, Reject) else [one.fault for one in found.refused]
    for fault in faults:
        assert fault.reason in REASONS
        assert PLACE.fullmatch(fault.place)
    if isinstance(found, Reject):
        return
    assert found.channels or found.withheld
    groups = {(one.fault.reason, one.payload is None) for one in found.refused}
    assert len(groups) == len(found.refused)
    keys = list(zip(found.channels, found.time_ns, strict=True))
    assert len(set(keys)) == len(keys) == len(found.value)
    assert all(0 <= at < len(keys) for at in found.doubtful)
    for (sensor, quantity), time_ns in keys:
        assert QUANTITIES[quantity].domain == topic.domain
        assert topic == GATE or sensor == topic.sensor or sensor[len(topic.sensor)] in ":."
        assert time_ns % 1000 == 0
        assert -300 * 10**9 <= NOW_NS - time_ns <= 31 * DAY_NS
    assert all(type(value) is float for value in found.value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
LABELS = st.sampled_from([*sorted(_LABELS), "x", "x_", "bx_", "face", ""]) | st.text(max_size=3)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a pack with fields replaced by anything, and bytes changed."""
    content: list[Any] = draw(PLAIN | MIXED)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content) - 1))
        if isinstance(content[at], dict):
            content[at][draw(LABELS)] = draw(ANYTHING)
        else:
            content[at] = draw(ANYTHING)
    data = bytearray(json.dumps(content).encode())
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


@given(st.binary(max_size=100) | st.binary(max_size=100).map(b"[".__add__), TOPICS)
def test_any_bytes_give_a_value(data: bytes, topic: MqttTopic) -> None:
    check_total(data, topic)


@given(ANYTHING | st.lists(st.dictionaries(LABELS, ANYTHING, max_size=4), max_size=4), TOPICS)
@settings(deadline=None)
def test_any_json_gives_a_value(content: Any, topic: MqttTopic) -> None:
    check_total(json.dumps(content).encode(), topic)


@given(damaged(), TOPICS)
@settings(max_examples=500, deadline=None)
@example(b'[{"n":"no2","v":1},{"n":"no2","u":"\\ud800","v":1}]', AIR)
@example(b'[{"n":"no2","v":1},{"\\u0062n":"s1/","n":"no2","v":1}]', AIR)
@example(b'[{"n":"no2","v":1,"v":"x"},{"n":"o3","v":1}]', AIR)
@example(b'[{"n":"no2","v":1,"bt":' + b"9" * 5000 + b"}]", AIR)
@example(b'[{"n":"no2","v":1,"t":-0}]', AIR)
@example(b'[{"n":"no2","bv":1e308,"v":1e308}]', AIR)
@example(b'[{"n":"no2","v":1,"bt":1e308},{"n":"o3","v":1,"t":1e308}]', AIR)
def test_any_damage_gives_a_value(data: bytes, topic: MqttTopic) -> None:
    check_total(data, topic)


def test_memory_is_bounded() -> None:
    memory = _Memory(limit=10)
    for number in range(100):
        gate = GATE._replace(zone=f"z{number}", sensor=f"gw-{number}")
        accept = Acceptance(gateways=frozenset({gate.sensor}))
        memory.of(gate, accept)
        found = memory.learn((f"s{number}/", "no2", "mg/m3"), gate, accept)
        assert found is not None
        assert found.channel == (f"s{number}", "no2")
        known = memory._sources["environment", gate.sensor, True]
        assert known == {(f"s{number}/", "no2", "mg/m3"): found}
        assert sum(1 + len(known) for known in memory._sources.values()) <= 12


def test_what_is_remembered_of_one_topic_is_not_taken_for_another() -> None:
    payload = pack({"n": "s2/no2", "v": 1})
    assert len(rows(decode(payload, GATE, NOW_NS, ACCEPTANCE))) == 1
    assert decode(payload, GATE, NOW_NS, Acceptance()) == Reject(reject.IDENTITY, "$[0].n")
    assert decode(payload, AIR, NOW_NS, ACCEPTANCE) == Reject(reject.IDENTITY, "$[0].n")
    traffic = GATE._replace(domain="traffic")
    assert decode(payload, traffic, NOW_NS, ACCEPTANCE) == Reject(reject.DOMAIN, "$[0].n")
