"""The bridge's work: nothing lost, nothing counted twice, nothing private let through."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingest import assembly, reject
from ingest.arrival import Arrival
from ingest.assembly import CARD_INTERVAL_NS, MAX_RECORD_BYTES, Assembler, AssemblyConfig
from ingest.batch import decode
from ingest.ledger import MINUTE_NS, SensorCard
from ingest.message import Acceptance
from ingest.ngsi import ENTITIES
from ingest.quality import FAIL, GOOD, MISSING, SUSPECT
from ingest.records import DeadLetter, KafkaRecord, Provenance
from ingest.topics import SeriesKey, dead_letters_topic, partition_of, readings_topic
from tests.ingest.strategies import ATTRIBUTES, JSON, NOW_NS, damaged, iso, payload

PARTITIONS = 3
MAX_PAYLOAD = 2_000
FLOW, NOISE, CROWD = "TrafficFlowObserved", "NoiseLevelObserved", "CrowdFlowObserved"
READINGS, LETTERS = readings_topic("live"), dead_letters_topic("live")


CONFIG = AssemblyConfig("live", "b1", PARTITIONS, MAX_PAYLOAD)
COUNTS = (
    "messages", "readings", "rejected", "withheld", "passed", "repeated", "refused",
)  # fmt: skip


def assembler(**changes: Any) -> Assembler:
    return Assembler(replace(CONFIG, **changes))


def flow(
    sensor: str = "s1", at_ns: int = NOW_NS, zone: str = "centre", **attributes: Any
) -> Arrival:
    attributes = attributes or {"intensity": 1}
    topic = f"city/live/traffic/{zone}/{sensor}"
    return Arrival(topic, payload(FLOW, sensor, NOW_NS, **attributes), at_ns)


def flawed(**attributes: Any) -> Arrival:
    body = payload(FLOW, "s", **({"intensity": 1} | attributes))
    return Arrival("city/live/traffic/z/s", body, NOW_NS)


def camera(sensor: str = "c1", **attributes: Any) -> Arrival:
    return Arrival(
        f"city/live/cameras/centre/{sensor}", payload(CROWD, sensor, **attributes), NOW_NS
    )


def records(*arrivals: Arrival) -> list[KafkaRecord]:
    made = assembler()
    for arrival in arrivals:
        made.add(arrival)
    return made.take()


def provenance(record: KafkaRecord) -> Provenance:
    return Provenance.read(dict(record.headers), "live")


def letter(record: KafkaRecord) -> DeadLetter:
    assert record.topic == LETTERS
    return DeadLetter.read(dict(record.headers), record.value)


def cards(found: Iterable[KafkaRecord]) -> list[SensorCard]:
    return [card for record in found for card in provenance(record).cards]


class Sent(NamedTuple):
    """An arrival and what must become of it."""

    arrival: Arrival
    source: str
    readings: list[tuple[str, float]]
    kinds: dict[str, int] = {}  # noqa: RUF012 - never changed
    reasons: dict[str, int] = {}  # noqa: RUF012
    rejected: bool = False
    repeated: int = 0

    def counts(self) -> Counter[tuple[str, int, str]]:
        """Return what the ledger must say of it."""
        found = {
            "messages": 1,
            "readings": len(self.readings),
            "rejected": int(self.rejected),
            "withheld": sum(self.kinds.values()),
            "passed": int(not self.rejected),
            "repeated": self.repeated,
            "refused": 0 if self.rejected else sum(self.reasons.values()),
            **{f"because {reason}": count for reason, count in self.reasons.items()},
            **{f"kind {kind}": count for kind, count in self.kinds.items()},
        }
        minute = self.arrival.received_ns // MINUTE_NS * 60
        return Counter({(self.source, minute, name): count for name, count in found.items()})


def told_by(account: Provenance) -> Counter[tuple[str, int, str]]:
    """Return what the ledger says in the headers of a record."""
    told: Counter[tuple[str, int, str]] = Counter()
    for tally in account.tallies:
        for name in COUNTS:
            told[tally.source, tally.minute_s, name] += getattr(tally, name)
        for reason, count in tally.reasons.items():
            told[tally.source, tally.minute_s, f"because {reason}"] += count
        for kind, count in tally.kinds.items():
            told[tally.source, tally.minute_s, f"kind {kind}"] += count
    return told


SENSORS = [
    (domain, kind, f"{domain}-{number}")
    for domain, kind in (("traffic", FLOW), ("environment", NOISE), ("cameras", CROWD))
    for number in range(3)
]


@st.composite
def sendings(draw: st.DrawFn) -> Sent:
    domain, kind, sensor = draw(st.sampled_from(SENSORS))
    topic = f"city/live/{domain}/centre/{sensor}"
    received = NOW_NS + draw(st.integers(0, 3 * MINUTE_NS))
    known = st.sampled_from(ENTITIES[kind].quantities)
    values = draw(st.dictionaries(known, st.integers(0, 9), min_size=1))
    names = [name for name in ENTITIES[kind].quantities if name in values]
    extra = draw(st.dictionaries(st.sampled_from(["faceId", "note"]), st.just("x")))
    sound = payload(kind, sensor, NOW_NS, **values, **extra)
    fault = draw(st.sampled_from(["", "", "", "json", "topic", "domain", "large", "type", "empty"]))
    broken = {
        "json": (topic, sound[:-1], domain, reject.MALFORMED),
        "topic": ("city/replay-x/traffic/centre/s1", sound, "unknown", reject.TOPIC),
        "domain": (f"city/live/parking/centre/{sensor}", sound, "unknown", reject.TOPIC),
        "large": (topic, sound + b" " * MAX_PAYLOAD, domain, reject.TOO_LARGE),
        "type": (topic, b'{"type": 1}', domain, reject.TYPE),
        "empty": (topic, b"", domain, reject.MALFORMED),
    }
    if fault:
        topic, data, source, reason = broken[fault]
        return Sent(Arrival(topic, data, received), source, [], {}, {reason: 1}, rejected=True)
    readings = [(f"{domain}/centre/{sensor}/{name}", float(values[name])) for name in names]
    kinds = Counter({"faceId": "face", "note": "unknown"}[name] for name in extra)
    if domain != "cameras":
        del kinds["unknown"]
    return Sent(Arrival(topic, sound, received), domain, readings, kinds)


@st.composite
def packs(draw: st.DrawFn) -> Sent:
    """Draw a gateway's pack of many sensors, some of its records bad or said twice."""
    parts = draw(st.lists(st.integers(0, 9), min_size=1, max_size=12))
    readings, records, reasons, repeated = [], [], Counter[str](), 0
    for number, part in enumerate(parts):
        name = f"gw:s{part}/temperature"
        kind = draw(st.sampled_from(["good", "good", "quantity", "unit", "again"]))
        record = {"n": name, "v": part, "t": NOW_NS // 10**9 - number}
        if kind == "quantity":
            record["n"] = f"gw:s{part}/colour"
            reasons[reject.QUANTITY] += 1
        elif kind == "unit":
            record["u"] = "dB"
            reasons[reject.UNIT] += 1
        else:
            readings.append((f"environment/centre/gw:s{part}/temperature", float(part)))
        records.append(record)
        if kind == "again":
            records.append(record)
            repeated += 1
    received = NOW_NS + draw(st.integers(0, 3 * MINUTE_NS))
    arrival = Arrival("city/live/environment/centre/gw", json.dumps(records).encode(), received)
    if readings:
        return Sent(arrival, "environment", readings, {}, reasons, repeated=repeated)
    # Nothing of it can be taken: rejected whole, by its first fault.
    first = reject.UNIT if "u" in records[0] else reject.QUANTITY
    return Sent(arrival, "environment", [], {}, {first: 1}, rejected=True)


@given(
    st.lists(st.tuples(sendings() | packs(), st.integers(1, 3), st.booleans()), max_size=40),
    st.sampled_from([400, MAX_RECORD_BYTES]),
)
@settings(deadline=None, max_examples=150)
def test_what_leaves_adds_up_to_what_came(
    plan: list[tuple[Sent, int, bool]], record_bytes: int
) -> None:
    expected: Counter[tuple[str, int, str]] = Counter()
    readings: Counter[tuple[str, float]] = Counter()
    made = assembler()
    left: list[KafkaRecord] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "MAX_RECORD_BYTES", record_bytes)
        for sent, times, flush in plan:
            for _ in range(times):
                made.add(sent.arrival)
            for _ in range(times):
                expected.update(sent.counts())
                readings.update(sent.readings)
            if flush:
                left += made.take()
                assert made.rows == 0
    left += made.take()
    assert made.take() == []

    told: Counter[tuple[str, int, str]] = Counter()
    stored: Counter[tuple[str, float]] = Counter()
    for record in left:
        account = provenance(record)
        assert account.bridge == "b1"
        assert len({tally.minute_s for tally in account.tallies}) == 1
        assert len({tally.source for tally in account.tallies}) == len(account.tallies)
        told.update(told_by(account))
        if record.topic == LETTERS:
            (tally,) = account.tallies
            assert tally.reasons == {letter(record).reason: tally.rejected + tally.refused}
            assert (tally.rejected, tally.refused) == (
                (0, letter(record).records) if letter(record).records else (1, 0)
            )
            assert record.partition == partition_of(letter(record).mqtt_topic, PARTITIONS)
            continue
        assert record.topic == READINGS
        batch = decode(record.value)
        assert sum(tally.readings for tally in account.tallies) == len(batch)
        assert {SeriesKey.parse(key).domain for key in batch.keys} <= {
            tally.source for tally in account.tallies
        }
        named = [SeriesKey.parse(key).sensor for key in batch.keys]
        named += [card.sensor for card in account.cards]
        assert {partition_of(sensor, PARTITIONS) for sensor in named} <= {record.partition}
        assert set(batch.quality.tolist()) <= {GOOD, FAIL}
        stored.update(
            (batch.keys[code], value)
            for code, value in zip(batch.series.tolist(), batch.value.tolist(), strict=True)
        )
    assert +told == +expected
    assert stored == readings
    totals = {name: sum(n for key, n in told.items() if key[2] == name) for *_, name in told}
    for name in ("messages", "readings", "rejected", "refused", "withheld"):
        assert getattr(made, name) == totals.get(name, 0)


