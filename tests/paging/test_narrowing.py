"""A fault in a turn, wherever it comes from, keeps nobody else from being paged."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paging import decider
from paging.api import store
from paging.connection import Connection, connected
from paging.meter import Meter
from paging.narrowing import Narrowing
from paging.pager import Pager, PagerConfig
from paging.sender import SenderConfig
from paging.state import Told
from paging.turn import decide
from tests.paging.conftest import QUICK
from tests.paging.scaffold import Table, eventually, hooked, page_of, running
from tests.paging.test_decider import ladder, on, within


def value(meter: Meter, name: str) -> float | None:
    return meter.registry.get_sample_value(name)


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 64))
def test_each_event_is_decided_in_order_and_those_that_fail_are_set_aside(
    are_faults: list[bool], at_most: int
) -> None:
    narrowing = Narrowing(at_most)
    left = list(enumerate(are_faults))
    decided, aside, turns = [], [], 0
    while left:
        turns += 1
        batch = left[: narrowing.most]
        if any(is_fault for _, is_fault in batch):
            narrowing.failed(len(batch), "x")
        elif narrowing.suspect is not None and not narrowing.is_guilty:
            narrowing.retry()
        elif narrowing.suspect is not None:
            aside.append(left.pop(0)[0])
            narrowing.set_aside()
        else:
            narrowing.succeeded(len(batch))
            decided += [number for number, _ in batch]
            del left[: len(batch)]
    assert aside == [number for number, is_fault in enumerate(are_faults) if is_fault]
    assert decided == [number for number, is_fault in enumerate(are_faults) if not is_fault]
    assert turns <= len(are_faults) * (at_most.bit_length() + 7)


def test_what_fails_without_any_event_is_nobodys_and_waits_longer_and_longer() -> None:
    narrowing = Narrowing(8)
    assert [narrowing.failed(tried, "x") for tried in (8, 4, 2, 1)] == [0.0] * 4
    assert narrowing.suspect is not None
    waits = [narrowing.failed(0, "x") for _ in range(8)]
    assert waits == [0.5, 1, 2, 4, 8, 10, 10, 10]
    assert narrowing.suspect is None
    narrowing.succeeded(0)
    assert narrowing.most == 1


def test_a_fault_of_every_event_loses_them_slowly() -> None:
    narrowing = Narrowing(8)
    assert sum(narrowing.set_aside() for _ in range(100)) > 90 * 60


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Let turns fail that a condition on their events holds of."""

    def fail_where(condition: Callable[[Sequence[Any]], bool]) -> None:
        def failing(memory: Any, events: Sequence[Any], *arguments: Any, **more: Any) -> Any:
            if condition(events):
                raise IndexError("a fault of the program")
            return decide(memory, events, *arguments, **more)

        monkeypatch.setattr(decider, "decide", failing)

    return fail_where


@pytest.mark.integration
def test_one_event_that_fails_is_set_aside_and_all_others_are_told(
    table: Table, pager_of: Callable[..., Pager], faults: Callable[[Any], None]
) -> None:
    pages = [page_of(sensor=f"s{number}") for number in range(20)]
    bad, meter = pages[13], Meter()
    faults(lambda events: any(isinstance(e, Told) and e.alert_id == bad.alert_id for e in events))

    async def work() -> None:
        table.put(*pages)
        async with hooked() as (hook, url), running(pager_of(url, meter=meter)):
            await hook.wait_for(lambda hook: hook.posts == 19)
            told = {one.notice.alerts[0].sensor for one in hook.arrivals}
            assert told == {page.sensor for page in pages if page is not bad}
            await eventually(lambda: table.count("decided_at IS NULL", "outbox") == 0)
            # What comes later is decided as ever.
            table.put(page_of(sensor="later"))
            await hook.wait_for(lambda hook: hook.posts == 20)
        async with connected(table.dsn, table.schema) as connection:
            (line,) = await store.decisions(connection, bad.alert_id)
        assert (line.stage, line.outcome) == ("fault", "drop")
        assert line.reason == (
            "set aside, it cannot be decided: IndexError: a fault of the program"
        )

    within(work())
    assert value(meter, "citywatch_pager_set_aside_total") == 1
    # By halves: more at first, and again as what is left is taken by more and more.
    failed = value(meter, "citywatch_pager_failed_turns_total")
    assert failed is not None
    assert 3 <= failed <= 20


