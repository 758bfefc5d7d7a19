"""Does the ledger balance? What bridges took in against what the database holds of it.

Two books are compared. By bridge, source and minute of arrival the counts of the bridges must meet
what the database made of the readings, the reasons of what was not taken, and the dead letters that
are there. And since readings do not say when they arrived, the rows of each source that are there
must be, over all time, those that the ledger says were stored, less those removed on purpose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from psycopg import AsyncConnection
from psycopg.sql import SQL

from storage.expiry import sources

_MINUTE: Final = timedelta(minutes=1)
_HOUR: Final = timedelta(hours=1)


class _Rule(NamedTuple):
    """Two sums that must be equal in every minute, and how to name it when they are not."""

    left: str
    right: str
    short: str
    over: str


_RULES: Final = (
    _Rule(
        "messages",
        "passed + rejected",
        "{} messages unaccounted for",
        "{} messages accounted for that did not come",
    ),
    _Rule(
        "readings",
        "stored + duplicates + late_conflicts",
        "{} readings unaccounted for",
        "{} readings accounted for that were not passed on",
    ),
    _Rule(
        "rejected + refused",
        "reasoned",
        "reasons missing: {}",
        "reasons of nothing that was rejected or refused: {}",
    ),
    _Rule(
        "withheld",
        "of_kind",
        "kinds of withheld attributes missing: {}",
        "kinds of attributes that were not withheld: {}",
    ),
    _Rule(
        "rejected",
        "letters",
        "dead letters missing: {}",
        "dead letters of nothing that was rejected: {}",
    ),
    _Rule(
        "refused",
        "records",
        "refused records missing from the dead letters: {}",
        "records in the dead letters that were not refused: {}",
    ),
)
_GAPS: Final = """
    SELECT topic, partition, first_offset, next_offset, found_at
    FROM log_gap
    WHERE (%(since)s::timestamptz IS NULL OR found_at >= %(since)s)
      AND (%(until)s::timestamptz IS NULL OR found_at < %(until)s)
    ORDER BY found_at, topic, partition
"""
# Of a line, in the order in which they are told.
COUNTS: Final = (
    "messages",
    "passed",
    "rejected",
    "readings",
    "stored",
    "duplicates",
    "late_conflicts",
    "late",
    "repeated",
    "refused",
    "withheld",
    "letters",
)
# Balanced minute by minute, told by the hour: what is missing in one minute is not made good by
# what is too much in another.
_LINES: Final = """
    WITH minutes AS (
        SELECT bridge, source, minute, messages, passed, rejected, readings, stored, duplicates,
               late_conflicts, late, repeated, refused, withheld
        FROM ledger
        WHERE (%(since)s::timestamptz IS NULL OR minute >= %(since)s)
          AND (%(until)s::timestamptz IS NULL OR minute < %(until)s)
    ), kinds AS (
        SELECT bridge, source, minute,
               sum(count) FILTER (WHERE outcome = 'rejected') AS reasoned,
               sum(count) FILTER (WHERE outcome = 'withheld') AS of_kind
        FROM ledger_kind
        WHERE (%(since)s::timestamptz IS NULL OR minute >= %(since)s)
          AND (%(until)s::timestamptz IS NULL OR minute < %(until)s)
        GROUP BY bridge, source, minute
    ), buried AS (
        SELECT bridge, source, date_trunc('minute', received_at) AS minute,
               count(*) FILTER (WHERE records = 0) AS letters, sum(records) AS records
        FROM dead_letter_listed
        WHERE (%(since)s::timestamptz IS NULL OR received_at >= %(since)s)
          AND (%(until)s::timestamptz IS NULL OR received_at < %(until)s)
        GROUP BY 1, 2, 3
    ), line AS (
        -- Whatever one of the three has, the others must have, too.
        SELECT bridge, source, minute, {wholes}
        FROM minutes FULL JOIN kinds USING (bridge, source, minute)
        FULL JOIN buried USING (bridge, source, minute)
    )
    SELECT bridge, source, date_trunc('hour', minute) AS hour, {sums}, {gaps},
           min(minute) FILTER (WHERE {broken})
    FROM line
    GROUP BY bridge, source, hour
    ORDER BY hour, bridge, source
