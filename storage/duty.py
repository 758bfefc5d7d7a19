"""Figures for the duty: how long it takes to page, acknowledge and resolve, and how much there is.

A page is a cause that people were to be told of, also one that no hook took. Its times begin when
the first of its alerts was written down, and when the first word of it was delivered, all by the
database's clock. Of several marks of a page the newest counts.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import class_row

_FIGURES: Final = """
WITH page AS (
    SELECT g.cause, g.told_at, g.first_acknowledged_at AS acknowledged_at, g.closed_at,
           (SELECT min(a.recorded_at) FROM page_member m JOIN alert a USING (alert_id)
            WHERE m.group_key = g.group_key) AS fired_at,
           (SELECT min(d.delivered_at) FROM delivery d
            WHERE d.group_key = g.group_key AND d.event = 'trigger') AS paged_at,
           (SELECT k.is_false FROM page_mark k WHERE k.group_key = g.group_key
            ORDER BY k.created_at DESC, k.author LIMIT 1) AS is_false
    FROM page_group g
    WHERE g.told_at >= %(since)s AND g.told_at < %(until)s
), lasted AS (
    SELECT cause, is_false,
           extract(epoch FROM paged_at - fired_at) AS page_s,
           -- Nothing where it has not come to that: greatest() would make 0 of it.
           extract(epoch FROM CASE WHEN acknowledged_at < paged_at THEN '0'
                                   ELSE acknowledged_at - paged_at END) AS acknowledge_s,
           extract(epoch FROM CASE WHEN closed_at < paged_at THEN '0'
                                   ELSE closed_at - paged_at END) AS resolve_s
    FROM page
)
SELECT coalesce(cause, 'all') AS cause, count(*) AS pages,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY page_s) AS page_median_s,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY page_s) AS page_p95_s,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY acknowledge_s) AS acknowledge_median_s,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY acknowledge_s) AS acknowledge_p95_s,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY resolve_s) AS resolve_median_s,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY resolve_s) AS resolve_p95_s,
       count(is_false) AS marked, count(*) FILTER (WHERE is_false) AS false
FROM lasted
GROUP BY GROUPING SETS ((), (cause))
ORDER BY grouping(cause) DESC, pages DESC, cause
"""
_SHIFTS: Final = """
SELECT s.began, count(g.group_key) AS pages
FROM (SELECT began, lead(began, 1, %(until)s) OVER (ORDER BY began) AS ends
      FROM unnest(%(began)s::timestamptz[]) AS x (began)) s
LEFT JOIN page_group g ON g.told_at >= greatest(s.began, %(since)s) AND g.told_at < s.ends
GROUP BY s.began ORDER BY s.began
"""


class PagesOf(NamedTuple):
    """Figures of the pages of one cause, or of `all`; times in seconds, None where none is."""

    cause: str
    pages: int
    page_median_s: float | None
    page_p95_s: float | None
    acknowledge_median_s: float | None
    acknowledge_p95_s: float | None
    resolve_median_s: float | None
    resolve_p95_s: float | None
    marked: int
    false: int


class ShiftPages(NamedTuple):
    """How many causes people were told of in a shift."""

    began: datetime
    pages: int


async def figures(
    connection: AsyncConnection[Any], since: datetime, until: datetime
) -> list[PagesOf]:
    """Return the figures of what people were told of in [since, until): of all, then by cause."""
    async with connection.cursor(row_factory=class_row(PagesOf)) as cursor:
        await cursor.execute(_FIGURES, {"since": since, "until": until})
        return await cursor.fetchall()


async def shifts(
    connection: AsyncConnection[Any], began: Sequence[datetime], since: datetime, until: datetime
) -> list[ShiftPages]:
    """Return the pages of each shift in [since, until), which cuts off the first and the last."""
    values = {"began": list(began), "since": since, "until": until}
    async with connection.cursor(row_factory=class_row(ShiftPages)) as cursor:
        await cursor.execute(_SHIFTS, values)
        return await cursor.fetchall()
