from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paging.durations import span_of, spoken
from paging.schedule import Override, Rotation, Shifts, on_call, turns

WEEKS = Rotation("primary", ("anna", "bo", "cleo"), date(2025, 3, 3), time(8), 7, "Europe/Madrid")
SHIFTS = Shifts((time(6), time(14), time(22)), "Europe/Madrid")


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("now", "person"),
    [
        (utc(2025, 3, 3, 6, 59), "cleo"),  # before the first of all turns it is the last one's
        (utc(2025, 3, 3, 7), "anna"),
        (utc(2025, 3, 10, 6, 59), "anna"),
        (utc(2025, 3, 10, 7), "bo"),
        (utc(2025, 3, 24, 7), "anna"),
        # The clocks change on the 30th: eight o'clock comes an hour earlier.
        (utc(2025, 3, 31, 5, 59), "anna"),
        (utc(2025, 3, 31, 6), "bo"),
    ],
)
def test_whose_turn_it_is(now: datetime, person: str) -> None:
    assert on_call(WEEKS, (), now) == person


def test_who_stands_in_has_it_for_as_long() -> None:
    begin = utc(2025, 3, 4)
    night = Override("primary", "dora", begin, begin + timedelta(hours=8))
    hour = Override("primary", "emil", begin + timedelta(hours=2), begin + timedelta(hours=3))
    other = Override("second", "fay", begin, begin + timedelta(days=9))
    overrides = (night, hour, other)
    found = [
        on_call(WEEKS, overrides, begin + timedelta(hours=hours)) for hours in (-1, 0, 2, 3, 8)
    ]
    assert found == ["anna", "dora", "emil", "dora", "anna"]


@given(st.datetimes(datetime(2024, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_turn_ends_when_the_next_begins(now: datetime) -> None:
    end = WEEKS.ends(now)
    assert timedelta() < end - now <= timedelta(days=7, hours=1)
    before = WEEKS.people.index(WEEKS.on_duty(now))
    assert WEEKS.on_duty(end - timedelta(seconds=1)) == WEEKS.people[before]
    assert WEEKS.on_duty(end) == WEEKS.people[(before + 1) % 3]


# At half past two, which is not there or there twice on the days on which the clocks are set.
NIGHTS = Rotation("primary", ("anna", "bo"), date(2025, 3, 3), time(2, 30), 1, "Europe/Madrid")


@pytest.mark.parametrize(
    ("since", "begins"),
    [
        # Half past two is passed over: the clocks go from two to three, at one UTC.
        (
            utc(2025, 3, 29),
            [utc(2025, 3, 29, 1, 30), utc(2025, 3, 30, 1, 30), utc(2025, 3, 31, 0, 30)],
        ),
        # It is there at 0:30 and at 1:30 UTC.
        (
            utc(2025, 10, 25),
            [utc(2025, 10, 25, 0, 30), utc(2025, 10, 26, 0, 30), utc(2025, 10, 27, 1, 30)],
        ),
    ],
)
def test_a_night_in_which_the_clocks_are_set_has_one_hand_over(
    since: datetime, begins: list[datetime]
) -> None:
    found = turns(NIGHTS, (), since, since + timedelta(days=3))
    assert [turn.begins for turn in found[1:]] == begins
    assert all(turn.begins < turn.ends for turn in found)
    assert [turn.person for turn in found[::2]] == [found[0].person] * 2
    for minutes in range(0, 3 * 24 * 60, 10):
        now = since + timedelta(minutes=minutes)
        (present,) = (turn for turn in found if turn.begins <= now < turn.ends)
        assert (present.person, NIGHTS.ends(now)) == (
            on_call(NIGHTS, (), now),
            NIGHTS.ends(present.begins),
        )


@given(st.datetimes(datetime(2024, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_shift_began_not_long_ago(now: datetime) -> None:
    began = SHIFTS.began(now)
    assert timedelta() <= now - began <= timedelta(hours=9)
    assert SHIFTS.began(began) == began


def test_a_shift_is_local() -> None:
    assert SHIFTS.began(utc(2025, 3, 4, 20, 59)) == utc(2025, 3, 4, 13)
    assert SHIFTS.began(utc(2025, 3, 4, 21)) == utc(2025, 3, 4, 21)
    assert SHIFTS.began(utc(2025, 7, 4, 20)) == utc(2025, 7, 4, 20)


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("1.5m", 90), ("4h", 14_400)])
def test_spans(text: str, seconds: float) -> None:
    assert span_of(text) == timedelta(seconds=seconds)
    assert span_of(spoken(span_of(text))) == span_of(text)


@pytest.mark.parametrize("text", ["3650.001d", "87601h", "999999999d", "999999999.999d"])
def test_what_is_longer_than_ten_years_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"at most ten years, 3650d, are expected, not '{text}'"):
        span_of(text)


@pytest.mark.parametrize("text", ["", "30", "s", "-3s", "1w", "1e3s"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a span of time"):
        span_of(text)
