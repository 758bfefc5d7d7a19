"""The pager's shell: database, clock, bells and hooks around the pure turn.

A pager decides and delivers, each on a connection of its own; several may serve one namespace. When
the database goes away both come back by themselves; what hooks have taken meanwhile is written down
then. A routes file that has changed is taken up while it runs, or refused as a whole.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import Final

from paging.backoff import backoff_s, within
from paging.book import delivery_channel
from paging.checking import faults_of
from paging.connection import AWAY, Connection, connected, listen
from paging.decider import Decider
from paging.doors import Doors
from paging.hooks import Notifier
from paging.meter import Meter
from paging.renewal import RoutesFile, refused
from paging.routes import Routes
from paging.sender import Sender, SenderConfig
from paging.stages import SERVED_NAMESPACE
from paging.threads import in_thread
from storage.pages import outbox_channel

log = logging.getLogger(__name__)

_BACKOFF_BASE_S: Final = 0.5
_BACKOFF_CAP_S: Final = 10.0


_SENDER: Final = SenderConfig()


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
    routes : Routes
        Whom it tells.
    sender : SenderConfig

    Raises
    ------
    ValueError
        If a bound is not positive, or the routes are at fault.
    """

    routes: Routes
    sender: SenderConfig = _SENDER

    def __post_init__(self) -> None:
        """Check what cannot work."""
        for name in self.sender.__dataclass_fields__:
            if not getattr(self.sender, name) > 0:
                raise ValueError(f"{name}: expected more than 0, not {getattr(self.sender, name)}")
        faults = faults_of(self.routes)
        if faults:
            raise ValueError("\n".join(faults))


class Pager:
    """Tells people of the alerts of one namespace; several may serve the same one.

    Parameters
    ----------
    dsn : str
        The database.
    schema : str
        The namespace's schema, migrated.
    namespace : str
        What the pager serves; only `live` pages anyone.
    config : PagerConfig
        Whom it tells, and the bounds.
    notifiers : mapping of str to Notifier, optional
        By the name of the hook, in the place of the hook's own.
    environment : mapping, optional
        Where secrets may stand.
    random : Random, optional
        The source of jitter.
    routes_file : RoutesFile, optional
        Where `config.routes` comes from; without it they stay as they are.
    meter : Meter, optional

    Raises
    ------
    NamespaceRefusedError
        If `namespace` is not `live`.
    """

    def __init__(
        self,
        dsn: str,
        schema: str,
        namespace: str,
        config: PagerConfig,
        *,
        notifiers: Mapping[str, Notifier] | None = None,
        environment: Mapping[str, str] = os.environ,
        random: Random | None = None,
        routes_file: RoutesFile | None = None,
        meter: Meter | None = None,
    ) -> None:
        if namespace != SERVED_NAMESPACE:
            raise NamespaceRefusedError(namespace)
        self._dsn = dsn
        self._schema = schema
        self._config = config
        self._random = random or SystemRandom()
        self._routes_file = routes_file
        self._meter = meter or Meter()
        self._doors = Doors(notifiers or {}, environment)
        self._to_decide = asyncio.Event()
        self._to_deliver = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Decide and deliver until `stop` is set, then finish the deliveries under way.

        Raises
        ------
        SecretError
            If a hook's secret is not to be had.
        ExceptionGroup
            Of `psycopg.Error`, if the database says what waiting does not cure.
        """
        async with self._doors as doors:
            notifiers = await doors.renew(self._config.routes)
            sender = Sender(self._config.routes, notifiers, self._config.sender, self._random)
            decider = Decider(
                self._schema,
                self._config.routes,
                poll_interval_s=self._config.sender.poll_interval_s,
                meter=self._meter,
            )
            async with asyncio.TaskGroup() as group:
                watchers = [
                    group.create_task(self._listen(), name="pager-bell"),
                    group.create_task(self._ring_at(stop), name="pager-stop"),
                    group.create_task(self._watch(decider, sender), name="pager-routes"),
                ]
                serving = [
                    group.create_task(
                        self._serve(
                            lambda connection: decider.serve(connection, self._to_decide, stop),
                            stop,
                        ),
                        name="decider",
                    ),
                    group.create_task(
                        self._serve(
                            lambda connection: sender.serve(
                                connection, group, self._to_deliver, stop
                            ),
                            stop,
                        ),
                        name="sender",
                    ),
                ]
                await asyncio.wait(serving)
                for watcher in watchers:
                    watcher.cancel()
            if sender.untold:
                log.warning(
                    "stopped while the database was away; pages are told again",
                    extra={"pages": sender.untold},
                )

    async def _watch(self, decider: Decider, sender: Sender) -> None:
        """Take up a routes file that has changed; one that cannot be used is said once."""
        if self._routes_file is None:
            return
        while True:
            await asyncio.sleep(self._config.sender.poll_interval_s)
            try:
                # On a thread: the file may be large, and its disk may be away.
                routes = await in_thread(self._routes_file.changed, "routes-file")
                if routes is None:
                    continue
                notifiers = await self._doors.renew(routes)
                sending = sender.renew(routes, notifiers)
            except Exception as error:  # noqa: BLE001 - no file ends a pager, whatever is in it
                self._meter.routes_refused()
                refused(error)
                continue
            decider.renew(routes)
            self._meter.routes_taken()
            log.info("the routes file was taken up", extra={"routes": len(routes.routes)})
            self._to_decide.set()
            self._to_deliver.set()
            # For as long as an attempt may take; whatever changes meanwhile is seen then.
            if sending:
                await asyncio.wait(sending)
            await self._doors.close()

    async def _serve(
        self, work: Callable[[Connection], Awaitable[None]], stop: asyncio.Event
    ) -> None:
        failures = 0
        while not stop.is_set():
            try:
                async with connected(self._dsn, self._schema) as connection:
                    failures = 0
                    await work(connection)
            except AWAY as error:
                failures += 1
                pause_s = self._backoff_s(failures)
                log.warning(
                    "the database is away",
                    extra={"error": str(error), "failures": failures, "pause_s": pause_s},
                )
                await within(pause_s, stop)

    async def _listen(self) -> None:
        failures = 0
        decide, deliver = outbox_channel(self._schema), delivery_channel(self._schema)
        while True:
            try:
                async with connected(self._dsn, self._schema) as connection:
                    await listen(connection, decide, deliver)
                    failures = 0
                    # What rang before this was not heard.
                    self._to_decide.set()
                    self._to_deliver.set()
                    async for rung in connection.notifies():
                        bell = self._to_decide if rung.channel == decide else self._to_deliver
                        bell.set()
            except AWAY:
                failures += 1
                await asyncio.sleep(self._backoff_s(failures))

    async def _ring_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._to_decide.set()
        self._to_deliver.set()

    def _backoff_s(self, attempt: int) -> float:
        return backoff_s(attempt, base_s=_BACKOFF_BASE_S, cap_s=_BACKOFF_CAP_S, random=self._random)
