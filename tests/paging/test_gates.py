from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paging.gates import Candidate, Decision, Fate, Hold, Pass, Suppress, judge, stages
from tests.paging.scaffold import page_of, resolution_of

OPENED = datetime(2025, 3, 4, 14, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
CHAIN = stages(HOUR)


def firing(**changes: Any) -> Candidate:
    return Candidate(page_of(since=OPENED, **changes), Fate.PENDING)


def resolution(fate: Fate, **changes: Any) -> Candidate:
    return Candidate(resolution_of(page_of(since=OPENED, **changes)), fate)


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (firing(namespace="replay-monday"), "namespace 'replay-monday' is not 'live'"),
        (firing(namespace="LIVE"), "namespace 'LIVE' is not 'live'"),
        (firing(severity="informational"), "severity 'informational' does not page"),
        (firing(quality=3), "a city alert on a reading of quality 'suspect'"),
        (firing(quality=4), "a city alert on a reading of quality 'fail'"),
        (firing(quality=9), "a city alert on a reading of quality 'missing'"),
        (resolution(Fate.DELIVERED, quality=4), "a city alert on a reading of quality 'fail'"),
        (resolution(Fate.ABANDONED), "its firing was not delivered"),
        (resolution(Fate.ABSENT), "it has no firing"),
    ],
)
def test_what_is_suppressed_says_why(candidate: Candidate, reason: str) -> None:
    assert judge(candidate, OPENED, CHAIN).decision == Suppress(reason)


@pytest.mark.parametrize(
    "candidate",
    [
        firing(),
        firing(severity="minor"),
        firing(severity="critical"),
        firing(quality=1),
        firing(quality=2),
        firing(category="sensor-health", quality=4),
        firing(category="sensor-health", quality=9),
        resolution(Fate.DELIVERED),
    ],
)
def test_what_passes_was_asked_by_every_stage(candidate: Candidate) -> None:
    verdict = judge(candidate, OPENED, CHAIN)
    assert isinstance(verdict.decision, Pass)
    assert len(verdict.reasons) == len(CHAIN)


def test_a_firing_grows_stale_as_the_night_goes_on() -> None:
    def at(**since_opened: float) -> Decision:
        return judge(firing(), OPENED + timedelta(**since_opened), CHAIN).decision

    assert isinstance(at(seconds=-30), Pass)  # a sensor's clock may be ahead
    assert isinstance(at(minutes=59), Pass)
    assert isinstance(at(hours=1), Pass)
    assert at(hours=1, seconds=1) == Suppress("stale: fired 1:00:01 ago, more than 1:00:00")
    assert isinstance(at(days=3), Suppress)


def test_a_resolution_waits_for_its_firing_and_is_told_however_late() -> None:
    def at(fate: Fate, **since_opened: float) -> Decision:
        return judge(resolution(fate), OPENED + timedelta(**since_opened), CHAIN).decision

    waiting = at(Fate.PENDING, minutes=6)
    assert isinstance(waiting, Hold)
    assert waiting.reason == "its firing is not delivered yet"
    assert waiting.until > OPENED + timedelta(minutes=6)
    assert isinstance(at(Fate.DELIVERED, minutes=7), Pass)
    assert isinstance(at(Fate.DELIVERED, days=3), Pass)


def test_the_first_objection_has_the_last_word() -> None:
    verdict = judge(firing(namespace="replay-x", severity="informational"), OPENED, CHAIN)
    assert verdict.reasons == ("namespace 'replay-x' is not 'live'",)


def test_a_pager_without_stages_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one stage"):
        judge(firing(), OPENED, ())


pages = st.fixed_dictionaries(
    {
        "namespace": st.sampled_from(["live", "replay-a", "", "live ", "live-2"]),
        "category": st.sampled_from(["city", "sensor-health"]),
        "severity": st.sampled_from(["informational", "minor", "major", "critical"]),
        "quality": st.sampled_from([None, 1, 2, 3, 4, 9]),
    }
)


@given(pages, st.sampled_from(Fate), st.booleans(), st.timedeltas(-HOUR, 5 * HOUR))
def test_whoever_is_woken_is_woken_for_good_reason(
    facts: dict[str, Any], fate: Fate, resolved: bool, age: timedelta
) -> None:
    page = page_of(since=OPENED, **facts)
    candidate = Candidate(resolution_of(page) if resolved else page, fate)
    verdict = judge(candidate, OPENED + age, CHAIN)
    assert all(verdict.reasons)
    good = (
        facts["namespace"] == "live"
        and facts["severity"] != "informational"
        and (facts["category"] == "sensor-health" or facts["quality"] not in {3, 4, 9})
    )
    timely = fate is Fate.DELIVERED if resolved else age <= HOUR
    assert isinstance(verdict.decision, Pass) == (good and timely)
    if good and resolved and fate is Fate.PENDING:
        assert isinstance(verdict.decision, Hold)
