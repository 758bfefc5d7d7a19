"""What people read of alerts and pages, and how they say that they have one."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from paging.api.server import _listen
from paging.notices import Notice
from paging.pager import Pager, PagerConfig
from paging.sender import SenderConfig
from storage.pages import Page
from tests.paging.api.conftest import Api
from tests.paging.conftest import QUICK, routes_to
from tests.paging.scaffold import eventually, hooked, page_of, resolution_of, running

pytestmark = pytest.mark.integration


def put(api: Api, **changes: object) -> Page:
    page = page_of(**changes)
    api.table.put(page)
    return page


@pytest.fixture
def zone() -> str:
    """Return a zone that no other test has."""
    return f"zone-{uuid4().hex[:8]}"


def told(api: Api, page: Page) -> str:
    """Let a page stand that was told of an alert, and that no pager takes up again."""
    key = str(uuid4())
    api.table.execute(
        "INSERT INTO page_group (group_key, cause, cause_name, route, policy, labels, severity,"
        " opened_at, told_at, closed_at, body) VALUES (%s, 'sensors', %s, 'city', 'day', '{}',"
        " 'major', now(), now(), now(), '{}')",
        key,
        page.zone,
    )
    api.table.execute("INSERT INTO page_member VALUES (%s, %s, now())", key, page.alert_id)
    return key


def test_an_alert_says_what_there_is_to_know(api: Api) -> None:
    page = put(api)

    answer = api.get(f"/v1/alerts/{page.alert_id}")

    assert answer.status_code == 200
    alert = answer.json()
    assert alert["sentence"] == page.sentence
    assert (alert["state"], alert["severity"], alert["zone"]) == ("open", "major", "harbour")
    assert alert["opened_at"] == page.since.isoformat().replace("+00:00", "Z")


def test_an_unchanged_alert_is_not_sent_again(api: Api) -> None:
    path = f"/v1/alerts/{put(api).alert_id}"
    tag = api.get(path).headers["ETag"]

    again = api.get(path, headers={"If-None-Match": f'"other", W/{tag}'})
    assert (again.status_code, again.content) == (304, b"")

    api.post(f"{path}/acknowledgement", {})
    changed = api.get(path, headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["state"]) == (200, "acknowledged")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", [0, 1, 2]),
        ("&severity=critical", [1]),
        ("&severity=critical&severity=minor", [1, 2]),
        ("&kind=silence&severity=critical", []),
        ("&kind=silence", [2]),
        ("&state=acknowledged", []),
        ("&category=city", [0, 1]),
        ("&until=2025-03-01T01:30:00%2B01:00", [0]),
        ("&since=2025-03-01T01:00:00Z", [1, 2]),
    ],
)
def test_alerts_are_found_by_what_they_are(api: Api, query: str, found: list[int]) -> None:
    zone = "filtered"
    if not api.get(f"/v1/alerts?zone={zone}").json()["items"]:
        since = datetime(2025, 3, 1, tzinfo=UTC)
        put(api, zone=zone, since=since)
        put(api, zone=zone, since=since + timedelta(hours=1), severity="critical")
        health = {"category": "sensor-health", "kind": "silence", "severity": "minor"}
        put(api, zone=zone, since=since + timedelta(hours=2), **health)
    everything = api.get(f"/v1/alerts?zone={zone}").json()["items"][::-1]

    items = api.get(f"/v1/alerts?zone={zone}{query}").json()["items"]

    assert items[::-1] == [everything[index] for index in found]


def test_lists_are_read_on_while_alerts_come_in(api: Api, zone: str) -> None:
    since = datetime(2025, 5, 1, tzinfo=UTC)
    # Two at each time: the cursor must not fall between them.
    old = [put(api, zone=zone, since=since + timedelta(minutes=n // 2)) for n in range(10)]
    seen: list[str] = []
    after = ""
    while True:
        part = api.get(f"/v1/alerts?zone={zone}&limit=3{after}").json()
        seen += [one["alert_id"] for one in part["items"]]
        put(api, zone=zone, since=since + timedelta(hours=1, minutes=len(seen)))
        if part["next"] is None:
            break
        after = f"&after={part['next']}"

    assert len(seen) == len(set(seen))
    assert set(seen) == {str(one.alert_id) for one in old}


@pytest.mark.parametrize("cursor", ["AAAA", "MjAyNi0wMS0wMVQwMDowMDowMCB4", "x"])
def test_a_cursor_that_no_list_gave_is_refused(api: Api, cursor: str) -> None:
    for path in ("alerts", "pages", "silences", "maintenance", "oncall/overrides"):
        answer = api.get(f"/v1/{path}?after={cursor}")
        assert answer.status_code == 400
        assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    "text",
    [
        "' OR true --",
        "'; DROP TABLE alert; --",
        "%' UNION SELECT hash FROM api_token --",
        '"',
        "\\",
    ],
)
def test_text_stays_text(api: Api, text: str) -> None:
    put(api)
    for name in ("zone", "sensor", "kind"):
        answer = api.get("/v1/alerts", params={name: text})
        assert (answer.status_code, answer.json()["items"]) == (200, [])
    for name in ("state", "severity", "since", "after", "limit"):
        assert api.get("/v1/alerts", params={name: text}).status_code == 422
    assert api.get(f"/v1/alerts/{text.replace('%', '%25')}").status_code in (404, 422)
    # A comment may be anything that is one line.
    page = put(api)
    api.post(f"/v1/alerts/{page.alert_id}/acknowledgement", {"comment": text})
    history = api.get(f"/v1/alerts/{page.alert_id}").json()["history"]
    assert history[-1]["cause"] == text


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "", "\ud800", "x" * 501, 1, None, ["a"]])
def test_what_is_no_line_is_no_comment(api: Api, text: object) -> None:
    page = put(api)
    body = b'{"comment": "\\ud800"}' if text == "\ud800" else None
    path = f"/v1/alerts/{page.alert_id}/mark"
    answer = (
        api.ask("responder", "PUT", path, data=body, headers={"Content-Type": "application/json"})
        if body
        else api.ask("responder", "PUT", path, json={"comment": text, "is_false": True})
    )
    # Nothing is not a wrong comment; nobody was told of the alert.
    assert answer.status_code == (409 if text is None else 422), answer.text


def test_an_acknowledgement_is_in_the_history_and_before_the_pager(api: Api) -> None:
    page = put(api)
    path = f"/v1/alerts/{page.alert_id}"

    first = api.post(f"{path}/acknowledgement", {"comment": "on my way"})
    second = api.post(f"{path}/acknowledgement", {"comment": "me too"})

    assert first.json() == {"changed": 1, "state": "acknowledged"}
    assert second.json() == {"changed": 0, "state": "acknowledged"}
    (row,) = api.get(path).json()["history"]
    told = (row["state"], row["cause"], row["actor"])
    assert told == ("acknowledged", "on my way", "a-responder")
    rows = api.table.execute(
        "SELECT actor FROM outbox WHERE alert_id = %s AND event = 'acknowledged'"
        " AND decided_at IS NULL",
        page.alert_id,
    )
    assert rows == [{"actor": "a-responder"}]


def test_many_who_acknowledge_at_once_are_one(api: Api) -> None:
    pages = [put(api) for _ in range(3)]
    key = told(api, pages[0])
    for page in pages[1:]:
        api.table.execute("INSERT INTO page_member VALUES (%s, %s, now())", key, page.alert_id)

    def acknowledge(number: int) -> int:
        alert = f"/v1/alerts/{pages[number % 3].alert_id}/acknowledgement"
        answer = api.post(f"/v1/pages/{key}/acknowledgement" if number % 4 == 0 else alert, {})
        assert answer.status_code == 200, answer.text
        return int(answer.json()["changed"])

    with ThreadPoolExecutor(24) as several:
        changed = sum(several.map(acknowledge, range(48)))

    assert changed == len(pages)
    for page in pages:
        assert len(api.get(f"/v1/alerts/{page.alert_id}").json()["history"]) == 1


def test_what_is_over_is_acknowledged_by_nobody(api: Api) -> None:
    page = put(api)
    api.table.execute(
        "UPDATE alert SET state = 'resolved', resolved_at = now() WHERE alert_id = %s",
        page.alert_id,
    )
    path = f"/v1/alerts/{page.alert_id}/acknowledgement"
    assert api.post(path, {}).status_code == 409
    assert api.post(f"/v1/alerts/{uuid4()}/acknowledgement", {}).status_code == 404
    assert api.post(f"/v1/pages/{uuid4()}/acknowledgement", {}).status_code == 404


def test_a_page_is_marked_once_by_each(api: Api) -> None:
    page = put(api)
    path = f"/v1/alerts/{page.alert_id}/mark"
    assert api.ask("responder", "PUT", path, json={}).status_code == 409, "nobody was told"
    key = told(api, page)

    one = api.ask("responder", "PUT", path, json={"comment": "a bird"})
    assert one.json() == {"pages": [key]}
    api.ask("responder", "PUT", f"/v1/pages/{key}/mark", json={"is_false": False})
    api.ask("admin", "PUT", f"/v1/pages/{key}/mark", json={"is_false": True})

    marks = api.get(f"/v1/pages/{key}").json()["marks"]
    assert [(one["author"], one["is_false"]) for one in marks] == [
        ("a-responder", False),
        ("an-admin", True),
    ]


def test_what_was_decided_of_a_page_before_an_alert_joined_says_nothing_of_it(api: Api) -> None:
    page = put(api)
    key = told(api, page)
    api.table.execute(
        "INSERT INTO decision (at, group_key, stage, outcome, reason, trail)"
        " SELECT joined_at + after, group_key, 'escalation', 'pass', after::text, '[]'"
        " FROM page_member, unnest('{-1 s,0 s,1 s}'::interval[]) AS x (after)"
        " WHERE group_key = %s",
        key,
    )
    decisions = api.get(f"/v1/alerts/{page.alert_id}/decisions").json()
    assert [one["reason"] for one in decisions] == ["00:00:00", "00:00:01"]


def test_a_body_that_is_too_large_is_refused(api: Api) -> None:
    answer = api.ask("admin", "POST", "/v1/silences", data=b" " * 70_000)
    assert answer.status_code == 413
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_small_answer_does_not_wait_for_the_acknowledgement_of_its_head() -> None:
    """What the kernel is told of each connection; how long it waits depends on the machine."""

    async def main() -> int:
        came: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            taken = writer.get_extra_info("socket")
            came.set_result(taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with _listen("127.0.0.1", 0) as listening:
            async with await asyncio.start_server(connected, sock=listening):
                _, writer = await asyncio.open_connection(*listening.getsockname())
                is_off = await came
                writer.close()
        return is_off

    assert asyncio.run(main())


def test_every_method_of_a_path_is_named(api: Api) -> None:
    answer = api.ask("viewer", "PATCH", "/v1/silences")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, POST")


def test_every_answer_is_closed_to_other_sites(api: Api) -> None:
    for path in ("/v1/alerts", "/openapi.json", "/nothing", "/alerts/x", f"/alerts/{uuid4()}"):
        headers = api.get(path, headers={"Origin": "https://elsewhere.example"}).headers
        assert "Access-Control-Allow-Origin" not in headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "server" not in headers


def test_from_the_page_to_its_end(api: Api, zone: str) -> None:
    """Real pager, real hook: an acknowledgement reaches them, and is told."""
    # What other tests left is not told here.
    api.table.execute("UPDATE outbox SET decided_at = now() WHERE decided_at IS NULL")
    page = page_of(zone=zone, sensor=f"traffic-{zone}")

    async def night() -> None:
        async with hooked() as (hook, url):
            config = PagerConfig(routes=routes_to(url), sender=SenderConfig(**QUICK))

            def last() -> Notice | None:
                return hook.arrivals[-1].notice if hook.arrivals else None

            async def heard(event: str) -> Notice:
                await eventually(lambda: (found := last()) is not None and found.event == event)
                found = last()
                assert found is not None
                return found

            async with running(Pager(api.dsn, api.schema, "live", config)):
                api.table.put(page)
                trigger = await heard("trigger")
                shown = await asyncio.to_thread(api.get, f"/v1/alerts/{page.alert_id}")
                assert [one["page_id"] for one in shown.json()["pages"]] == [trigger.group]
                path = f"/v1/pages/{trigger.group}/acknowledgement"
                await asyncio.to_thread(api.post, path, {})
                assert (await heard("acknowledge")).actor == "a-responder"
                api.table.put(resolution_of(page))
                await heard("resolve")

    asyncio.run(night())
    decisions = api.get(f"/v1/alerts/{page.alert_id}/decisions").json()
    assert [one["stage"] for one in decisions[0]["passed"]][:2] == ["namespace", "quality"]
    assert decisions[0]["stage"] == "routing"
    assert "escalation" in [one["stage"] for one in decisions]
    deliveries = api.get(f"/v1/pages/{decisions[-1]['page_id']}").json()["deliveries"]
    assert [one["event"] for one in deliveries] == ["resolve", "acknowledge", "trigger"]
    assert all(one["delivered_at"] for one in deliveries)