@pytest.mark.integration
def test_what_another_pager_has_decided_meanwhile_is_not_set_aside_nor_what_stands_there_now(
    table: Table, faults: Callable[[Any], None]
) -> None:
    bad, good, meter = page_of(sensor="bad"), page_of(sensor="good"), Meter()
    faults(lambda events: any(isinstance(e, Told) and e.alert_id == bad.alert_id for e in events))

    async def work(connection: Connection) -> None:
        one = decider.Decider(table.schema, ladder(), poll_interval_s=0.05, meter=meter)
        table.put(bad)
        while not one._narrowing.is_guilty:
            try:
                await one.turn(connection)
                await one._widen(connection)
            except IndexError as error:
                one._narrow(error)
        assert await one.turn(connection), "without it all is well"
        table.execute("UPDATE outbox SET decided_at = now()")
        table.put(good)
        await one._widen(connection)
        assert table.count("stage = 'fault'", "decision") == 0
        assert table.count("decided_at IS NULL", "outbox") == 1
        await one.turn(connection)
        assert table.count("true", "page_member") == 1

    on(table, work)
    assert value(meter, "citywatch_pager_set_aside_total") == 0


@pytest.mark.integration
def test_an_event_that_fails_by_chance_is_told(
    table: Table, pager_of: Callable[..., Pager], faults: Callable[[Any], None]
) -> None:
    meter = Meter()
    failures = iter(range(2))
    faults(lambda events: bool(events) and next(failures, None) is not None)

    async def work() -> None:
        table.put(page_of())
        async with hooked() as (hook, url), running(pager_of(url, meter=meter)):
            await hook.wait_for(lambda hook: hook.posts == 1)

    within(work())
    assert value(meter, "citywatch_pager_failed_turns_total") == 2
    assert value(meter, "citywatch_pager_set_aside_total") == 0


@pytest.mark.integration
def test_a_fault_without_any_event_sets_nothing_aside_and_ends(
    table: Table, pager_of: Callable[..., Pager], faults: Callable[[Any], None]
) -> None:
    meter = Meter()
    failures = iter(range(6))
    faults(lambda _events: next(failures, None) is not None)

    async def work() -> None:
        table.put(page_of(sensor="a"), page_of(sensor="b"))
        async with hooked() as (hook, url), running(pager_of(url, meter=meter)):
            await hook.wait_for(lambda hook: hook.posts == 2)

    within(work())
    assert value(meter, "citywatch_pager_failed_turns_total") == 6
    assert value(meter, "citywatch_pager_set_aside_total") == 0


@pytest.mark.integration
def test_a_group_that_cannot_be_told_is_put_off_and_all_others_are_told(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, meter = page_of(zone="bad", sensor="bad"), Meter()

    def failing(memory: Any, events: Any, *, now: datetime, **more: Any) -> Any:
        groups = (group for group in memory.groups.values() if group.labels["zone"] == "bad")
        if any(group.wakes_at is not None and group.wakes_at <= now for group in groups):
            raise IndexError("a fault of the program")
        return decide(memory, events, now, **more)

    monkeypatch.setattr(decider, "decide", failing)

    async def work() -> None:
        async with hooked() as (hook, url), running(patient(table, url, meter)):
            table.put(bad)
            await eventually(lambda: table.count("stage = 'fault'", "decision") == 1)
            table.put(page_of(zone="good"))
            await hook.wait_for(lambda hook: hook.posts == 1)
            assert hook.arrivals[0].notice.zone == "good"
        async with connected(table.dsn, table.schema) as connection:
            said = await store.decisions(connection, bad.alert_id)
        last = [one for one in said if one.page_id is not None][-1]
        assert (last.stage, last.outcome) == ("fault", "hold")

    within(work())
    assert value(meter, "citywatch_pager_set_aside_total") == 0


def patient(table: Table, url: str, meter: Meter) -> Pager:
    config = PagerConfig(routes=ladder(url), sender=SenderConfig(**QUICK))
    return Pager(table.dsn, table.schema, "live", config, meter=meter)
