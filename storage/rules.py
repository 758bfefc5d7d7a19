"""What workers note of rules and shadows, and what people ask of it.

A worker writes here within the transaction of its flush. What a shadow opens and closes stands in a
table of its own: `outbox` refers to `alert`, so no page can ever speak of it.
"""

from collections.abc import Sequence
from typing import Any, Final

from psycopg import AsyncCursor

from storage.flush import Opened, Ruled, Shadowed, ShadowEnded

_RULED: Final = """
    INSERT INTO rules_applied (topic, partition, message_offset, fingerprint, rules, watermark,
                               log_id)
    VALUES (%s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT DO NOTHING
"""
_OPEN: Final = """
    INSERT INTO shadow_alert (shadow, series_id, category, kind, opened_at, seen, expected, lower,
                              upper, score, sentence)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT DO NOTHING
"""
_CLOSE: Final = """
    UPDATE shadow_alert SET closed_at = %s
    WHERE shadow = %s AND series_id = %s AND category = %s AND closed_at IS NULL
"""
_END: Final = """
    UPDATE shadow_alert SET closed_at = greatest(opened_at, %s)
    WHERE shadow = %s AND series_id = ANY(%s) AND closed_at IS NULL
"""


async def put_ruled(cursor: AsyncCursor[Any], ruled: Sequence[Ruled], log_id: str) -> None:
    """Note which rules hold from where on."""
    for one in ruled:
        place = (one.topic, one.partition, one.offset)
        await cursor.execute(_RULED, (*place, one.fingerprint, one.rules, one.at, log_id))


async def put_shadowed(cursor: AsyncCursor[Any], changes: Sequence[Shadowed | ShadowEnded]) -> None:
    """Note what shadows opened and closed."""
    for one in changes:
        if isinstance(one, ShadowEnded):
            await cursor.execute(_END, (one.at, one.shadow, list(one.series_ids)))
        elif isinstance(one.change, Opened):
            page = one.change.page
            names = ("category", "kind", "since", "seen", "expected", "lower", "upper", "score")
            values = (getattr(page, name) for name in (*names, "sentence"))
            await cursor.execute(_OPEN, (one.shadow, one.change.series_id, *values))
        else:
            page = one.change.page
            await cursor.execute(
                _CLOSE, (page.resolved_at, one.shadow, one.change.series_id, page.category)
            )
