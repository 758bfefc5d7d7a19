"""A second pair of eyes on the database: what it holds, read without the code under test."""

from typing import Any, Self

import psycopg
from psycopg.sql import SQL, Identifier

# Every table by what it says, without ids and times that the database chooses itself. Floats are
# compared by their bits.
CONTENTS = {
    "reading": """
        SELECT s.name, q.quantity, r.time, encode(float8send(r.value), 'hex'), r.quality,
               encode(float4send(r.score), 'hex'), encode(float4send(r.expected), 'hex'),
               encode(float4send(r.band), 'hex')
        FROM reading r LEFT JOIN series q USING (series_id) LEFT JOIN sensor s USING (sensor_id)
    """,
    "sensor": "SELECT name, domain, zone, longitude, latitude, clock_offset_s FROM sensor",
    "series": "SELECT s.name, q.quantity, q.unit FROM series q JOIN sensor s USING (sensor_id)",
    "alert": """
        SELECT a.alert_id::text, s.name, q.quantity, a.category, a.kind, a.severity, a.state,
               a.opened_at, a.resolved_at, a.seen, a.expected, a.band, a.lower, a.upper,
               a.score, a.sentence
        FROM alert a JOIN series q USING (series_id) JOIN sensor s USING (sensor_id)
    """,
    "alert_transition": "SELECT alert_id::text, at, state, cause, actor FROM alert_transition",
    "rules_applied": """
        SELECT topic, partition, log_id, message_offset, fingerprint, rules::text, watermark
        FROM rules_applied
    """,
    "shadow_alert": """
        SELECT a.shadow, s.name, q.quantity, a.category, a.kind, a.opened_at, a.closed_at, a.seen,
               a.expected, a.lower, a.upper, a.score, a.sentence
        FROM shadow_alert a JOIN series q USING (series_id) JOIN sensor s USING (sensor_id)
    """,
    "outbox": "SELECT alert_id::text, event, dedup_key, payload::text, at, actor FROM outbox",
    "stream_position": "SELECT topic, partition, log_id, next_offset FROM stream_position",
    "detector_state": """
        SELECT topic, partition, log_id, next_offset, version, md5(state) FROM detector_state
    """,
    "ledger": """
        SELECT bridge, source, minute, messages, passed, rejected, readings, stored, duplicates,
               late_conflicts, late, repeated, refused, withheld FROM ledger
    """,
    "ledger_kind": "SELECT bridge, source, minute, outcome, kind, count FROM ledger_kind",
    "dead_letter": """
        SELECT received_at, bridge, source, mqtt_topic, reason, place, encode(payload, 'hex'),
               records, replayed_at
        FROM dead_letter
    """,
}
# Written apart from the audit, which it is to be compared with.
UNBALANCED = """
    SELECT * FROM ledger l WHERE messages <> passed + rejected
        OR readings <> stored + duplicates + late_conflicts
        OR rejected + refused <> (SELECT coalesce(sum(count), 0) FROM ledger_kind k
            WHERE (k.bridge, k.source, k.minute, outcome)
                = (l.bridge, l.source, l.minute, 'rejected'))
        OR withheld <> (SELECT coalesce(sum(count), 0) FROM ledger_kind k
            WHERE (k.bridge, k.source, k.minute, outcome)
                = (l.bridge, l.source, l.minute, 'withheld'))
        OR (rejected, refused) <> (SELECT count(*) FILTER (WHERE records = 0),
                                          coalesce(sum(records), 0) FROM dead_letter d
            WHERE (d.bridge, d.source, date_trunc('minute', d.received_at))
                = (l.bridge, l.source, l.minute))
"""
# NaN is as good a value as any other.
LATEST = """
    SELECT series_id, time, value, quality, score::text, expected::text, band::text
    FROM latest ORDER BY series_id
"""
LATEST_IN_READINGS = """
    SELECT r.series_id, r.time, r.value, r.quality, r.score::text, r.expected::text, r.band::text
    FROM latest JOIN reading r USING (series_id, time) ORDER BY r.series_id
"""
NEWEST = """
    SELECT DISTINCT ON (series_id) series_id, time, value, quality, score::text, expected::text,
           band::text
    FROM reading ORDER BY series_id, time DESC
"""


class Database:
    """A connection of the test's own, in one schema."""

    def __init__(self, dsn: str, schema: str) -> None:
        self.dsn = dsn
        self.schema = schema
        self.connection = self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def _connect(self) -> psycopg.Connection:
        options = f"-c search_path={self.schema},public -c timezone=UTC"
        return psycopg.connect(self.dsn, autocommit=True, options=options, connect_timeout=5)

    def all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            return self.connection.execute(query, values).fetchall()
        except psycopg.OperationalError:
            # Some tests take the server away and bring it back.
            self.connection.close()
            self.connection = self._connect()
            return self.connection.execute(query, values).fetchall()

    def one(self, query: str, *values: Any) -> Any:
        """Return the only column of the only row."""
        ((value,),) = self.all(query, *values)
        return value

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        return {
            name: sorted(self.all(query), key=lambda row: [str(field) for field in row])
            for name, query in CONTENTS.items()
        }

    def unbalanced(self) -> list[tuple[Any, ...]]:
        return self.all(UNBALANCED)

    def latest(self) -> list[tuple[Any, ...]]:
        """Return the table `latest`, of which every row must be one of the readings."""
        rows = self.all(LATEST)
        assert rows == self.all(LATEST_IN_READINGS)
        return rows

    def newest(self) -> list[tuple[Any, ...]]:
        """Return what `latest` should be."""
        return self.all(NEWEST)

    def clear(self) -> None:
        tables = SQL(", ").join(map(Identifier, [*CONTENTS, "latest", "page_track", "page_member"]))
        self.connection.execute(SQL("TRUNCATE {} RESTART IDENTITY").format(tables))
