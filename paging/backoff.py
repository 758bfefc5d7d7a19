"""How long to wait before trying again.

Exponential backoff with full jitter: after an outage every pager and every page comes back at its
own moment, not all at once. Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture
Blog, 2015, the variant "Full Jitter".
"""

import asyncio
from contextlib import suppress
from random import Random
from typing import Final

# 2**64 times any sane base is past any sane cap; a float overflows at 2**1024.
_LARGEST_EXPONENT: Final = 64


def backoff_s(attempt: int, *, base_s: float, cap_s: float, random: Random) -> float:
    """Return the wait after a failed attempt, in seconds: uniform in [0, min(cap, base 2^(n-1))].

    Parameters
    ----------
    attempt : int
        Attempts made so far, from 1.
    base_s, cap_s : float
        Bound of the wait after the first attempt, and after any.
    random : Random
        The source of the jitter.
    """
    exponent = min(max(attempt - 1, 0), _LARGEST_EXPONENT)
    return random.uniform(0.0, min(cap_s, base_s * 2.0**exponent))


async def within(seconds: float, event: asyncio.Event) -> None:
    """Return when an event is set, or after so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
