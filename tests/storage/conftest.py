from collections.abc import Iterator

import pytest

from tests.storage.database import Database


@pytest.fixture
def database(dsn: str, schema: str) -> Iterator[Database]:
    with Database(dsn, schema) as database:
        yield database
