"""The processes under chaos: started again when they end, struck by the plan's blows."""

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final

from blows import KINDS, Blow

from citywatch.embedded.process import ChildProcess
from citywatch.embedded.service import Service

_LOOK_S: Final = 0.25
# What ends by itself waits this long for its next life: a supervisor's usual pause.
_PAUSE_S: Final = 1.0
# Beyond it something dies at every start.
_MAX_LIVES: Final = 500


class Process:
    """A `citywatch` process in as many lives as it needs, a log for each.

    Parameters
    ----------
    name : str
        The command, and a number where there are several.
    environment : mapping
    folder : Path
        Of the logs.
    """

    def __init__(self, name: str, environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self._environment = environment
        self._folder = folder
        self._lives = 0
        self.child = self._born()

    def _born(self) -> ChildProcess:
        self._lives += 1
        if self._lives > _MAX_LIVES:
            raise RuntimeError(f"{self.name} has died {_MAX_LIVES} times")
        return ChildProcess(
            self.name,
            [sys.executable, "-m", "citywatch", self.name.partition("-")[0]],
            self._environment,
            self._folder / f"{self.name}.{self._lives:03}.log",
        )

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self.child.running

    def start(self) -> None:
        """Start it, in a new life where it had one before."""
        if self.child.exit_code is not None or self.child.pid is not None:
            self.child.stop()
            self.child = self._born()
        self.child.start()

    def stop(self) -> int | None:
        """End it in good order; return its exit code."""
        self.child.stop()
        return self.child.exit_code

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.child.kill()

    def freeze(self) -> None:
        """Stop it with SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.child.pid is not None and self.child.running:
            os.kill(self.child.pid, number)

    def last_words(self) -> str:
        """Return the end of its log, in a line."""
        lines = self.child.log_tail().splitlines()
        return lines[-1][:300] if lines else ""


class Supervisor:
    """Starts again what has ended, and strikes.

    Parameters
    ----------
    processes : mapping of str to Process
    services : mapping of str to Service
        `database`, and `kafka` where it can be struck.
    say : callable

    Attributes
    ----------
    struck : Counter of str
        Blows, by kind.
    ended : Counter of str
        Processes that ended by themselves, and their last words.
    """

    def __init__(
        self,
        processes: Mapping[str, Process],
        services: Mapping[str, Service],
        say: Callable[[str], None],
    ) -> None:
        self.processes = processes
        self._services = services
        self._say = say
        self._locks = {name: asyncio.Lock() for name in (*processes, *services)}
        self._retired: set[str] = set()
        self.struck: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()

    async def keep(self) -> None:
        """Start again whatever ends, until cancelled."""
        while True:
            for name, process in self.processes.items():
                # Whoever strikes it starts it again.
                waits = self._locks[name].locked() or name in self._retired
                if not process.running and not waits:
                    await self._again(name, process)
            await asyncio.sleep(_LOOK_S)

    async def _again(self, name: str, process: Process) -> None:
        async with self._locks[name]:
            if process.running:
                return
            words = process.last_words()
            self.ended[f"{name.partition('-')[0]}: {_reason(words)}"] += 1
            self._say(f"{name} ended by itself ({process.child.exit_code}): {words}")
            await asyncio.sleep(_PAUSE_S)
            await asyncio.to_thread(process.start)

    async def strike(self, blows: list[Blow], is_over: Callable[[], bool]) -> None:
        """Deal the blows at their times, and return when all are over."""
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for blow in blows:
                while (left := begun + blow.at_s - time.monotonic()) > 0:
                    if is_over():
                        return
                    await asyncio.sleep(min(left, _LOOK_S))
                group.create_task(self._deal(blow))

    async def _deal(self, blow: Blow) -> None:
        kind = KINDS[blow.name]
        async with AsyncExitStack() as held:
            # Always in one order, so two blows never wait for each other crosswise.
            for name in sorted(kind.targets):
                await held.enter_async_context(self._locks[name])
            self._say(f"{blow.name} for {blow.lasts_s:.1f} s")
            self.struck[blow.name] += 1
            targets = [self.processes.get(name) or self._services[name] for name in kind.targets]
            await asyncio.gather(*(asyncio.to_thread(getattr(one, kind.deed)) for one in targets))
            try:
                await asyncio.sleep(blow.lasts_s)
            finally:
                back = "thaw" if kind.deed == "freeze" else "start"
                await asyncio.gather(*(asyncio.to_thread(getattr(one, back)) for one in targets))

    async def retire(self, name: str) -> None:
        """End a process in good order, for good."""
        async with self._locks[name]:
            self._retired.add(name)
            await asyncio.to_thread(self.processes[name].stop)

    async def end(self) -> dict[str, int | None]:
        """End all processes in good order; return their exit codes."""
        codes = await asyncio.gather(
            *(asyncio.to_thread(one.stop) for one in self.processes.values())
        )
        return dict(zip(self.processes, codes, strict=True))

    def stop(self) -> None:
        """End all processes, however they are."""
        for process in self.processes.values():
            with suppress(OSError):
                process.thaw()
            process.stop()


def _reason(words: str) -> str:
    """Return the name of the exception in a traceback's last line, or the line."""
    head = words.partition(":")[0]
    return head.rpartition(".")[2] if " " not in head else words[:80]
