"""Alerts and pages: what there is, why people were told, and that somebody has it."""

from hashlib import sha256
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response

from paging.api import store
from paging.api.forms import (
    Absent,
    Acknowledged,
    Alert,
    AlertInFull,
    AlertQuery,
    Answer,
    Decision,
    Judgement,
    Listing,
    Marked,
    Page,
    PageInFull,
    PageQuery,
    Remark,
)
from paging.api.guard import Database, GuardedRoute, Responder, Viewer
from paging.api.problems import ProblemError, responses
from paging.api.tokens import Connection

router: Final = APIRouter(prefix="/v1", tags=["alerts"], route_class=GuardedRoute)
_UNCHANGED: Final[dict[int | str, dict[str, Any]]] = {
    304: {"description": "Nothing has changed since `If-None-Match`"}
}
IfNoneMatch = Annotated[str | Absent, Header(max_length=1_000)]


@router.get("/alerts", summary="List alerts, newest first")
async def list_alerts(
    _caller: Viewer, database: Database, wanted: Annotated[AlertQuery, Query()]
) -> Listing[Alert]:
    """Filter by what alerts are; of several values of one name any, of several names all."""
    try:
        items, after = await store.alerts(database, wanted)
    except store.CursorError as error:
        raise ProblemError(400, str(error)) from error
    return Listing(items=items, next=after)


@router.get(
    "/alerts/{alert_id}",
    response_model=AlertInFull,
    responses=responses(404) | _UNCHANGED,
    summary="Show an alert with its history and its pages",
)
async def show_alert(
    _caller: Viewer, database: Database, alert_id: UUID, if_none_match: IfNoneMatch = None
) -> Response:
    """Every transition with its time, cause and actor."""
    found = await in_full(database, alert_id)
    if found is None:
        raise ProblemError(404, f"there is no alert {alert_id}")
    return _tagged(found, if_none_match)


async def in_full(database: Connection, alert_id: UUID) -> AlertInFull | None:
    """Return an alert with everything that a person at night asks of it."""
    found = await store.alert(database, alert_id)
    if found is None:
        return None
    return AlertInFull(
        **found.model_dump(),
        history=await store.history(database, alert_id),
        pages=await store.pages_of(database, alert_id),
    )


@router.get(
    "/alerts/{alert_id}/decisions",
    responses=responses(404),
    summary="Explain, stage by stage, why an alert paged or did not",
)
async def explain_alert(_caller: Viewer, database: Database, alert_id: UUID) -> list[Decision]:
    """List what the stages said of it and of its pages: the newest 500, in order."""
    if await store.alert(database, alert_id) is None:
        raise ProblemError(404, f"there is no alert {alert_id}")
    return await store.decisions(database, alert_id)


@router.post(
    "/alerts/{alert_id}/acknowledgement",
    responses=responses(404, 409),
    summary="Acknowledge an alert",
)
async def acknowledge_alert(
    caller: Responder, database: Database, alert_id: UUID, remark: Remark
) -> Acknowledged:
    """Its page is escalated no further. Once more changes nothing.

    One that is over is a conflict, unless a page of it is not over and nobody has that: any of its
    alerts takes it.
    It is the token's name that stands in the history.
    """
    changed, state = await store.acknowledge(database, alert_id, caller.name, _why(remark.comment))
    if state is None:
        raise ProblemError(404, f"there is no alert {alert_id}")
    if state == "resolved" and not changed:
        raise ProblemError(409, "it is over")
    return Acknowledged(changed=int(changed), state=state)


@router.put(
    "/alerts/{alert_id}/mark",
    responses=responses(404, 409),
    summary="Mark the pages of an alert as false, or not",
)
async def mark_alert(
    caller: Responder, database: Database, alert_id: UUID, judgement: Judgement
) -> Marked:
    """All pages of it that people were told of; a token has one mark for each page."""
    if await store.alert(database, alert_id) is None:
        raise ProblemError(404, f"there is no alert {alert_id}")
    page_ids = await store.told_pages(database, alert_id)
    if not page_ids:
        raise ProblemError(409, "nobody was told of it")
    await store.mark(
        database, page_ids, caller.name, judgement.comment, is_false=judgement.is_false
    )
    return Marked(pages=page_ids)


@router.get("/pages", summary="List pages, newest first")
async def list_pages(
    _caller: Viewer, database: Database, wanted: Annotated[PageQuery, Query()]
) -> Listing[Page]:
    """List causes with their alerts; of one without `told_at` nobody was told."""
    try:
        items, after = await store.pages(database, wanted)
    except store.CursorError as error:
        raise ProblemError(400, str(error)) from error
    return Listing(items=items, next=after)


@router.get(
    "/pages/{page_id}",
    response_model=PageInFull,
    responses=responses(404) | _UNCHANGED,
    summary="Show a page with its alerts, words and deliveries",
)
async def show_page(
    _caller: Viewer, database: Database, page_id: UUID, if_none_match: IfNoneMatch = None
) -> Response:
    """To whom it was told, by what, and whether it got there."""
    found = await page_in_full(database, page_id)
    if found is None:
        raise ProblemError(404, f"there is no page {page_id}")
    return _tagged(found, if_none_match)


async def page_in_full(database: Connection, page_id: UUID) -> PageInFull | None:
    """Return a page with what was told of it."""
    found = await store.page(database, page_id)
    if found is None:
        return None
    return PageInFull(
        **found.model_dump(),
        members=await store.members(database, page_id),
        words=await store.words(database, page_id),
        deliveries=await store.deliveries(database, str(page_id)),
        marks=await store.marks(database, page_id),
    )


@router.post(
    "/pages/{page_id}/acknowledgement",
    responses=responses(404),
    summary="Acknowledge all alerts of a page",
)
async def acknowledge_page(
    caller: Responder, database: Database, page_id: UUID, remark: Remark
) -> Acknowledged:
    """All of them or, where the database fails, none. Once more changes nothing.

    Nobody else is woken for it, also where its alerts are silenced, or over and it is held open.
    """
    changed = await store.acknowledge_page(database, page_id, caller.name, _why(remark.comment))
    if changed is None:
        raise ProblemError(404, f"there is no page {page_id}")
    return Acknowledged(changed=changed)


@router.put(
    "/pages/{page_id}/mark",
    responses=responses(404, 409),
    summary="Mark a page as false, or not",
)
async def mark_page(
    caller: Responder, database: Database, page_id: UUID, judgement: Judgement
) -> Marked:
    """Say it once for each page and token; the newest of all marks counts in the figures."""
    was_told = await store.was_told(database, page_id)
    if was_told is None:
        raise ProblemError(404, f"there is no page {page_id}")
    if not was_told:
        raise ProblemError(409, "nobody was told of it")
    await store.mark(
        database, [page_id], caller.name, judgement.comment, is_false=judgement.is_false
    )
    return Marked(pages=[page_id])


def _why(comment: str | None) -> str:
    return comment or "acknowledged"


def _tagged(answer: Answer, known: str | None) -> Response:
    """Return an answer with its ETag, or without a body where the client has it."""
    body = answer.model_dump_json().encode()
    tag = f'"{sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if known is not None and tag in (one.strip().removeprefix("W/") for one in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)