@given(st.lists(st.tuples(damaged(), st.sampled_from(["traffic", "environment", "cameras"]))))
@settings(deadline=None, max_examples=50)
def test_whatever_comes_is_counted_once(messages: list[tuple[bytes, str]]) -> None:
    made = assembler()
    for data, domain in messages:
        made.add(Arrival(f"city/live/{domain}/centre/s1", data, NOW_NS))
    tallies = [tally for record in made.take() for tally in provenance(record).tallies]
    assert sum(tally.messages for tally in tallies) == len(messages)


def test_a_flush_that_straddles_a_minute_gives_a_record_for_each() -> None:
    end = NOW_NS // MINUTE_NS * MINUTE_NS + MINUTE_NS
    found = records(flow(at_ns=end - 1), flow(at_ns=end), flow(at_ns=end - 2))
    told = [(tally.minute_s, tally.messages) for r in found for tally in provenance(r).tallies]
    assert told == [(end // 10**9 - 60, 2), (end // 10**9, 1)]


def test_readings_of_a_series_keep_their_order() -> None:
    (record,) = records(*(flow(intensity=value) for value in (3, 1, 2)))
    assert decode(record.value).value.tolist() == [3.0, 1.0, 2.0]


def test_rows_say_how_much_waits() -> None:
    made = assembler()
    made.add(flow(intensity=1, occupancy=0.5))
    made.add(flow(intensity="x"))
    assert made.rows == 2
    made.take()
    assert made.rows == 0


# --- Records that Kafka takes ---------------------------------------------------------------------


def test_no_record_outgrows_what_kafka_takes() -> None:
    # Names as long as they may be: the most bytes a reading can need.
    made = assembler(partitions=1)
    values = dict.fromkeys(ENTITIES["AirQualityObserved"].quantities, 0.5)
    for number in range(2_000):
        sensor = f"{number:0100}"
        topic = f"city/live/environment/{'z' * 100}/{sensor}"
        place = {"type": "Point", "coordinates": [-123.45678901234567, -12.345678901234567]}
        data = payload("AirQualityObserved", sensor, location=place, **values)
        made.add(Arrival(topic, data, NOW_NS))
    found = made.take()
    sizes = [len(record.value) + sum(len(value) for _, value in record.headers) for record in found]
    assert len(sizes) > 1
    assert max(sizes) < 1_000_000
    assert sum(len(decode(record.value)) for record in found) == 2_000 * len(values)
    assert len(cards(found)) == 2_000


def test_a_payload_too_large_for_kafka_is_not_kept() -> None:
    made = assembler(partitions=1, max_payload_bytes=10**7)
    bad = flawed(dateObserved="2026")
    for size in (MAX_RECORD_BYTES, MAX_RECORD_BYTES + 1):
        made.add(bad._replace(payload=bad.payload.ljust(size)))
    kept = [letter(record).payload for record in made.take()]
    assert [part and len(part) for part in kept] == [MAX_RECORD_BYTES, None]


# --- Dead letters ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrival", "reason", "place", "kept"),
    [
        (flawed(dateObserved="2026-13-01"), reject.TIME, "$.dateObserved", True),
        (flawed(intensity="4,2"), reject.VALUE, "$.intensity", True),
        (flawed(dateObserved="2026", location=None), reject.TIME, "$.dateObserved", True),
        (flawed(dateObserved="late"), reject.TIME, "$.dateObserved", False),
        (flawed(intensity="many"), reject.VALUE, "$.intensity", False),
        (flawed(dateObserved="late", faces=[1]), reject.TIME, "$.dateObserved", False),
        (flawed(dateObserved="late", note="A face"), reject.TIME, "$.dateObserved", False),
        (flawed(intensity={"plate": "X"}), reject.VALUE, "$.intensity", False),
        (flawed(intensity="iVBOR" * 40), reject.VALUE, "$.intensity", False),
        (flawed(location={"type": "Point", "face": 1}), reject.LOCATION, "$.location", False),
        (
            flawed(location={"type": "Point", "coordinates": [[1]]}),
            reject.LOCATION,
            "$.location",
            False,
        ),
        (flawed(location="here"), reject.LOCATION, "$.location", False),
        (flawed(type="FaceObserved"), reject.TYPE, "$.type", False),
        (Arrival("city/live/traffic/z/s", b"{", 7), reject.MALFORMED, "$", False),
        (Arrival("city/live/traffic/z/s", b"", 7), reject.MALFORMED, "$", False),
        (Arrival("city/live/environment/z/s", b"{}", 7), reject.TYPE, "$.type", False),
        (Arrival("city/live/traffic/z/s", b"x" * 2_001, 7), reject.TOO_LARGE, "$", False),
        (Arrival("city/live/cameras/z/s", b"{", 7), reject.MALFORMED, "$", False),
        (Arrival("city/live/Cameras/z/s", b"{", 7), reject.TOPIC, "topic", False),
        (Arrival("city/replay-1/traffic/z/s", b"{", 7), reject.TOPIC, "topic", False),
        (Arrival("somewhere", b"{", 7), reject.TOPIC, "topic", False),
        (Arrival("\ufffd", b"{", 7), reject.TOPIC, "topic", False),
        (Arrival("city/live/traffic/z/s", payload(CROWD, "s"), 7), reject.DOMAIN, "$.type", False),
    ],
)
def test_a_dead_letter_tells_what_was_wrong(
    arrival: Arrival, reason: str, place: str, kept: bool
) -> None:
    (record,) = records(arrival)
    topic = {"\ufffd": "?"}.get(arrival.topic, arrival.topic)
    assert letter(record) == DeadLetter(
        topic, reason, place, arrival.received_ns, arrival.payload if kept else None
    )
    assert record.value == (arrival.payload if kept else b"")


def test_made_up_domains_do_not_become_sources() -> None:
    found = records(*(Arrival(f"city/live/d{n}/z/s", b"{}", NOW_NS) for n in range(50)))
    assert {tally.source for r in found for tally in provenance(r).tallies} == {"unknown"}


def test_memory_of_topics_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "_MAX_TOPICS", 10)
    made = assembler()
    for number in range(100):
        made.add(flow(f"s{number}"))
        assert len(made._sources) <= 10
        assert len(made._announced) <= 10
    assert sum(len(decode(record.value)) for record in made.take()) == 100


