"""Was all well? A demo's run judged by publisher, database and receiver against each other."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from psycopg import AsyncConnection

from paging.receiver import Arrival
from simulators.events import TOLD_S, Event
from simulators.faults import Fault
from simulators.publish import Published
from storage.audit import audit
from storage.standing import Standing, standing
from streams.facts import CityFacts
from streams.kernels import kernels
from streams.rules import BY_MINUTES

# What the project promises of the demo.
STORED_P99_MS: Final = 2_000.0
# An alert may open this long after its fault has ended: detectors confirm over some readings.
_FAULT_GRACE: Final = timedelta(seconds=15)

# A row's commit time is PostgreSQL's own, so this measures sensor to stored from the outside.
_STORED_LATENCY: Final = """
    SELECT count(*),
           percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY latency)
    FROM (SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin) - time) * 1000 AS latency
          FROM reading WHERE pg_xact_commit_timestamp(xmin) >= %s) committed
"""
# Of these some are only recorded; they wake nobody and have no page then.
_QUIET: Final = frozenset(
    kind.name for kernel in kernels(CityFacts()) for kind in kernel.kinds if kind.told != "always"
)
# Their pages say nothing of how fast a reading becomes one.
_WAIT: Final = frozenset({"silence", *BY_MINUTES})
_ALERTS: Final = """
    SELECT s.name, q.quantity, a.category, a.kind, a.opened_at, a.alert_id::text, s.zone,
           EXISTS (SELECT FROM outbox o WHERE o.alert_id = a.alert_id),
           EXISTS (SELECT FROM decision d WHERE d.alert_id = a.alert_id AND d.outcome = 'drop')
           OR EXISTS (SELECT FROM page_member m JOIN page_group g USING (group_key)
                      WHERE m.alert_id = a.alert_id AND g.closed_at IS NOT NULL
                        AND g.told_at IS NULL),
           ARRAY(SELECT m.group_key FROM page_member m WHERE m.alert_id = a.alert_id)
    FROM alert a JOIN series q USING (series_id) JOIN sensor s USING (sensor_id)
    WHERE a.recorded_at >= %s
"""


@dataclass(frozen=True, slots=True)
class Expected:
    """What was sent in through the front door.

    Parameters
    ----------
    published : sequence of Published
        Of the city and of the recordings.
    faults : sequence of Fault
        Injected into the city; those that began before publishing ended.
    recorded : set of str
        Sensors that replay recordings: their alerts are real, and not known beforehand.
    events : sequence of Event
        Staged in the city; those that began before publishing ended.
    ended_ns : int
        When publishing ended.
    """

    published: Sequence[Published]
    faults: Sequence[Fault]
    recorded: frozenset[str]
    events: Sequence[Event] = ()
    ended_ns: int = 0

    def total(self, name: str) -> int:
        """Return the sum of one count over the publishers."""
        return sum(getattr(one, name) for one in self.published)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The run in numbers; `as_json` gives them under their public names."""

    facts: Mapping[str, Any]
    complaints: Sequence[str] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return not self.complaints

    def as_json(self) -> dict[str, Any]:
        """Return the facts with the judgement."""
        return {**self.facts, "complaints": list(self.complaints), "ok": self.ok}


@dataclass(frozen=True, slots=True)
class _Alert:
    sensor: str
    quantity: str
    category: str
    kind: str
    opened_at: datetime
    alert_id: str
    zone: str
    is_told: bool
    # Over before anybody was woken, or kept from it by a stage that says why.
    is_spared: bool
    groups: Sequence[str]

    @property
    def opened_ns(self) -> float:
        return self.opened_at.timestamp() * 1e9


