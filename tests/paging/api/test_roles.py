"""Who may do what: every operation of the document with every role, and with no good token."""

import re
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from paging.api.guard import Failures
from paging.api.server import create_app
from paging.api.tokens import ROLES, Caller, is_token, mint
from paging.hooks.kinds import KINDS
from paging.routes import Routes, read_routes
from storage.migrate import session_options
from tests.paging.api.conftest import ROUTES, Api, served

pytestmark = pytest.mark.integration

DOCUMENT = create_app("", "live", read_routes(ROUTES, KINDS)).openapi()
OPERATIONS = [
    (method.upper(), path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
PUBLIC = {"/healthz"}
GUARDED = [one for one in OPERATIONS if one[1] not in PUBLIC]
# What an operation needs beyond a token, so that only its role decides.
SPAN = {"since": "2026-01-01T00:00:00Z", "until": "2026-01-08T00:00:00Z"}
QUERIES: dict[str, dict[str, str]] = {"/v1/oncall/schedule": SPAN, "/v1/figures": SPAN}
WRONG_SCOPE = {"viewer": [], "responder": ["viewer"], "admin": ["viewer", "responder"]}


# What one has to be, said once more here: the document is made of the code.
RESPONDERS = {
    "POST /v1/alerts/{alert_id}/acknowledgement",
    "PUT /v1/alerts/{alert_id}/mark",
    "POST /v1/pages/{page_id}/acknowledgement",
    "PUT /v1/pages/{page_id}/mark",
    "POST /v1/silences",
    "DELETE /v1/silences/{silence_id}",
    "POST /v1/oncall/overrides",
    "DELETE /v1/oncall/overrides/{override_id}",
}
ADMINS = {
    "POST /v1/maintenance",
    "DELETE /v1/maintenance/{window_id}",
    "POST /v1/test-pages",
}


def role_of(operation: dict[str, Any]) -> str:
    """Return the role that the document says an operation needs."""
    (requirement,) = operation["security"]
    (role,) = requirement["token"]
    assert role in ROLES
    return str(role)


def call(api: Api, token: str | None, method: str, path: str) -> int:
    filled = re.sub(r"\{\w+\}", str(uuid4()), path)
    body = None if method in ("GET", "DELETE") else {}
    return api.ask(token, method, filled, params=QUERIES.get(path), json=body).status_code


def test_only_health_is_for_everybody() -> None:
    assert {path for _, path, operation in OPERATIONS if "security" not in operation} == PUBLIC


def test_who_only_looks_changes_nothing_and_admins_alone_plan() -> None:
    of_role: dict[str, set[str]] = {}
    for method, path, operation in GUARDED:
        of_role.setdefault(role_of(operation), set()).add(f"{method} {path}")
    assert of_role["responder"] == RESPONDERS
    assert of_role["admin"] == ADMINS
    assert {one.split()[0] for one in of_role["viewer"]} == {"GET"}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("method", "path", "operation"), GUARDED, ids=[f"{one[0]} {one[1]}" for one in GUARDED]
)
def test_a_role_does_its_own_and_nothing_else(
    api: Api, role: str, method: str, path: str, operation: dict[str, Any]
) -> None:
    needed = role_of(operation)
    status = call(api, role, method, path)
    if role in WRONG_SCOPE[needed]:
        assert status == 403
    else:
        # There is nothing of this id, or the body is empty: but the door was open.
        assert status in (200, 201, 404, 422)


@pytest.mark.parametrize(
    ("method", "path"), [one[:2] for one in GUARDED], ids=[f"{one[0]} {one[1]}" for one in GUARDED]
)
def test_without_a_good_token_nothing_opens(api: Api, method: str, path: str) -> None:
    expired, revoked = api.token(f"old-{uuid4().hex[:8]}", "admin"), f"gone-{uuid4().hex[:8]}"
    api.table.execute(
        "UPDATE api_token SET expires_at = now() - interval '1 s' WHERE name LIKE 'old-%%'"
    )
    taken_back = api.token(revoked, "admin")
    api.table.execute("UPDATE api_token SET revoked_at = now() WHERE name = %s", revoked)
    for token in (None, "", "garbage", "cw_" + "A" * 48, mint(), expired, taken_back, "ü" * 50):
        assert call(api, token and token.encode().decode("latin-1"), method, path) == 401


BAD_BODIES = {
    "broken": b'{"comment": "sesame',
    "no-text": b'{"comment": "\xff\xfe"}',
    "endless": b"[" * 60_000,
    "other": b"[1]",
    "unknown-key": b'{"sesame": 1}',
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
@pytest.mark.parametrize(
    ("method", "path", "operation"), GUARDED, ids=[f"{one[0]} {one[1]}" for one in GUARDED]
)
def test_what_is_wrong_with_a_request_is_told_to_those_who_may_make_it(
    api: Api, method: str, path: str, operation: dict[str, Any], body: bytes
) -> None:
    """Bad bodies, ids and queries alike, of those who show no token, one of nobody, one too low."""
    filled = re.sub(r"\{\w+\}", "no-id", path) + "?limit=sesame&since=sesame"
    json = {"Content-Type": "application/json"}
    for token in (None, "garbage", mint()):
        answer = api.ask(token, method, filled, data=body, headers=json)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json() == {
            "type": "about:blank",
            "title": "Unauthorized",
            "status": 401,
            "detail": "a valid token is needed",
        }
    for role in WRONG_SCOPE[role_of(operation)]:
        assert api.ask(role, method, filled, data=body, headers=json).status_code == 403
    if "requestBody" in operation:
        answer = api.ask(role_of(operation), method, filled, data=body, headers=json)
        assert answer.status_code in (400, 422)
        assert "sesame" not in answer.text.replace('"where":"body.sesame"', "")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1", 404),
        ("POST", "/v1/nothing", 404),
        ("GET", "/v1/alerts/", 404),
        ("GET", "/v1/../api_token", 404),
        ("POST", "/v1/alerts", 405),
        ("BREW", "/v1/silences", 405),
        ("PATCH", "/v1/silences/no-id", 405),
        ("GET", "/alerts/no-id", 404),
        ("POST", "/groups/no-id/acknowledge", 404),
        ("DELETE", "/healthz", 405),
    ],
)
def test_what_is_not_there_is_the_same_for_everybody(
    api: Api, method: str, path: str, status: int
) -> None:
    answers = [
        api.ask(token, method, path, data=body, headers={"Content-Type": "application/json"})
        for token in (None, mint(), "admin")
        for body in (b"", BAD_BODIES["broken"])
    ]
    assert {answer.status_code for answer in answers} == {status}
    assert {answer.headers["Content-Type"] for answer in answers} == {"application/problem+json"}
    title = {404: "Not Found", 405: "Method Not Allowed"}[status]
    problem = {"type": "about:blank", "title": title, "status": status}
    assert all(answer.json() == problem for answer in answers)


