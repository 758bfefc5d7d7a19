"""Calls that block, each on a thread of its own.

The event loop has one pool of a few threads for all who ask. A call that hangs keeps its thread
there whoever waits for it, so a few of them would stop every other, and a program that ends would
wait for them. These threads are nobody else's, and keep no program from its end.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

ResultT = TypeVar("ResultT")


async def in_thread(call: Callable[[], ResultT], name: str) -> ResultT:
    """Return what a call returns, or raise what it raises; it goes on where this is cancelled.

    How many hang at once is the caller's to bound.

    Parameters
    ----------
    call : callable
    name : str
        Of the thread.
    """
    loop = asyncio.get_running_loop()
    said: asyncio.Future[ResultT] = loop.create_future()

    def settle(set_it: Callable[[], None]) -> None:
        if not said.done():
            set_it()

    def run() -> None:
        set_it: Callable[[], None]
        try:
            set_it = partial(said.set_result, call())
        except Exception as error:  # noqa: BLE001 - it is the caller's
            set_it = partial(said.set_exception, error)
        # The loop may have ended in the meantime.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, set_it)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await said