"""
_KINDS: Final = """
    SELECT bridge, source, date_trunc('hour', minute) AS hour, outcome, kind, sum(count)::bigint
    FROM ledger_kind
    WHERE (%(since)s::timestamptz IS NULL OR minute >= %(since)s)
      AND (%(until)s::timestamptz IS NULL OR minute < %(until)s)
    GROUP BY bridge, source, hour, outcome, kind
    ORDER BY sum(count) DESC, kind
"""
# Counted by series first: the readings are never joined one by one.
_STORAGE: Final = """
    WITH present AS (
        SELECT coalesce(d.source, 'unknown') AS source, sum(r.rows) AS rows
        FROM (SELECT series_id, count(*) AS rows FROM reading GROUP BY series_id) r
        LEFT JOIN series USING (series_id)
        LEFT JOIN unnest(%(quantities)s::text[], %(sources)s::text[]) AS d (quantity, source)
          USING (quantity)
        GROUP BY 1
    ), written AS (
        SELECT source, sum(stored) AS stored
        FROM ledger_ever GROUP BY source HAVING sum(stored) <> 0
    )
    SELECT source, coalesce(w.stored, 0)::bigint, coalesce(e.rows, 0)::bigint,
           coalesce(p.rows, 0)::bigint
    FROM written w FULL JOIN present p USING (source) FULL JOIN expired e USING (source)
    ORDER BY source
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """What one bridge took from one source in one hour, and what became of it.

    Parameters
    ----------
    bridge, source : str
    hour : datetime
        Start of the hour of arrival, UTC.
    messages : int
        MQTT messages received, redeliveries included.
    passed, rejected : int
        Messages taken, whole or in part, and messages that were not.
    readings : int
        Readings the bridge passed on.
    stored, duplicates, late_conflicts : int
        What became of `readings`.
    late : int
        Of `readings`, those that came too late to be judged, whatever became of them.
    repeated : int
        Readings left out because their own message had them already.
    refused : int
        Records that could not be taken of messages that were.
    withheld : int
        Attributes that were not allowed to pass.
    letters : int
        Dead letters of whole messages that are there.
    reasons : mapping of str to int
        `rejected` and `refused`, by reason.
    kinds : mapping of str to int
        `withheld`, by kind.
    faults : sequence of str
        What does not balance; empty where everything does.
    """

    bridge: str
    source: str
    hour: datetime
    messages: int
    passed: int
    rejected: int
    readings: int
    stored: int
    duplicates: int
    late_conflicts: int
    late: int
    repeated: int
    refused: int
    withheld: int
    letters: int
    reasons: Mapping[str, int]
    kinds: Mapping[str, int]
    faults: Sequence[str]

    @property
    def missing(self) -> int:
        """Readings passed on of which nothing is known; 0 where the line balances."""
        return self.readings - self.stored - self.duplicates - self.late_conflicts

    def __str__(self) -> str:
        """Return where the line stands."""
        return f"{self.source} {self.hour:%Y-%m-%dT%H:%M} {self.bridge}"


@dataclass(frozen=True, slots=True)
class StorageLine:
    """The readings of one source over all time.

    Parameters
    ----------
    source : str
    stored : int
        Rows written, as the ledger counts them.
    expired : int
        Rows removed on purpose.
    rows : int
        Rows that are there.
    """

    source: str
    stored: int
    expired: int
    rows: int

    @property
    def faults(self) -> Sequence[str]:
        """What does not balance; empty where everything does."""
        missing = self.stored - self.expired - self.rows
        if missing > 0:
            return (f"rows missing from storage: {missing}",)
        return (f"rows in storage that nobody has counted: {-missing}",) if missing else ()

    def __str__(self) -> str:
        """Return where the line stands."""
        return f"{self.source} in storage"


