"""Every way in which a database is not there for a while, by a real server: nothing is lost."""

import asyncio
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic

import psutil
import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from citywatch.embedded import Addresses
from citywatch.embedded.postgres import Postgres
from ingest.topics import database_schema
from simulators.payloads import Message
from storage.migrate import migrate
from tests.storage.database import Database
from tests.streams.citylog import NAMESPACE, city_log
from tests.streams.sessions import Kafka, Session, undisturbed, until
from tests.streams.town import Town, free_port, metric

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.usefixtures("eager_saves"),
]

LOG = city_log(23, messages=40)
SCHEMA = "replay_away"
AWAY_S = 60.0
CUT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = 'citywatch worker'
"""
CONNECTED = """
    SELECT count(*) FROM pg_stat_activity WHERE application_name = 'citywatch worker'
"""
WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'citywatch worker' AND wait_event_type = 'Lock'
"""
Mischief = Callable[[Session], Awaitable[None]]


@pytest.fixture
def own_database(own_postgres: Postgres) -> Iterator[Database]:
    migrate(own_postgres.dsn, SCHEMA)
    with Database(own_postgres.dsn, SCHEMA) as database:
        yield database


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[str], int]:
    """Count the worker's words about the database."""
    caplog.set_level(logging.WARNING, "streams.worker")
    return lambda words: sum(words in record.getMessage() for record in caplog.records)


def live_through(database: Database, mischief: Mischief) -> None:
    """Let a worker take the log while something is done to its database; compare what is there."""
    kafka = Kafka(LOG, database)

    async def work() -> None:
        quick = {"max_flush_rows": 100, "state_interval_s": 0.05}
        async with asyncio.timeout(90), Session(kafka, **quick) as session:
            session.assign()
            stop = asyncio.Event()
            running = asyncio.create_task(session.worker.run(stop))
            for place in LOG.messages:
                await session.deliver(place, 3)
            await until(lambda: session.worker.totals.stored > 0)
            await mischief(session)
            for place in LOG.messages:
                await session.deliver(place, 1000)
            await until(lambda: kafka.committed == LOG.ends() or running.done(), 60)
            assert not running.done()
            stop.set()
            await running

    asyncio.run(work())
    found = database.contents()
    assert database.unbalanced() == []
    database.clear()
    assert found == undisturbed(LOG, database)


async def hand_over(session: Session) -> None:
    """Give the worker something to write."""
    for place in LOG.messages:
        await session.deliver(place, 2)


def test_connections_that_are_cut_again_and_again(
    own_database: Database, said: Callable[[str], int]
) -> None:
    async def cut(session: Session) -> None:
        cuts = 0
        for number in range(12):
            for place in LOG.messages:
                await session.deliver(place, 2)
            await until(lambda: own_database.one(CONNECTED) == 1)
            # Now within a flush, now between two.
            await asyncio.sleep(0.004 * (number % 5))
            cuts += len(own_database.all(CUT))
        # Some it has lost already when they are to be cut.
        assert cuts >= 5

    live_through(own_database, cut)
    # A connection that is cut between two flushes is noticed by the next one.
    assert said("does not answer") >= 3


def test_a_deadlock_of_which_the_worker_is_the_victim(
    own_database: Database, said: Callable[[str], int]
) -> None:
    async def cross(session: Session) -> None:
        options = f"-c search_path={SCHEMA}"
        with psycopg.connect(own_database.dsn, options=options) as other:
            # The flush has moved its positions when it comes to the ledger.
            # Elsewhere: the worker may hold it, and needs this thread to go on.
            await asyncio.to_thread(other.execute, "LOCK TABLE ledger IN SHARE MODE")
            await hand_over(session)
            await until(lambda: own_database.one(WAITING) == 1)
            # Who began to wait first looks first, and finds the circle: the worker.
            await asyncio.to_thread(
                other.execute, "SELECT FROM stream_position ORDER BY topic, partition FOR UPDATE"
            )
            other.rollback()

    live_through(own_database, cross)
    assert said("deadlock detected") == 1


def test_a_server_in_the_middle_of_a_failover(
    own_database: Database, said: Callable[[str], int]
) -> None:
    name = own_database.one("SELECT current_database()")

    async def fail_over(session: Session) -> None:
        own_database.connection.execute(
            SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(Identifier(name))
        )
        own_database.all(CUT)
        await hand_over(session)
        await until(lambda: said("read-only transaction") >= 2)
        own_database.connection.execute("SET default_transaction_read_only = off")
        own_database.connection.execute(
            SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(Identifier(name))
        )

    live_through(own_database, fail_over)


