"""What PagerDuty is sent, to a receiver that is as strict as its documentation says."""

import asyncio
import json
from datetime import datetime

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from paging.hooks import Notifier, NotTold, Refused, Retry, SecretError
from paging.hooks.kinds import KINDS
from paging.hooks.pagerduty import (
    ENDPOINT,
    MAX_EVENTS_PER_MINUTE,
    Window,
    dedup_key,
    event_of,
    events_of,
)
from paging.notices import Notice
from storage.pages import Severity
from tests.paging.hooks.pagerduty_service import EVENTS, MAX_BYTES, Service
from tests.paging.hooks.scaffold import AT, GROUP, SECRET, attempt, listed, notice_of, served

RUNG = dedup_key(GROUP, 1)


def told(service: Service, *notices: Notice) -> list[NotTold | None]:
    """Send notices one after the other and return what came of each."""

    async def all_of_them() -> list[NotTold | None]:
        kind = KINDS["pagerduty"]
        async with served(service.handle) as base:
            options = {"routing_key": {"env": "KEY"}, "endpoint": f"{base}/v2/enqueue"}
            async with kind.open(kind.read(options), {"KEY": SECRET}) as notifier:
                return [await attempt(notifier, notice) for notice in notices]

    return asyncio.run(all_of_them())


def test_a_group_is_one_alert_from_trigger_to_resolve() -> None:
    service = Service()
    faults = told(
        service,
        notice_of(),
        notice_of(),
        notice_of(revision=2),
        notice_of(event="acknowledge", revision=3, actor="anna"),
        notice_of(event="resolve", revision=4),
        notice_of(event="resolve", revision=4),
    )
    assert faults == [None] * 6
    assert service.opened == {GROUP: 1}
    assert service.states == {GROUP: "resolved"}
    assert set(service.statuses) == {202}


def test_what_got_worse_wakes_whoever_has_acknowledged() -> None:
    """A trigger of the same key wakes nobody there, so the worse alert rings under another one."""
    service = Service()
    had = notice_of(), notice_of(event="acknowledge", revision=2)
    worse = notice_of(revision=3, severity="critical")
    assert told(service, *had, worse) == [None] * 3
    assert service.states == {GROUP: "acknowledged"}
    assert service.opened == {GROUP: 1}

    rings = msgspec.structs.replace(worse, revision=4, ring=1)
    assert told(service, rings, rings) == [None] * 2
    assert service.states == {GROUP: "resolved", RUNG: "triggered"}
    assert service.opened == {GROUP: 1, RUNG: 1}
    assert service.taken[-1]["payload"]["severity"] == "critical"

    assert told(service, notice_of(event="acknowledge", revision=5, ring=1)) == [None]
    assert service.states == {GROUP: "resolved", RUNG: "acknowledged"}
    assert told(service, notice_of(event="resolve", revision=6, ring=1)) == [None]
    assert service.states == {GROUP: "resolved", RUNG: "resolved"}
    assert service.most_open == 1


@pytest.mark.parametrize(
    ("event", "state"), [("acknowledge", "acknowledged"), ("resolve", "resolved")]
)
def test_who_slept_through_a_ring_is_told_what_became_of_the_page(event: str, state: str) -> None:
    """A service of a later step: two rings were had before it was its turn."""
    service = Service()
    assert told(service, notice_of(), notice_of(event=event, revision=4, ring=2)) == [None] * 2
    assert service.states == {GROUP: state}


def test_who_slept_through_a_ring_has_one_alert_when_it_rings_again() -> None:
    service = Service()
    assert told(service, notice_of(), notice_of(revision=4, ring=2)) == [None] * 2
    assert service.states == {GROUP: "resolved", dedup_key(GROUP, 2): "triggered"}


def test_a_ring_that_was_told_by_half_is_told_again_as_a_whole() -> None:
    class Stumbling(Service):
        """Fails once between the two events of a ring."""

        has_failed = False

        def answer(self, path: str, body: bytes) -> web.Response:
            is_it = json.loads(body)["dedup_key"] == RUNG
            if is_it and not self.has_failed:
                self.has_failed = True
                return web.Response(status=503)
            return super().answer(path, body)

    service = Stumbling()
    rings = notice_of(revision=2, ring=1)
    first, fault, again = told(service, notice_of(), rings, rings)
    assert first is None
    assert isinstance(fault, Retry)
    assert again is None
    assert service.statuses == [202, 202, 503, 202, 202]
    assert service.states == {GROUP: "resolved", RUNG: "triggered"}
    assert service.opened == {GROUP: 1, RUNG: 1}
    assert service.most_open == 1


