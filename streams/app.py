"""The Faust app around the worker: consumer group, partitions, acknowledgements.

Faust acknowledges a message when an agent's body ends, even when it raises. So the agents take
unacknowledged events, hand them to the worker and never raise; the worker acknowledges after its
commit. Settings that deviate from Faust's defaults are those that came through kill -9 of one of
two workers without a loss.
"""

import asyncio
import contextlib
import logging
import time
from typing import Any, Final

import faust
import psycopg
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition as AioTopicPartition
from faust.types import TP

from ingest.kafka import ensure_topics
from ingest.topics import database_schema, dead_letters_topic, readings_topic
from storage.sink import Sink
from streams.log_ends import LogEnds
from streams.meter import Meter
from streams.progress import Activity
from streams.transport import Transport, position_and_end
from streams.worker import Delivery, GapError, Worker, WorkerConfig

_LOG = logging.getLogger(__name__)
# Messages Faust may hold per agent before it stops fetching; a message is up to 5,000 readings.
_STREAM_BUFFER: Final = 64
_REPORT_INTERVAL_S: Final = 30.0
_RETRY_S: Final = 2.0
_BEAT_S: Final = 1.0
# What Kafka gets to note an offset before the worker ends.
_GRACE_S: Final = 5.0
# How often Kafka is asked where the log ends.
_LOG_ENDS_S: Final = 5.0


class LogError(Exception):
    """The log ends before what was read of it: it was made anew, or cut short."""


class _App(faust.App):
    """Faust's app, without the folders that it makes in the working directory for its tables."""

    def _create_directories(self) -> None:
        # There are no tables: `store` is memory.
        pass


