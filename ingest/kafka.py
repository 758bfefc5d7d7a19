"""The Kafka side of the bridge: topics as they should be, records that are safe once sent.

What Kafka itself may get over, a cluster that is away or still starting, raises aiokafka's
`KafkaError` and is worth another try. What only a person can mend raises a `KafkaSetupError`, and
trying again would hide it:

- `TopicError`: a topic has another number of partitions than the settings say.
- `IdempotenceError`: this Kafka refuses idempotent producers.
- `RecordSizeError`: a record is larger than the cluster allows.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAlreadyExistsError,
    UnknownError,
    UnsupportedVersionError,
    for_code,
)
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_fixed,
    wait_random_exponential,
)

from ingest.records import KafkaRecord
from ingest.topics import dead_letters_topic, readings_topic

_LOG = logging.getLogger(__name__)
_BACKOFF_CAP_S: Final = 10.0
_REQUEST_TIMEOUT_MS: Final = 10_000
# aiokafka asks for a producer id without end and without a word.
_START_DEADLINE_S: Final = 30.0
# An idempotent producer that is stopped waits without end for a Kafka that is away.
_STOP_GRACE_S: Final = 5.0
_CANCEL_GRACE_S: Final = 1.0
_REPORT_INTERVAL_S: Final = 10.0
# A topic that somebody else has just made becomes known to all brokers within moments.
_DESCRIBE_DEADLINE_S: Final = 10.0
_DESCRIBE_INTERVAL_S: Final = 0.1
# What aiokafka takes at all. The bridge closes a record near 512 KiB, and Kafka refuses a batch
# above 1 MiB unless told otherwise; compressed, that is: hence not the same bound here.
MAX_RECORD_BYTES: Final = 8 << 20
# What a broker answers that cannot number producers, or may not for this one. Brokers that only
# need time answer COORDINATOR_NOT_AVAILABLE or COORDINATOR_LOAD_IN_PROGRESS, and aiokafka asks
# again.
_REFUSALS: Final = (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    UnknownError,
    UnsupportedVersionError,
)
_TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)


class KafkaSetupError(Exception):
    """Kafka and the settings do not fit together; another try would end the same."""


class TopicError(KafkaSetupError):
    """A topic has another number of partitions than the settings say."""


class IdempotenceError(KafkaSetupError):
    """Idempotent producers are refused by this Kafka."""


class RecordSizeError(KafkaSetupError):
    """A record is larger than the cluster allows."""


async def ensure_topics(
    bootstrap: str, namespace: str, partitions: int, replication_factor: int
) -> None:
    """Create the topics of a namespace where they are missing, and check those that are there.

    Raises
    ------
    KafkaError
        If the cluster refuses or is away; a topic that is there already is fine.
    TopicError
        If it has more or fewer than `partitions`: fewer, and there is nowhere to send some
        readings; more, and the readings of a sensor would not stay in one partition once the
        setting follows.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        names = {readings_topic(namespace), dead_letters_topic(namespace)}
        found = names & set(await admin.list_topics())
        for name in sorted(names - found):
            if not await _create(admin, NewTopic(name, partitions, replication_factor)):
                found.add(name)
        for name in sorted(found):
            count = await _partition_count(admin, name)
            if count != partitions:
                raise TopicError(
                    f"topic {name} has {count} partitions, kafka.partitions says {partitions}"
                )
    finally:
        await admin.close()


async def _create(admin: Any, topic: NewTopic) -> bool:
    """Create a topic; return False where somebody else was faster."""
    try:
        response = await admin.create_topics([topic])
    except TopicAlreadyExistsError:
        return False
    for name, code, *message in response.topic_errors:
        if code == TopicAlreadyExistsError.errno:
            return False
        if code != 0:
            raise KafkaError(f"topic {name} was not created: {code} {message}")
    return True


async def _partition_count(admin: Any, name: str) -> int:
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(KafkaError),
        wait=wait_fixed(_DESCRIBE_INTERVAL_S),
        stop=stop_after_delay(_DESCRIBE_DEADLINE_S),
        reraise=True,
    )
    async for attempt in retrying:
        with attempt:
            (topic,) = await admin.describe_topics([name])
            if topic["error_code"] != 0:
                raise for_code(topic["error_code"])(name)
            return len(topic["partitions"])
    raise AssertionError("retries ended without an error")


