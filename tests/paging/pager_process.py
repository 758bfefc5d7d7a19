"""A pager in a process of its own, for the tests that kill one."""

import asyncio
import sys

from paging.pager import Pager, PagerConfig


def main() -> None:
    dsn, schema, url = sys.argv[1:]
    config = PagerConfig(webhook_url=url, webhook_timeout_s=0.5, lease_s=1.0, poll_interval_s=0.05)
    asyncio.run(Pager(dsn, schema, "live", config).run(asyncio.Event()))


if __name__ == "__main__":
    main()