async def judge(
    connection: AsyncConnection[Any],
    *,
    expected: Expected,
    before: Standing,
    begun: datetime,
    arrivals: Sequence[Arrival],
    repeats: int,
    peak_rss_mib: Mapping[str, float],
) -> Verdict:
    """Compare what was sent with what is stored, what was broken with what was alerted and paged.

    Parameters
    ----------
    connection : AsyncConnection
        With the namespace's schema on its search path.
    expected : Expected
    before : Standing
        Totals when the run began.
    begun : datetime
        When it began.
    arrivals : sequence of Arrival
        Notices as the receiver got them, one per key.
    repeats : int
        Notices it got again.
    peak_rss_mib : mapping
        Of each process.
    """
    after = await standing(connection)
    gained = {
        name: getattr(after, name) - getattr(before, name)
        for name in (
            "messages",
            "readings",
            "stored",
            "duplicates",
            "late_conflicts",
            "rejected",
            "withheld",
            "repeated",
            "refused",
            "alerts_opened",
        )
    }
    rows, p50, p99 = await _stored_latency(connection, begun)
    alerts = await _alerts(connection, begun)
    pages = [arrival for arrival in arrivals if arrival.notice.event == "trigger"]
    balance = [*_balance(gained, rows, expected), *(await audit(connection, None, None)).faults]
    faults, fault_complaints = _faults(expected, alerts, pages)
    events, event_complaints = _events(expected, alerts, pages)
    complaints = [*balance, *fault_complaints, *event_complaints]
    if p99 is not None and p99 >= STORED_P99_MS:
        complaints.append(f"stored latency p99 is {p99} ms, promised under {STORED_P99_MS:.0f}")
    facts = {
        **gained,
        "published_messages": expected.total("messages") + expected.total("duplicates"),
        "balanced": not balance,
        **faults,
        "events": events,
        "pages_delivered": len(pages),
        "resolves_delivered": sum(one.notice.event == "resolve" for one in arrivals),
        "page_repeats": repeats,
        "stored_latency_ms": {"p50": p50, "p99": p99},
        "page_latency_ms": _page_latency(pages),
        "peak_rss_mib": {name: round(size, 1) for name, size in peak_rss_mib.items()},
    }
    return Verdict(facts, complaints)


def _balance(gained: Mapping[str, int], rows: int, expected: Expected) -> list[str]:
    """Return where what was published and what is stored do not meet."""
    complaints = []
    readings = expected.total("readings")
    accounted = gained["stored"] + gained["duplicates"] + gained["late_conflicts"]
    # A recording may tell two values of one time; the second is a late conflict.
    kept = gained["stored"] + gained["late_conflicts"]
    if kept != readings:
        complaints.append(f"{readings} readings published, {kept} stored or in conflict")
    if rows != gained["stored"]:
        complaints.append(f"the ledger says {gained['stored']} stored, the table has {rows} rows")
    if accounted != gained["readings"]:
        complaints.append(f"{gained['readings']} readings passed on, {accounted} accounted for")
    # A message may be delivered twice when a connection breaks; it is never lost.
    for name, sent in (
        ("duplicates", expected.total("duplicate_readings")),
        ("rejected", expected.total("bad")),
        ("withheld", expected.total("withheld")),
        ("messages", expected.total("messages") + expected.total("duplicates")),
    ):
        if gained[name] < sent:
            complaints.append(f"{name}: {sent} sent, {gained[name]} counted")
    complaints.extend(
        f"{expected.total(name)} messages were {name} by the MQTT broker"
        for name in ("unacknowledged", "refused")
        if expected.total(name)
    )
    return complaints


def _faults(
    expected: Expected, alerts: Sequence[_Alert], pages: Sequence[Arrival]
) -> tuple[dict[str, Any], list[str]]:
    """Return how the injected faults were noticed, and what was not as it should be."""
    complaints = []
    paged = {arrival.notice.group for arrival in pages}
    told = {alert.alert_id: len(paged.intersection(alert.groups)) for alert in alerts}
    claimed: set[str] = set()
    alerted = faults_paged = 0
    for fault in expected.faults:
        mine = [alert for alert in alerts if _matches(fault, alert)]
        claimed.update(alert.alert_id for alert in alerts if _follows(fault, alert))
        alerted += len(mine) == 1
        delivered = sum(told[alert.alert_id] for alert in mine)
        faults_paged += delivered == 1
        if len(mine) != 1 or delivered != 1:
            complaints.append(
                f"fault {fault.kind} of {fault.sensor} {fault.quantity}:"
                f" {len(mine)} alerts, {delivered} pages"
            )
    # What an event touches may be told of in other ways as well, and once more when it is over.
    begun = {name: event.start_ns for event in expected.events for name in event.sensors}
    others = [
        alert
        for alert in alerts
        if alert.alert_id not in claimed
        and (alert.is_told or alert.kind not in _QUIET)
        and alert.opened_ns < begun.get(alert.sensor, math.inf)
    ]
    recorded = [alert for alert in others if alert.sensor in expected.recorded]
    unexpected = [alert for alert in others if alert.sensor not in expected.recorded]
    complaints.extend(
        f"unexpected alert {alert.kind} on {alert.sensor} {alert.quantity}" for alert in unexpected
    )
    complaints.extend(
        f"alert {alert.kind} on {alert.sensor} was not paged"
        for alert in recorded
        if alert.is_told and told[alert.alert_id] != 1 and not alert.is_spared
    )
    facts = {
        "faults_injected": len(expected.faults),
        "faults_alerted": alerted,
        "faults_paged": faults_paged,
        "alerts_on_recordings": len(recorded),
        "alerts_unexpected": len(unexpected),
    }
    return facts, complaints