# --- Cards ----------------------------------------------------------------------------------------


def at(longitude: float, latitude: float) -> dict[str, Any]:
    return {"intensity": 1, "location": {"type": "Point", "coordinates": [longitude, latitude]}}


def test_a_sensor_is_announced_once_across_flushes() -> None:
    made = assembler()
    told = []
    for _ in range(3):
        made.add(flow(**at(13.4, 52.5)))
        made.add(flow())
        told.append(cards(made.take()))
    assert told == [[SensorCard("s1", "traffic", "centre", 13.4, 52.5)], [], []]


@pytest.mark.parametrize(
    ("before", "after", "card"),
    [
        (flow(), flow(**at(1, 2)), SensorCard("s1", "traffic", "centre", 1.0, 2.0)),
        (flow(**at(1, 2)), flow(**at(1, 3)), SensorCard("s1", "traffic", "centre", 1.0, 3.0)),
        (flow(zone="west"), flow(), SensorCard("s1", "traffic", "centre")),
        (
            Arrival("city/live/environment/centre/s1", payload(NOISE, "s1", LAeq=50), NOW_NS),
            flow(),
            SensorCard("s1", "traffic", "centre"),
        ),
        (flow(), flow(), None),
        (flow(**at(1, 2)), flow(), None),
        (flow(**at(1, 2)), flow(**at(1, 2)), None),
        (flow(), flow(at_ns=NOW_NS + CARD_INTERVAL_NS), None),
        (
            flow(),
            flow(at_ns=NOW_NS + CARD_INTERVAL_NS + 1),
            SensorCard("s1", "traffic", "centre"),
        ),
    ],
    ids=[
        "place known",
        "moved",
        "other zone",
        "other domain",
        "same",
        "place left out",
        "same place",
        "within the interval",
        "after the interval",
    ],
)
def test_a_sensor_is_announced_again_when_it_changed(
    before: Arrival, after: Arrival, card: SensorCard | None
) -> None:
    made = assembler()
    made.add(before)
    assert len(cards(made.take())) == 1
    made.add(after)
    assert cards(made.take()) == ([card] if card else [])