def test_all_events_of_a_ring_are_held_back_or_none() -> None:
    service = Service()
    notices = [notice_of(group=f"g{number}", ring=2) for number in range(40)]
    faults = told(service, *notices)
    whole = MAX_EVENTS_PER_MINUTE // 3
    assert faults[:whole] == [None] * whole
    assert all(isinstance(fault, Retry) for fault in faults[whole:])
    assert len(service.taken) == 3 * whole
    assert set(service.states) == {dedup_key(f"g{number}", 2) for number in range(whole)}


def test_a_page_that_never_calms_down_is_still_told() -> None:
    service = Service()
    assert told(service, notice_of(ring=1_000_000)) == [None]
    assert service.taken[-1]["event_action"] == "trigger"
    assert len(service.taken) <= MAX_EVENTS_PER_MINUTE // 5


@given(st.integers(1, 255), st.sets(st.integers(0, 10**12), min_size=2))
def test_every_ring_has_a_key_that_they_take(size: int, rings: set[int]) -> None:
    groups = "x" * size, "x" * (size - 1) + "y"
    keys = {dedup_key(group, ring) for group in groups for ring in rings}
    assert len(keys) == 2 * len(rings)
    assert max(map(len, keys)) <= 255


def test_the_event_says_what_the_notice_says() -> None:
    service = Service()
    assert told(service, notice_of()) == [None]
    event = service.taken[0]
    assert event["dedup_key"] == GROUP
    assert event["client"] == "Citywatch"
    assert event["client_url"] == f"https://citywatch.example/groups/{GROUP}"
    assert [link["href"] for link in event["links"]] == [
        f"https://citywatch.example/groups/{GROUP}",
        *(one.link for one in notice_of().alerts),
    ]
    payload = event["payload"]
    assert payload["summary"] == notice_of().title
    assert payload["source"] == payload["group"] == "harbour"
    assert payload["class"] == "anomaly"
    assert datetime.fromisoformat(payload["timestamp"]) == AT
    details = payload["custom_details"]
    assert details["text"] == notice_of().text
    assert details["counts"]["open"] == 2
    assert [one["sensor"] for one in details["alerts"]] == ["traffic-0001", "traffic-0002"]
    assert "note" not in details


@pytest.mark.parametrize("action", ["acknowledge", "resolve"])
def test_what_follows_a_trigger_needs_no_payload(action: str) -> None:
    event = msgspec.json.decode(event_of(notice_of(event=action), SECRET))
    assert event == {"routing_key": SECRET, "dedup_key": GROUP, "event_action": action}


def test_an_update_adds_to_the_alert() -> None:
    event = msgspec.json.decode(event_of(notice_of(event="update"), SECRET))
    assert event["event_action"] == "trigger"
    assert "update" not in KINDS["pagerduty"].events


@pytest.mark.parametrize(
    ("severity", "theirs"),
    [
        ("informational", "info"),
        ("minor", "warning"),
        ("major", "error"),
        ("critical", "critical"),
    ],
)
def test_severities_are_theirs(severity: Severity, theirs: str) -> None:
    event = msgspec.json.decode(event_of(notice_of(severity=severity), SECRET))
    assert event["payload"]["severity"] == theirs


def test_a_notice_without_names_still_has_a_source() -> None:
    service = Service()
    assert told(service, notice_of(title="", cause_name="", zone="", link=None)) == [None]


def test_a_notice_that_is_too_large_loses_the_end_of_its_list() -> None:
    service = Service()
    long = tuple(listed(number, sentence="ü" * 20_000) for number in range(20))
    assert told(service, notice_of(alerts=long)) == [None]
    details = service.taken[0]["payload"]["custom_details"]
    assert details["text"] == notice_of().text
    assert [one["sensor"] for one in details["alerts"]] == [one.sensor for one in long[:10]]
    assert details["note"] == "too large for one event: 10 of 20 alerts are shown"


def test_a_text_that_is_too_large_is_cut() -> None:
    service = Service()
    notice = notice_of(text="\x00" * 600_000, labels={"zone": "z" * 600_000})
    assert told(service, notice) == [None]
    details = service.taken[0]["payload"]["custom_details"]
    assert details["text"].endswith("…")
    assert "not all of the text" in details["note"]


_TEXTS = st.text(max_size=20) | st.builds(
    lambda char, size: char * size, st.sampled_from("x\x00ü🚨"), st.integers(0, 200_000)
)


