"""A made-up city, written straight into the tables: what the panels and the page are tried on."""

import math
import uuid
from datetime import datetime, timedelta
from random import Random
from typing import Any

import psycopg
from psycopg import sql

from storage.latest import CATCH_UP
from storage.migrate import session_options

ZONES = {
    "harbour": (9.962, 53.528), "old-town": (10.000, 53.556), "riverside": (10.062, 53.540),
    "university": (9.958, 53.588), "airport": (10.005, 53.640), "stadium": (9.868, 53.600),
    "north-park": (10.070, 53.606), "west-end": (9.880, 53.552), "industry": (10.130, 53.570),
    "south-bridge": (10.010, 53.500),
}  # fmt: skip
DOMAINS = {
    "traffic": (
        ("intensity", "1", 24.0, 5.0),
        ("averageVehicleSpeed", "km/h", 38.0, 4.0),
        ("occupancy", "1", 0.22, 0.05),
    ),
    "environment": (
        ("pm25", "ug/m3", 9.0, 2.0),
        ("no2", "ug/m3", 24.0, 4.0),
        ("temperature", "Cel", 11.0, 0.6),
        ("LAeq", "dB", 61.0, 2.5),
    ),
    "cameras": (("peopleCount", "1", 40.0, 9.0), ("averageCrowdSpeed", "km/h", 4.2, 0.4)),
}
# (series_id, sensor, quantity, mean, spread)
Row = tuple[int, str, str, float, float]
Connection = psycopg.Connection[Any]

BAND_SIGMAS = 4.0
NAMES = {"traffic": "loop", "environment": "air", "cameras": "cam"}


def connect(dsn: str, schema: str) -> Connection:
    return psycopg.connect(dsn, autocommit=True, options=session_options(schema))


def expected_at(mean: float, when: datetime) -> float:
    """A slow daily wave around the mean."""
    return mean * (1 + 0.25 * math.sin(when.timestamp() / 86_400 * 2 * math.pi * 3))


def fill(
    dsn: str,
    schema: str,
    now: datetime,
    *,
    zones: int = 3,
    per_zone: int = 4,
    minutes: int = 30,
    faults: bool = True,
    seed: int = 7,
) -> list[Row]:
    """Write sensors, readings, the ledger, dead letters, alerts and pages, up to `now`."""
    rng = Random(seed)
    with connect(dsn, schema) as connection:
        series = _write_sensors(connection, rng, zones, per_zone)
        _write_readings(connection, rng, series, now, minutes, faults=faults)
        _write_ledger(connection, rng, now, minutes, len(series))
        if faults:
            _write_faults(connection, series, now)
        # Where readings were changed as well, which no worker does.
        connection.execute("TRUNCATE latest")
        connection.execute(CATCH_UP)
        connection.execute("ANALYZE")
    return series


def _write_sensors(connection: Connection, rng: Random, zones: int, per_zone: int) -> list[Row]:
    for zone in list(ZONES)[:zones]:
        longitude, latitude = ZONES[zone]
        for number in range(per_zone):
            domain = list(DOMAINS)[number % 3]
            angle, far = rng.uniform(0, 2 * math.pi), math.sqrt(rng.random())
            row = connection.execute(
                "INSERT INTO sensor (name, domain, zone, longitude, latitude)"
                " VALUES (%s, %s, %s, %s, %s) RETURNING sensor_id",
                (
                    f"{NAMES[domain]}-{zone}-{number:03}",
                    domain,
                    zone,
                    longitude + 0.027 * far * math.cos(angle),
                    latitude + 0.0155 * far * math.sin(angle),
                ),
            ).fetchone()
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO series (sensor_id, quantity, unit) VALUES (%s, %s, %s)",
                    [(row[0], quantity, unit) for quantity, unit, _, _ in DOMAINS[domain]],
                )
    known = {q: (mean, spread) for rows in DOMAINS.values() for q, _, mean, spread in rows}
    return [
        (*row, *known[row[2]])
        for row in connection.execute(
            "SELECT series_id, name, quantity FROM series JOIN sensor USING (sensor_id)"
            " ORDER BY series_id"
        )
    ]