class StreamsApp:
    """One worker process of the consumer group of a namespace.

    Parameters
    ----------
    config : WorkerConfig
    bootstrap : str
        Kafka addresses.
    partitions, replication_factor : int
        Of the topics, where they must be made.
    dsn : str
    log_id : str
        Incarnation of the Kafka log.
    """

    def __init__(
        self,
        config: WorkerConfig,
        *,
        bootstrap: str,
        partitions: int,
        replication_factor: int,
        dsn: str,
        log_id: str,
    ) -> None:
        self._config = config
        self._bootstrap = bootstrap
        self._partitions = partitions
        self._replication_factor = replication_factor
        self._sink = Sink(dsn, database_schema(config.namespace), log_id)
        self.worker = Worker(config, self._sink, self._acknowledge, self._earliest, self._reread)
        self._app = self._build()
        self._started = time.monotonic()

    @property
    def meter(self) -> Meter:
        """Marks and metrics of the worker, for readers in other threads."""
        return self.worker.meter

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set.

        Raises
        ------
        Exception
            Whatever made going on unsafe; the process should be started again.
        """
        beating = asyncio.create_task(self._beat())
        try:
            if await self._have_topics(stop):
                await self._work(stop)
        finally:
            beating.cancel()

    async def _work(self, stop: asyncio.Event) -> None:
        worker_stop = asyncio.Event()
        self._started = time.monotonic()
        self.meter.doing(Activity.STARTING)
        await self._app.start()
        flushing = asyncio.create_task(self.worker.run(worker_stop), name="flush")
        stopping = asyncio.create_task(stop.wait())
        crashed = asyncio.create_task(self._crashed())
        reporting = asyncio.create_task(self._report())
        looking = asyncio.create_task(self._look_at_log())
        try:
            watched = {flushing, stopping, crashed, looking}
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            worker_stop.set()
            await flushing
            if looking.done():
                looking.result()
            if crashed.done():
                crashed.result()
        except GapError:
            await self._go_back()
            raise
        finally:
            self.meter.doing(Activity.STOPPING)
            for task in (stopping, crashed, reporting, looking, flushing):
                task.cancel()
            await self._app.stop()
            await self._sink.close()
            self._tell()

    async def _go_back(self) -> None:
        """Let the next worker read from where the database stands, in all partitions of this one.

        Kafka's offsets are ahead of it where it was restored to an older state.
        """
        try:
            async with asyncio.timeout(_GRACE_S):
                offsets = await self.worker.saved()
                await self._app.consumer._commit(  # noqa: SLF001
                    {TP(*place): offset for place, offset in offsets.items()}
                )
        except (KafkaError, OSError, psycopg.Error) as error:  # a timeout is an OSError
            _LOG.warning("kafka is not told where the database stands: %r", error)
        else:
            _LOG.warning("the next worker reads from where the database stands: %s", offsets)

    async def _have_topics(self, stop: asyncio.Event) -> bool:
        """Make the topics as soon as Kafka answers; False where told to stop before."""
        while not stop.is_set():
            self.meter.doing(Activity.STARTING)
            try:
                await ensure_topics(
                    self._bootstrap,
                    self._config.namespace,
                    self._partitions,
                    self._replication_factor,
                )
            except (KafkaError, OSError) as error:
                _LOG.warning("kafka is not ready: %r", error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _RETRY_S)
            else:
                return True
        return False

    def _build(self) -> Any:
        namespace = self._config.namespace
        app = _App(
            f"{namespace}-worker",
            broker=f"kafka://{self._bootstrap}",
            store="memory://",
            autodiscover=False,
            web_enabled=False,
            topic_disable_leader=True,
            topic_partitions=self._partitions,
            stream_wait_empty=False,
            stream_buffer_maxsize=_STREAM_BUFFER,
            consumer_auto_offset_reset="earliest",
            consumer_max_fetch_size=8 << 20,
            broker_session_timeout=6,
            broker_heartbeat_interval=1,
            broker_rebalance_timeout=10,
            broker_commit_interval=1.0,
            worker_redirect_stdouts=False,
        )
        app.transport = Transport(app.conf.broker_consumer, app)
        for name in (readings_topic(namespace), dead_letters_topic(namespace)):
            topic = app.topic(
                name,
                key_type=bytes,
                value_type=bytes,
                key_serializer="raw",
                value_serializer="raw",
                allow_empty=True,
            )
            app.agent(topic, name=f"take.{name}")(self._take)
        app.on_partitions_assigned.connect(self._on_assigned)  # type: ignore[arg-type]
        app.on_partitions_revoked.connect(self._on_revoked)  # type: ignore[arg-type]
        return app

    async def _take(self, stream: Any) -> None:
        async for event in stream.noack().events():
            message = event.message
            place = (message.topic, message.partition)
            self.meter.progress.took(place, message.offset, message.timestamp)
            await self.worker.take(
                Delivery(
                    message.topic,
                    message.partition,
                    message.offset,
                    {name: value or b"" for name, value in message.headers or ()},
                    message.value or b"",
                    (stream, event),
                )
            )
            self.meter.progress.let_in(message.topic)

    async def _acknowledge(self, handle: Any) -> None:
        stream, event = handle
        await stream.ack(event)

    async def _earliest(self, topic: str, partition: int) -> int:
        offsets = await self._app.consumer.earliest_offsets(TP(topic, partition))
        return int(
            offsets.get(AioTopicPartition(topic, partition), offsets.get(TP(topic, partition), 0))
        )

    async def _reread(self, topic: str, partition: int, offset: int, saved: int) -> None:
        place = AioTopicPartition(topic, partition)
        try:
            async with asyncio.timeout(_GRACE_S):
                await self._app.consumer.seek_wait({place: offset})
                await self._app.consumer._commit({TP(topic, partition): saved})  # noqa: SLF001
        except (KafkaError, OSError) as error:  # a timeout is an OSError
            # It is asked again.
            _LOG.warning("kafka does not go back: %r", error)

    async def _on_assigned(self, _app: Any, assigned: Any, **_: Any) -> None:
        places = {(place.topic, place.partition) for place in assigned}
        self.meter.progress.assigned(places)
        self.worker.assign(places)

    async def _on_revoked(self, _app: Any, revoked: Any, **_: Any) -> None:
        places = {(place.topic, place.partition) for place in revoked}
        try:
            await self.worker.release(places)
        finally:
            self.meter.released(places)

    async def _crashed(self) -> None:
        await self._app.wait_until_stopped()
        reason = self._app._crash_reason  # noqa: SLF001 - mode keeps it nowhere else
        raise reason or RuntimeError("the Faust app stopped by itself")

    async def _beat(self) -> None:
        while True:
            self.meter.progress.beat(time.monotonic())
            await asyncio.sleep(_BEAT_S)

    async def _look_at_log(self) -> None:
        """Note where the log ends, so that a consumer that fetches nothing is found out.

        Raises
        ------
        LogError
            Where it ends before what the database has read of it.
        """
        progress = self.meter.progress
        short: set[tuple[str, int]] = set()
        async with LogEnds(self._bootstrap) as log:
            while True:
                places = progress.places()
                try:
                    ends = await log.of(places)
                except (KafkaError, OSError) as error:  # a timeout is one
                    _LOG.debug("kafka does not say where the log ends: %r", error)
                    progress.kafka_away(time.monotonic())
                    ends = {}
                was_short, short = short, set()
                for place in places:
                    stored = progress.stored(place)
                    position, told = position_and_end(self._app.consumer, *place)
                    if told is not None and told < stored:
                        # A new leader may learn a moment later what its followers have.
                        if place in was_short:
                            raise LogError(
                                f"{place[0]}/{place[1]} ends at {told}, and was read to {stored}:"
                                " a log made anew or cut short needs another log_id"
                            )
                        short.add(place)
                    known = [end for end in (ends.get(place), told) if end is not None]
                    end = max(known, default=None)
                    progress.log_end(place, position, end, time.monotonic())
                await asyncio.sleep(_LOG_ENDS_S)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_INTERVAL_S)
            self._tell()

    def _tell(self) -> None:
        totals = self.worker.totals
        _LOG.info(
            "worker stored=%d duplicates=%d late_conflicts=%d flushes=%d flush_mean_ms=%.1f"
            " saves=%d save_s=%.3f up_s=%.3f",
            totals.stored,
            totals.duplicates,
            totals.late_conflicts,
            totals.flushes,
            1000 * totals.flush_s / max(totals.flushes, 1),
            totals.saves,
            totals.save_s,
            time.monotonic() - self._started,
        )