def test_a_server_without_a_free_connection(
    own_database: Database, said: Callable[[str], int]
) -> None:
    async def crowd(session: Session) -> None:
        crowd: list[psycopg.Connection] = []
        try:
            while len(crowd) < 500:
                # The worker's own connection goes first: it is made anew among all others.
                if not crowd:
                    own_database.all(CUT)
                try:
                    crowd.append(psycopg.connect(own_database.dsn))
                except psycopg.OperationalError:
                    break
            await hand_over(session)
            await until(lambda: said("connection") > 0)
            await until(lambda: said("too many") + said("remaining connection slots") >= 1)
        finally:
            for one in crowd:
                one.close()

    live_through(own_database, crowd)


def test_a_server_that_is_stopped_killed_and_still_starting(
    own_postgres: Postgres, own_database: Database, said: Callable[[str], int]
) -> None:
    async def restart(session: Session) -> None:
        for end in (own_postgres.stop, own_postgres.kill):
            await hand_over(session)
            await asyncio.to_thread(end)
            await hand_over(session)
            # A commit may have been the last thing that it did.
            await until(lambda: said("does not answer") > 0 or session.kafka.is_waiting)
            await asyncio.to_thread(own_postgres.restart)

    live_through(own_database, restart)
    assert said("does not answer") > 0


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """Return a disk of 400 MB that a test may fill."""
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or unmount is None:
        pytest.skip("needs root, to mount a small disk")
    # Where the database's user can pass through.
    folder = Path(tempfile.mkdtemp(prefix="citywatch-small-", dir="/var/tmp"))
    folder.chmod(0o711)
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=400m,mode=711", "tmpfs", folder],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        folder.rmdir()
        pytest.skip(f"needs the right to mount a small disk: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([unmount, folder], check=True)
        folder.rmdir()


def write_without_end(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_disk_that_is_full(small_disk: Path, said: Callable[[str], int]) -> None:
    server = Postgres(small_disk / "postgres", 0, fast=True)
    filler = small_disk / "filler"
    try:
        server.start()
        migrate(server.dsn, SCHEMA)
        with Database(server.dsn, SCHEMA) as database:

            async def fill(session: Session) -> None:
                with pytest.raises(OSError, match="No space left"):
                    write_without_end(filler)
                deadline = monotonic() + 60
                while not said("No space left"):
                    assert monotonic() < deadline
                    assert session.behind(), "the log was too short to fill a page"
                    for place in LOG.messages:
                        await session.deliver(place, 1)
                    await asyncio.sleep(0.05)
                filler.unlink()

            live_through(database, fill)
    finally:
        filler.unlink(missing_ok=True)
        server.remove()


@pytest.mark.timeout(300)
def test_a_database_that_is_stopped_for_a_minute_under_load(
    services: Addresses,
    own_postgres: Postgres,
    sent: list[Message],
    idempotence: bool,
    tmp_path: Path,
) -> None:
    """The worker waits, takes no more than it may hold, and catches up."""
    held, port = 2_000, free_port()
    addresses = replace(services, dsn=own_postgres.dsn)
    namespace = f"{NAMESPACE}-minute"
    schema = database_schema(namespace)
    migrate(addresses.dsn, schema)
    with Database(addresses.dsn, schema) as database:
        town = Town(
            addresses,
            namespace,
            database,
            tmp_path,
            idempotence=idempotence,
            CITYWATCH_WORKER__MAX_PENDING_ROWS=str(held),
            CITYWATCH_WORKER__STALL_AFTER_S="90",
            CITYWATCH_WORKER__METRICS_PORT=str(port),
        )
        try:
            town.start("bridge")
            worker = town.start("worker")
            town.until_open()
            town.publish()
            town.until_stored(2000)
            process = psutil.Process(worker.pid)
            before = process.memory_info().rss
            own_postgres.stop()
            end = monotonic() + AWAY_S
            most = before
            pending = 0.0
            while (left := end - monotonic()) > 0:
                most = max(most, process.memory_info().rss)
                pending = max(pending, metric(port, "citywatch_worker_pending_rows"))
                # It is the same process all the time: it waits, it does not die and come again.
                with pytest.raises(psutil.TimeoutExpired):
                    process.wait(min(left, 1.0))
            own_postgres.start()
            log = worker.log_path.read_text(errors="replace")
            # With backoff: 60 s of tries every 0.2 s would be 300.
            assert 4 < log.count("does not answer") < 60
            assert most - before < 48 << 20
            # It was full, and took no more than the message that filled it: of 30,000 rows sent.
            assert held <= pending < held + 500
            town.until_stored(int(AWAY_S * 500))
            town.check(town.publish_no_more(), sent)
        finally:
            town.close()
