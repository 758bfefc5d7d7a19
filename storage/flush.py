"""What one flush of a worker carries into the database: plain data, made before any I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from ingest.ledger import SensorCard, Tally
from ingest.records import DeadLetter
from storage.pages import Category, Page
from storage.rows import Rows


@dataclass(frozen=True, slots=True)
class Step:
    """How far a partition's log is done by this flush.

    Parameters
    ----------
    topic, partition : str, int
    expected : int
        Where the database must stand; elsewhere another worker owns the partition.
    next_offset : int
        Where it stands afterwards.
    """

    topic: str
    partition: int
    expected: int
    next_offset: int


@dataclass(frozen=True, slots=True)
class SavedState:
    """A partition's detector state and the offset it belongs to.

    Parameters
    ----------
    topic, partition : str, int
    next_offset : int
        First offset it has not seen.
    stored : int
        First offset whose rows are not in the database; beyond `next_offset` during a replay.
    version : int
    state : bytes
    """

    topic: str
    partition: int
    next_offset: int
    stored: int
    version: int
    state: bytes


@dataclass(frozen=True, slots=True)
class Tallied:
    """One line of the ledger, as the bridge counted it; the sink adds what became of it.

    Parameters
    ----------
    bridge : str
    tally : Tally
    late : int
        Of its readings, those that came too late to be judged.
    """

    bridge: str
    tally: Tally
    late: int = 0


@dataclass(frozen=True, slots=True)
class Buried:
    """A dead letter, and the line of the ledger that counts it."""

    bridge: str
    source: str
    letter: DeadLetter


@dataclass(frozen=True, slots=True)
class Opened:
    """An alert that opens; or one that is open, of which people are told only now.

    Parameters
    ----------
    series_id : int
    band : float or None
        Half width of what was expected.
    page : Page
        All else about it, as people are told.
    kinds : tuple of str
        Of these, the page's among them, one alert of a series and category is open at a time;
        empty where the page's kind stands alone.
    is_told : bool
        Whether people are told at all; the page of another alert may speak for it.
    partition : int or None
        Which says so: nothing is written where another is the home of the series.
    """

    series_id: int
    band: float | None
    page: Page
    kinds: tuple[str, ...] = ()
    is_told: bool = True
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """An alert whose sensor reports as it should again, and why it is taken to be over.

    Parameters
    ----------
    series_id : int
    cause : str
    page : Page
    kinds, partition : tuple of str, int or None
        As of `Opened`.
    """

    series_id: int
    cause: str
    page: Page
    kinds: tuple[str, ...] = ()
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """An open alert whose sensor fell silent, or speaks again; the pager hears of it, nobody else.

    Parameters
    ----------
    series_id : int
    category : str
    state : {"stale", "open"}
        An alert that was acknowledged before it became stale is so again, instead of open.
    at : datetime
        Event time.
    cause : str
    kinds : tuple of str
        Of which kind it may be.
    partition : int or None
        As of `Opened`.
    """

    series_id: int
    category: Category
    state: Literal["stale", "open"]
    at: datetime
    cause: str
    kinds: tuple[str, ...]
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Worsened:
    """An open alert that is more severe now than it was.

    Nothing is written where as much is recorded of it already, or where it is over.

    Parameters
    ----------
    series_id, band, partition : int, float or None, int or None
        As of `Opened`.
    page : Page
        As of `Opened`, by what is seen now.
    at : datetime
        Event time.
    """

    series_id: int
    band: float | None
    page: Page
    at: datetime
    partition: int | None = None


Change = Opened | Resolved | Moved | Worsened


@dataclass(frozen=True, slots=True)
class Shadowed:
    """What becomes of an alert of a shadow: recorded beside the alerts, and told nobody."""

    shadow: str
    change: Opened | Resolved


@dataclass(frozen=True, slots=True)
class ShadowEnded:
    """A shadow that the rules of a partition no longer have, or some kinds of it.

    What is open of it is over.

    Parameters
    ----------
    shadow : str
    series_ids : sequence of int
        Of the partition.
    at : datetime or None
        Event time, where it is known.
    kinds : sequence of str
        Of alerts that it no longer looks for; empty where that is all of them.
    """

    shadow: str
    series_ids: Sequence[int]
    at: datetime | None
    kinds: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Ruled:
    """Rules that hold in a partition from an offset on.

    Parameters
    ----------
    topic, partition, offset : str, int, int
        Where they stand in the log.
    fingerprint : str
    rules : str
        As JSON.
    at : datetime or None
        Event time up to which readings had come before them, where any had.
    """

    topic: str
    partition: int
    offset: int
    fingerprint: str
    rules: str
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Claim:
    """A series that a partition has read, and is the home of from then on.

    Parameters
    ----------
    series_id, partition : int
    at : datetime
        Event time of the reading.
    """

    series_id: int
    partition: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets [first, end) of a partition that the log lost before anybody read them."""

    topic: str
    partition: int
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Flush:
    """Everything that one transaction writes.

    Parameters
    ----------
    steps : sequence of Step
    fresh : Rows
        Newer than their series' last time: no row of them should be there yet.
    suspects : Rows
        The rest: repeats or latecomers.
    tallies : sequence of Tallied
        `Rows.tally` indexes it.
    changes : sequence of Change
        In the order in which they happened.
    letters : sequence of Buried
        What was rejected or refused.
    states : sequence of SavedState
    gaps : sequence of Gap
    cards : sequence of SensorCard
        Sensors that are new or changed, each once.
    shadowed : sequence of Shadowed or ShadowEnded
        In the order in which they happened.
    ruled : sequence of Ruled
    claims : sequence of Claim
        Written before `changes` and `shadowed`.
    is_last : bool
        With states: whether this may be the worker's last word for long, so that what `latest`
        still lacks goes along with them.
    """

    steps: Sequence[Step]
    fresh: Rows
    suspects: Rows
    tallies: Sequence[Tallied] = ()
    changes: Sequence[Change] = ()
    letters: Sequence[Buried] = ()
    states: Sequence[SavedState] = field(default=())
    gaps: Sequence[Gap] = ()
    cards: Sequence[SensorCard] = ()
    shadowed: Sequence[Shadowed | ShadowEnded] = ()
    ruled: Sequence[Ruled] = ()
    claims: Sequence[Claim] = ()
    is_last: bool = True
