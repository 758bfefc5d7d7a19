"""Silences, maintenance windows, who is on call, test pages and figures."""

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from paging import reach
from paging.api import orders
from paging.matching import Match
from paging.pager import Pager, PagerConfig
from paging.sender import SenderConfig
from storage.pages import outbox_channel
from tests.paging.api.conftest import Api
from tests.paging.conftest import QUICK, routes_to
from tests.paging.scaffold import eventually, hooked, page_of, running

pytestmark = pytest.mark.integration


def in_(span: timedelta) -> str:
    return (datetime.now(UTC) + span).isoformat()


def order(**changes: Any) -> dict[str, Any]:
    facts = {"match": {"zone": "harbour"}, "ends_at": in_(timedelta(hours=2)), "comment": "works"}
    return facts | changes


HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.mark.parametrize(("path", "role"), [("silences", "responder"), ("maintenance", "admin")])
def test_an_order_is_made_shown_and_ended(api: Api, path: str, role: str) -> None:
    match = {"zone": ["north", "!south"], "kind": "spike"}
    made = api.post(f"/v1/{path}", order(match=match), role)
    assert made.status_code == 201, made.text
    one = made.json()
    assert one["match"] == {"zone": ["north", "!south"], "kind": ["spike"]}
    assert (one["author"], one["lifted_at"]) == (f"{'an' if role == 'admin' else 'a'}-{role}", None)
    assert one in api.get(f"/v1/{path}").json()["items"]
    assert api.get(f"/v1/{path}/{one['id']}").json() == one
    # Whoever may end the one may not end the other by it.
    other, others = [("maintenance", "admin"), ("silences", "responder")][path == "maintenance"]
    assert api.ask(others, "DELETE", f"/v1/{other}/{one['id']}").status_code == 404
    assert api.get(f"/v1/{path}/{one['id']}").json() == one

    ended = api.ask(role, "DELETE", f"/v1/{path}/{one['id']}").json()
    again = api.ask(role, "DELETE", f"/v1/{path}/{one['id']}").json()

    assert ended["lifted_by"] == one["author"]
    assert again == ended, "the first who ends it stands there"
    assert ended not in api.get(f"/v1/{path}").json()["items"]
    assert ended in api.get(f"/v1/{path}?all=true").json()["items"]
    assert api.get(f"/v1/{other}/{one['id']}").status_code == 404


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"match": {}}, 400),
        ({"match": {"sensor": "*"}}, 400),
        ({"match": {"sensor": "?*", "category": ["c*", "sensor-health"]}}, 400),
        ({"match": {"severity": ["minor", "major", "critical"]}}, 400),
        ({"match": {"severity": "!informational"}}, 400),
        ({"match": {"kind": ["*", *(f"*{one}*" for one in range(40))]}}, 400),
        ({"match": {"severity": "terrible"}}, 400),
        ({"match": {"colour": "red"}}, 422),
        ({"match": {"zone": []}}, 422),
        ({"match": {"zone": "!"}}, 400),
        ({"comment": ""}, 422),
        ({"ends_at": in_(-HOUR)}, 400),
        ({"ends_at": in_(8 * DAY)}, 400),
        ({"ends_at": "tomorrow"}, 422),
        ({"ends_at": 1_900_000_000}, 422),
        ({"ends_at": "2026-01-01T00:00:00"}, 422),
        ({"begins_at": in_(-HOUR)}, 400),
        ({"begins_at": in_(3 * HOUR)}, 400),
        ({"begins_at": in_(400 * DAY), "ends_at": in_(401 * DAY)}, 400),
        ({"begins_at": "0001-01-01T00:00:00+23:59"}, 400),
        ({"author": "somebody else"}, 422),
    ],
)
def test_what_cannot_be_silenced_is_refused(api: Api, changes: dict[str, Any], status: int) -> None:
    answer = api.post("/v1/silences", order(**changes))
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["status"] == status


