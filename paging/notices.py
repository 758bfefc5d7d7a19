"""What people are told: one notice of one cause, in the form in which every hook gets it.

A notice speaks of a *group*: the alerts that one cause opened. Its first word is a `trigger`, its
last a `resolve`, and in between it may say that more has come, or that somebody has it. Nothing in
it is secret, and nothing in it changes between two attempts to send it.
"""

from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec

from storage.pages import Category, Moment, Severity

# What hooks were sent before there were groups, a page of one alert, was version 1.
NOTICE_VERSION: Final = 2
# PagerDuty takes a dedup_key of 255 characters and a summary of 1024; nobody else takes less.
MAX_KEY_CHARS: Final = 255
MAX_TITLE_CHARS: Final = 255
# What a person reads at night; `counts` has the whole number, and the link the whole list.
MAX_LISTED: Final = 20
# There are four severities: a page that rang more often came and went in between.
_MAX_EARLIER_RINGS: Final = 10

Event = Literal["trigger", "update", "acknowledge", "resolve"]
Cause = Literal["sensors", "gateway", "zone", "power-area", "budget", "test"]
State = Literal["open", "acknowledged", "stale", "resolved"]
# Printable ASCII, for it stands in headers.
Key = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,255}$")]


class NoticeError(ValueError):
    """Bytes that are not a notice of this version."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How many alerts of a group there are in each state; together all of them."""

    open: int = 0
    acknowledged: int = 0
    stale: int = 0
    resolved: int = 0

    @property
    def total(self) -> int:
        """All alerts of the group."""
        return self.open + self.acknowledged + self.stale + self.resolved


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One alert of a group, as far as a person at night wants to know it.

    Parameters
    ----------
    alert_id : UUID
    sensor, quantity, kind, severity : str
        As in the table `alert`.
    state : str
        When the notice was written.
    since : datetime
        Event time of the reading that opened it.
    sentence : str
        What it says, in plain words.
    longitude, latitude : float or None
        WGS 84 degrees, where the sensor's place is known.
    link : str or None
        Where the alert is shown.
    """

    alert_id: UUID
    sensor: str
    quantity: str
    kind: str
    severity: Severity
    state: State
    since: Moment
    sentence: str
    longitude: float | None = None
    latitude: float | None = None
    link: str | None = None


class Recipient(msgspec.Struct, frozen=True, kw_only=True):
    """Whoever a delivery is for, where its step names a person and not the hook alone.

    Parameters
    ----------
    name : str
        As in the schedule.
    address : str or None
        Where the hook reaches them, as the routes file says (a number, an e-mail address, a user's
        name); None where the hook knows by itself.
    """

    name: str
    address: str | None = None


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One word about one cause.

    Parameters
    ----------
    version : int
        `NOTICE_VERSION`; a reader refuses what it does not know.
    namespace : str
        Always `live`.
    group : str
        What the notice speaks of. The same from trigger to resolve, over restarts, and at every
        hook: with `ring` the `dedup_key` of PagerDuty, and the labels that make an alert of
        Alertmanager.
    revision : int
        Counts the notices of a group, from 1: a receiver that has seen a later one may pass over
        an earlier one.
    event : {'trigger', 'update', 'acknowledge', 'resolve'}
        `trigger` wakes people; also when an open cause is told again, after `repeat_interval`.
        `update` says that alerts have joined, without waking anybody who is awake. `resolve` comes
        once, when every alert of the group is over on good readings.
    ring : int
        How often the group rang anew because it got worse. A `trigger` of a later ring wakes
        people although somebody has the page.
    at : datetime
        When it was decided, by the database's clock.
    cause : str
        What is thought to be at the bottom of it: the sensors themselves, the thing that all of
        them depend on, the pager's own budget, or a test.
    cause_name : str
        Of the gateway, zone or power area; of the rest, the zone.
    severity, category, kind, zone : str
        `severity` is the worst of the alerts that are not over; `kind` and `zone` are those of the
        alerts, or "several".
    title : str
        One line of at most `MAX_TITLE_CHARS`, for a subject or a lock screen.
    text : str
        The reason in full, in lines.
    labels : dict of str to str
        What the group was made by (`group_by` of its route), with the route's name.
    alerts : tuple of Listed
        The `MAX_LISTED` worst, newest last among equals.
    counts : Counts
        Of all alerts of the group.
    since : datetime
        Event time of the earliest alert.
    ended_at : datetime or None
        Event time of the last resolution; given exactly when `event` is 'resolve'.
    actor : str or None
        Who acknowledged, where somebody has.
    link : str or None
        Where the group, or its one alert, is shown.
    policy : str
        Whose steps are being taken.
    step : int
        Which step this delivery is of, from 1; a later one means that nobody has acknowledged.
    to : Recipient or None
        For whom this delivery is.

    Raises
    ------
    ValueError
        If a time has no zone, or `ended_at` and `event` disagree.
    """

    version: Literal[2] = NOTICE_VERSION
    namespace: Literal["live"] = "live"
    group: Key
    revision: Annotated[int, msgspec.Meta(ge=1)] = 1
    event: Event
    ring: Annotated[int, msgspec.Meta(ge=0)] = 0
    at: Moment
    cause: Cause = "sensors"
    cause_name: str = ""
    severity: Severity
    category: Category
    kind: str
    zone: str
    title: Annotated[str, msgspec.Meta(max_length=MAX_TITLE_CHARS)]
    text: str
    labels: dict[str, str] = {}
    alerts: tuple[Listed, ...] = ()
    counts: Counts = Counts()
    since: Moment
    ended_at: Moment | None = None
    actor: str | None = None
    link: str | None = None
    policy: str = ""
    step: Annotated[int, msgspec.Meta(ge=1)] = 1
    to: Recipient | None = None

    def __post_init__(self) -> None:
        """Refuse at the writer what the reader would refuse."""
        for moment in (self.at, self.since, self.ended_at):
            if moment is not None and moment.tzinfo is None:
                raise ValueError(f"a time of a notice has no zone: {moment}")
        if (self.ended_at is not None) != (self.event == "resolve"):
            raise ValueError(f"ended_at is {self.ended_at} in a notice that says {self.event}")


