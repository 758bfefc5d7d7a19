"""Who is woken and why: the whole pager as one list of stages.

A stage looks at one page and answers with a decision and its reason. The first that does not let
the page pass has the last word. Stages are pure: `now` and everything they must know about the
past is passed in, so a replayed night gives the same decisions as the night itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from typing import Final

from storage.pages import Page

SERVED_NAMESPACE: Final = "live"

# QARTOD: 3 suspect, 4 fail, 9 missing (IOOS flag scheme of IOC 54:V3). Guarantee: such a reading
# speaks of its sensor and never of the city.
_BAD_QUALITY: Final = {3: "suspect", 4: "fail", 9: "missing"}
# How soon a held page is looked at again when what it waits for sends no word.
_HOLD: Final = timedelta(seconds=1)


class Fate(Enum):
    """What became of the firing of an alert."""

    ABSENT = "absent"
    PENDING = "pending"
    DELIVERED = "delivered"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A page that may be told, with what the stages must know beside it.

    Parameters
    ----------
    page : Page
        The page.
    firing : Fate
        What became of the firing of the same alert; looked at for a resolution.
    """

    page: Page
    firing: Fate


@dataclass(frozen=True, slots=True)
class Pass:
    """The page goes on to the next stage."""

    reason: str


@dataclass(frozen=True, slots=True)
class Hold:
    """The page is not told yet; it comes back at `until`."""

    reason: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Suppress:
    """The page is never told; the reason is recorded with it."""

    reason: str


Decision = Pass | Hold | Suppress
Stage = Callable[[Candidate, datetime], Decision]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the stages decided about one page.

    Parameters
    ----------
    decision : Decision
        That of the last stage asked.
    reasons : tuple of str
        Those of every stage asked, in order.
    """

    decision: Decision
    reasons: tuple[str, ...]


def stages(stale_after: timedelta) -> tuple[Stage, ...]:
    """Return the pager: every stage, in the order in which they are asked."""
    return (
        served_namespace,
        good_data,
        severe_enough,
        partial(still_news, stale_after=stale_after),
        firing_told,
    )


def judge(candidate: Candidate, now: datetime, chain: Sequence[Stage]) -> Verdict:
    """Ask the stages in order until one does not let the page pass.

    Raises
    ------
    ValueError
        If there is no stage: a pager without gates is a mistake, not a choice.
    """
    if not chain:
        raise ValueError("expected at least one stage")
    reasons: list[str] = []
    for stage in chain:
        decision = stage(candidate, now)
        reasons.append(decision.reason)
        if not isinstance(decision, Pass):
            break
    return Verdict(decision, tuple(reasons))


def served_namespace(candidate: Candidate, _now: datetime) -> Decision:
    """Let pages of the live city pass; a replay pages nobody."""
    namespace = candidate.page.namespace
    if namespace != SERVED_NAMESPACE:
        return Suppress(f"namespace {namespace!r} is not {SERVED_NAMESPACE!r}")
    return Pass(f"namespace {namespace!r}")


def good_data(candidate: Candidate, _now: datetime) -> Decision:
    """Keep bad data from speaking of the city.

    The category decides: an alert about a sensor's health is *about* bad data and passes; an alert
    about the city passes unless its writer tells that the reading is bad.
    """
    page = candidate.page
    if page.category != "city":
        return Pass(f"category {page.category!r} is about the data itself")
    flag = _BAD_QUALITY.get(page.quality) if page.quality is not None else None
    if flag is not None:
        return Suppress(f"a city alert on a reading of quality {flag!r}")
    return Pass("a city alert on data that is not flagged bad")


def severe_enough(candidate: Candidate, _now: datetime) -> Decision:
    """Leave informational alerts to the dashboards."""
    severity = candidate.page.severity
    if severity == "informational":
        return Suppress(f"severity {severity!r} does not page")
    return Pass(f"severity {severity!r}")


def still_news(candidate: Candidate, now: datetime, *, stale_after: timedelta) -> Decision:
    """Keep old firings from being told as if they were news.

    A resolution passes at any age: whoever was woken wants to know that it is over.
    """
    page = candidate.page
    if page.event != "firing":
        return Pass("a resolution does not grow old")
    age = now - page.since
    if age > stale_after:
        return Suppress(f"stale: fired {_span(age)} ago, more than {_span(stale_after)}")
    return Pass(f"fired {_span(max(age, timedelta()))} ago")


def firing_told(candidate: Candidate, now: datetime) -> Decision:
    """Tell that an alert is over to nobody but those who were told that it began."""
    if candidate.page.event != "resolved":
        return Pass("a firing waits for nothing")
    match candidate.firing:
        case Fate.DELIVERED:
            return Pass("its firing was delivered")
        case Fate.PENDING:
            return Hold("its firing is not delivered yet", now + _HOLD)
        case Fate.ABANDONED:
            return Suppress("its firing was not delivered")
        case Fate.ABSENT:
            return Suppress("it has no firing")


def _span(span: timedelta) -> str:
    return str(timedelta(seconds=int(span.total_seconds())))
