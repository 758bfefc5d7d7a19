"""The duty: who is on call, whether a page comes, and how it goes."""

from datetime import timedelta
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request

from paging.api import store
from paging.api.forms import (
    AtQuery,
    Figures,
    Listing,
    NewOverride,
    NewTest,
    OnCall,
    OrderQuery,
    Override,
    PagesOf,
    ScheduledTurn,
    ShiftPages,
    Span,
    Test,
    Times,
)
from paging.api.guard import Admin, Database, GuardedRoute, Responder, Viewer
from paging.api.orders import span_of
from paging.api.problems import ProblemError, responses
from paging.api.tokens import Connection
from paging.checking import hooks_lacking
from paging.routes import Routes
from paging.schedule import turn_at, turns
from paging.turn import test_group
from storage import duty

router: Final = APIRouter(prefix="/v1", tags=["duty"], route_class=GuardedRoute)
# A quarter of a year: a few hundred shifts, and as many turns.
_LONGEST: Final = timedelta(days=92)
_MOST_OVERRIDES: Final = 500
# Each wakes somebody.
_MOST_TESTS: Final = 10


def _routes(request: Request) -> Routes:
    routes: Routes = request.app.state.routes
    return routes


Known = Annotated[Routes, Depends(_routes)]


@router.get("/oncall", summary="Say who is on call")
async def who_is_on_call(
    _caller: Viewer, database: Database, routes: Known, wanted: Annotated[AtQuery, Query()]
) -> list[OnCall]:
    """One for each rotation of the routes file, and until when."""
    at = wanted.at or await store.now(database)
    # The next change may be another override: of these as far as one looks ahead.
    standing = await store.standing_in(database, at, at + _LONGEST)
    return [
        OnCall.of(name, turn_at(rotation, standing, at))
        for name, rotation in routes.rotations.items()
    ]


@router.get("/oncall/schedule", summary="Show the schedule")
async def show_schedule(
    _caller: Viewer, database: Database, routes: Known, wanted: Annotated[Span, Query()]
) -> list[ScheduledTurn]:
    """List turns and overrides of every rotation, at most 92 days of them."""
    _bounded(wanted)
    standing = await store.standing_in(database, wanted.since, wanted.until)
    return [
        ScheduledTurn(**OnCall.of(name, turn).model_dump(), begins_at=turn.begins)
        for name, rotation in routes.rotations.items()
        for turn in turns(rotation, standing, wanted.since, wanted.until)
    ]


@router.get("/oncall/overrides", summary="List who stands in")
async def list_overrides(
    _caller: Viewer, database: Database, wanted: Annotated[OrderQuery, Query()]
) -> Listing[Override]:
    """Those that are or are to be; with `all` also those that are over."""
    try:
        items, after = await store.overrides(
            database, limit=wanted.limit, after=wanted.after, over=wanted.all
        )
    except store.CursorError as error:
        raise ProblemError(400, str(error)) from error
    return Listing(items=items, next=after)


@router.post(
    "/oncall/overrides",
    status_code=201,
    responses=responses(409),
    summary="Let somebody stand in",
)
async def add_override(
    caller: Responder, database: Database, routes: Known, new: NewOverride
) -> Override:
    """At most 92 days; of several at a time the one that begins last counts."""
    if new.rotation not in routes.rotations:
        known = ", ".join(routes.rotations) or "none"
        raise ProblemError(400, f"rotation: there is no {new.rotation}; there are {known}")
    if new.person not in routes.people:
        raise ProblemError(400, f"person: {new.person} does not stand in the routes file")
    lacking = hooks_lacking(new.rotation, new.person, routes)
    if lacking:
        hooks = " and ".join(lacking)
        raise ProblemError(400, f"person: {new.person} is not reached by {hooks}, as policies ask")
    span = span_of(await store.now(database), new.begins_at, new.ends_at, _LONGEST)
    if await store.present_overrides(database) >= _MOST_OVERRIDES:
        raise ProblemError(409, f"there are {_MOST_OVERRIDES} overrides; cancel some of them")
    found = await store.override(
        database,
        await store.add_override(database, new.rotation, new.person, span, caller.name),
    )
    assert found is not None  # noqa: S101 - it has just been written
    return found


@router.delete(
    "/oncall/overrides/{override_id}",
    responses=responses(404),
    summary="Let somebody stand in no longer",
)
async def cancel_override(caller: Responder, database: Database, override_id: UUID) -> Override:
    """One that is over stays as it is."""
    await store.lift_override(database, override_id, caller.name)
    found = await store.override(database, override_id)
    if found is None:
        raise ProblemError(404, f"there is none {override_id}")
    return found


@router.post(
    "/test-pages",
    status_code=201,
    responses=responses(429),
    summary="Ask for a page that shows whether it comes",
)
async def add_test(caller: Admin, database: Database, routes: Known, new: NewTest) -> Test:
    """By the first step of a policy and its real hooks; the page says that it is a test."""
    if new.policy not in routes.policies:
        known = ", ".join(routes.policies) or "none"
        raise ProblemError(400, f"policy: there is no {new.policy}; there are {known}")
    test_id = await store.add_test(database, new.policy, caller.name, _MOST_TESTS)
    if test_id is None:
        raise ProblemError(
            429, f"{_MOST_TESTS} in ten minutes are enough", headers={"Retry-After": "600"}
        )
    return await _test(database, test_id)


@router.get(
    "/test-pages/{test_id}", responses=responses(404), summary="Say whether a test page came"
)
async def show_test(_caller: Viewer, database: Database, test_id: UUID) -> Test:
    """To whom it went, and whether it got there."""
    return await _test(database, test_id)


@router.get("/figures", summary="Show the figures of the duty")
async def show_figures(
    _caller: Viewer, database: Database, routes: Known, wanted: Annotated[Span, Query()]
) -> Figures:
    """Of what people were told of in at most 92 days: times, pages a shift, false pages."""
    _bounded(wanted)
    found = await duty.figures(database, wanted.since, wanted.until)
    began = routes.shifts.between(wanted.since, wanted.until)
    shifts = await duty.shifts(database, began, wanted.since, wanted.until)
    return Figures(
        since=wanted.since,
        until=wanted.until,
        causes=[_figures(one) for one in found],
        shifts=[ShiftPages(began=one.began, pages=one.pages) for one in shifts],
    )


def _figures(one: duty.PagesOf) -> PagesOf:
    return PagesOf(
        cause=one.cause,  # type: ignore[arg-type] # the database's own words
        pages=one.pages,
        to_page=Times(median_s=one.page_median_s, p95_s=one.page_p95_s),
        to_acknowledge=Times(median_s=one.acknowledge_median_s, p95_s=one.acknowledge_p95_s),
        to_resolve=Times(median_s=one.resolve_median_s, p95_s=one.resolve_p95_s),
        marked=one.marked,
        false=one.false,
        false_share=one.false / one.marked if one.marked else None,
    )


def _bounded(span: Span) -> None:
    if not timedelta() < span.until - span.since <= _LONGEST:
        raise ProblemError(400, f"until: later than since by {_LONGEST.days} days at most")


async def _test(database: Connection, test_id: UUID) -> Test:
    found = await store.test(database, test_id)
    if found is None:
        raise ProblemError(404, f"there is none {test_id}")
    return Test(**found, deliveries=await store.deliveries(database, test_group(test_id)))
