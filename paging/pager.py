"""The pager's shell: database, clock, bell and hook around the pure stages.

It tells every page at least once, under a key that never changes. Each of these may happen at any
moment and loses nothing: the pager is killed (its leases run out), the database goes away (what
was told meanwhile is written down when it is back), the bell is not heard (the pager polls).

Only rows that can be sent at once are claimed, so a lease never runs out in a queue. One coroutine
owns the database connection; deliveries only talk to the hook and leave their outcome for it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random, SystemRandom
from traceback import extract_tb
from typing import Final

import psycopg

from paging import outbox
from paging.backoff import backoff_s
from paging.gates import SERVED_NAMESPACE, Candidate, Hold, Suppress, judge, stages
from paging.outbox import Abandoned, Claim, Connection, Delivered, Failed, Held, Outcome, Suppressed
from paging.webhook import Notifier, Refused, Retry, Webhook
from storage.pages import Page, PageError

log = logging.getLogger(__name__)

# The database is away, is failing over to a standby, or broke the connection. Anything else that
# it says is a fault of this program or of its schema, and crashes.
_AWAY: Final = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError)
# The half of a lease that a delivery may use; the other is for writing down what came of it.
_SENDING_SHARE: Final = 0.5


class NamespaceRefusedError(ValueError):
    """A pager was asked to serve a namespace that must not page anyone."""

    def __init__(self, namespace: str) -> None:
        super().__init__(f"a pager serves {SERVED_NAMESPACE!r} alone, not {namespace!r}")
        self.namespace = namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class PagerConfig:
    """How the pager behaves.

    Parameters
    ----------
    webhook_url : str or None
        Where pages are posted; not shown, because it may hold a secret.
    webhook_timeout_s : float
        Bound of one attempt.
    poll_interval_s : float
        How often the outbox is looked at when the bell does not ring.
    batch : int
        Most rows claimed at once.
    lease_s : float
        How long a claim holds; a page of a pager that was killed is late by as much.
    max_attempts : int
        After so many failed attempts a page is abandoned.
    backoff_base_s, backoff_cap_s : float
        Bounds of the wait after the first failed attempt and after any.
    concurrency : int
        Most deliveries under way.
    stale_after_s : float
        A firing older than this, in event time, is no news and is suppressed.

    Raises
    ------
    ValueError
        If a bound is not positive or the lease is too short for an attempt.
    """

    webhook_url: str | None = field(default=None, repr=False)
    webhook_timeout_s: float = 5.0
    poll_interval_s: float = 1.0
    batch: int = 50
    lease_s: float = 30.0
    max_attempts: int = 1000
    backoff_base_s: float = 0.5
    backoff_cap_s: float = 60.0
    concurrency: int = 16
    stale_after_s: float = 86_400.0

    def __post_init__(self) -> None:
        """Check the bounds against each other."""
        for name in self.__dataclass_fields__:
            if name != "webhook_url" and not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0, not {getattr(self, name)}")
        if self.lease_s * _SENDING_SHARE < self.webhook_timeout_s:
            raise ValueError(
                f"lease_s: expected at least {self.webhook_timeout_s / _SENDING_SHARE}"
                f" (webhook_timeout_s / {_SENDING_SHARE}), not {self.lease_s}"
            )


class Pager:
    """Tells the pages of one namespace's outbox; several may serve the same one.

    Parameters
    ----------
    dsn : str
        The database.
    schema : str
        The namespace's schema, migrated.
    namespace : str
        What the pager serves; only `live` pages anyone.
    config : PagerConfig
        Bounds, and the webhook.
    notifier : Notifier, optional
        Tells the pages in the webhook's place.
    random : Random, optional
        The source of jitter.

    Raises
    ------
    NamespaceRefusedError
        If `namespace` is not `live`.
    ValueError
        If there is neither a notifier nor a `webhook_url`.
    """

    def __init__(
        self,
        dsn: str,
        schema: str,
        namespace: str,
        config: PagerConfig,
        *,
        notifier: Notifier | None = None,
        random: Random | None = None,
    ) -> None:
        if namespace != SERVED_NAMESPACE:
            raise NamespaceRefusedError(namespace)
        if notifier is None and config.webhook_url is None:
            raise ValueError("webhook_url: expected a URL, or there is nobody to page")
        self._dsn = dsn
        self._schema = schema
        self._config = config
        self._notifier = notifier
        self._random = random or SystemRandom()
        self._stages = stages(timedelta(seconds=config.stale_after_s))
        self._wake = asyncio.Event()
        # Together at most `concurrency`: a slot is free when its outcome is written down.
        self._sending: set[asyncio.Task[Outcome]] = set()
        self._outcomes: list[Outcome] = []
        self._failures = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Tell pages until `stop` is set, then finish the deliveries under way.

        Raises
        ------
        ExceptionGroup
            Of `psycopg.Error`, if the database says what waiting does not cure.
        """
        async with self._opened_notifier() as notifier, asyncio.TaskGroup() as group:
            watchers = [
                group.create_task(self._listen(), name="pager-bell"),
                group.create_task(self._wake_at(stop), name="pager-stop"),
            ]
            await self._serve(notifier, group, stop)
            for watcher in watchers:
                watcher.cancel()
        if self._outcomes:
            log.warning(
                "stopped while the database was away; pages are told again",
                extra={"pages": len(self._outcomes)},
            )

    @asynccontextmanager
    async def _opened_notifier(self) -> AsyncIterator[Notifier]:
        if self._notifier is not None:
            yield self._notifier
        else:
            url = self._config.webhook_url or ""
            async with Webhook(url, timeout_s=self._config.webhook_timeout_s) as webhook:
                yield webhook

    async def _serve(
        self, notifier: Notifier, group: asyncio.TaskGroup, stop: asyncio.Event
    ) -> None:
        while not stop.is_set():
            try:
                async with outbox.connected(self._dsn, self._schema) as connection:
                    await self._work(connection, notifier, group, stop)
            except _AWAY as error:
                self._failures += 1
                pause_s = self._backoff_s(self._failures)
                log.warning(
                    "the database is away",
                    extra={"error": str(error), "failures": self._failures, "pause_s": pause_s},
                )
                await _within(pause_s, stop)

    async def _work(
        self,
        connection: Connection,
        notifier: Notifier,
        group: asyncio.TaskGroup,
        stop: asyncio.Event,
    ) -> None:
        while not stop.is_set():
            self._wake.clear()
            await self._write_down(connection)
            if not await self._take(connection, notifier, group):
                self._failures = 0
                await _within(self._config.poll_interval_s, self._wake)
        if self._sending:
            await asyncio.wait(self._sending)
        await self._write_down(connection)

    async def _take(
        self, connection: Connection, notifier: Notifier, group: asyncio.TaskGroup
    ) -> bool:
        """Claim what can be sent at once; say whether there may be more to do."""
        free = self._config.concurrency - len(self._sending) - len(self._outcomes)
        if free <= 0:
            return False
        claims = await outbox.claim(
            connection, limit=min(self._config.batch, free), lease_s=self._config.lease_s
        )
        for claim in claims:
            judged = self._judged(claim)
            if isinstance(judged, Page):
                task = group.create_task(self._delivered(notifier, claim, judged))
                self._sending.add(task)
                task.add_done_callback(self._sent)
            else:
                self._outcomes.append(judged)
        return bool(claims)

    def _judged(self, claim: Claim) -> Page | Outcome:
        """Return the page to send, or what becomes of the claim without sending."""
        try:
            page = claim.page()
        except PageError as error:
            # Not abandoned at once: a newer worker may write what only a newer pager can read.
            return self._failed(claim, f"unreadable: {error}")
        verdict = judge(Candidate(page, claim.firing), claim.claimed_at, self._stages)
        match verdict.decision:
            case Suppress(reason=reason):
                return Suppressed(claim, reason)
            case Hold(until=until):
                return Held(claim, until)
        return page

    async def _delivered(self, notifier: Notifier, claim: Claim, page: Page) -> Outcome:
        limit_s = self._config.lease_s * _SENDING_SHARE
        try:
            async with asyncio.timeout(limit_s):
                await notifier.send(page, claim.key)
        except Refused as error:
            return Abandoned(claim, f"refused: {error.reason}")
        except Retry as error:
            return self._failed(claim, error.reason, error.after_s)
        except TimeoutError:
            return self._failed(claim, f"not told within {limit_s} s")
        except Exception as error:  # noqa: BLE001 - a notifier's fault must not stop other pages
            # Its text is not repeated: it may quote the hook's URL.
            place = extract_tb(error.__traceback__)[-1]
            fault = f"{type(error).__name__} in {place.name}, line {place.lineno}"
            return self._failed(claim, f"the notifier failed: {fault}")
        return Delivered(claim)

    def _sent(self, task: asyncio.Task[Outcome]) -> None:
        self._sending.discard(task)
        if not task.cancelled():
            self._outcomes.append(task.result())
            self._wake.set()

    def _failed(self, claim: Claim, reason: str, after_s: float | None = None) -> Outcome:
        if claim.attempts >= self._config.max_attempts:
            return Abandoned(claim, f"gave up after {claim.attempts} attempts: {reason}")
        # On top of what the receiver asked for, or all pages would come back in one moment.
        return Failed(claim, reason, (after_s or 0.0) + self._backoff_s(claim.attempts))

    def _backoff_s(self, attempt: int) -> float:
        return backoff_s(
            attempt,
            base_s=self._config.backoff_base_s,
            cap_s=self._config.backoff_cap_s,
            random=self._random,
        )

    async def _write_down(self, connection: Connection) -> None:
        outcomes = tuple(self._outcomes)
        if outcomes:
            await outbox.record(connection, outcomes)
            # Only now: what the database did not take is offered to it again.
            del self._outcomes[: len(outcomes)]
        for outcome in outcomes:
            _log(outcome)

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                async with outbox.connected(self._dsn, self._schema) as connection:
                    await outbox.listen(connection, self._schema)
                    failures = 0
                    # What rang before this was not heard.
                    self._wake.set()
                    async for _ in connection.notifies():
                        self._wake.set()
            except _AWAY:
                failures += 1
                await asyncio.sleep(self._backoff_s(failures))

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()


async def _within(seconds: float, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


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
        case Suppressed(reason=reason):
            log.info("page suppressed", extra=facts | {"reason": reason})
        case Held():
            log.debug("page held", extra=facts)
