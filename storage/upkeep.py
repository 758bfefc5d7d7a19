"""What TimescaleDB does by itself: jobs that fill the levels, compress, and remove what is old.

Migrations make the structure; how long things are kept and when they are compressed are settings,
so the jobs are made anew, as set, whenever the schema is brought up to date. Without TimescaleDB's
community edition there are no jobs, and nothing needs them but what is to be removed.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import Connection
from psycopg.types.json import Jsonb

from storage.expiry import Keep
from storage.migrate import session_options


class _Level(NamedTuple):
    """A continuous aggregate: how far behind now it is filled, and how often; in minutes."""

    name: str
    end_min: int
    every_min: int


# What is newer is computed when it is asked for. Most readings are there within seconds; for those
# that are not, the bucket is filled once more.
_LEVELS: Final = (
    _Level("reading_1m", 5, 5),
    _Level("reading_15m", 20, 15),
    _Level("reading_1d", 1_460, 60),
)
_COMPRESSED: Final = ("reading_1m", "reading_15m")
# Two buckets of the level by day, behind the day that is not over.
_LEAST_REACH_DAYS: Final = 4
_CHUNK_MARGIN_DAYS: Final = 2
# What is kept for less could not be looked back at far enough.
LEAST_KEPT_DAYS: Final = _LEAST_REACH_DAYS + _CHUNK_MARGIN_DAYS
# Between the last refresh of a bucket and its compression.
_SETTLED_DAYS: Final = 7
_EDITION: Final = """
    SELECT current_setting('timescaledb.license', true),
           EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb'),
           to_regclass('reading_1m') IS NOT NULL AND EXISTS (
               SELECT FROM pg_class v JOIN pg_namespace n ON n.oid = v.relnamespace
               WHERE v.oid = to_regclass('reading_1m')
                 AND pg_get_viewdef(v.oid) LIKE '%\\_materialized\\_hypertable\\_%')
"""
_IS_FILLED: Final = """
    SELECT EXISTS (
        SELECT FROM timescaledb_information.jobs
        WHERE proc_name = 'policy_refresh_continuous_aggregate'
          AND hypertable_schema = current_schema() AND hypertable_name = %s)
"""
_OLD_JOBS: Final = """
    SELECT delete_job(job_id) FROM timescaledb_information.jobs
    WHERE proc_schema = current_schema() AND proc_name = 'expire'
"""
_REFRESH: Final = """
    SELECT remove_continuous_aggregate_policy(%(level)s::regclass, if_exists => true);
    SELECT add_continuous_aggregate_policy(%(level)s::regclass,
        start_offset => make_interval(days => %(reach)s),
        end_offset => make_interval(mins => %(end)s),
        schedule_interval => make_interval(mins => %(every)s))
"""
_RETAIN: Final = """
    SELECT add_retention_policy(%s::regclass, drop_after => make_interval(days => %s))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """How a namespace's tables are kept.

    Parameters
    ----------
    keep : Keep
    minutes, quarter_hours, days : int
        Days for which the levels are kept; 0 is for ever. What another level is made of is kept
        for `LEAST_KEPT_DAYS` at least.
    compress : int
        Days after which a chunk of readings goes into the columnstore.
    reach : int
        Days within which late readings come in.
    """

    keep: Keep
    minutes: int
    quarter_hours: int
    days: int
    compress: int
    reach: int


def settle(dsn: str, schema: str, upkeep: Upkeep) -> list[str]:
    """Fill the levels where they were never filled, make the jobs, and say what there is not.

    Raises
    ------
    psycopg.Error
        If the database cannot be reached or refuses.
    """
    with psycopg.connect(dsn, autocommit=True, options=session_options(schema)) as connection:
        found = connection.execute(_EDITION).fetchone()
        assert found is not None  # noqa: S101 - a SELECT without FROM has one row
        edition, is_there, is_filled_by_jobs = found
        if not (is_there and edition == "timescale" and is_filled_by_jobs):
            return [_what_is_not_done(is_there=is_there, edition=edition)]
        _fill(connection)
        with connection.transaction():
            _make_jobs(connection, upkeep)
    return []


def _what_is_not_done(*, is_there: bool, edition: str | None) -> str:
    reason = "the schema was made without TimescaleDB's community edition"
    if not is_there:
        reason = "the database has no TimescaleDB"
    elif edition != "timescale":
        reason = f"TimescaleDB is there under the licence {edition!r} only"
    return (
        f"{reason}: nothing is compressed, charts read the readings themselves, and what is old is"
        " removed by `citywatch db expire` alone"
    )


def _fill(connection: Connection[Any]) -> None:
    """Fill each level from its beginning, before a job that looks only so far back."""
    for level in _LEVELS:
        row = connection.execute(_IS_FILLED, (level.name,)).fetchone()
        if row is None or not row[0]:
            connection.execute(
                "CALL refresh_continuous_aggregate(%s::regclass, NULL,"
                " now() - make_interval(mins => %s))",
                (level.name, level.end_min),
            )


def _make_jobs(connection: Connection[Any], upkeep: Upkeep) -> None:
    kept = {"reading_1m": upkeep.minutes, "reading_15m": upkeep.quarter_hours,
            "reading_1d": upkeep.days}  # fmt: skip
    below = {"reading_1m": upkeep.keep.readings, "reading_15m": upkeep.minutes,
             "reading_1d": upkeep.quarter_hours}  # fmt: skip
    reach = max(upkeep.reach + 1, _LEAST_REACH_DAYS)
    cursor = psycopg.ClientCursor(connection)  # several statements at once, with values
    cursor.execute(_OLD_JOBS)
    cursor.execute("CALL remove_columnstore_policy('reading', if_exists => true)")
    cursor.execute(
        "CALL add_columnstore_policy('reading', after => make_interval(days => %s))",
        (upkeep.compress,),
    )
    for level in _LEVELS:
        # Never from where what it is made of is gone: it would be emptied there.
        if below[level.name]:
            reach = min(reach, below[level.name] - _CHUNK_MARGIN_DAYS)
        if level.name in _COMPRESSED:
            cursor.execute("CALL remove_columnstore_policy(%s, if_exists => true)", (level.name,))
        cursor.execute(
            "SELECT remove_retention_policy(%s::regclass, if_exists => true)", (level.name,)
        )
        cursor.execute(
            _REFRESH,
            {"level": level.name, "reach": reach, "end": level.end_min, "every": level.every_min},
        )
        if level.name in _COMPRESSED:
            cursor.execute(
                "CALL add_columnstore_policy(%s, after => make_interval(days => %s))",
                (level.name, reach + _SETTLED_DAYS),
            )
        if kept[level.name]:
            cursor.execute(_RETAIN, (level.name, kept[level.name]))
    cursor.execute(
        "SELECT add_job(%s, INTERVAL '1 hour', config => %s)",
        ("expire", Jsonb(upkeep.keep.config())),
    )
