"""Pollution and noise are found at whatever pace a sensor reports."""

import pytest

from storage.flush import Change, Opened, Resolved
from streams.facts import CityFacts
from tests.streams.test_minutes import CLOCKS, START_NS, Drive, S, Value, is_of_suite, noisy

LOUD = (65.0, 60.0, 55.0)
# Into the night of the second day: three quarters of a calendar day are covered by the evening, and
# three means of an hourly reporter later somebody is told.
HOURS = 41


def at_pace(
    drive: Drive, values: dict[str, Value], hours: int, every: int, a_message: int
) -> list[Change]:
    """Let series report every so many minutes, in messages of so many; return their alerts."""
    before = len(drive.changes)
    for begin in range(drive.minute, drive.minute + hours * 60, a_message):
        minutes = [one for one in range(begin, begin + a_message) if one % every == 0]
        drive._send(
            [
                (key, START_NS + minute * 60 * S + 5 * S, value)
                for minute in minutes
                for key, value in {
                    **{f"environment/z/a/{name}": values[name](minute) for name in values},
                    **dict.fromkeys(CLOCKS, 300.0),
                }.items()
            ]
        )
    drive.minute += hours * 60
    return [
        one
        for one in drive.changes[before:]
        if isinstance(one, (Opened, Resolved)) and not is_of_suite(one)
    ]


def bad_air() -> dict[str, Value]:
    return {
        "no2": noisy(900.0, 5.0, 1),
        "pm10": noisy(300.0, 5.0, 2),
        "LAeq": noisy(90.0, 1.0, 3),
    }


@pytest.mark.parametrize("index", ["EU", "US"])
@pytest.mark.parametrize("every", [1, 5, 15, 60])
def test_both_indices_the_limits_and_noise_are_judged(every: int, index: str) -> None:
    drive = Drive(CityFacts(air_quality_index=index, noise_limits_db=LOUD))
    found = at_pace(drive, bad_air(), HOURS, every, max(every, 30))
    opened = {f"{one.page.kind} {one.page.quantity}" for one in found if isinstance(one, Opened)}
    assert opened >= {
        "air-quality no2",
        "air-quality pm10",
        "exceedance no2",
        "exceedance pm10",
        "noise LAeq",
    }


def test_how_a_sensor_reports_is_known_after_a_restart_and_however_it_is_sent() -> None:
    facts = CityFacts(noise_limits_db=LOUD)
    whole, cut, apart = Drive(facts), Drive(facts), Drive(facts)
    values = bad_air()
    wanted = at_pace(whole, values, 6, 15, 30)
    assert {one.page.kind for one in wanted} >= {"air-quality", "exceedance", "noise"}
    found = at_pace(cut, values, 1, 15, 30)
    cut = cut.restarted(facts)
    assert found + at_pace(cut, values, 5, 15, 30) == wanted
    assert cut.partition.snapshot() == whole.partition.snapshot()
    assert at_pace(apart, values, 6, 15, 15) == wanted


def test_ozone_that_falls_from_the_worst_is_no_all_clear() -> None:
    # In the end 208 ppb over eight hours and 140 over one, which alone would be an index of 120.
    ppb = 47.997 / 24.465
    flicker = noisy(1.0, 0.01)
    values: dict[str, Value] = {
        "o3": lambda minute: (230.0 if minute < 9 * 60 else 140.0) * ppb * flicker(minute)
    }
    drive = Drive(CityFacts(air_quality_index="US"))
    found = at_pace(drive, values, 11, 1, 30)
    assert [type(one) for one in found if one.page.kind == "air-quality"] == [Opened]