def encode_notice(notice: Notice) -> bytes:
    """Return the notice as JSON, as it stands in the database and goes to webhooks."""
    return msgspec.json.encode(notice)


def decode_notice(data: bytes | str) -> Notice:
    """Read a notice; fields that are not known yet are passed over.

    Raises
    ------
    NoticeError
        If `data` is not a notice of this version; the message names the field.
    """
    try:
        return msgspec.json.decode(data, type=Notice)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NoticeError(str(error)) from error


def for_delivery(notice: Notice, *, step: int, to: Recipient | None) -> Notice:
    """Return the notice as one delivery tells it."""
    return msgspec.structs.replace(notice, step=step, to=to)


def delivery_key(group: str, revision: int, step: int, target: str) -> str:
    """Return the idempotency key of one delivery: the same at every attempt, and of no other.

    Parameters
    ----------
    group, revision : str, int
        Of the notice.
    step : int
        Of the policy, from 1.
    target : str
        The hook, with the person where there is one: `webhook`, `sms:anna`.
    """
    return f"{group}/{revision}/{step}/{target}"


def earlier_rings(notice: Notice) -> range:
    """Return the rings before a notice's, the latest of them, oldest first.

    A hook that a later step names may have been told of any of them, and not of those since.
    """
    return range(max(notice.ring - _MAX_EARLIER_RINGS, 0), notice.ring)


def moment(notice: Notice) -> datetime:
    """Return the event time of what a notice tells: the end of what is over, else its begin."""
    return notice.ended_at or notice.since
