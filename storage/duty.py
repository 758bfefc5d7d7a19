"""The figures of a duty: how soon people were told, had it and were done, and of what."""

from datetime import datetime
from typing import Any, Final, NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import class_row

_FIGURES: Final = """
    SELECT {by} AS "group", count(*) AS causes, sum(pages)::bigint AS pages,
           sum(alerts)::bigint AS alerts,
           {median} extract(epoch FROM delivered_at - began_at)) AS to_page_s,
           {last} extract(epoch FROM delivered_at - began_at)) AS to_page_p99_s,
           {median} extract(epoch FROM acknowledged_at - told_at)) AS to_acknowledge_s,
           {median} extract(epoch FROM resolved_at - told_at)) AS to_resolve_s,
           count(*) FILTER (WHERE marked_false > 0) AS marked_false
    FROM page_duty
    WHERE told_at >= %(since)s AND told_at < %(until)s
    GROUP BY 1 ORDER BY causes DESC, 1
"""
_MEDIAN: Final = "percentile_cont(0.5) WITHIN GROUP (ORDER BY"
_LAST: Final = "percentile_cont(0.99) WITHIN GROUP (ORDER BY"


class Figures(NamedTuple):
    """What was told of one cause, or in one shift.

    Parameters
    ----------
    group : str
        The cause, or when the shift began.
    causes, pages, alerts : int
        Groups that were told, pages that came, and alerts they spoke for.
    to_page_s, to_page_p99_s : float or None
        Median and 99th percentile from the first alert's event time to the page at its first
        receiver; with everything that the pager waits for.
    to_acknowledge_s, to_resolve_s : float or None
        Medians from the first word; of those that were.
    marked_false : int
        Groups that somebody has called a false page.
    """

    group: str
    causes: int
    pages: int
    alerts: int
    to_page_s: float | None
    to_page_p99_s: float | None
    to_acknowledge_s: float | None
    to_resolve_s: float | None
    marked_false: int


async def by_cause(
    connection: AsyncConnection[Any], since: datetime, until: datetime
) -> list[Figures]:
    """Return the figures of each cause told in [since, until): by kind, or what went dark."""
    by = "CASE cause WHEN 'sensors' THEN coalesce(labels ->> 'kind', route) ELSE cause END"
    return await _figures(connection, by, {"since": since, "until": until})


async def by_shift(
    connection: AsyncConnection[Any], begins: list[datetime], until: datetime
) -> list[Figures]:
    """Return the figures of each shift that has begun at one of `begins`, which are in order."""
    by = "(%(begins)s::timestamptz[])[width_bucket(told_at, %(begins)s::timestamptz[])]::text"
    values = {"begins": begins, "since": begins[0], "until": until}
    return await _figures(connection, by, values)


async def _figures(
    connection: AsyncConnection[Any], by: str, values: dict[str, Any]
) -> list[Figures]:
    query = _FIGURES.format(by=by, median=_MEDIAN, last=_LAST)
    async with connection.cursor(row_factory=class_row(Figures)) as cursor:
        return await (await cursor.execute(query, values)).fetchall()
