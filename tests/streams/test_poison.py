"""No message can stop the worker: what cannot be stored is a dead letter, all else is stored."""

import asyncio
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingest import batch
from ingest.ledger import SensorCard, Tally
from ingest.records import Provenance
from ingest.topics import SeriesKey
from tests.storage.database import Database
from tests.streams.citylog import (
    LETTERS,
    NAMESPACE,
    READINGS,
    START_NS,
    Log,
    batch_message,
    letter_message,
)
from tests.streams.sessions import Kafka, Session

pytestmark = pytest.mark.integration

PLACE = (READINGS, 0)
LETTER_PLACE = (LETTERS, 0)
KEY = str(SeriesKey("traffic", "harbour", "loop-1", "intensity"))
Headers = list[tuple[str, bytes]]


def work_off(kafka: Kafka, **changes: Any) -> None:
    async def work() -> None:
        async with asyncio.timeout(60), Session(kafka, **changes) as session:
            session.assign()
            await session.finish()

    asyncio.run(work())


# Whatever a message says

INT64 = st.integers(-(2**63), 2**63 - 1)
SOUND_TEXT = st.text(max_size=120) | st.text("a/\0\ud800é", max_size=12)
TEXT = SOUND_TEXT | st.integers(100, 100_000).map(lambda n: np.random.default_rng(n).bytes(n).hex())
WIRE = TEXT.map(lambda text: text.encode("utf-8", "surrogatepass"))
KEYS = st.sampled_from([KEY.encode(), b"traffic/harbour/loop-2/occupancy"]) | st.one_of(
    WIRE, TEXT.map(lambda text: f"traffic/{text}/loop-1/intensity".encode("utf-8", "replace"))
)
COUNT = st.integers(0, 2**40) | st.integers()
COUNTS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("messages", "readings", "passed"), COUNT)
)
TALLIES = st.builds(
    lambda source, minute_s, counts, kinds: Tally(source, minute_s, **counts, kinds=kinds),
    st.just("traffic") | TEXT,
    st.integers(0, 253_402_300_799) | INT64,
    COUNTS,
    st.dictionaries(TEXT, COUNT, max_size=3),
)
DEGREES = st.none() | st.floats()
CARDS = st.builds(SensorCard, st.just("loop-1") | TEXT, TEXT, TEXT, DEGREES, DEGREES, DEGREES)


@st.composite
def values(draw: st.DrawFn) -> bytes:
    """Draw a batch that pyarrow would not have let anybody write, or might."""
    count = draw(st.integers(0, 6))
    column = st.lists
    keys = pa.array(draw(column(KEYS, min_size=1, max_size=4)), pa.binary())
    codes = draw(column(st.integers(-2, 5) | st.just(2**31 - 1), min_size=count, max_size=count))
    series = pa.DictionaryArray.from_arrays(
        pa.array(codes, pa.int32()), keys.view(pa.utf8()), safe=False
    )
    columns = [
        series,
        pa.array(draw(column(INT64, min_size=count, max_size=count)), pa.int64()),
        pa.array(draw(column(st.floats(), min_size=count, max_size=count)), pa.float64()),
        pa.array(draw(column(st.integers(0, 255), min_size=count, max_size=count)), pa.uint8()),
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch._SCHEMA) as writer:
        writer.write_batch(pa.record_batch(columns, schema=batch._SCHEMA))
    return sink.getvalue().to_pybytes()


@st.composite
def headers(draw: st.DrawFn) -> Headers:
    try:
        provenance = Provenance(
            draw(st.just("bridge-1") | SOUND_TEXT.filter(str.isprintable) | TEXT),
            draw(st.lists(TALLIES, max_size=3)),
            draw(st.lists(CARDS, max_size=2)),
        )
        found = provenance.headers(draw(st.sampled_from([NAMESPACE, NAMESPACE, "live"])))
    except (UnicodeError, OverflowError, ValueError):
        found = [("schema", b"1"), ("namespace", NAMESPACE.encode()), ("bridge", b"\xed\xa0\x80")]
    if draw(st.integers(0, 9)) == 0:
        found.append((draw(st.sampled_from([name for name, _ in found])), draw(WIRE)))
    return found


@st.composite
def letters(draw: st.DrawFn) -> tuple[Headers, bytes]:
    sound, value = letter_message(draw(st.integers(0, 5)))
    found = dict(sound)
    number = INT64.map(lambda n: b"%d" % n)
    for name, kind in {
        "topic": WIRE,
        "reason": WIRE,
        "place": WIRE,
        "received_ns": number | WIRE,
        "records": number | st.just(b"9" * 5000),
        "kept": WIRE,
    }.items():
        if draw(st.booleans()):
            found[name] = draw(kind)
    return list(found.items()), draw(st.just(value) | st.binary(max_size=100))


@given(st.lists(st.tuples(headers(), values()), max_size=4), st.lists(letters(), max_size=3))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(  # an entry of an index may have 2,704 bytes
    [
        (
            [
                ("schema", b"1"),
                ("namespace", NAMESPACE.encode()),
                ("ledger", b'[["traffic",0,1,0,1]]'),
                ("bridge", np.random.default_rng(1).bytes(5000).hex().encode()),
            ],
            b"",
        )
    ],
    [],
)
def test_the_worker_comes_through_and_the_ledger_balances(
    database: Database,
    readings: list[tuple[Headers, bytes]],
    buried: list[tuple[Headers, bytes]],
) -> None:
    database.clear()
    log = Log()
    log.add(PLACE, *batch_message([(KEY, START_NS, 1.0)]))
    for message in readings:
        log.add(PLACE, *message)
    log.add(PLACE, *batch_message([(KEY, START_NS + 10**9, 2.0)]))
    for message in buried:
        log.add(LETTER_PLACE, *message)
    log.add(LETTER_PLACE, *letter_message(0))
    kafka = Kafka(log, database)
    work_off(kafka)
    assert kafka.committed == log.ends()
    sound = database.all(
        "SELECT value FROM reading_scored WHERE sensor = 'loop-1' AND quantity = 'intensity'"
        " AND time >= to_timestamp(%s) AND time <= to_timestamp(%s)",
        START_NS // 10**9,
        START_NS // 10**9 + 1,
    )
    assert {(1.0,), (2.0,)} <= set(sound)
    assert database.one("SELECT count(*) FROM dead_letter WHERE mqtt_topic = 'city/x/0'") >= 1
