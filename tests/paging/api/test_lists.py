"""What a list of alerts costs: it is found by an index, however many alerts there were."""

import asyncio

import psycopg
import pytest
from psycopg import AsyncConnection

from paging.api import store
from paging.api.forms import AlertQuery
from storage.migrate import session_options

pytestmark = pytest.mark.integration

# Ten thousand alerts that are over, twenty of each sensor, and a few that are not.
FILL = """
    INSERT INTO sensor (name, domain, zone)
    SELECT 's' || n, 'traffic', 'z' || n % 10 FROM generate_series(0, 499) n;
    INSERT INTO series (sensor_id, quantity, unit)
    SELECT sensor_id, 'intensity', '1' FROM sensor ORDER BY sensor_id;
    INSERT INTO alert (alert_id, series_id, category, kind, severity, state, opened_at,
                       resolved_at, seen, sentence)
    SELECT gen_random_uuid(), (SELECT min(series_id) FROM series) + n % 500, 'city',
           CASE WHEN n % 2000 = 0 THEN 'tampering' ELSE 'spike' END, 'minor', 'resolved',
           now() - n * interval '1 min', now(), 1, ''
    FROM generate_series(1, 10000) n;
    INSERT INTO alert (alert_id, series_id, category, kind, severity, state, opened_at, seen,
                       sentence)
    SELECT gen_random_uuid(), (SELECT min(series_id) FROM series) + n * 10, 'city', 'spike',
           'major', CASE WHEN n % 2 = 0 THEN 'open' ELSE 'stale' END, now() - n * interval '2 h',
           1, ''
    FROM generate_series(1, 49) n;
    ANALYZE alert, series, sensor
"""


@pytest.mark.parametrize(
    ("wanted", "index", "count"),
    [
        (AlertQuery(sensor=["s7"]), "alert_of_series", 20),
        (AlertQuery(kind=["tampering"]), "alert_of_kind", 5),
        (AlertQuery(kind=["no-such"]), "alert_of_kind", 0),
        (AlertQuery(state=["open", "acknowledged", "stale"]), "alert_not_over", 49),
        (AlertQuery(limit=20), "alert_newest", 20),
    ],
)
def test_a_list_is_found_by_an_index(
    dsn: str, schema: str, wanted: AlertQuery, index: str, count: int
) -> None:
    options = session_options(schema)
    scans = "SELECT coalesce(sum(idx_scan), 0) FROM pg_stat_user_indexes WHERE indexrelname = %s"
    scans += " AND schemaname = %s"

    async def ask() -> int:
        async with await AsyncConnection.connect(dsn, options=options, autocommit=True) as api:
            found, _ = await store.alerts(api, wanted)
            await api.execute("SELECT pg_stat_force_next_flush()")
        return len(found)

    with psycopg.connect(dsn, options=options, autocommit=True) as connection:
        connection.execute(FILL)
        before = connection.execute(scans, (index, schema)).fetchone()
        assert asyncio.run(ask()) == count
        after = connection.execute(scans, (index, schema)).fetchone()
    assert before is not None
    assert after is not None
    assert after[0] > before[0]
