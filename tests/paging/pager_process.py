"""A pager in a process of its own, for the tests that kill one."""

import asyncio
import sys

from paging.hooks.kinds import KINDS
from paging.pager import Pager, PagerConfig
from paging.routes import read_routes
from paging.sender import SenderConfig


def main() -> None:
    dsn, schema, text = sys.argv[1:]
    config = PagerConfig(
        routes=read_routes(text, KINDS),
        sender=SenderConfig(lease_s=1.0, poll_interval_s=0.05, backoff_cap_s=1.0),
    )
    asyncio.run(Pager(dsn, schema, "live", config).run(asyncio.Event()))


if __name__ == "__main__":
    main()
