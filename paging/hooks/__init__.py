"""The border to the world: what a hook is, and what it may answer.

A hook is a module of this package with

- `Options`, a frozen msgspec Struct of what `[hook.<name>]` of the routes file may hold beside the
  keys that all hooks have (`HookTerms`); it forbids unknown fields, and names secrets by `Secret`;
- `KIND`, a `HookKind` that opens a `Notifier` for such options. `paging/hooks/kinds.py` lists it.

The sender does all the rest, alike for every hook: it claims, bounds an attempt in time, keeps to
the hook's concurrency and rate, retries with backoff and jitter, and goes to the next step of the
policy when it gives up. So a notifier makes ONE attempt and says what came of it: it returns when
the other side has taken the notice, raises `Retry` when it may take it later and `Refused` when it
never will. Anything else that it raises is a fault of the hook, retried like `Retry`; its text is
not recorded, for it may quote the hook's URL, which often is its password. For the same reason the
reason of a `NotTold` holds at most the other side's host and status.

A notifier serves several deliveries at once. It may be cancelled at any time (an attempt that takes
too long, a pager that is told to stop), and the same notice comes again under the same key then.

Errors
------
- NotTold: the other side did not take the notice.
    - Retry: it may take it later.
    - Refused: it never will.
- SecretError: a secret that the options name is not to be had.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Generic, Protocol, TypeVar

import msgspec

from paging.files import read_file
from paging.notices import Event, Notice
from paging.threads import in_thread

ALL_EVENTS: Final[tuple[Event, ...]] = ("trigger", "update", "acknowledge", "resolve")
MAX_TIMEOUT_S: Final = 60.0
_MAX_SECRET_BYTES: Final = 65_536

# No file has a name with NUL in it, and who asks for one is told by a fault of the program.
FileName = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]+$")]
# What is small and lies on a disk that answers is read in milliseconds.
READ_S: Final = 5.0
OptionsT = TypeVar("OptionsT", bound=msgspec.Struct)
ReadT = TypeVar("ReadT")


class NotTold(Exception):  # noqa: N818 - says what happened, as its two cases do
    """The other side did not take the notice."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Retry(NotTold):
    """The other side may take the notice later, after `after_s` seconds where it said so.

    It `may_have_come` all the same, so the other side is told how it ends, unless nothing was sent
    or the other side said that it has not taken it.
    """

    def __init__(self, after_s: float | None, reason: str, *, may_have_come: bool = True) -> None:
        super().__init__(reason)
        self.after_s = after_s
        self.may_have_come = may_have_come


class Refused(NotTold):
    """The other side will never take this notice."""


class SecretError(ValueError):
    """A secret that is not to be had; the message names its place, never the secret."""


class Notifier(Protocol):
    """Whoever can tell a notice."""

    async def send(self, notice: Notice, key: str) -> None:
        """Tell the notice; `key` is the same at every attempt, and of no other delivery.

        Raises
        ------
        Retry
            If it was not taken now.
        Refused
            If it will never be taken.
        """


class Secret(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a secret stands: `{ file = "/run/secrets/x" }` or `{ env = "X" }`, never itself."""

    file: FileName | None = None
    env: str | None = None

    def __post_init__(self) -> None:
        """Take one of the two."""
        if (self.file is None) == (self.env is None):
            raise ValueError("either file or env is expected")

    def read(self, environment: Mapping[str, str]) -> str:
        """Return the secret without the white space around it; a disk that hangs blocks it.

        Raises
        ------
        SecretError
            If there is none.
        """
        if self.env is not None:
            text = environment.get(self.env, "").strip()
            place = f"the environment's {self.env}"
        else:
            place = str(self.file)
            try:
                text = read_file(Path(place), _MAX_SECRET_BYTES).decode().strip()
            except OSError as error:
                raise SecretError(f"{place}: {error.strerror}") from None
            except UnicodeDecodeError:
                raise SecretError(f"{place}: not UTF-8") from None
        if not text:
            raise SecretError(f"{place}: empty, a secret is expected")
        return text


async def in_time(read: Callable[[], ReadT], *places: str | Secret | None) -> ReadT:
    """Return what is read of secrets or certificates, without waiting for a disk that hangs.

    Parameters
    ----------
    read : callable
        Blocks, and raises `SecretError`.
    places : str, Secret or None
        Where it reads.

    Raises
    ------
    SecretError
        If it does, or takes too long.
    """
    try:
        async with asyncio.timeout(READ_S):
            return await in_thread(read, "secrets")
    except TimeoutError:
        files = [one.file if isinstance(one, Secret) else one for one in places]
        named = ", ".join(file for file in files if file)
        raise SecretError(f"{named}: not read within {READ_S:g} s") from None


class HookTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What every `[hook.<name>]` may say; the sender keeps to it.

    Parameters
    ----------
    type : str
        Which kind of hook.
    events : tuple of str or None
        Which notices it is sent; None, those of its kind.
    concurrency : int
        Most deliveries under way at once, in each pager.
    per_minute : float
        Most attempts a minute, in each pager; where the routes file does not say, as of its kind.
    timeout_s : float
        Bound of one attempt.
    give_up_after_s : float
        From when a delivery is due: then it is given up, and the next step of the policy is due.
    """

    type: str
    events: tuple[Event, ...] | None = None
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 8
    per_minute: Annotated[float, msgspec.Meta(gt=0, le=100_000)] = 600.0
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=MAX_TIMEOUT_S)] = 5.0
    give_up_after_s: Annotated[float, msgspec.Meta(gt=0, le=604_800)] = 3_600.0


@dataclass(frozen=True, slots=True)
class HookKind(Generic[OptionsT]):
    """A kind of hook.

    Parameters
    ----------
    name : str
        As `type` of the routes file names it.
    options : type
        What it wants to be told; msgspec reads it from TOML.
    open : callable
        Takes the options and the environment; its context is a notifier that is ready to send.
        It reads secrets when it is entered, raises `SecretError` where one is not to be had, and
        asks nothing of the network yet.
    events : tuple of str
        Which notices it is sent where the routes file does not say.
    per_minute : float
        Most attempts a minute where it does not say, in each of two pagers.
    """

    name: str
    options: type[OptionsT]
    open: Callable[[OptionsT, Mapping[str, str]], AbstractAsyncContextManager[Notifier]]
    events: tuple[Event, ...] = ALL_EVENTS
    per_minute: float = 600.0

    def read(self, values: Mapping[str, Any]) -> OptionsT:
        """Return the options of a table of TOML, without the terms that all hooks have.

        Raises
        ------
        msgspec.ValidationError
            If a key is unknown or a value wrong.
        """
        return msgspec.convert(dict(values), self.options)