def _write_readings(
    connection: Connection,
    rng: Random,
    series: list[Row],
    now: datetime,
    minutes: int,
    *,
    faults: bool,
) -> None:
    statement = "COPY reading (series_id, time, value, quality, score, expected, band) FROM STDIN"
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for series_id, name, _, mean, spread in series:
            silent = faults and int(name[-3:]) % 29 == 17
            doubtful = faults and int(name[-3:]) % 31 == 11
            factor = rng.uniform(0.8, 1.25)
            offset = timedelta(seconds=rng.uniform(1, 59))
            for minute in range(minutes - 1, -1, -1):
                when = now - timedelta(minutes=minute) - offset
                if silent and minute < 15:
                    break
                expected = expected_at(mean * factor, when)
                value = max(0.0, rng.gauss(expected, spread * 0.7))
                quality = 3 if doubtful and minute < 4 else 1
                scored = minute < minutes - 5
                copy.write_row(
                    (
                        series_id, when, value, quality,
                        rng.expovariate(1.5) if scored else math.nan,
                        expected if scored else math.nan,
                        spread * BAND_SIGMAS if scored else math.nan,
                    )
                )  # fmt: skip


def _write_ledger(
    connection: Connection, rng: Random, now: datetime, minutes: int, rows: int
) -> None:
    top = now.replace(second=0, microsecond=0)
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO ledger (bridge, source, minute, messages, readings, rejected, withheld,"
            " stored, duplicates, late_conflicts) VALUES (%s,%s,%s,%s,%s,%s,0,%s,%s,0)",
            [
                ("bridge-1", domain, top - timedelta(minutes=minute), rows // 3, rows,
                 rng.randrange(3), rows - 2, 2)
                for minute in range(minutes)
                for domain in DOMAINS
            ],
        )  # fmt: skip
        cursor.executemany(
            "INSERT INTO dead_letter (received_at, bridge, mqtt_topic, reason, place, payload)"
            " VALUES (%s, 'bridge-1', 'city/x/traffic/z/s', %s, '$', NULL)",
            [
                (now - timedelta(seconds=rng.uniform(0, minutes * 60)), reason)
                for reason in ("not-json", "unknown-quantity", "out-of-range")
                for _ in range(rng.randrange(2, 12))
            ],
        )


def insert_alert(
    connection: Connection, series_id: int, opened_at: datetime, **fields: Any
) -> uuid.UUID:
    """Open an alert and page for it; return its id."""
    alert = {
        "alert_id": uuid.uuid4(), "series_id": series_id, "category": "city", "kind": "spike",
        "severity": "major", "state": "open", "opened_at": opened_at, "resolved_at": None,
        "seen": 93.0, "expected": 24.0, "band": 16.0, "score": 7.4,
        "sentence": "93 where 24 ± 16 is expected at this hour.",
    } | fields  # fmt: skip
    connection.execute(
        sql.SQL("INSERT INTO alert ({}) VALUES ({})").format(
            sql.SQL(",").join(map(sql.Identifier, alert)),
            sql.SQL(",").join(map(sql.Placeholder, alert)),
        ),
        alert,
    )
    connection.execute(
        "INSERT INTO alert_transition (alert_id, at, state, cause, actor)"
        " VALUES (%s, %s, 'open', %s, 'worker')",
        (alert["alert_id"], opened_at, alert["kind"]),
    )
    return alert["alert_id"]


def insert_page(
    connection: Connection, alert_id: uuid.UUID, created_at: datetime, *, delivered: bool
) -> None:
    connection.execute(
        "INSERT INTO outbox (alert_id, event, dedup_key, payload, at, created_at, decided_at)"
        " VALUES (%s, 'firing', %s, '{}', %s, %s, %s)",
        (alert_id, str(alert_id), created_at, created_at, created_at),
    )
    connection.execute(
        "WITH n AS (INSERT INTO notice (group_key, revision, event, at, payload)"
        "           VALUES (%(key)s, 1, 'trigger', %(at)s, '{}') RETURNING notice_id)"
        " INSERT INTO delivery (notice_id, key, group_key, event, step, hook, created_at,"
        "                       delivered_at)"
        " SELECT notice_id, %(key)s, %(key)s, 'trigger', 1, 'webhook', %(at)s, %(told)s FROM n",
        {
            "key": str(alert_id),
            "at": created_at,
            "told": created_at + timedelta(seconds=2) if delivered else None,
        },
    )
    if delivered:
        _tell(connection, alert_id, created_at)


