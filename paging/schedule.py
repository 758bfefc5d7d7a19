"""Who is on call, and which shift it is: calendar arithmetic in local time, without a clock.

A rotation hands over at the same local time however the clocks are set, so a week in which they
change is an hour longer or shorter, as it is for the people in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
        turn = (self._day(now) - self.first_day).days // self.days
        return self.people[turn % len(self.people)]

    def ends(self, now: datetime) -> datetime:
        """Return when the present turn ends."""
        day = self._day(now)
        return self._begins(
            day + timedelta(days=self.days - (day - self.first_day).days % self.days)
        )

    def _day(self, now: datetime) -> date:
        """Return the last day whose hand-over, that there is once in each, lies behind."""
        day = now.astimezone(ZoneInfo(self.time_zone)).date() + timedelta(days=1)
        while now < self._begins(day):
            day -= timedelta(days=1)
        return day

    def _begins(self, day: date) -> datetime:
        # Of a time that comes twice when the clocks are set back, the first; of one that is passed
        # over, as long after midnight as on other days.
        local = datetime.combine(day, self.hands_over, ZoneInfo(self.time_zone))
        return local.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Override:
    """Somebody who stands in for whoever's turn it is, in [begins, ends)."""

    rotation: str
    person: str
    begins: datetime
    ends: datetime


@dataclass(frozen=True, slots=True)
class Turn:
    """Who is on call, in [begins, ends)."""

    person: str
    begins: datetime
    ends: datetime
    is_override: bool


def on_call(rotation: Rotation, overrides: Sequence[Override], now: datetime) -> str:
    """Return who is on call; of several overrides the one that begins last."""
    present = [
        one for one in overrides if one.rotation == rotation.name and one.begins <= now < one.ends
    ]
    if present:
        return max(present, key=lambda one: (one.begins, one.person)).person
    return rotation.on_duty(now)


def turn_at(rotation: Rotation, overrides: Sequence[Override], now: datetime) -> Turn:
    """Return who is on call, and until when; it begins now or, as far as is known, did before."""
    person = on_call(rotation, overrides, now)
    mine = [one for one in overrides if one.rotation == rotation.name]
    changes = [at for one in mine for at in (one.begins, one.ends) if at > now]
    is_override = any(one.begins <= now < one.ends for one in mine)
    return Turn(person, now, min([rotation.ends(now), *changes]), is_override)


def turns(
    rotation: Rotation, overrides: Sequence[Override], since: datetime, until: datetime
) -> list[Turn]:
    """Return who is on call in [since, until), one after the other."""
    found: list[Turn] = []
    now = since
    while now < until:
        turn = turn_at(rotation, overrides, now)
        now = turn.ends
        last = found[-1] if found else None
        if last and (last.person, last.is_override) == (turn.person, turn.is_override):
            turn = replace(turn, begins=found.pop().begins)
        found.append(replace(turn, ends=min(turn.ends, until)))
    return found


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

    def between(self, since: datetime, until: datetime) -> list[datetime]:
        """Return when the shifts of [since, until) began, the first of them perhaps before."""
        zone = ZoneInfo(self.time_zone)
        first = self.began(since)
        day = first.astimezone(zone).date()
        found = {first}
        while day <= until.astimezone(zone).date():
            begins = (datetime.combine(day, one, zone).astimezone(UTC) for one in self.starts)
            found.update(begin for begin in begins if first <= begin < until)
            day += timedelta(days=1)
        return sorted(found)