def test_a_form_that_cannot_be_read_is_nobodys_before_it_is_wrong(api: Api) -> None:
    many = "&".join(f"a{number}=1" for number in range(20))
    for kind in ("alerts", "groups"):
        path = f"/{kind}/{uuid4()}/acknowledge"
        assert api.ask(None, "POST", path, data=many).status_code == 401
        cookies = {"citywatch": api.tokens["responder"]}
        assert api.ask(None, "POST", path, data=many, cookies=cookies).status_code == 400


def test_a_token_of_another_scheme_is_none(api: Api) -> None:
    token = api.tokens["admin"]
    for header in (f"Basic {token}", token, f"Bearer{token}", f"Bearer {token}x", "Bearer "):
        answer = api.get("/v1/alerts", None, headers={"Authorization": header})
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert api.get("/v1/alerts", None, cookies={"citywatch": token}).status_code == 401


def test_a_token_is_kept_as_a_hash_alone(api: Api) -> None:
    dump = str(api.table.execute("SELECT * FROM api_token"))
    for token in api.tokens.values():
        assert token not in dump
        assert is_token(token)


def test_who_guesses_is_shut_out_and_nobody_else(api: Api, routes: Routes) -> None:
    inside = make_conninfo(api.dsn, user=f"{api.schema}_service", password="secret")
    with served(inside, api.schema, routes, Failures(burst=5, per_s=0.0)) as url:
        other = Api(url, api.dsn, api.schema, api.table, api.tokens)
        assert other.get("/v1/alerts").status_code == 200
        statuses = [other.get("/v1/alerts", mint()).status_code for _ in range(8)]
        assert statuses == [401] * 5 + [429] * 3
        # The one who is on duty comes from the same address: that of the city's proxy.
        assert other.get("/v1/alerts").status_code == 200


def test_failures_are_forgotten_with_time() -> None:
    now = 0.0
    failures = Failures(burst=2, per_s=0.5, clock=lambda: now)
    for _ in range(2):
        failures.bad("2001:db8::1", "x")
    assert failures.refuses("2001:db8::2", "y"), "the same subscriber"
    assert not failures.refuses("2001:db8:0:1::1", "y")
    now = 2.0
    assert not failures.refuses("2001:db8::1", "y")


def test_a_token_that_is_good_no_more_is_shut_out_as_well() -> None:
    failures = Failures(burst=1, per_s=0.0)
    failures.good("once")
    failures.bad("10.0.0.1", "x")
    assert not failures.refuses("10.0.0.1", "once")
    failures.bad("10.0.0.2", "once")
    assert failures.refuses("10.0.0.1", "once")


def test_roles_hold_those_below() -> None:
    assert Caller("a", "admin").may("responder")
    assert not Caller("a", "viewer").may("responder")


def test_the_database_lets_the_api_do_no_more(api: Api) -> None:
    inside = make_conninfo(api.dsn, user=f"{api.schema}_service", password="secret")
    for statement in (
        "INSERT INTO api_token (name, role, hash) VALUES ('x', 'admin', '')",
        "UPDATE api_token SET role = 'admin'",
        "DELETE FROM silence",
        "UPDATE alert SET severity = 'minor'",
        "UPDATE alert SET state = 'acknowledged'",
        "INSERT INTO alert_transition DEFAULT VALUES",
        "DELETE FROM alert_transition",
        "UPDATE alert_transition SET actor = 'nobody'",
        "SELECT last_error FROM delivery",
        "SELECT payload FROM outbox",
        # What only the worker can know: that an alert is over, or its sensor silent.
        (
            "INSERT INTO outbox (alert_id, event, dedup_key, payload)"
            " SELECT alert_id, 'resolved', alert_id::text, '{}' FROM alert"
        ),
        (
            "INSERT INTO outbox (alert_id, event, dedup_key, payload)"
            " SELECT alert_id, 'stale', alert_id::text, '{}' FROM alert"
        ),
        "UPDATE page_group SET told_at = NULL",
        "SELECT * FROM reading",
        "UPDATE outbox SET decided_at = now()",
    ):
        with (
            psycopg.connect(inside, options=session_options(api.schema)) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(statement)