def test_within_one_record_the_last_card_stands() -> None:
    (record,) = records(flow(**at(1, 2)), flow(**at(3, 4)))
    assert cards([record]) == [SensorCard("s1", "traffic", "centre", 3.0, 4.0)]


def test_a_rejected_message_announces_nobody() -> None:
    assert cards(records(flow(intensity="x", location=None))) == []


# --- Packs of gateways ----------------------------------------------------------------------------


def pack(*rows: dict[str, Any], gateway: str = "gw", at_ns: int = NOW_NS) -> Arrival:
    rows_at = [{"t": NOW_NS // 10**9, **row} for row in rows]
    topic = f"city/live/environment/centre/{gateway}"
    return Arrival(topic, json.dumps(rows_at).encode(), at_ns)


def test_readings_of_a_pack_go_to_their_own_partitions() -> None:
    names = [f"gw:s{number}" for number in range(20)]
    found = records(pack(*({"n": f"{name}/pm10", "v": 1.0} for name in names)))
    batches = {record.partition: decode(record.value) for record in found}
    assert len(batches) == PARTITIONS
    for partition, batch in batches.items():
        sensors = {SeriesKey.parse(key).sensor for key in batch.keys}
        assert {partition_of(sensor, PARTITIONS) for sensor in sensors} <= {partition}
    assert sum(len(batch) for batch in batches.values()) == 20
    assert {card.sensor for card in cards(found)} == set(names)
    # The message counts once, whatever it was divided into.
    tallies = [tally for record in found for tally in provenance(record).tallies]
    assert [sum(getattr(t, name) for t in tallies) for name in ("messages", "passed")] == [1, 1]


def test_sensors_of_a_group_share_its_partition_with_their_cards() -> None:
    names = [f"gw:s{number}" for number in range(20)]
    groups = dict.fromkeys(names[:12], "ring-road")
    made = assembler(groups=groups)
    made.add(pack(*({"n": f"{name}/pm10", "v": 1.0} for name in names)))
    for record in made.take():
        told = {SeriesKey.parse(key).sensor for key in decode(record.value).keys}
        told |= {card.sensor for card in provenance(record).cards}
        homes = {partition_of(groups.get(sensor, sensor), PARTITIONS) for sensor in told}
        assert homes == {record.partition}


def test_a_pack_larger_than_a_record_is_divided() -> None:
    made = assembler(partitions=1, max_payload_bytes=10**7)
    rows = ({"n": f"gw:{number:090}/pm10", "v": 1.0} for number in range(10_000))
    made.add(pack(*rows))
    found = made.take()
    assert len(found) > 1
    for record in found:
        assert len(record.value) + sum(len(value) for _, value in record.headers) < 2**20
        account = provenance(record)
        assert sum(tally.readings for tally in account.tallies) == len(decode(record.value))
    assert sum(len(decode(record.value)) for record in found) == 10_000


def test_a_gateway_speaks_for_the_sensors_of_its_zone_when_it_is_listed() -> None:
    row = {"n": "mast-1/pm10", "v": 1.0}
    (record,) = records(pack(row))
    assert letter(record).reason == reject.IDENTITY
    made = assembler(acceptance=Acceptance(frozenset({"gw"})))
    made.add(pack(row))
    made.add(pack(row, gateway="other"))
    (refused, *taken) = made.take()
    assert letter(refused).reason == reject.IDENTITY
    keys = [key for record in taken for key in decode(record.value).keys]
    assert keys == ["environment/centre/mast-1/pm10"]


def test_refused_records_are_kept_alone_and_can_be_taken_later() -> None:
    good, bad = {"n": "gw:a/pm10", "v": 1.0}, {"n": "mast-1/pm10", "v": 2.0}
    refused, taken = records(pack(good, bad, bad | {"v": 3.0, "n": "mast-2/pm10"}))
    assert len(decode(taken.value)) == 1
    found = letter(refused)
    assert (found.reason, found.records) == (reject.IDENTITY, 2)
    assert found.payload is not None
    made = assembler(acceptance=Acceptance(frozenset({"gw"})))
    made.add(Arrival(found.mqtt_topic, found.payload, found.received_ns))
    values = sorted(v for record in made.take() for v in decode(record.value).value.tolist())
    assert values == [2.0, 3.0]


# --- Quality --------------------------------------------------------------------------------------

SECOND = 10**9


def quality(*arrivals: Arrival) -> list[int]:
    return [flag for record in records(*arrivals) for flag in decode(record.value).quality.tolist()]


@pytest.mark.parametrize(
    ("arrival", "flag"),
    [
        (flow(), GOOD),
        (flow(at_ns=NOW_NS + 86_400 * SECOND), GOOD),
        (flow(at_ns=NOW_NS + 86_401 * SECOND), SUSPECT),
        (flow(at_ns=NOW_NS - 5 * SECOND), GOOD),
        (flow(at_ns=NOW_NS - 6 * SECOND), SUSPECT),
        (flow(intensity=-1), FAIL),
        (flow(intensity=-1, at_ns=NOW_NS + 86_401 * SECOND), FAIL),
    ],
)
def test_flag_of_a_message(arrival: Arrival, flag: int) -> None:
    assert quality(arrival) == [flag]


def test_not_a_number_is_missing_and_infinity_fails() -> None:
    data = payload(FLOW, "s1", intensity="X", occupancy="Y")
    for x, y in ((b"NaN", b"-Infinity"), (b"NaN", b"1e999")):
        message = data.replace(b'"X"', x).replace(b'"Y"', y)
        assert quality(Arrival("city/live/traffic/z/s1", message, NOW_NS)) == [MISSING, FAIL]


def test_a_value_that_its_own_message_contradicts_is_suspect() -> None:
    twice = pack({"n": "gw/pm10", "v": 1.0}, {"n": "gw/pm10", "v": 2.0}, {"n": "gw/no2", "v": 1})
    (record,) = records(twice)
    batch = decode(record.value)
    assert batch.value.tolist() == [1.0, 1.0]
    assert batch.quality.tolist() == [SUSPECT, GOOD]


def test_a_clock_that_is_off_is_announced_and_its_readings_are_suspect() -> None:
    made = assembler()
    late = [NOW_NS + (3600 + number) * SECOND for number in range(5)]
    for at_ns in late:
        made.add(flow(at_ns=at_ns))
    found = made.take()
    batch = [flag for record in found for flag in decode(record.value).quality.tolist()]
    assert batch == [GOOD] * 4 + [SUSPECT]
    assert [card.clock_offset_s for card in cards(found)] == [-3600.0]
    for number in range(5):
        made.add(flow(at_ns=NOW_NS + number))
    found = made.take()
    assert [flag for record in found for flag in decode(record.value).quality.tolist()] == [
        *[SUSPECT] * 4,
        GOOD,
    ]
    assert [card.clock_offset_s for card in cards(found)] == [None]


def test_a_pack_written_newest_first_says_nothing_of_a_clock() -> None:
    made = assembler()
    rows = [{"n": "gw/pm10", "v": 1.0, "t": NOW_NS // 10**9 - 60 * minute} for minute in range(30)]
    for number in range(7):
        made.add(pack(*rows, at_ns=NOW_NS + number * SECOND))
    found = made.take()
    assert [card.clock_offset_s for card in cards(found)] == [None]
    assert {flag for record in found for flag in decode(record.value).quality.tolist()} == {GOOD}


@pytest.mark.parametrize(
    ("at_ns", "messages", "offset_s"),
    [(NOW_NS - 600 * SECOND, 1, 300.0), (NOW_NS + 400 * 86_400 * SECOND, 5, -31 * 86_400.0)],
)
def test_a_clock_too_wrong_for_any_reading_is_told_of(
    at_ns: int, messages: int, offset_s: float
) -> None:
    found = records(*[flow(at_ns=at_ns)] * messages)
    told = [card for record in found if record.topic == READINGS for card in cards([record])]
    assert told == [SensorCard("s1", "traffic", "centre", clock_offset_s=offset_s)]
    assert len([record for record in found if record.topic == LETTERS]) == messages


def test_a_state_is_true_however_late_it_is_told() -> None:
    event = json.dumps(
        {"UtcTime": iso(NOW_NS), "Source": {"Source": "1"}, "Data": {"State": False}}
    ).encode()
    topic = "city/live/cameras/z/c1/onvif-ej/VideoSource/ImageTooDark/AnalyticsService"
    assert quality(Arrival(topic, event, NOW_NS + 5 * 86_400 * SECOND)) == [GOOD]
    dark = event.replace(b"false", b"true")
    assert quality(Arrival(topic, dark, NOW_NS)) == [FAIL]


# --- Privacy --------------------------------------------------------------------------------------

CANARY = "CANARY-B-MW-1234"
NUMBER = 918_273_645.5
SECRETS = st.sampled_from([CANARY, NUMBER]) | st.lists(st.just(CANARY), min_size=1, max_size=2)
NESTED = st.recursive(
    SECRETS | JSON,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=5) | st.just(CANARY), inner, max_size=3),
    ),
    max_leaves=8,
)
LISTED = ["id", "type", "dateObserved", "location", *ATTRIBUTES]


@st.composite
def spying(draw: st.DrawFn) -> bytes:
    """Draw what a camera may send, with the canary in every place it can take."""
    found: dict[str, Any] = {
        "id": "c1",
        "type": CROWD,
        "dateObserved": iso(NOW_NS),
        "peopleCount": draw(st.integers(0, 9)),
        CANARY: draw(NESTED),
        "faceId": draw(SECRETS),
    }
    if draw(st.booleans()):
        found["location"] = {
            "type": "Point",
            "coordinates": [1, 2],
            CANARY: draw(NESTED),
            "address": CANARY,
        }
    # What is listed carries the canary as text only: a number there is a reading.
    listed = st.sampled_from(LISTED)
    hidden = st.sampled_from([CANARY, [CANARY], {CANARY: CANARY}, {"value": CANARY}])
    if draw(st.booleans()):
        found |= draw(st.dictionaries(listed, hidden, max_size=2))
    found |= draw(st.dictionaries(st.text(max_size=6), NESTED, max_size=3))
    data = json.dumps(found).encode()
    if draw(st.integers(0, 4)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    if draw(st.integers(0, 4)) == 0:
        data += CANARY.encode() * (MAX_PAYLOAD // len(CANARY) + 1)
    return data


TOPICS = ["city/live/cameras/centre/c1", "city/live/Cameras/centre/c1", "city/live/cams/centre/c1"]


@given(st.lists(st.tuples(st.sampled_from(TOPICS), spying()), min_size=1, max_size=5))
@settings(deadline=None, max_examples=400)
def test_nothing_else_of_a_camera_leaves(messages: list[tuple[str, bytes]]) -> None:
    found = records(*(Arrival(topic, data, NOW_NS) for topic, data in messages))
    assert found
    for record in found:
        parts = [
            record.value,
            *(part for name, value in record.headers for part in (name.encode(), value)),
        ]
        assert not any(CANARY.encode() in part for part in parts)
        if record.topic == READINGS:
            assert NUMBER not in decode(record.value).value


@given(spying())
@example(payload(CROWD, "c1", faceId=CANARY))
@settings(deadline=None, max_examples=100)
def test_a_camera_on_another_topic_leaves_nothing(data: bytes) -> None:
    """Where the payload says that it is a camera's; of one that cannot be read nobody knows."""
    arrival = Arrival("city/live/traffic/centre/c1", data, NOW_NS)
    for record in records(arrival):
        if letter(record).reason == reject.DOMAIN:
            assert CANARY.encode() not in record.value


def test_the_canary_would_be_found() -> None:
    (record,) = records(flawed(intensity=str(NUMBER)))
    assert str(NUMBER).encode() in record.value
    (record,) = records(camera(peopleCount=1, faceId=CANARY))
    assert provenance(record).tallies[0].withheld == 1