class RecordSender:
    """Sends records to Kafka and returns when every replica in sync has them.

    An idempotent producer numbers its batches, so a batch that arrives twice because its answer
    was lost is stored once. It also holds on to them: aiokafka sends such a batch again until
    Kafka has it or says that it never will. Afterwards the numbers have a gap and Kafka refuses
    whatever follows (OUT_OF_ORDER_SEQUENCE_NUMBER), so a producer that has failed once, however
    it did, is replaced by one with a new id. Without idempotence a batch is given up after ten
    seconds, and may then be stored twice.

    What waits here is one flush: the caller's records, and aiokafka's copies of at most two
    batches a partition, one on its way and one behind it. A batch has 16 KiB, or one record of
    at most `MAX_RECORD_BYTES`.

    Parameters
    ----------
    bootstrap : str
        Addresses of the cluster.
    idempotence : bool
        Whether Kafka is asked to drop what is sent twice.
    """

    def __init__(self, bootstrap: str, idempotence: bool = True) -> None:
        self._bootstrap = bootstrap
        self._idempotence = idempotence
        self._producer: _Producer | None = None
        self._sending = asyncio.Lock()

    async def start(self) -> None:
        """Connect.

        Raises
        ------
        KafkaError
            If no broker answers, or none has a producer id to give yet.
        IdempotenceError
            If idempotence was asked for, and this Kafka does not know of it.
        """
        await self._started()

    async def stop(self) -> None:
        """Send what is left and disconnect; give up on what Kafka does not take in time."""
        await self._leave()

    async def send(self, records: Sequence[KafkaRecord]) -> None:
        """Send until Kafka has all records, however long it is away; one call at a time.

        The bound on what waits here is the MQTT receive maximum: nothing is acknowledged
        meanwhile. A record sent twice is stored once.

        Raises
        ------
        RecordSizeError
            If Kafka refuses a record for its size. The bridge makes none above Kafka's own
            limit, so the cluster's was lowered; dropping readings is not for us to decide.
        IdempotenceError
            As `start` does, where a producer had to be replaced.
        """
        pending = list(records)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((KafkaError, OSError)),
            wait=wait_random_exponential(multiplier=0.2, max=_BACKOFF_CAP_S),
            before_sleep=lambda state: _LOG.warning(
                "kafka does not take %d records (attempt %d): %r",
                len(pending),
                state.attempt_number,
                state.outcome.exception() if state.outcome else None,
            ),
            reraise=True,
        )
        async with self._sending:
            async for attempt in retrying:
                with attempt:
                    await self._send_once(pending)

    async def _send_once(self, pending: list[KafkaRecord]) -> None:
        """Send; what Kafka has leaves the list, and the first refusal of the rest is raised."""
        producer = await self._started()
        answers: list[asyncio.Future[Any]] = []
        fault: BaseException | None = None
        for record in pending:
            try:
                answers.append(
                    await producer.send(
                        record.topic,
                        record.value,
                        partition=record.partition,
                        headers=record.headers,
                    )
                )
            except (KafkaError, OSError) as error:
                # Those before it are on their way: sending them again would store them twice.
                fault = error
                break
        await _all_done(answers)
        faults = [answer.exception() for answer in answers]
        fault = next((each for each in faults if each is not None), fault)
        if fault is None:
            pending.clear()
            return
        failed = [record for record, each in zip(pending, faults, strict=False) if each is not None]
        failed += pending[len(answers) :]
        pending[:] = failed
        await self._leave()
        if isinstance(fault, _TOO_LARGE):
            raise RecordSizeError(_too_large(failed[0])) from fault
        raise fault

    async def _started(self) -> "_Producer":
        if self._producer is not None:
            return self._producer
        producer = _Producer(
            bootstrap_servers=self._bootstrap,
            acks="all",
            enable_idempotence=self._idempotence,
            compression_type="lz4",
            max_request_size=MAX_RECORD_BYTES,
            linger_ms=0,
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
        )
        try:
            async with asyncio.timeout(_START_DEADLINE_S):
                await producer.start()
        except BaseException as error:
            await producer.leave(_STOP_GRACE_S)
            if isinstance(error, _REFUSALS) and self._idempotence:
                raise IdempotenceError(
                    f"this Kafka refuses idempotent producers ({type(error).__name__}): "
                    "set kafka.idempotence = false"
                ) from error
            if isinstance(error, TimeoutError):
                raise KafkaConnectionError(f"not ready after {_START_DEADLINE_S:g} s") from error
            raise
        self._producer = producer
        return producer

    async def _leave(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.leave(_STOP_GRACE_S)


class _Producer(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka has no types
    """A producer that can be left without waiting for Kafka."""

    async def leave(self, grace_s: float) -> None:
        """Send what is left and disconnect, or disconnect."""
        stopping = asyncio.create_task(self.stop())
        done, _ = await asyncio.wait({stopping}, timeout=grace_s)
        routine = self._sender.sender_task
        if not done and routine is not None:
            # `stop` goes on when it ends. The first cancel ends it between two requests, and
            # lets a request come to its end; the second ends that too.
            for _ in range(2):
                routine.cancel()
                await asyncio.wait({routine}, timeout=_CANCEL_GRACE_S)
        await stopping


async def _all_done(answers: Sequence["asyncio.Future[Any]"]) -> None:
    """Wait for every answer, and say so now and then: aiokafka alone would keep silent."""
    waiting = set(answers)
    try:
        while waiting:
            _, waiting = await asyncio.wait(waiting, timeout=_REPORT_INTERVAL_S)
            if waiting:
                _LOG.warning("kafka has not taken %d records yet", len(waiting))
    finally:
        for answer in waiting:
            answer.cancel()


def _too_large(record: KafkaRecord) -> str:
    return (
        f"topic {record.topic} does not take a record of {len(record.value)} bytes: "
        "set its max.message.bytes to Kafka's default, 1048588, or more"
    )
