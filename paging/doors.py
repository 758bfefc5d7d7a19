"""The hooks that are open, as routes come and go: one that is the same in both stays open."""

import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from paging.hooks import Notifier
from paging.hooks.kinds import KINDS
from paging.routes import Hook, Routes

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Door:
    hook: Hook
    notifier: Notifier
    exits: AsyncExitStack

    def leads_to(self, hook: Hook) -> bool:
        """Say whether this is the notifier of a hook; terms are the sender's, not its own."""
        return (self.hook.terms.type, self.hook.options) == (hook.terms.type, hook.options)


class Doors:
    """Opens a notifier for each hook of the routes.

    Parameters
    ----------
    given : mapping of str to Notifier
        By the name of the hook, in the place of the hook's own.
    environment : mapping
        Where secrets may stand.
    """

    def __init__(self, given: Mapping[str, Notifier], environment: Mapping[str, str]) -> None:
        self._given = given
        self._environment = environment
        self._open: dict[str, _Door] = {}
        self._left: list[_Door] = []

    async def __aenter__(self) -> Self:
        """Begin with none."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all."""
        self._left += self._open.values()
        self._open = {}
        await self.close()

    async def renew(self, routes: Routes) -> dict[str, Notifier]:
        """Return the notifiers of other routes; those that are not in use now are still open.

        Raises
        ------
        SecretError
            If a hook's secret is not to be had; then nothing has changed.
        """
        doors: dict[str, _Door] = {}
        async with AsyncExitStack() as opened:
            for name, hook in routes.hooks.items():
                known = self._open.get(name)
                if name in self._given:
                    continue
                if known is not None and known.leads_to(hook):
                    doors[name] = known
                    continue
                kind = KINDS[hook.terms.type]
                exits = await opened.enter_async_context(AsyncExitStack())
                notifier = await exits.enter_async_context(
                    kind.open(kind.read(hook.options), self._environment)
                )
                doors[name] = _Door(hook, notifier, exits)
            # All are: nothing is taken back.
            opened.pop_all()
        kept = {id(door) for door in doors.values()}
        self._left += (door for door in self._open.values() if id(door) not in kept)
        self._open = doors
        return {**self._given, **{name: door.notifier for name, door in doors.items()}}

    async def close(self) -> None:
        """Close those that are not in use any more."""
        while self._left:
            try:
                await self._left.pop().exits.aclose()
            except Exception as error:  # noqa: BLE001 - who is not in use any more stops nobody
                log.warning("a hook did not close", extra={"error": type(error).__name__})