def _tell(connection: Connection, alert_id: uuid.UUID, at: datetime) -> None:
    """Let somebody have been told of an alert, have thought it right, and have it if it says so."""
    values = {"key": str(alert_id), "alert": alert_id, "at": at}
    connection.execute("UPDATE alert SET recorded_at = %(at)s WHERE alert_id = %(alert)s", values)
    connection.execute(
        "INSERT INTO page_group (group_key, cause, cause_name, route, policy, labels, opened_at,"
        " told_at, acknowledged_at, first_acknowledged_at, acknowledged_by, closed_at, body)"
        " SELECT %(key)s, 'sensors', '', 'all', 'all', '{}', %(at)s, %(at)s,"
        " CASE WHEN state <> 'open' THEN %(at)s + interval '1 min' END,"
        " CASE WHEN state <> 'open' THEN %(at)s + interval '1 min' END,"
        " CASE WHEN state <> 'open' THEN 'anna' END,"
        " CASE WHEN state = 'resolved' THEN %(at)s + interval '3 min' END, '{}'"
        " FROM alert WHERE alert_id = %(alert)s",
        values,
    )
    connection.execute("INSERT INTO page_member VALUES (%(key)s, %(alert)s, %(at)s)", values)
    connection.execute(
        "INSERT INTO page_mark (group_key, author, is_false) VALUES (%(key)s, 'anna', false)",
        values,
    )


def _write_faults(connection: Connection, series: list[Row], now: datetime) -> None:
    by_quantity: dict[str, list[Row]] = {}
    for row in series:
        by_quantity.setdefault(row[2], []).append(row)

    def open_one(quantity: str, index: int, minutes: int, delivered: bool, **fields: Any) -> int:
        rows = by_quantity[quantity]
        series_id = rows[index % len(rows)][0]
        opened = now - timedelta(minutes=minutes)
        alert_id = insert_alert(connection, series_id, opened, **fields)
        insert_page(connection, alert_id, opened, delivered=delivered)
        return series_id

    hot = open_one(
        "pm25", 33, 4, True, severity="critical", kind="spike", seen=148.2, expected=9.4, band=8.0,
        score=11.6, sentence="PM2.5 is 148 µg/m³ where 9.4 ± 8.0 is expected at this hour.",
    )  # fmt: skip
    connection.execute(
        "UPDATE reading SET value = expected + 120 + 6 * random(), score = 11.6"
        " WHERE series_id = %s AND time > %s AND expected <> 'NaN'",
        (hot, now - timedelta(minutes=4)),
    )
    open_one(
        "averageVehicleSpeed", 5, 11, True, kind="drop", seen=6.1, expected=41.0, band=16.0,
        score=8.2, sentence="Speed is 6.1 km/h where 41 ± 16 is expected: standing traffic.",
    )  # fmt: skip
    open_one(
        "peopleCount", 14, 26, True, state="acknowledged", kind="level-shift", severity="minor",
        seen=131.0, expected=44.0, band=36.0, score=5.1,
        sentence="131 people where 44 ± 36 are expected, for 20 minutes.",
    )  # fmt: skip
    open_one(
        "temperature", 22, 75, False, category="sensor-health", kind="stuck", severity="minor",
        seen=11.3, expected=None, band=None, score=None,
        sentence="The same value, 11.3 °C, for 40 readings.",
    )  # fmt: skip
    open_one(
        "no2", 47, 190, False, category="sensor-health", kind="out-of-range", state="stale",
        severity="informational", seen=-4.0, expected=22.0, band=16.0, score=math.nan,
        sentence="-4.0 µg/m³ is outside the physical range 0 to 2000.",
    )  # fmt: skip
    done = insert_alert(
        connection, by_quantity["LAeq"][-1][0], now - timedelta(minutes=20), state="resolved",
        resolved_at=now - timedelta(minutes=6), kind="spike",
    )  # fmt: skip
    insert_page(connection, done, now - timedelta(minutes=20), delivered=True)
