from collections.abc import Iterator
from pathlib import Path

import pytest

from citywatch.embedded import Addresses
from simulators.payloads import Message
from tests.storage.database import Database
from tests.streams.town import Recorder, Town


@pytest.fixture
def database(dsn: str, schema: str) -> Iterator[Database]:
    with Database(dsn, schema) as database:
        yield database


@pytest.fixture
def eager_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the interval alone say when state is saved: on a busy machine the bound on the share of
    the time that saving takes would put it off for minutes.
    """
    monkeypatch.setattr("streams.worker._SAVE_SHARE", 1.0)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    monkeypatch.setattr("simulators.publish.Composer", Recorder)
    monkeypatch.setattr(Recorder, "copies", [], raising=False)
    return Recorder.copies


@pytest.fixture
def town(
    services: Addresses, namespace: str, schema: str, tmp_path: Path, idempotence: bool
) -> Iterator[Town]:
    with Database(services.dsn, schema) as database:
        town = Town(services, namespace, database, tmp_path, idempotence=idempotence)
        try:
            yield town
        finally:
            town.close()
