"""Notices in plain words: what a person reads at three in the morning, most important first."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from heapq import nsmallest
from typing import Final
from uuid import UUID

from paging.darkness import Dark
from paging.notices import MAX_LISTED, MAX_TITLE_CHARS, Counts, Event, Listed, Notice
from paging.stages import Gathering
from paging.state import RANK, Group, Tested, Track
from storage.pages import Page

# One line each, of which a lock screen shows two.
_MAX_LINES: Final = 10

Member = tuple[Track, Page]


def notice_of(
    gathering: Gathering,
    members: Sequence[Member],
    *,
    event: Event,
    reason: str,
    now: datetime,
    link: str | None,
    dark: Dark | None = None,
    speaks_for: Iterable[Group] = (),
) -> Notice:
    """Return what is told of a group.

    Parameters
    ----------
    gathering : Gathering
        As it was judged.
    members : sequence of (Track, Page)
        Its alerts; none are left to a summary whose last one got too bad to be spoken for.
    event, reason : str
        What is told, and why now.
    now : datetime
    link : str or None
        What links begin with.
    dark : Dark or None
        Of an area, how dark it is.
    speaks_for : iterable of Group
        Of a summary, the groups that it stands for.
    """
    group = gathering.group
    ended = event == "resolve"
    listed = nsmallest(MAX_LISTED, members, key=_by_weight)
    counts = Counter(track.state for track, _ in members)
    # That it is told for the first time says the title; later people want to know why again.
    is_first = group.first_told is None and event == "trigger"
    title = _title(gathering, members, dark, ended=ended)
    is_one = len(members) == 1 and group.cause == "sensors"
    path = f"/alerts/{listed[0][0].alert_id}" if is_one else f"/groups/{group.key}"
    return Notice(
        group=group.key,
        revision=group.revision + 1,
        event=event,
        at=now,
        cause=group.cause,
        cause_name=group.cause_name or one_of(page.zone for _, page in members),
        severity=gathering.worst if not ended else group.worst or gathering.worst,
        category=listed[0][1].category if listed else "sensor-health",
        kind=one_of(page.kind for _, page in members),
        zone=one_of(page.zone for _, page in members),
        title=_cut(title),
        text="\n".join(
            _lines(None if is_first else reason, listed, len(members), speaks_for, ended=ended)
        ),
        labels=group.labels | {"route": group.route},
        alerts=tuple(_listed(track, page, link) for track, page in listed),
        counts=Counts(**{str(state): count for state, count in counts.items()}),
        since=min((page.since for _, page in members), default=group.opened),
        ended_at=max((track.ended or now for track, _ in members), default=now) if ended else None,
        actor=group.acknowledged_by,
        link=f"{link}{path}" if link else None,
        policy=group.policy,
        ring=group.ring,
    )


def test_notice(key: str, asked: Tested, now: datetime) -> Notice:
    """Return what a page says that is there to see whether it comes."""
    return Notice(
        group=key,
        event="trigger",
        at=now,
        cause="test",
        severity="minor",
        category="sensor-health",
        kind="test",
        zone="none",
        title=_cut(f"Test page: {asked.author} wants to see whether it comes"),
        text=f"by policy {asked.policy}; nothing is wrong, and nothing follows",
        labels={"route": "none"},
        since=now,
        policy=asked.policy,
    )


def _by_weight(member: Member) -> tuple[bool, int, datetime, str]:
    track, page = member
    return (track.state == "resolved", -RANK[page.severity], page.since, page.sensor)


def _title(
    gathering: Gathering, members: Sequence[Member], dark: Dark | None, *, ended: bool
) -> str:
    group = gathering.group
    over = "Over: " if ended else ""
    if dark is not None:
        return _dark_title(gathering, members, dark, ended=ended)
    if not ended:
        members = [one for one in members if not _is_gone(one[0])] or members
    if not members:
        what = "page budget spent" if group.cause == "budget" else " ".join(group.labels.values())
        return f"{over}{what or group.route}: what was told by it has pages of its own"
    if group.cause == "budget":
        more = "1 more alert" if len(members) == 1 else f"{len(members)} more alerts"
        return f"{over}page budget spent: {more}, worst {gathering.worst}"
    first = min(members, key=_by_weight)[1]
    if len(members) == 1:
        return over + first.sentence
    zone, kind = (one_of(getattr(page, name) for _, page in members) for name in ("zone", "kind"))
    return f"{over}{zone}: {len(members)} alerts ({kind}), first: {first.sentence}"


def _dark_title(gathering: Gathering, members: Sequence[Member], dark: Dark, *, ended: bool) -> str:
    group = gathering.group
    of = f" of {dark.size}" if dark.size else ""
    name = f"{group.cause.replace('-', ' ')} {group.cause_name}"
    if ended:
        sensors = max(group.dark, len({page.sensor for _, page in members}))
        return f"Over: {name} was dark: {sensors}{of} sensors were silent"
    if not gathering.is_dark:
        return f"{name} was dark: {dark.sensors}{of} sensors are still silent"
    before = f", {dark.told_before} told of before" if dark.told_before else ""
    return f"{name} is dark: {dark.sensors}{of} sensors fell silent{before}"


def _lines(
    reason: str | None,
    listed: Sequence[Member],
    total: int,
    speaks_for: Iterable[Group],
    *,
    ended: bool,
) -> Iterable[str]:
    if reason is not None:
        yield reason
    yield from dict.fromkeys(
        f"speaks for {group.cause_name or ' '.join(group.labels.values()) or group.route}"
        for group in speaks_for
    )
    for track, page in listed[:_MAX_LINES]:
        note = " (it flaps, and is held open until it is calm)" if track.flapping else ""
        if _is_gone(track) and not ended:
            note = " (over)"
        yield f"{page.sentence}{note}"
    if total > _MAX_LINES:
        yield f"and {total - _MAX_LINES} more"


def _is_gone(track: Track) -> bool:
    """Say whether an alert is over, and not held open."""
    return track.state == "resolved" and not track.flapping


def _listed(track: Track, page: Page, link: str | None) -> Listed:
    return Listed(
        alert_id=track.alert_id,
        sensor=page.sensor,
        quantity=page.quantity,
        kind=page.kind,
        severity=page.severity,
        state=track.state,
        since=page.since,
        sentence=page.sentence,
        longitude=page.longitude,
        latitude=page.latitude,
        link=f"{link}/alerts/{track.alert_id}" if link else None,
    )


def one_of(values: Iterable[str]) -> str:
    """Return what all values are, or that there are several."""
    found = set(values)
    return found.pop() if len(found) == 1 else "several"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TITLE_CHARS else f"{text[: MAX_TITLE_CHARS - 1]}…"


def by_identity(tracks: Mapping[UUID, Track]) -> dict[str, list[UUID]]:
    """Return the alerts of each identity."""
    found: dict[str, list[UUID]] = {}
    for alert_id, track in tracks.items():
        found.setdefault(track.identity, []).append(alert_id)
    return found
