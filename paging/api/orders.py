"""Silences and maintenance windows: what people are not told of, until when, and who wants it."""

from asyncio import to_thread
from datetime import datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query

from paging.api import store
from paging.api.forms import Listing, NewOrder, Order, OrderQuery
from paging.api.guard import Admin, Database, GuardedRoute, Responder, Viewer
from paging.api.problems import ProblemError, responses
from paging.api.tokens import Connection
from paging.matching import read_match
from paging.reach import is_everything

router: Final = APIRouter(prefix="/v1", tags=["silences"], route_class=GuardedRoute)
# A silence is for a night or a week; what takes longer is planned, and an admin's.
LONGEST: Final[dict[store.OrderKind, timedelta]] = {
    "silence": timedelta(days=7),
    "maintenance": timedelta(days=90),
}
_FURTHEST: Final = timedelta(days=366)
# The decider asks each of every alert.
_MOST: Final = 1_000
_SKEW: Final = timedelta(minutes=1)


@router.get("/silences", summary="List silences, newest first")
async def list_silences(
    _caller: Viewer, database: Database, wanted: Annotated[OrderQuery, Query()]
) -> Listing[Order]:
    """Those that are or are to be; with `all` also those that are over."""
    return await _list(database, "silence", wanted)


@router.post("/silences", status_code=201, responses=responses(409), summary="Silence alerts")
async def add_silence(caller: Responder, database: Database, new: NewOrder) -> Order:
    """At most 7 days, and of some alerts: a match of everything is refused."""
    return await _add(database, "silence", new, caller.name)


@router.get("/silences/{silence_id}", responses=responses(404), summary="Show a silence")
async def show_silence(_caller: Viewer, database: Database, silence_id: UUID) -> Order:
    """Also one that is over."""
    return await _show(database, "silence", silence_id)


@router.delete("/silences/{silence_id}", responses=responses(404), summary="End a silence now")
async def expire_silence(caller: Responder, database: Database, silence_id: UUID) -> Order:
    """One that is over stays as it is."""
    await store.lift_order(database, "silence", silence_id, caller.name)
    return await _show(database, "silence", silence_id)


@router.get("/maintenance", summary="List maintenance windows, newest first")
async def list_windows(
    _caller: Viewer, database: Database, wanted: Annotated[OrderQuery, Query()]
) -> Listing[Order]:
    """Those that are or are to be; with `all` also those that are over."""
    return await _list(database, "maintenance", wanted)


@router.post("/maintenance", status_code=201, responses=responses(409), summary="Plan maintenance")
async def add_window(caller: Admin, database: Database, new: NewOrder) -> Order:
    """At most 90 days, of zones, sensors or whatever else is worked on."""
    return await _add(database, "maintenance", new, caller.name)


@router.get(
    "/maintenance/{window_id}", responses=responses(404), summary="Show a maintenance window"
)
async def show_window(_caller: Viewer, database: Database, window_id: UUID) -> Order:
    """Also one that is over."""
    return await _show(database, "maintenance", window_id)


@router.delete(
    "/maintenance/{window_id}", responses=responses(404), summary="End a maintenance window now"
)
async def end_window(caller: Admin, database: Database, window_id: UUID) -> Order:
    """One that is over stays as it is."""
    await store.lift_order(database, "maintenance", window_id, caller.name)
    return await _show(database, "maintenance", window_id)


async def _list(database: Connection, kind: store.OrderKind, wanted: OrderQuery) -> Listing[Order]:
    try:
        items, after = await store.orders(
            database, kind, limit=wanted.limit, after=wanted.after, over=wanted.all
        )
    except store.CursorError as error:
        raise ProblemError(400, str(error)) from error
    return Listing(items=items, next=after)


async def _show(database: Connection, kind: store.OrderKind, order_id: UUID) -> Order:
    found = await store.order(database, kind, order_id)
    if found is None:
        raise ProblemError(404, f"there is none {order_id}")
    return found


async def _add(database: Connection, kind: store.OrderKind, new: NewOrder, author: str) -> Order:
    given = new.match.given()
    # On a thread: of hundreds of globs it takes a while, and others ask meanwhile.
    if faults := await to_thread(_faults_of, given):
        raise ProblemError(400, "; ".join(faults))
    span = span_of(await store.now(database), new.begins_at, new.ends_at, LONGEST[kind])
    if await store.present_orders(database) >= _MOST:
        raise ProblemError(409, f"there are {_MOST} silences and windows; end some of them")
    order_id = await store.add_order(database, kind, given, span, new.comment, author)
    return await _show(database, kind, order_id)


def _faults_of(given: dict[str, list[str]]) -> list[str]:
    """Return what is wrong with a match."""
    faults: list[str] = []
    match = read_match(given, "match", faults)
    if not faults and is_everything(match):
        faults.append("match: it takes everything, and nobody would be told of anything")
    return faults


def span_of(
    now: datetime, begins: datetime | None, ends: datetime, longest: timedelta
) -> tuple[datetime, datetime]:
    """Return when something begins and ends.

    Raises
    ------
    ProblemError
        400 if it cannot be: it would be over already, begin in the past, or last too long.
    """
    first = now if begins is None else begins
    if first < now - _SKEW:
        raise ProblemError(400, "begins_at: this is past")
    if ends <= max(first, now):
        raise ProblemError(400, "ends_at: it must end later than it begins, and later than now")
    if ends - first > longest:
        raise ProblemError(400, f"ends_at: it may last {longest.days} days at most")
    if first - now > _FURTHEST:
        raise ProblemError(400, f"begins_at: {_FURTHEST.days} days from now at most")
    return first, ends
