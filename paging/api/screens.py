"""Where the link in a page leads: one alert or one page on a telephone, without any script.

A person signs in with a token, which stays in a cookie that no script can read and that no other
site can send along with a form. What changes something carries a proof made of that token besides.
The API itself does not look at cookies.
"""

import hmac
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit
from uuid import UUID

from fastapi import APIRouter, Request, Response
from jinja2 import Environment, FunctionLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse

from paging.api import alerts, store
from paging.api.forms import Page
from paging.api.guard import authenticated, looked_at
from paging.api.problems import ProblemError
from paging.api.tokens import Caller, Connection

router: Final = APIRouter()
# A shift, and the end of the one before.
_SIGNED_IN_S: Final = 12 * 3_600
_COOKIE: Final = "citywatch"
_SECURE_COOKIE: Final = "__Host-citywatch"
_TEMPLATES: Final = files("paging.api") / "templates"
_STYLE: Final = (_TEMPLATES / "screen.css").read_text(encoding="utf-8")
_STYLE_HASH: Final = b64encode(sha256(_STYLE.encode()).digest()).decode()
_HEADERS: Final = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    # With none at all a browser does not say either that a form came from here.
    "Referrer-Policy": "same-origin",
}


def _time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


_environment: Final = Environment(
    loader=FunctionLoader(lambda name: (_TEMPLATES / name).read_text(encoding="utf-8")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters["time"] = _time
_environment.globals["style"] = _STYLE


class _SignedOutError(Exception):
    """Nobody is signed in, or no longer."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


@router.get("/alerts/{alert_id:uuid}")
async def show_alert(request: Request, alert_id: UUID) -> Response:
    """Show an alert, or ask for a token."""
    try:
        async with request.app.state.pool.connection() as database:
            caller, token = await _signed_in(request, database)
            found = await alerts.in_full(database, alert_id)
            if found is None:
                return _shown("missing.html", 404, what="alert", caller=caller)
            said = await store.decisions(database, alert_id)
    except _SignedOutError as error:
        return _sign_in(request, error)
    return _shown(
        "alert.html",
        alert=found,
        said=said,
        caller=caller,
        may_acknowledge=caller.may("responder")
        and (found.state in ("open", "stale") or any(map(_is_nobodys, found.pages))),
        proof=_proof(token, "alerts", alert_id),
    )


@router.get("/groups/{page_id:uuid}")
async def show_group(request: Request, page_id: UUID) -> Response:
    """Show a page of several alerts, or ask for a token."""
    try:
        async with request.app.state.pool.connection() as database:
            caller, token = await _signed_in(request, database)
            found = await alerts.page_in_full(database, page_id)
    except _SignedOutError as error:
        return _sign_in(request, error)
    if found is None:
        return _shown("missing.html", 404, what="page", caller=caller)
    is_open = any(one.state in ("open", "stale") for one in found.members) or _is_nobodys(found)
    return _shown(
        "group.html",
        page=found,
        title=found.words[0].title if found.words else found.cause_name or found.route,
        caller=caller,
        may_acknowledge=caller.may("responder") and is_open,
        proof=_proof(token, "groups", page_id),
    )


@router.post("/alerts/{alert_id:uuid}/acknowledge")
async def acknowledge_alert(request: Request, alert_id: UUID) -> Response:
    """Acknowledge an alert by the button of its screen."""
    return await _acknowledge(request, "alerts", alert_id)


@router.post("/groups/{page_id:uuid}/acknowledge")
async def acknowledge_group(request: Request, page_id: UUID) -> Response:
    """Acknowledge a page by the button of its screen."""
    return await _acknowledge(request, "groups", page_id)


@router.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """Take a token, and lead on to where somebody wanted to go."""
    _from_here(request)
    fields = await _fields(request)
    place = _place(fields.get("next", ""))
    token = fields.get("token", "").strip()
    try:
        async with request.app.state.pool.connection() as database:
            await _known(request, database, token)
    except _SignedOutError as error:
        return _sign_in(request, error, place)
    response = RedirectResponse(place, 303, headers=_HEADERS)
    secure = _is_secure(request)
    response.set_cookie(
        _SECURE_COOKIE if secure else _COOKIE,
        token,
        max_age=_SIGNED_IN_S,
        path="/",
        secure=secure,
        httponly=True,
        # Lax: the link in a page comes from elsewhere, and is to find one signed in.
        samesite="lax",
    )
    return response


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    """Forget the token."""
    _from_here(request)
    response = _shown("missing.html", what="", caller=None)
    secure = _is_secure(request)
    name = _SECURE_COOKIE if secure else _COOKIE
    response.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="lax")
    return response


def _is_nobodys(page: Page) -> bool:
    """Say whether people were told of a page that is not over, and nobody has it."""
    is_told = page.told_at is not None and page.closed_at is None
    return is_told and page.acknowledged_at is None


async def _acknowledge(request: Request, kind: str, of: UUID) -> Response:
    _from_here(request)
    try:
        async with request.app.state.pool.connection() as database:
            caller, token = await _signed_in(request, database)
            fields = await _fields(request)
            proof = fields.get("proof", "").encode()
            if not hmac.compare_digest(proof, _proof(token, kind, of).encode()):
                raise ProblemError(403, "the form was not made for this token")
            if not caller.may("responder"):
                raise ProblemError(403, f"this needs the role responder; you are {caller.role}")
            if kind == "alerts":
                await store.acknowledge(database, of, caller.name, "acknowledged")
            else:
                await store.acknowledge_page(database, of, caller.name, "acknowledged")
    except _SignedOutError as error:
        return _sign_in(request, error, f"/{kind}/{of}")
    return RedirectResponse(f"/{kind}/{of}", 303, headers=_HEADERS)


async def _signed_in(request: Request, database: Connection) -> tuple[Caller, str]:
    token = request.cookies.get(_SECURE_COOKIE) or request.cookies.get(_COOKIE) or ""
    return await _known(request, database, token), token


async def _known(request: Request, database: Connection, token: str) -> Caller:
    try:
        return await authenticated(request, database, looked_at(request, token))
    except ProblemError as error:
        said = "" if not token else str(error.detail)
        raise _SignedOutError(error.status_code, said) from error


def _sign_in(request: Request, error: _SignedOutError, place: str | None = None) -> Response:
    wanted = place or _place(request.url.path)
    return _shown("sign-in.html", error.status, place=wanted, said=str(error), caller=None)


def _from_here(request: Request) -> None:
    """Refuse a form that another site has sent.

    Raises
    ------
    ProblemError
    """
    site = request.headers.get("Sec-Fetch-Site", "same-origin")
    if site not in ("same-origin", "none") or not _is_ours(request):
        raise ProblemError(403, "the form came from elsewhere")


def _is_ours(request: Request) -> bool:
    origin = request.headers.get("Origin")
    try:
        return origin is None or urlsplit(origin).netloc == request.headers.get("Host")
    except ValueError:
        return False


def _is_secure(request: Request) -> bool:
    """Say whether people come by TLS, here or at the proxy in front."""
    link: str | None = request.app.state.routes.link
    return request.url.scheme == "https" or bool(link and link.startswith("https:"))


async def _fields(request: Request) -> Mapping[str, str]:
    text = (await request.body()).decode("ascii", "replace")
    try:
        found = parse_qs(text, max_num_fields=8)
    except ValueError as error:
        raise ProblemError(400, "this is no form of ours") from error
    return {name: values[0] for name, values in found.items()}


def _place(path: str) -> str:
    """Return where to go next: a screen of ours, and nothing that anybody made up."""
    _, kind, of, *rest = (*path.split("/"), "", "", "")[:6]
    try:
        return f"/{kind}/{UUID(of)}" if kind in ("alerts", "groups") and not any(rest) else "/"
    except ValueError:
        return "/"


def _proof(token: str, kind: str, of: UUID) -> str:
    """Return what shows that a form was made for whoever is signed in, and for this alert."""
    return hmac.new(token.encode(), f"acknowledge {kind} {of}".encode(), sha256).hexdigest()


def _shown(template: str, status: int = 200, **facts: Any) -> Response:
    text = _environment.get_template(template).render(quote=quote, **facts)
    return HTMLResponse(text, status, headers=_HEADERS)
