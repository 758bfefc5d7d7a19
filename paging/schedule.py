"""Who is on call, and which shift it is: calendar arithmetic in local time, without a clock.

A rotation hands over at the same local time however the clocks are set, so a week in which they
change is an hour longer or shorter, as it is for the people in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class Rotation:
    """People who take turns.

    Parameters
    ----------
    name : str
    people : tuple of str
        In the order of their turns.
    first_day : date
        The local day on which the first of them begins.
    hands_over : time
        Local.
    days : int
        Length of a turn.
    time_zone : str
        Of the IANA database.
    """

    name: str
    people: tuple[str, ...]
    first_day: date
    hands_over: time
    days: int
    time_zone: str

    def on_duty(self, now: datetime) -> str:
        """Return whose turn it is; before the first day the rotation is thought to go back."""
        local = now.astimezone(ZoneInfo(self.time_zone))
        day = local.date() - timedelta(days=local.time() < self.hands_over)
        return self.people[(day - self.first_day).days // self.days % len(self.people)]

    def ends(self, now: datetime) -> datetime:
        """Return when the present turn ends."""
        local = now.astimezone(ZoneInfo(self.time_zone))
        day = local.date() - timedelta(days=local.time() < self.hands_over)
        left = self.days - (day - self.first_day).days % self.days
        end = datetime.combine(day + timedelta(days=left), self.hands_over, local.tzinfo)
        return end.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Override:
    """Somebody who stands in for whoever's turn it is, in [begins, ends)."""

    rotation: str
    person: str
    begins: datetime
    ends: datetime


def on_call(rotation: Rotation, overrides: Sequence[Override], now: datetime) -> str:
    """Return who is on call; of several overrides the one that begins last."""
    present = [
        one for one in overrides if one.rotation == rotation.name and one.begins <= now < one.ends
    ]
    if present:
        return max(present, key=lambda one: (one.begins, one.person)).person
    return rotation.on_duty(now)


@dataclass(frozen=True, slots=True)
class Shifts:
    """The shifts of a day.

    Parameters
    ----------
    starts : tuple of time
        Local, in order.
    time_zone : str
    """

    starts: tuple[time, ...]
    time_zone: str

    def began(self, now: datetime) -> datetime:
        """Return when the present shift began, in UTC."""
        zone = ZoneInfo(self.time_zone)
        today = now.astimezone(zone).date()
        begins = [
            datetime.combine(today - timedelta(days=back), start, zone).astimezone(UTC)
            for back in (1, 0)
            for start in self.starts
        ]
        return max(begin for begin in begins if begin <= now)
