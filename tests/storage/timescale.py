"""What a test of TimescaleDB's own parts needs to know."""

import pytest

from tests.storage.database import Database

COMMUNITY = """
    SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')
       AND current_setting('timescaledb.license', true) = 'timescale'
"""


def needs_timescale(database: Database) -> None:
    """Skip where the database has no jobs, continuous aggregates and columnstore."""
    if not database.one(COMMUNITY):
        pytest.skip("needs TimescaleDB (community edition); name one with --dsn")
