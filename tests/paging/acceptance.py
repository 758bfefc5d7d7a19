"""Nights through the real database, a pager and HTTP receivers, that read as timelines.

    play(
        at(2.2, open("traffic-1")),
        want(between(3, 3.5), page("traffic-1", hook="control")),
    )

As `timeline.py`, with everything between an alert and a receiver. The decider's clock is advanced
by hand, from one moment at which something happens to the next at which the pager wants to be
woken, and never before all is decided and delivered. So bounds are those of the pager, and no
machine is too busy for them. Whatever comes must be wanted, and whatever is wanted must come.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from paging.hooks.kinds import KINDS
from paging.notices import Notice
from paging.pager import Pager, PagerConfig
from paging.routes import read_routes
from paging.sender import SenderConfig
from storage.pages import Page
from tests.paging.conftest import QUICK, Clock
from tests.paging.scaffold import Hook, Table, answer, hooked, page_of, resolution_of, running
from tests.paging.timeline import Want, Wanted

_BUSY = (
    ("outbox", "decided_at IS NULL"),
    ("delivery", "delivered_at IS NULL AND abandoned_at IS NULL"),
    ("delivery", "abandoned_at IS NOT NULL AND heeded_at IS NULL"),
)


@dataclass
class City:
    """What goes on, and who is told of it."""

    table: Table
    clock: Clock
    hooks: dict[str, Hook] = field(default_factory=dict)
    pages: dict[str, Page] = field(default_factory=dict)

    async def settle(self) -> datetime | None:
        """Return when the pager wants to be woken, once there is nothing to do until then.

        No turn is under way then: one that has its time already would hear what happens next.
        """
        while True:
            seen = self.clock.turns
            # The one that is under way may have heard nothing of what happened since.
            while self.clock.turns < seen + 2:
                self.table.ring()
                await asyncio.sleep(0.01)
            while self.clock.under_way:  # noqa: ASYNC110 - it is the next thing that happens
                await asyncio.sleep(0)
            (row,) = self.table.execute("SELECT wakes_at FROM pager_turn")
            wakes_at: datetime | None = row["wakes_at"]
            is_due = wakes_at is not None and wakes_at <= self.clock.now
            if not is_due and not any(self.table.count(what, where) for where, what in _BUSY):
                return wakes_at


Action = Callable[[City], None]


@dataclass(frozen=True)
class At:
    seconds: float
    actions: Sequence[Action]


def at(seconds: float, *actions: Action) -> At:
    return At(seconds, actions)


def open(sensor: str, **facts: Any) -> Action:  # noqa: A001 - the word of the trade
    def happen(city: City) -> None:
        city.pages[sensor] = page_of(**{"sensor": sensor, "since": city.clock.now} | facts)
        city.table.put(city.pages[sensor])

    return happen


def over(*sensors: str) -> Action:
    def happen(city: City) -> None:
        for sensor in sensors:
            ended = resolution_of(city.pages[sensor])
            city.table.put(msgspec.structs.replace(ended, resolved_at=city.clock.now))

    return happen


def acknowledge(sensor: str, by: str = "anna") -> Action:
    def happen(city: City) -> None:
        alert_id = city.pages[sensor].alert_id
        city.table.execute("SELECT acknowledge_alert(%s, %s, 'on my way')", alert_id, by)

    return happen


def silence(seconds: float, **match: str) -> Action:
    def happen(city: City) -> None:
        city.table.execute(
            "INSERT INTO silence (kind, match, begins_at, ends_at, comment, author)"
            " VALUES ('silence', %s, %s, %s, 'works', 'anna')",
            Jsonb(match),
            city.clock.now,
            city.clock.now + timedelta(seconds=seconds),
        )

    return happen


def refuses(hook: str) -> Action:
    """Let a hook take nothing from now on."""
    return lambda city: city.hooks[hook].script.extend([answer(400)] * 1000)


def play(table: Table, clock: Clock, routes: str, *parts: At | Want, until: float = 600.0) -> None:
    """Let a night happen, and compare what came with what was wanted."""
    city = City(table, clock)
    begin = clock.now
    parties = sorted((one for one in parts if isinstance(one, At)), key=lambda one: one.seconds)
    wants = [one for one in parts if isinstance(one, Want)]

    async def night() -> None:
        pending = [(begin + timedelta(seconds=one.seconds), one.actions) for one in parties]
        wakes_at = await city.settle()
        while True:
            upcoming = [one for one in (wakes_at, *(at for at, _ in pending[:1])) if one]
            if not upcoming or min(upcoming) > begin + timedelta(seconds=until):
                return
            clock.now = min(upcoming)
            while pending and pending[0][0] <= clock.now:
                for action in pending.pop(0)[1]:
                    action(city)
            wakes_at = await city.settle()

    async def main() -> None:
        async with asyncio.timeout(60), AsyncExitStack() as stack:
            urls = {}
            for name in ("control", "sms"):
                city.hooks[name], urls[name] = await stack.enter_async_context(
                    hooked(Hook(lambda: clock.now))
                )
            config = PagerConfig(
                routes=read_routes(routes.format(**urls), KINDS), sender=SenderConfig(**QUICK)
            )
            await stack.enter_async_context(running(Pager(table.dsn, table.schema, "live", config)))
            await night()

    asyncio.run(main())
    came = [
        ((arrival.at - begin).total_seconds(), name, arrival.notice)
        for name, hook in city.hooks.items()
        for arrival in hook.arrivals
    ]
    _compare(sorted(came, key=lambda one: one[:2]), wants)


def _compare(came: Sequence[tuple[float, str, Notice]], wants: list[Want]) -> None:
    left = list(wants)
    unwanted = []
    for seconds, hook, notice in came:
        for wanted in left:
            inside = wanted.when.first <= seconds <= wanted.when.last
            if inside and _fits(wanted.what, hook, notice):
                left.remove(wanted)
                break
        else:
            to = "" if notice.to is None else f" for {notice.to.name}"
            unwanted.append(f"  at {seconds:g}: {notice.event} by {hook}{to}: {notice.title}")
    assert not unwanted, "came and was not wanted:\n" + "\n".join(unwanted)
    assert not left, "was wanted and did not come:\n" + "\n".join(map(str, left))


def _fits(wanted: Wanted, hook: str, notice: Notice) -> bool:
    return all(_fact(hook, notice, name) == value for name, value in wanted.what.items())


def _fact(hook: str, notice: Notice, name: str) -> Any:
    match name:
        case "hook":
            return hook
        case "sensors":
            return frozenset(one.sensor for one in notice.alerts)
        case "to":
            return None if notice.to is None else notice.to.name
        case _:
            return getattr(notice, name)