@pytest.mark.parametrize(
    "match",
    [
        {"sensor": "loop-*"},
        {"severity": ["minor", "major"]},
        {"sensor": "*", "category": "city"},
        {"zone": ["*", "!harbour"]},
        {"sensor": [f"*-{one}-*" for one in range(40)]},
    ],
)
def test_what_leaves_something_to_be_told_may_be_silenced(api: Api, match: Any) -> None:
    answer = api.post("/v1/silences", order(match=match))
    assert answer.status_code == 201, answer.text
    api.ask("responder", "DELETE", f"/v1/silences/{answer.json()['id']}").raise_for_status()


def test_others_are_answered_while_a_match_is_compared(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared, may_end = threading.Event(), threading.Event()

    def is_everything(match: Match) -> bool:
        compared.set()
        assert may_end.wait(20)
        return reach.is_everything(match)

    monkeypatch.setattr(orders, "is_everything", is_everything)
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(api.post, "/v1/silences", order(match={"sensor": "*"}))
        try:
            assert compared.wait(20)
            assert api.get("/v1/silences").status_code == 200
        finally:
            may_end.set()
        assert made.result().status_code == 400


def test_what_is_over_by_now_cannot_be_ordered(api: Api) -> None:
    """Also where it would end after it began: the clock of whoever asks may be slow."""
    span = {"begins_at": in_(timedelta(seconds=-30)), "ends_at": in_(timedelta(seconds=-5))}
    answer = api.post("/v1/silences", order(**span))
    assert (answer.status_code, answer.json()["detail"].split(":")[0]) == (400, "ends_at")
    body = {"rotation": "primary", "person": "bo", **span}
    assert api.post("/v1/oncall/overrides", body).status_code == 400


def test_silences_and_windows_are_bounded_together(api: Api) -> None:
    silences = "SELECT count(*) AS n FROM silence WHERE ends_at > now() AND lifted_at IS NULL"
    (present,) = api.table.execute(silences)
    api.table.execute(
        "INSERT INTO silence (kind, match, begins_at, ends_at, comment, author)"
        " SELECT (ARRAY['silence', 'maintenance'])[1 + n %% 2], '{}', now(),"
        "        now() + interval '1 h', '', 'many' FROM generate_series(1, %s) AS x (n)",
        999 - present["n"],
    )
    try:
        last = api.post("/v1/silences", order())
        assert last.status_code == 201, last.text
        for path, role in (("silences", "responder"), ("maintenance", "admin")):
            refused = api.post(f"/v1/{path}", order(), role)
            assert (refused.status_code, refused.json()["status"]) == (409, 409)
        path = f"/v1/silences/{last.json()['id']}"
        assert api.ask("responder", "DELETE", path).status_code == 200
        again = api.post("/v1/silences", order())
        assert again.status_code == 201, "what is over does not count"
        path = f"/v1/silences/{again.json()['id']}"
        assert api.ask("responder", "DELETE", path).status_code == 200
    finally:
        api.table.execute("DELETE FROM silence WHERE author = 'many'")


def test_overrides_are_bounded(api: Api) -> None:
    overrides = (
        "SELECT count(*) AS n FROM oncall_override WHERE ends_at > now() AND lifted_at IS NULL"
    )
    (present,) = api.table.execute(overrides)
    api.table.execute(
        "INSERT INTO oncall_override (rotation, person, begins_at, ends_at, author)"
        " SELECT 'primary', 'bo', now() + interval '1 d', now() + interval '2 d', 'many'"
        " FROM generate_series(1, %s)",
        499 - present["n"],
    )
    body = {
        "rotation": "primary",
        "person": "bo",
        "begins_at": in_(2 * DAY),
        "ends_at": in_(3 * DAY),
    }
    try:
        last = api.post("/v1/oncall/overrides", body)
        assert last.status_code == 201, last.text
        assert api.post("/v1/oncall/overrides", body).status_code == 409
        path = f"/v1/oncall/overrides/{last.json()['id']}"
        assert api.ask("responder", "DELETE", path).status_code == 200
    finally:
        api.table.execute("DELETE FROM oncall_override WHERE author = 'many'")


def test_what_is_over_by_itself_cannot_be_ended(api: Api) -> None:
    """Nobody has ended it, and history must not say so."""
    span = in_(-2 * HOUR), in_(-HOUR)
    (silence,) = api.table.execute(
        "INSERT INTO silence (kind, match, begins_at, ends_at, comment, author)"
        " VALUES ('silence', '{}', %s, %s, '', 'a') RETURNING silence_id AS id",
        *span,
    )
    (override,) = api.table.execute(
        "INSERT INTO oncall_override (rotation, person, begins_at, ends_at, author)"
        " VALUES ('primary', 'bo', %s, %s, 'a') RETURNING override_id AS id",
        *span,
    )
    for path in (f"/v1/silences/{silence['id']}", f"/v1/oncall/overrides/{override['id']}"):
        ended = api.ask("responder", "DELETE", path)
        assert ended.status_code == 200, ended.text
        assert (ended.json()["lifted_at"], ended.json()["lifted_by"]) == (None, None)


def test_the_pager_hears_at_once_of_what_is_silenced_and_no_longer(api: Api) -> None:
    with psycopg.connect(api.dsn, autocommit=True) as connection:
        connection.execute(f"LISTEN {outbox_channel(api.schema)}")

        def rings() -> int:
            return len(list(connection.notifies(timeout=20, stop_after=1)))

        made = api.post("/v1/silences", order()).json()
        assert rings() == 1
        api.ask("responder", "DELETE", f"/v1/silences/{made['id']}").raise_for_status()
        assert rings() == 1


def test_a_silence_that_begins_later_may_last_as_long(api: Api) -> None:
    later = order(begins_at=in_(3 * DAY), ends_at=in_(10 * DAY - HOUR))
    answer = api.post("/v1/silences", later)
    assert answer.status_code == 201, answer.text
    api.ask("responder", "DELETE", f"/v1/silences/{answer.json()['id']}").raise_for_status()


def test_a_silence_is_heeded_until_it_ends(api: Api) -> None:
    zone = f"zone-{uuid4().hex[:8]}"
    api.table.execute("UPDATE outbox SET decided_at = now() WHERE decided_at IS NULL")
    silence = api.post("/v1/silences", order(match={"zone": zone})).json()
    page = page_of(zone=zone, sensor=f"traffic-{zone}")

    async def night() -> None:
        async with hooked() as (hook, url):
            config = PagerConfig(routes=routes_to(url), sender=SenderConfig(**QUICK))
            async with running(Pager(api.dsn, api.schema, "live", config)):
                api.table.put(page)
                await eventually(lambda: bool(api.table.said(page)))
                assert not hook.arrivals
                path = f"/v1/silences/{silence['id']}"
                await asyncio.to_thread(api.ask, "responder", "DELETE", path)
                await eventually(lambda: len(hook.arrivals) == 1)

    asyncio.run(night())
    said = api.get(f"/v1/alerts/{page.alert_id}/decisions").json()
    assert (said[0]["stage"], said[0]["outcome"]) == ("silence", "mute")


def test_who_is_on_call_by_turn_and_by_override(api: Api) -> None:
    at = "2026-01-13T12:00:00Z"
    (usual,) = api.get("/v1/oncall", params={"at": at}).json()
    assert (usual["person"], usual["until"]) == ("bo", "2026-01-19T08:00:00Z")

    now = datetime.now(UTC)
    (present,) = api.get("/v1/oncall").json()
    other = "bo" if present["person"] == "anna" else "anna"
    body = {"rotation": "primary", "person": other, "ends_at": in_(HOUR)}
    made = api.post("/v1/oncall/overrides", body)
    assert made.status_code == 201, made.text
    (instead,) = api.get("/v1/oncall").json()
    assert (instead["person"], instead["is_override"]) == (other, True)
    span = {"since": now.isoformat(), "until": in_(2 * HOUR)}
    schedule = api.get("/v1/oncall/schedule", params=span).json()
    assert [one["is_override"] for one in schedule][-2:] == [True, False]
    assert schedule[-1]["person"] == present["person"]

    path = f"/v1/oncall/overrides/{made.json()['id']}"
    assert made.json()["lifted_by"] is None
    ended = api.ask("responder", "DELETE", path).json()
    assert (bool(ended["lifted_at"]), ended["lifted_by"]) == (True, "a-responder")
    again = api.ask("admin", "DELETE", path).json()
    assert again == ended, "the first who cancels it stands there"
    (back,) = api.get("/v1/oncall").json()
    assert (back["person"], back["is_override"]) == (present["person"], False)


@pytest.mark.parametrize(
    "changes",
    [{"rotation": "none"}, {"person": "nobody"}, {"person": "carl"}, {"ends_at": in_(-HOUR)}],
)
def test_who_cannot_stand_in_does_not(api: Api, changes: dict[str, Any]) -> None:
    body = {"rotation": "primary", "person": "bo", "ends_at": in_(HOUR)} | changes
    assert api.post("/v1/oncall/overrides", body).status_code == 400


def test_a_test_page_comes_and_says_so(api: Api) -> None:
    api.table.execute("UPDATE outbox SET decided_at = now() WHERE decided_at IS NULL")
    assert api.post("/v1/test-pages", {"policy": "none"}, "admin").status_code == 400
    made = api.post("/v1/test-pages", {"policy": "day"}, "admin")
    assert made.status_code == 201, made.text
    path = f"/v1/test-pages/{made.json()['id']}"

    async def night() -> None:
        async with hooked() as (hook, url):
            kept = routes_to(url)
            named = PagerConfig(
                routes=type(kept)(
                    routes=kept.routes,
                    policies={**kept.policies, "day": kept.policies["webhook"]},
                    hooks=kept.hooks,
                ),
                sender=SenderConfig(**QUICK),
            )
            async with running(Pager(api.dsn, api.schema, "live", named)):
                await eventually(lambda: bool(hook.arrivals))
                assert hook.arrivals[0].notice.title.startswith("Test page: an-admin")

                def has_come() -> bool:
                    return any(one["delivered_at"] for one in api.get(path).json()["deliveries"])

                while not await asyncio.to_thread(has_come):  # noqa: ASYNC110 - over HTTP
                    await asyncio.sleep(0.05)

    asyncio.run(night())
    assert api.get(path).json()["decided_at"]
    statuses = [
        api.post("/v1/test-pages", {"policy": "day"}, "admin").status_code for _ in range(12)
    ]
    assert statuses[-1] == 429, "each wakes somebody"
    api.table.execute("UPDATE page_test SET decided_at = now() WHERE decided_at IS NULL")


def test_test_pages_are_bounded_also_where_many_ask_at_once(api: Api) -> None:
    api.table.execute("UPDATE page_test SET created_at = created_at - interval '1 h'")
    with ThreadPoolExecutor(40) as pool:
        asked = [
            pool.submit(api.post, "/v1/test-pages", {"policy": "day"}, "admin") for _ in range(40)
        ]
        statuses = Counter(one.result().status_code for one in asked)
    api.table.execute(
        "UPDATE page_test SET decided_at = now(), created_at = created_at - interval '1 h'"
    )
    assert statuses.pop(201) == 10
    # Of a machine that is busy some may have waited for too long.
    assert set(statuses) <= {429, 503}


def test_figures_of_a_part_of_a_shift_are_of_that_part(api: Api) -> None:
    day = datetime(2025, 5, 5, tzinfo=UTC)
    for hour in (7, 9, 10, 13, 15):
        put_page(api, day + timedelta(hours=hour))
    for since, until, of_shifts in (
        (6, 22, [4, 1]),
        (8, 22, [3, 1]),
        (10, 13, [1]),
        (9, 15, [3, 0]),
    ):
        span = {
            "since": (day + timedelta(hours=since)).isoformat(),
            "until": (day + timedelta(hours=until)).isoformat(),
        }
        found = api.get("/v1/figures", params=span).json()
        assert [one["pages"] for one in found["shifts"]] == of_shifts
        assert found["causes"][0]["pages"] == sum(of_shifts)


def test_a_page_that_no_hook_took_counts_and_has_no_times(api: Api) -> None:
    day = datetime(2025, 6, 2, tzinfo=UTC)
    key = put_page(api, day + timedelta(hours=1))
    marked = api.ask("responder", "PUT", f"/v1/pages/{key}/mark", json={"is_false": True})
    assert marked.status_code == 200
    put_page(api, None)
    span = {"since": day.isoformat(), "until": (day + DAY).isoformat()}
    total, *_ = api.get("/v1/figures", params=span).json()["causes"]
    assert (total["pages"], total["marked"], total["to_page"]["median_s"]) == (1, 1, None)


def put_page(api: Api, told: datetime | None) -> str:
    """Write down a cause of which nothing was delivered."""
    key = str(uuid4())
    api.table.execute(
        "INSERT INTO page_group (group_key, cause, cause_name, route, policy, labels, opened_at,"
        " told_at, closed_at, body) VALUES (%s, 'sensors', '', 'city', 'day', '{}', now(), %s,"
        " now(), '{}')",
        key,
        told,
    )
    return key


def test_figures_count_what_people_were_told(api: Api) -> None:
    day = datetime(2025, 9, 1, tzinfo=UTC)
    # From written down to told 1, 2, 3, 4 and 5 s; acknowledged after as many minutes, over after
    # ten times as many. The last is still open, and nobody has it.
    for number, cause in enumerate(("sensors", "sensors", "gateway", "zone", "power-area"), 1):
        is_over = number < 5
        page = page_of(since=day)
        api.table.put(page)
        key = str(uuid4())
        told = day + timedelta(hours=7 * number)
        api.table.execute(
            "UPDATE alert SET recorded_at = %s WHERE alert_id = %s",
            told - timedelta(seconds=number),
            page.alert_id,
        )
        api.table.execute(
            "INSERT INTO page_group (group_key, cause, cause_name, route, policy, labels,"
            " opened_at, told_at, acknowledged_at, first_acknowledged_at, acknowledged_by,"
            " closed_at, body)"
            " VALUES (%s, %s, '', 'city', 'day', '{}', %s, %s, %s, %s, %s, %s, '{}')",
            key,
            cause,
            told,
            told,
            # Once more after it had got worse; the first time counts.
            told + timedelta(hours=1) if is_over else None,
            told + timedelta(minutes=number) if is_over else None,
            "anna" if is_over else None,
            told + timedelta(minutes=10 * number) if is_over else None,
        )
        api.table.execute("INSERT INTO page_member VALUES (%s, %s, %s)", key, page.alert_id, told)
        (notice,) = api.table.execute(
            "INSERT INTO notice (group_key, revision, event, at, payload)"
            " VALUES (%s, 1, 'trigger', %s, '{}') RETURNING notice_id",
            key,
            told,
        )
        api.table.execute(
            "INSERT INTO delivery (notice_id, key, group_key, event, step, hook, delivered_at)"
            " VALUES (%s, %s, %s, 'trigger', 1, 'control', %s)",
            notice["notice_id"],
            key,
            key,
            told,
        )
        if number < 3:
            mark = {"is_false": number == 1}
            api.ask("responder", "PUT", f"/v1/pages/{key}/mark", json=mark).raise_for_status()

    span = {"since": day.isoformat(), "until": (day + 2 * DAY).isoformat()}
    found = api.get("/v1/figures", params=span).json()

    total, *causes = found["causes"]
    assert total == {
        "cause": "all",
        "pages": 5,
        "to_page": {"median_s": 3.0, "p95_s": pytest.approx(4.8)},
        "to_acknowledge": {"median_s": 150.0, "p95_s": pytest.approx(231.0)},
        "to_resolve": {"median_s": 1500.0, "p95_s": pytest.approx(2310.0)},
        "marked": 2,
        "false": 1,
        "false_share": 0.5,
    }
    assert [(one["cause"], one["pages"]) for one in causes] == [
        ("sensors", 2),
        ("gateway", 1),
        ("power-area", 1),
        ("zone", 1),
    ]
    assert causes[-2]["to_acknowledge"] == causes[-2]["to_resolve"]
    assert causes[-2]["to_resolve"] == {"median_s": None, "p95_s": None}
    # Shifts begin at 6, 14 and 22; the pages came at 7, 14, 21, 4 and 11.
    assert [one["pages"] for one in found["shifts"]] == [0, 1, 2, 1, 1, 0, 0]
    empty = api.get("/v1/figures", params={"since": in_(-HOUR), "until": in_(HOUR)}).json()
    assert empty["causes"][0]["cause"] == "all"
    for until in (in_(93 * DAY), in_(-HOUR)):
        answer = api.get("/v1/figures", params={"since": in_(timedelta()), "until": until})
        assert answer.status_code == 400
