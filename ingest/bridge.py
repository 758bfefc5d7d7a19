"""The bridge: takes what MQTT delivered, gives it to Kafka, and only then acknowledges it."""

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Final

from aiokafka.errors import KafkaError
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from ingest.assembly import Assembler, AssemblyConfig
from ingest.kafka import RecordSender, ensure_topics
from ingest.mqtt import MqttConfig, Receipt, Subscriber
from ingest.records import KafkaRecord

_LOG = logging.getLogger(__name__)
_REPORT_INTERVAL_S: Final = 30.0
# Messages taken at a time; decoding them blocks the loop for about 5 ms.
_SLICE: Final = 500
_STOP_GRACE_S: Final = 5.0
# What two clocks of one host may differ in between two flushes; time servers slew by far less.
_CLOCK_STEP_S: Final = 1.0
# Payloads of one flush, so that large rejects do not pile up while rows are few.
_MAX_FLUSH_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    """What a bridge needs to know.

    Parameters
    ----------
    assembly : AssemblyConfig
        Its namespace and partitions are those of the Kafka topics.
    mqtt : MqttConfig
    bootstrap : str
        Kafka addresses.
    replication_factor : int
        Of the Kafka topics, where they must be made.
    flush_interval_s : float
        Longest wait of a message before it goes to Kafka.
    max_batch_rows : int
        Readings after which a flush does not wait.
    idempotence : bool
        Whether Kafka is asked to drop what is sent twice.
    vouch_interval_s : float or None
        How often workers are told how far everything has come; None for a city whose time is not
        ours, that of a replay.
    """

    assembly: AssemblyConfig
    mqtt: MqttConfig
    bootstrap: str
    replication_factor: int
    flush_interval_s: float
    max_batch_rows: int
    idempotence: bool = True
    vouch_interval_s: float | None = None


@dataclass(slots=True)
class _Voucher:
    """Says when to vouch: after two intervals in which nothing was left waiting, and then on.

    Parameters
    ----------
    interval_s : float or None
        None never vouches.
    """

    interval_s: float | None
    _since: float | None = None
    _told: float = 0.0
    _wall_ahead_s: float | None = None

    def was_set(self, now: float, wall_s: float) -> bool:
        """Say whether the wall clock was set since the last call, by how it ran beside `now`."""
        before, self._wall_ahead_s = self._wall_ahead_s, wall_s - now
        was_set = before is not None and abs(self._wall_ahead_s - before) > _CLOCK_STEP_S
        if was_set:
            self._since = None
        return was_set

    def is_due(self, now: float, *, quiet: bool) -> bool:
        """Take note of how the bridge is at `now` (s); say whether to vouch."""
        if self.interval_s is None or not quiet:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        due = now - self._since >= 2 * self.interval_s and now - self._told >= self.interval_s
        if due:
            self._told = now
        return due


async def run(config: BridgeConfig, stop: asyncio.Event) -> None:
    """Carry messages until `stop` is set; what was taken by then is finished.

    Kafka away: nothing is acknowledged, so the broker holds what comes, and sending goes on when
    it is back. MQTT away: paho connects again, and the persistent session delivers the rest.

    Raises
    ------
    KafkaSetupError
        If Kafka is not as the settings say; waiting would not mend it.
    SubscriberError
        If a file for TLS cannot be used, or the MQTT thread has ended.
    """
    subscriber = Subscriber(config.mqtt)  # first: what its settings name must be there
    sender = await _connect_or_stop(config, stop)
    if sender is None:
        return
    assembler = Assembler(config.assembly)
    subscriber.start()
    reporter = asyncio.create_task(_report(assembler))
    voucher = _Voucher(config.vouch_interval_s)
    try:
        while not stop.is_set():
            full = await _flush(config, subscriber, assembler, sender, stop)
            if voucher.was_set(time.monotonic(), time.time()):
                assembler.clock_was_set()
            if voucher.is_due(time.monotonic(), quiet=not full and subscriber.is_quiet):
                await _send(sender, assembler.vouch(time.time_ns()), stop)
            if not full:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), config.flush_interval_s)
    finally:
        reporter.cancel()
        subscriber.stop()
        await sender.stop()


async def _connect_or_stop(config: BridgeConfig, stop: asyncio.Event) -> RecordSender | None:
    connecting = asyncio.create_task(_connect(config))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({connecting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            return connecting.result()
    finally:
        stopping.cancel()
        if not connecting.done():
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
    return None


async def _connect(config: BridgeConfig) -> RecordSender:
    retrying = AsyncRetrying(
        retry=retry_if_exception_type((KafkaError, OSError)),
        wait=wait_random_exponential(multiplier=0.2, max=10),
        before_sleep=lambda state: _LOG.warning(
            "kafka is not ready: %r", state.outcome and state.outcome.exception()
        ),
    )
    async for attempt in retrying:
        with attempt:
            await ensure_topics(
                config.bootstrap,
                config.assembly.namespace,
                config.assembly.partitions,
                config.replication_factor,
            )
            sender = RecordSender(config.bootstrap, config.idempotence)
            try:
                await sender.start()
            except BaseException:
                await sender.stop()
                raise
            return sender
    raise AssertionError("retries without end have ended")


async def _flush(
    config: BridgeConfig,
    subscriber: Subscriber,
    assembler: Assembler,
    sender: RecordSender,
    stop: asyncio.Event,
) -> bool:
    """Move what waits through Kafka; say whether more is waiting."""
    receipts: list[Receipt] = []
    size = 0
    while assembler.rows < config.max_batch_rows and size < _MAX_FLUSH_BYTES:
        waiting = subscriber.take(_SLICE)
        for arrival, receipt in waiting:
            assembler.add(arrival)
            receipts.append(receipt)
            size += len(arrival.payload)
        if len(waiting) < _SLICE or len(receipts) >= config.mqtt.receive_maximum:
            break
    if not receipts:
        return False
    if not await _send(sender, assembler.take(), stop):
        return False
    subscriber.acknowledge(receipts)
    return len(receipts) >= _SLICE


async def _send(sender: RecordSender, records: list[KafkaRecord], stop: asyncio.Event) -> bool:
    """Send, however long Kafka is away; say False where told to stop meanwhile."""
    sending = asyncio.create_task(sender.send(records))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({sending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not sending.done():
            # Told to stop while Kafka is away: what is not acknowledged is delivered again.
            await asyncio.wait({sending}, timeout=_STOP_GRACE_S)
        if not sending.done():
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            return False
        sending.result()
    finally:
        stopping.cancel()
    return True


async def _report(assembler: Assembler) -> None:
    while True:
        await asyncio.sleep(_REPORT_INTERVAL_S)
        _LOG.info(
            "bridge messages=%d readings=%d rejected=%d refused=%d withheld=%d",
            assembler.messages,
            assembler.readings,
            assembler.rejected,
            assembler.refused,
            assembler.withheld,
        )
