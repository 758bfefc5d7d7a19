"""COPY data built by numpy against what psycopg writes row by row."""

from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from storage.rows import COLUMNS, Rows, copy_readings, copy_staged
from tests.storage.database import Database
from tests.storage.flushes import rows

pytestmark = pytest.mark.integration

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LIMITS = np.iinfo(np.int64)
TYPES = ("int4", "timestamptz", "float8", "int2", "float4", "float4", "float4")
AS_TEXT = (
    "SELECT series_id, time::text, value::text, quality, score::text, expected::text, band::text"
)

INT32 = st.integers(-(2**31), 2**31 - 1)
TIME_NS = st.integers(int(LIMITS.min), int(LIMITS.max))
SINGLE = st.floats(width=32)
READINGS = st.lists(
    st.tuples(INT32, TIME_NS, st.floats(), st.integers(0, 255), SINGLE, SINGLE, SINGLE), max_size=40
)


def columns(readings: list[tuple[int, int, float, int, float, float, float]]) -> Rows:
    kinds = (np.int32, np.int64, np.float64, np.uint8, np.float64, np.float64, np.float64)
    parts = zip(*readings, strict=True) if readings else ((),) * len(kinds)
    made = [np.array(part, kind) for part, kind in zip(parts, kinds, strict=True)]
    return Rows(*made, tally=np.arange(len(readings), dtype=np.int32))


@given(READINGS)
@example([(1, int(LIMITS.min), float("nan"), 9, float("-inf"), -0.0, float("inf"))])
@example([(1, int(LIMITS.max), 5e-324, 0, 1e-45, 0.0, 3.4028234663852886e38)])
@example([(1, -1, 1.7976931348623157e308, 4, 0.0, 0.0, 0.0)])
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_bytes_say_what_psycopg_writes(database: Database, readings: list) -> None:
    connection = database.connection
    with connection.transaction(force_rollback=True), connection.cursor() as cursor:
        for name in ("ours", "theirs"):
            cursor.execute(f"CREATE TEMP TABLE {name} (n serial, LIKE reading)")
        with cursor.copy(f"COPY ours ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(copy_readings(columns(readings)))
        with cursor.copy(f"COPY theirs ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(TYPES)
            for series, time_ns, *rest in readings:
                copy.write_row((series, EPOCH + timedelta(microseconds=time_ns // 1000), *rest))
        ours, theirs = (
            cursor.execute(f"{AS_TEXT} FROM {name} ORDER BY series_id, n").fetchall()
            for name in ("ours", "theirs")
        )
        assert len(ours) == len(readings)
        assert ours == theirs


def test_staged_rows_carry_their_order_and_tally(database: Database) -> None:
    given_rows = rows((3, 0, 1.0, 2), (1, 0, 2.0, 0), (3, 0, 4.0, 1))
    with database.connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE staged (LIKE reading, ordinal integer, tally integer);")
        with cursor.copy("COPY staged FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(copy_staged(given_rows))
    assert database.all("SELECT series_id, value, ordinal, tally FROM staged ORDER BY ordinal") == [
        (3, 1.0, 0, 2),
        (1, 2.0, 1, 0),
        (3, 4.0, 2, 1),
    ]


def test_no_rows_are_a_valid_copy(database: Database) -> None:
    with database.connection.cursor() as cursor:
        with cursor.copy("COPY reading FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(copy_readings(Rows.concatenate([])))
        assert cursor.rowcount == 0


def test_what_single_precision_cannot_hold_is_infinity(database: Database) -> None:
    one = columns([(1, 0, 0.0, 1, 1e300, -1e300, 1.0)])
    with (
        database.connection.cursor() as cursor,
        cursor.copy("COPY reading FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.write(copy_readings(one))
    assert database.all("SELECT score, expected FROM reading") == [(np.inf, -np.inf)]


def test_a_cut_off_copy_is_refused(database: Database) -> None:
    """The trailer is what tells PostgreSQL that all rows are there."""
    data = copy_readings(rows((1, 0, 1.0), (1, 1, 1.0)))
    with (
        pytest.raises(psycopg.errors.BadCopyFileFormat),
        database.connection.cursor() as cursor,
        cursor.copy("COPY reading FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.write(data[:-9])
    assert database.one("SELECT count(*) FROM reading") == 0


def test_where_and_concatenate_keep_the_order() -> None:
    whole = rows((1, 0, 1.0, 5), (2, 0, 2.0, 6), (3, 0, 3.0, 7))
    odd = np.array([True, False, True])
    again = Rows.concatenate([whole.at(odd), whole.at(~odd)])
    assert again.series_id.tolist() == [1, 3, 2]
    assert again.tally.tolist() == [5, 7, 6]
    assert [len(part) for part in (whole.at(odd), Rows.concatenate([]))] == [2, 0]
