"""The sender's shell: deliveries to hooks, each hook by its own terms.

It tells every delivery at least once, under a key that never changes. Each of these may happen at
any moment and loses nothing: the sender is killed (its leases run out), the database goes away
(what was told meanwhile is written down when it is back), the bell is not heard (it polls).

Only what can be sent at once is claimed, so a lease never runs out in a queue. One coroutine owns
the database connection; deliveries only talk to their hook and leave their outcome for it. A hook
that is dead takes up its own places and no other's.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from traceback import extract_tb
from typing import Final

from paging import deliveries
from paging.backoff import backoff_s, within
from paging.connection import Connection
from paging.deliveries import Abandoned, Claim, Delivered, Failed, Outcome, Spared
from paging.hooks import HookTerms, Notifier, Refused, Retry
from paging.notices import Notice, NoticeError, Recipient, for_delivery
from paging.routes import Routes

log = logging.getLogger(__name__)

# The share of a lease that an attempt may use; the rest is for writing down what came of it.
_SENDING_SHARE: Final = 0.5
_ORPHANS_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderConfig:
    """How deliveries are tried.

    Parameters
    ----------
    poll_interval_s : float
        How often the table is looked at when the bell does not ring.
    batch : int
        Most deliveries of a hook claimed at once.
    lease_s : float
        How long a claim holds; a page of a sender that was killed is late by as much.
    max_attempts : int
        After so many failed attempts a delivery is given up.
    backoff_base_s, backoff_cap_s : float
        Bounds of the wait after the first failed attempt and after any.
    """

    poll_interval_s: float = 1.0
    batch: int = 50
    lease_s: float = 30.0
    max_attempts: int = 1000
    backoff_base_s: float = 0.5
    backoff_cap_s: float = 60.0


@dataclass(slots=True)
class _Line:
    """One hook, what is on its way to it, and how much more it may take."""

    notifier: Notifier
    terms: HookTerms
    lease_s: float
    refilled_at: float
    tokens: float
    sending: set[asyncio.Task[Outcome]] = field(default_factory=set)
    outcomes: list[Outcome] = field(default_factory=list)

    def room(self, now: float) -> int:
        """Return how many deliveries may be claimed now."""
        burst = max(1.0, min(self.terms.per_minute, self.terms.concurrency))
        refill = (now - self.refilled_at) * self.terms.per_minute / 60.0
        self.tokens, self.refilled_at = min(self.tokens + refill, burst), now
        free = self.terms.concurrency - len(self.sending) - len(self.outcomes)
        return max(min(free, int(self.tokens)), 0)

    def wait_s(self) -> float | None:
        """Return when another attempt may be made, where the rate alone stands against it."""
        if self.tokens >= 1.0:
            return None
        return (1.0 - self.tokens) * 60.0 / self.terms.per_minute


class Sender:
    """Delivers what is to be told in one namespace.

    Parameters
    ----------
    routes : Routes
    notifiers : mapping of str to Notifier
        By the name of the hook.
    config : SenderConfig
    random : Random
        The source of jitter.
    """

    def __init__(
        self,
        routes: Routes,
        notifiers: Mapping[str, Notifier],
        config: SenderConfig,
        random: Random,
    ) -> None:
        self._routes = routes
        self._config = config
        self._random = random
        self._lines = {
            name: self._line(hook.terms, notifiers[name]) for name, hook in routes.hooks.items()
        }
        # Of hooks that are gone, until what was under way is written down.
        self._leaving: list[_Line] = []
        self._orphans_at = -_ORPHANS_S
        # By which routes nothing is put off any more that is for hooks that are not there.
        self._hastened: Routes | None = None

    @property
    def untold(self) -> int:
        """How many outcomes are not written down yet."""
        return sum(len(line.outcomes) for line in self._every())

    def renew(
        self, routes: Routes, notifiers: Mapping[str, Notifier]
    ) -> set[asyncio.Task[Outcome]]:
        """Deliver by other routes; return what is under way by notifiers that are not in use now.

        A hook that stays keeps what it may still take, whatever else of it has changed.
        """
        self._routes = routes
        left: set[asyncio.Task[Outcome]] = set()
        lines = {}
        for name, hook in routes.hooks.items():
            line = self._lines.pop(name, None)
            if line is None:
                line = self._line(hook.terms, notifiers[name])
            if line.notifier is not notifiers[name]:
                left |= line.sending
            line.notifier, line.terms = notifiers[name], hook.terms
            line.lease_s = self._lease_s(hook.terms)
            lines[name] = line
        for line in self._lines.values():
            left |= line.sending
            self._leaving.append(line)
        self._lines = lines
        return left

    def _line(self, terms: HookTerms, notifier: Notifier) -> _Line:
        now = time.monotonic()
        return _Line(notifier, terms, self._lease_s(terms), now, float(terms.concurrency))

    def _lease_s(self, terms: HookTerms) -> float:
        return max(self._config.lease_s, terms.timeout_s / _SENDING_SHARE)

    def _every(self) -> list[_Line]:
        return [*self._lines.values(), *self._leaving]

    async def serve(
        self,
        connection: Connection,
        group: asyncio.TaskGroup,
        bell: asyncio.Event,
        stop: asyncio.Event,
    ) -> None:
        """Deliver until `stop` is set, then finish the deliveries under way.

        Raises
        ------
        psycopg.Error
            If the database is away or refuses; what was told is written down next time.
        """
        while not stop.is_set():
            bell.clear()
            await self._write_down(connection)
            if not await self._take(connection, group, bell):
                await within(self._pause_s(), bell)
        sending = [task for line in self._every() for task in line.sending]
        if sending:
            await asyncio.wait(sending)
        await self._write_down(connection)

    def _pause_s(self) -> float:
        waits = [wait for line in self._lines.values() if (wait := line.wait_s()) is not None]
        return min([self._config.poll_interval_s, *waits])

    async def _take(
        self, connection: Connection, group: asyncio.TaskGroup, bell: asyncio.Event
    ) -> bool:
        """Claim what can be sent at once; say whether there may be more to do."""
        found = False
        for name, line in tuple(self._lines.items()):
            room = min(line.room(time.monotonic()), self._config.batch)
            if room <= 0:
                continue
            claims = await deliveries.claim(connection, name, limit=room, lease_s=line.lease_s)
            if self._lines.get(name) is not line:
                # Its hook has gone meanwhile; this goes the way of what else is left for it.
                continue
            line.tokens -= len(claims)
            found = found or bool(claims)
            for claim in claims:
                self._start(name, line, claim, group, bell)
        # Once, for another pager may know them; and when what is under way has been answered.
        if self._hastened is not self._routes and not self._leaving:
            routes = self._routes
            await deliveries.hasten_orphans(connection, list(routes.hooks))
            self._hastened = routes
        if time.monotonic() - self._orphans_at >= _ORPHANS_S:
            self._orphans_at = time.monotonic()
            lost = await deliveries.abandon_orphans(connection, list(self._lines))
            if lost:
                log.error("deliveries for hooks that are not there", extra={"deliveries": lost})
        return found

    def _start(
        self, name: str, line: _Line, claim: Claim, group: asyncio.TaskGroup, bell: asyncio.Event
    ) -> None:
        try:
            notice = claim.notice()
        except NoticeError as error:
            # Not given up at once: a newer pager may write what only a newer one can read.
            line.outcomes.append(
                self._failed(line, claim, Retry(None, f"unreadable: {error}", may_have_come=False))
            )
            return
        if not claim.is_awaited:
            line.outcomes.append(Spared(claim, "nobody was told there that it began"))
            return
        to = None
        if claim.person is not None:
            address = self._routes.people.get(claim.person, {}).get(name)
            to = Recipient(name=claim.person, address=address)
        told = for_delivery(notice, step=claim.step, to=to)
        task = group.create_task(self._delivered(line, claim, told))
        line.sending.add(task)

        def sent(task: asyncio.Task[Outcome]) -> None:
            line.sending.discard(task)
            if not task.cancelled():
                line.outcomes.append(task.result())
                bell.set()

        task.add_done_callback(sent)

    async def _delivered(self, line: _Line, claim: Claim, notice: Notice) -> Outcome:
        limit_s = line.terms.timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await line.notifier.send(notice, claim.key)
        except Refused as error:
            return Abandoned(claim, f"refused: {error.reason}", may_have_come=False)
        except Retry as error:
            return self._failed(line, claim, error)
        except TimeoutError:
            return self._failed(line, claim, Retry(None, f"not told within {limit_s:g} s"))
        except Exception as error:  # noqa: BLE001 - a hook's fault must not stop other pages
            # Its text is not repeated: it may quote the hook's URL.
            place = extract_tb(error.__traceback__)[-1]
            fault = f"{type(error).__name__} in {place.name}, line {place.lineno}"
            return self._failed(line, claim, Retry(None, f"the hook failed: {fault}"))
        return Delivered(claim)

    def _failed(self, line: _Line, claim: Claim, fault: Retry) -> Outcome:
        reason, came = fault.reason, fault.may_have_come
        if claim.attempts >= self._config.max_attempts:
            return Abandoned(claim, f"gave up after {claim.attempts} attempts: {reason}", came)
        # On top of what the receiver asked for, or all pages would come back in one moment.
        delay_s = (fault.after_s or 0.0) + backoff_s(
            claim.attempts,
            base_s=self._config.backoff_base_s,
            cap_s=self._config.backoff_cap_s,
            random=self._random,
        )
        if claim.age_s + delay_s > line.terms.give_up_after_s:
            return Abandoned(claim, f"gave up after {claim.age_s:.0f} s: {reason}", came)
        return Failed(claim, reason, delay_s, came)

    async def _write_down(self, connection: Connection) -> None:
        for line in self._every():
            outcomes = tuple(line.outcomes)
            if outcomes:
                await deliveries.record(connection, outcomes)
                # Only now: what the database did not take is offered to it again.
                del line.outcomes[: len(outcomes)]
            for outcome in outcomes:
                _log(outcome)
        self._leaving = [line for line in self._leaving if line.sending or line.outcomes]


def _log(outcome: Outcome) -> None:
    facts: dict[str, str | int | float] = {
        "key": outcome.claim.key,
        "attempts": outcome.claim.attempts,
    }
    match outcome:
        case Delivered():
            log.info("page delivered", extra=facts)
        case Failed(error=error, delay_s=delay_s):
            log.warning("page failed", extra=facts | {"error": error, "delay_s": delay_s})
        case Abandoned(error=error):
            log.error("page abandoned", extra=facts | {"error": error})
        case Spared(reason=reason):
            log.info("page not told", extra=facts | {"reason": reason})
