"""A worker that is frozen until its partitions are others', and wakes up: it writes nothing."""

import psycopg
import pytest

from simulators.payloads import Message
from tests.streams.town import Town

pytestmark = [pytest.mark.integration, pytest.mark.kafka, pytest.mark.slow]


@pytest.fixture
def busy(town: Town, sent: list[Message]) -> Town:
    """Return a town with two workers under load; what it publishes is written down."""
    assert sent == []
    town.start("bridge")
    town.start("worker-1")
    town.start("worker-2")
    town.until_open()
    town.until_workers(2)
    town.publish()
    town.until_stored(1000)
    return town


def freeze_between_flushes(town: Town, name: str) -> None:
    """Freeze a worker whose transaction is over; one that is caught inside goes on."""

    def caught() -> bool:
        town.freeze(name)
        # What it had sent before is answered by then, or waits for it.
        states = {town.backend(name), town.backend(name)}
        if {state for _, state in states} == {"idle"}:
            return True
        town.thaw(name)
        return False

    town.until(caught, f"{name} is frozen between two flushes")


def freeze_inside_a_flush(town: Town) -> tuple[str, int]:
    """Freeze the first worker that waits for a lock of ours; return it and its backend."""
    blocked = """
        SELECT pid FROM pg_stat_activity
        WHERE application_name = 'citywatch worker' AND %s = ANY(pg_blocking_pids(pid))
    """
    options = f"-c search_path={town.database.schema}"
    with psycopg.connect(town.addresses.dsn, options=options) as blocker:
        blocker.execute("SELECT FROM stream_position WHERE topic LIKE '%%readings' FOR UPDATE")
        own = blocker.info.backend_pid
        town.until(lambda: bool(town.database.all(blocked, own)), "a worker waits")
        ((backend, *_), *_) = town.database.all(blocked, own)
        (name,) = (one for one in town.workers() if (town.backend(one) or (0,))[0] == backend)
        town.freeze(name)
        blocker.rollback()
    town.until(
        lambda: town.backend(name) == (backend, "idle in transaction"),
        f"the transaction of {name} is open",
    )
    return name, backend


def until_fenced(town: Town, name: str) -> None:
    """Wait until it has ended, was started again, and does the work of all others."""
    town.until(
        lambda: bool(town.endings) and town.backend(name) is not None,
        f"{name} has ended and has partitions again",
        name,
    )
    assert all("FencedError" in log for log in town.endings)
    (other,) = {*town.workers()} - {name}
    town.end(other)
    town.until_read_on()


def test_a_worker_frozen_between_flushes_wakes_up_as_a_stranger(
    busy: Town, sent: list[Message]
) -> None:
    freeze_between_flushes(busy, "worker-1")
    busy.until_read_on("worker-1")
    busy.thaw("worker-1")
    until_fenced(busy, "worker-1")
    busy.check(busy.publish_no_more(), sent)


def test_a_worker_frozen_inside_a_flush_holds_its_rows_for_seconds_and_writes_none(
    busy: Town, sent: list[Message]
) -> None:
    name, backend = freeze_inside_a_flush(busy)
    gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = %s"
    busy.until(lambda: busy.database.one(gone, backend), "the database ends its transaction")
    busy.until_read_on(name)
    busy.thaw(name)
    until_fenced(busy, name)
    busy.check(busy.publish_no_more(), sent)