@given(
    _TEXTS,
    _TEXTS,
    _TEXTS,
    st.lists(_TEXTS, max_size=20),
    st.none() | st.just("https://x/" + "y" * 600_000),
    st.integers(0, 3),
)
def test_no_event_is_too_large(
    text: str, zone: str, cause_name: str, sentences: list[str], link: str | None, ring: int
) -> None:
    notice = notice_of(
        ring=ring,
        text=text,
        zone=zone,
        cause_name=cause_name,
        labels={zone[:100]: text},
        policy=zone,
        link=link,
        alerts=tuple(listed(number, sentence=one) for number, one in enumerate(sentences)),
    )
    events = events_of(notice, SECRET)
    assert len(events) == ring + 1
    for data in events:
        assert len(data) <= MAX_BYTES
        EVENTS.validate(json.loads(data))


def test_a_limit_of_theirs_asks_for_half_a_minute() -> None:
    service = Service(limit=1)
    first, second = told(service, notice_of(), notice_of(revision=2))
    assert first is None
    assert isinstance(second, Retry)
    assert second.after_s == 30
    assert service.statuses == [202, 429]


@pytest.mark.parametrize("status", [408, 500, 503])
def test_only_a_limit_of_theirs_does(status: int) -> None:
    class Failing(Service):
        def answer(self, path: str, body: bytes) -> web.Response:  # noqa: ARG002 - whatever it is
            return web.Response(status=status)

    (fault,) = told(Failing(), notice_of())
    assert isinstance(fault, Retry)
    assert fault.after_s is None, "as long as the sender thinks"


def test_what_they_do_not_understand_is_given_up() -> None:
    class Picky(Service):
        def answer(self, path: str, body: bytes) -> web.Response:
            return super().answer(path, body.replace(b"trigger", b"alarm"))

    assert isinstance(told(Picky(), notice_of())[0], Refused)


def test_their_limit_is_not_reached() -> None:
    """Send more than a minute takes; what is held back has not been sent, and says when."""
    service = Service()
    faults = told(service, *[notice_of(revision=number) for number in range(1, 131)])
    assert service.statuses == [202] * MAX_EVENTS_PER_MINUTE
    assert faults[:MAX_EVENTS_PER_MINUTE] == [None] * MAX_EVENTS_PER_MINUTE
    for fault in faults[MAX_EVENTS_PER_MINUTE:]:
        assert isinstance(fault, Retry)
        assert fault.after_s is not None
        assert 0 < fault.after_s <= 60


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 5)), max_size=60))
def test_no_minute_has_more_than_may_be(tries: list[tuple[float, int]]) -> None:
    window = Window(5)
    now, sent = 0.0, []
    for pause, count in tries:
        now += pause
        wait_s = window.wait_s(now, count)
        assert wait_s >= 0
        if wait_s == 0:
            sent += [now] * count
        else:
            assert window.wait_s(now + wait_s - 1e-6, count) > 0
    assert all(sixth - first >= 60 for first, sixth in zip(sent, sent[5:], strict=False))


@pytest.mark.parametrize(
    ("endpoint", "is_taken"),
    [
        (ENDPOINT, True),
        ("https://events.eu.pagerduty.com/v2/enqueue", True),
        ("http://127.0.0.1:8080/v2/enqueue", True),
        ("http://[::1]:8080/v2/enqueue", True),
        ("http://localhost:8080/v2/enqueue", True),
        ("http://events.pagerduty.com/v2/enqueue", False),
        ("http://127.0.0.1.evil.example/v2/enqueue", False),
        ("ftp://127.0.0.1/", False),
    ],
)
def test_the_key_is_shown_to_nobody_on_the_way(endpoint: str, *, is_taken: bool) -> None:
    values = {"routing_key": {"env": "KEY"}, "endpoint": endpoint}
    if is_taken:
        KINDS["pagerduty"].read(values)
    else:
        with pytest.raises(msgspec.ValidationError):
            KINDS["pagerduty"].read(values)


@pytest.mark.parametrize("text", [SECRET[:-1], f"{SECRET}0", f"{SECRET[:-1]}-"])
def test_what_is_no_integration_key_is_refused_without_repeating_it(text: str) -> None:
    kind = KINDS["pagerduty"]

    async def once() -> Notifier:
        async with kind.open(kind.read({"routing_key": {"env": "KEY"}}), {"KEY": text}) as notifier:
            return notifier

    with pytest.raises(SecretError, match="KEY: expected an integration key") as caught:
        asyncio.run(once())
    assert text not in str(caught.value)


def test_their_endpoint_is_the_default() -> None:
    options = KINDS["pagerduty"].read({"routing_key": {"env": "KEY"}})
    assert options.endpoint == "https://events.pagerduty.com/v2/enqueue"
