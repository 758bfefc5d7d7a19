"""What is answered instead: problem details by RFC 9457, with nothing of the inside in them."""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from psycopg_pool import PoolTimeout, TooManyRequests
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match, Route

log = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
_RETRY_AFTER_S: Final = 5
_MAX_ERRORS: Final = 20


class Fault(BaseModel):
    """One part of a request that is wrong."""

    model_config = ConfigDict(frozen=True)

    where: str
    what: str


class Problem(BaseModel):
    """Why something was not done (RFC 9457)."""

    model_config = ConfigDict(frozen=True)

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None
    errors: list[Fault] | None = None


class ProblemError(HTTPException):
    """A request that is answered with a problem."""

    def __init__(
        self, status: int, detail: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, detail, headers)


def answer(
    status: int,
    detail: str | None = None,
    *,
    errors: Sequence[Fault] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return a problem as a response."""
    title = HTTPStatus(status).phrase
    problem = Problem(
        title=title, status=status, detail=detail, errors=None if errors is None else list(errors)
    )
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        status,
        headers={**(headers or {}), "Cache-Control": "no-store"},
        media_type=MEDIA_TYPE,
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what an operation says of the problems that it answers with."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Answer every error of an application with a problem."""
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    for away in (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, TooManyRequests):
        app.add_exception_handler(away, _away)
    app.add_exception_handler(Exception, _broken)


def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for it
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # Of several operations on one path, the framework names those of the first.
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    detail = error.detail if error.detail != HTTPStatus(error.status_code).phrase else None
    return answer(error.status_code, detail, headers=headers)


def _methods(request: Request) -> set[str]:
    routes: Sequence[Route] = request.app.state.operations
    return {
        method
        for route in routes
        if route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }


def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - it is registered for it
    # Without the values themselves: they may be a secret that went to the wrong place.
    faults = [
        Fault(where=".".join(map(str, one["loc"])), what=str(one["msg"]))
        for one in error.errors()[:_MAX_ERRORS]
    ]
    return answer(HTTPStatus.UNPROCESSABLE_ENTITY, "the request is not understood", errors=faults)


def _away(_request: Request, error: Exception) -> JSONResponse:
    log.warning("the database does not answer", extra={"error": type(error).__name__})
    headers = {"Retry-After": str(_RETRY_AFTER_S)}
    return answer(HTTPStatus.SERVICE_UNAVAILABLE, "the database does not answer", headers=headers)


def _broken(_request: Request, _error: Exception) -> JSONResponse:
    # The server logs the error itself.
    return answer(HTTPStatus.INTERNAL_SERVER_ERROR)
