"""The worker's metrics, by Prometheus' conventions.

Labels are partitions, the two topics and fixed words: nothing that a sensor could make up, and
nothing of what it says.
"""

import time
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ingest.topics import dead_letters_topic, readings_topic
from storage.flush import Flush, SavedState
from storage.sink import Outcome
from streams.progress import Activity, Progress, TopicPartition

# From an idle flush to the statement timeout.
_FLUSH_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# The largest flush is 20,000 readings unless told otherwise, and a message of 5,000 above it.
_ROW_BUCKETS: Final = (1, 10, 50, 100, 500, 1_000, 2_500, 5_000, 10_000, 20_000, 50_000)


class Meter:
    """Marks and metrics of one worker.

    Parameters
    ----------
    namespace : str
    flush_interval_s : float
        Longest wait between two flushes in good order.

    Attributes
    ----------
    progress : Progress
    registry : CollectorRegistry
        What an endpoint serves.
    """

    def __init__(self, namespace: str, flush_interval_s: float) -> None:
        self.progress = Progress(time.monotonic(), flush_interval_s)
        self.registry = CollectorRegistry()
        self._readings = readings_topic(namespace)
        self._names = {self._readings: "readings", dead_letters_topic(namespace): "dead_letters"}
        # Since when the detectors have seen what no saved state has.
        self._unsaved_s: dict[int, float] = {}
        self._state_bytes: dict[int, int] = {}
        self._watermark_s: dict[int, float] = {}
        self._make()
        self.registry.register(_Partitions(self))
        ProcessCollector(registry=self.registry)

    def _make(self) -> None:
        registry = self.registry

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"citywatch_worker_{name}", what, labels, registry=registry)

        def seconds(name: str, what: str) -> Histogram:
            return Histogram(
                f"citywatch_worker_{name}_seconds",
                what,
                registry=registry,
                buckets=_FLUSH_BUCKETS_S,
            )

        messages = counter("messages_total", "Kafka messages committed.", "topic")
        self._messages = {topic: messages.labels(name) for topic, name in self._names.items()}
        self._lost = counter("messages_lost_total", "Kafka messages that expired unread.")
        rows = counter("rows_total", "Readings by what became of them.", "outcome")
        self._stored = rows.labels("stored")
        self._duplicates = rows.labels("duplicate")
        self._conflicts = rows.labels("late_conflict")
        self._late = counter("late_rows_total", "Readings too late to be judged.")
        self._letters = counter("dead_letters_total", "Dead letters stored.")
        self._otherwise = counter(
            "states_of_another_city_total", "States that were judged by other facts of the city."
        )
        self._retries = counter("database_retries_total", "Database calls that were tried again.")
        self._flush_s = seconds("flush_duration", "From the first look to the commit of a flush.")
        self._save_s = seconds("state_save_duration", "From making a detector state to its commit.")
        self._flush_rows = Histogram(
            "citywatch_worker_flush_rows",
            "Readings of a flush.",
            registry=registry,
            buckets=_ROW_BUCKETS,
        )

    def backlog(self, read: Callable[[], tuple[int, int]]) -> None:
        """Ask `read` for pending rows and held bytes at every scrape; from another thread."""
        pending = Gauge(
            "citywatch_worker_pending_rows",
            "Readings that wait for a flush, about.",
            registry=self.registry,
        )
        held = Gauge(
            "citywatch_worker_held_bytes",
            "Kafka messages flushed that wait for a saved state.",
            registry=self.registry,
        )
        pending.set_function(lambda: read()[0])
        held.set_function(lambda: read()[1])

    def city(self, read: Callable[[], int]) -> None:
        """Ask `read` at every scrape how many partitions the log judges otherwise."""
        differs = Gauge(
            "citywatch_worker_partitions_of_another_city",
            "Partitions whose log says other things of the city than the worker's settings.",
            registry=self.registry,
        )
        differs.set_function(read)

    def judged_otherwise(self) -> None:
        """Count a saved state that other facts of the city had judged."""
        self._otherwise.inc()

    def doing(self, activity: Activity) -> None:
        """Note what the flush loop begins."""
        self.progress.doing(activity, time.monotonic())

    def retrying(self, wait_s: float) -> None:
        """Note that the database did not answer and is asked again after `wait_s`."""
        self._retries.inc()
        self.progress.database_away(time.monotonic(), wait_s)

    def answered(self) -> None:
        """Note that the database did answer."""
        self.progress.database_answered(time.monotonic())

    def flushed(self, flush: Flush, outcome: Outcome, took_s: float) -> None:
        """Count what a transaction has committed."""
        now_s = time.monotonic()
        self._flush_s.observe(took_s)
        self._flush_rows.observe(len(flush.fresh) + len(flush.suspects))
        self._stored.inc(outcome.stored)
        self._duplicates.inc(outcome.duplicates)
        self._conflicts.inc(outcome.late_conflicts)
        self._late.inc(sum(tallied.late for tallied in flush.tallies))
        self._letters.inc(len(flush.letters))
        self._lost.inc(sum(gap.end - gap.first for gap in flush.gaps))
        for step in flush.steps:
            self._messages[step.topic].inc(step.next_offset - step.expected)
            if step.topic == self._readings:
                self._unsaved_s.setdefault(step.partition, now_s)

    def saved(self, state: SavedState, took_s: float | None = None) -> None:
        """Note a saved state; what it took where it was saved by itself, not beside rows."""
        if took_s is not None:
            self._save_s.observe(took_s)
        self._unsaved_s.pop(state.partition, None)
        self._state_bytes[state.partition] = len(state.state)

    def watermark(self, partition: int, now_ns: int) -> None:
        """Note where a partition's watermark stands, in UTC nanoseconds."""
        self._watermark_s[partition] = now_ns / 1e9

    def released(self, places: set[TopicPartition]) -> None:
        """Forget partitions that went to another worker."""
        self.progress.released(places)
        for topic, partition in places:
            if topic == self._readings:
                self._unsaved_s.pop(partition, None)
                self._state_bytes.pop(partition, None)
                self._watermark_s.pop(partition, None)

    def most_lag_s(self) -> float:
        """Return how far the partition that lags most is behind; from any thread."""
        lags = self.progress.lags(time.monotonic(), time.time())
        return max((lag_s for _, lag_s in lags.values()), default=0.0)

    def families(self) -> Iterator[Metric]:
        """Give what is looked up at a scrape."""
        now_s = time.monotonic()
        lags = self.progress.lags(now_s, time.time())
        snapshot = self.progress.snapshot()
        owned = sorted(number for topic, number in lags if topic == self._readings)
        yield GaugeMetricFamily(
            "citywatch_worker_partitions_owned",
            "Partitions of the readings that this worker has.",
            value=len(owned),
        )
        yield GaugeMetricFamily(
            "citywatch_worker_database_up",
            "0 while the database does not answer.",
            value=snapshot.database_up,
        )
        yield GaugeMetricFamily(
            "citywatch_worker_progress_age_seconds",
            "Time since the flush loop left its last mark.",
            value=max(0.0, now_s - snapshot.activity_s),
        )
        places = ("topic", "partition")
        lag = GaugeMetricFamily(
            "citywatch_worker_lag_messages", "Kafka messages not committed.", labels=places
        )
        lag_s = GaugeMetricFamily(
            "citywatch_worker_lag_seconds", "Age of the oldest of them.", labels=places
        )
        for (topic, number), (messages, seconds) in sorted(lags.items()):
            where = (self._names[topic], str(number))
            lag_s.add_metric(where, seconds)
            if messages is not None:
                lag.add_metric(where, messages)
        age = GaugeMetricFamily(
            "citywatch_worker_state_age_seconds",
            "For how long the detectors have seen more than the saved state.",
            labels=("partition",),
        )
        size = GaugeMetricFamily(
            "citywatch_worker_state_size_bytes",
            "The detector state as it was last saved.",
            labels=("partition",),
        )
        watermark = GaugeMetricFamily(
            "citywatch_worker_watermark_seconds",
            "Event time up to which readings have come, Unix time.",
            labels=("partition",),
        )
        unsaved_s, state_bytes = self._unsaved_s.copy(), self._state_bytes.copy()
        watermark_s = self._watermark_s.copy()
        for number in owned:
            labels = (str(number),)
            age.add_metric(labels, now_s - unsaved_s.get(number, now_s))
            if number in state_bytes:
                size.add_metric(labels, state_bytes[number])
            if number in watermark_s:
                watermark.add_metric(labels, watermark_s[number])
        yield from (lag, lag_s, age, size, watermark)


class _Partitions(Collector):
    """What a scrape looks up, so that a partition that has gone leaves no metric behind."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def collect(self) -> Iterator[Metric]:
        return self._meter.families()