def _matches(fault: Fault, alert: _Alert) -> bool:
    return alert.kind == fault.alert_kind and _follows(fault, alert)


def _follows(fault: Fault, alert: _Alert) -> bool:
    """Say whether an alert may come of a fault, as the hour's mean of a pollutant that went up."""
    return (
        (alert.sensor, alert.quantity) == (fault.sensor, fault.quantity)
        and alert.category == fault.category
        and fault.start_ns <= alert.opened_ns + 1_000
        and alert.opened_ns <= fault.end_ns + _FAULT_GRACE.total_seconds() * 1e9
    )


def _events(
    expected: Expected, alerts: Sequence[_Alert], pages: Sequence[Arrival]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what was found of each staged event, and what was not that should have been."""
    paged_groups = {arrival.notice.group for arrival in pages}
    found, complaints = [], []
    for event in expected.events:
        mine = [
            alert
            for alert in alerts
            if (alert.sensor, alert.quantity, alert.kind)
            == (event.sensor, event.quantity, event.alert_kind)
            and event.start_ns <= alert.opened_ns <= event.start_ns + event.opens_within_s * 1e9
        ]
        paged = sum(len(paged_groups.intersection(alert.groups)) for alert in mine)
        due = event.start_ns + (event.opens_within_s + TOLD_S) * 1e9 <= expected.ended_ns
        after_s = (mine[0].opened_ns - event.start_ns) / 1e9 if mine else None
        found.append(
            {
                "kind": event.kind,
                "alert_kind": event.alert_kind,
                "sensor": event.sensor,
                "quantity": event.quantity,
                "begun_at": datetime.fromtimestamp(event.start_ns / 1e9, UTC).isoformat(),
                "due": due,
                "alerts": len(mine),
                "after_s": after_s,
                "pages": paged,
            }
        )
        if due and (len(mine), paged) != (1, 1):
            complaints.append(
                f"event {event.kind} at {event.sensor} {event.quantity}:"
                f" {len(mine)} alerts of kind {event.alert_kind}, {paged} pages"
            )
    return found, complaints


async def _stored_latency(
    connection: AsyncConnection[Any], begun: datetime
) -> tuple[int, float | None, float | None]:
    cursor = await connection.execute(_STORED_LATENCY, (begun,))
    row = await cursor.fetchone()
    rows, quantiles = row if row is not None else (0, None)
    if quantiles is None:
        return rows, None, None
    return rows, round(float(quantiles[0]), 1), round(float(quantiles[1]), 1)


async def _alerts(connection: AsyncConnection[Any], begun: datetime) -> list[_Alert]:
    cursor = await connection.execute(_ALERTS, (begun,))
    return [_Alert(*row) for row in await cursor.fetchall()]


def _page_latency(pages: Sequence[Arrival]) -> dict[str, float | None]:
    """Return quantiles of the time from the reading that opened the first alert to its page.

    With the group wait. Alerts of minutes wait for their minute to be over, and sensors that fell
    silent for others to do so: these are left out.
    """
    latency = [
        (arrival.at - arrival.notice.since).total_seconds() * 1000
        for arrival in pages
        if arrival.notice.revision == 1 and arrival.notice.kind not in _WAIT
    ]
    if not latency:
        return {"p50": None, "p99": None}
    p50, p99 = np.percentile(latency, [50, 99])
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1)}