@dataclass(frozen=True, slots=True)
class Audit:
    """The ledger against the database.

    Parameters
    ----------
    lines : sequence of AuditLine
        Oldest first.
    storage : sequence of StorageLine or None
        None where only a part of the time was looked at: readings do not say when they arrived.
    gaps : sequence of str
        What Kafka lost before a worker had read it; the counts were lost with the readings.
    """

    lines: Sequence[AuditLine]
    storage: Sequence[StorageLine] | None
    gaps: Sequence[str] = ()

    @property
    def faults(self) -> list[str]:
        """Everything that does not balance, each with its place."""
        every: list[AuditLine | StorageLine] = [*self.lines, *(self.storage or ())]
        return [*(f"{line}: {fault}" for line in every for fault in line.faults), *self.gaps]


async def audit(
    connection: AsyncConnection[Any], since: datetime | None, until: datetime | None
) -> Audit:
    """Balance the ledger.

    Without bounds every reading is counted, which takes about as long as a scan of the table; it
    holds nobody up.

    Parameters
    ----------
    connection : AsyncConnection
        With the namespace's schema on its search path, and in no transaction.
    since, until : datetime or None
        Bounds on the minute of arrival, [since, until).
    """
    bounds = {"since": _whole_minute(since), "until": _whole_minute(until)}
    async with connection.transaction(), connection.cursor() as cursor:
        # All sums of one moment, while workers go on writing.
        await cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        kinds: dict[tuple[Any, ...], dict[str, int]] = {}
        await cursor.execute(_KINDS, bounds)
        for *place, kind, count in await cursor.fetchall():
            kinds.setdefault(tuple(place), {})[kind] = count
        await cursor.execute(_lines_query(), bounds)
        lines = [_line(row, kinds) for row in await cursor.fetchall()]
        await cursor.execute(_GAPS, bounds)
        gaps = tuple(_gap(row) for row in await cursor.fetchall())
        if since is not None or until is not None:
            return Audit(lines, None, gaps)
        await cursor.execute(_STORAGE, sources())
        return Audit(lines, [StorageLine(*row) for row in await cursor.fetchall()], gaps)


def _gap(row: Sequence[Any]) -> str:
    topic, partition, first, end, found_at = row
    return (
        f"{topic}/{partition}: {end - first} messages expired unread, offsets {first} to {end - 1},"
        f" found {found_at.astimezone(UTC):%Y-%m-%dT%H:%M}"
    )


def _whole_minute(moment: datetime | None) -> datetime | None:
    """Return the first minute that begins at `moment` or later."""
    if moment is None:
        return None
    begun = moment.astimezone(UTC).replace(second=0, microsecond=0)
    return begun if begun == moment else begun + _MINUTE


def _lines_query() -> Any:
    names = [*COUNTS, "reasoned", "of_kind", "records"]
    gaps = []
    for rule in _RULES:
        gap = f"({rule.left}) - ({rule.right})"
        gaps += [
            f"sum(greatest({gap}, 0))::bigint",
            f"sum(greatest(-({gap}), 0))::bigint",
        ]
    return SQL(_LINES).format(
        wholes=SQL(", ".join(f"coalesce({name}, 0) AS {name}" for name in names)),
        sums=SQL(", ".join(f"sum({name})::bigint" for name in COUNTS)),
        gaps=SQL(", ".join(gaps)),
        broken=SQL(" OR ".join(f"{rule.left} <> {rule.right}" for rule in _RULES)),
    )


def _line(row: Sequence[Any], kinds: Mapping[tuple[Any, ...], Mapping[str, int]]) -> AuditLine:
    bridge, source, hour, *numbers = row
    *gaps, first = numbers[len(COUNTS) :]
    phrases = [phrase for rule in _RULES for phrase in (rule.short, rule.over)]
    faults = [phrase.format(gap) for phrase, gap in zip(phrases, gaps, strict=True) if gap]
    if faults and first != hour:
        faults = [f"{fault}, from {first:%H:%M} on" for fault in faults]
    return AuditLine(
        bridge=bridge,
        source=source,
        hour=hour,
        **dict(zip(COUNTS, numbers, strict=False)),
        reasons=kinds.get((bridge, source, hour, "rejected"), {}),
        kinds=kinds.get((bridge, source, hour, "withheld"), {}),
        faults=faults,
    )
