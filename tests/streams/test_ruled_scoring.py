"""Rules and shadows in the log: they hold from their offset on, however it is cut."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detectors import KIND_NAMES, NEVER, StateError, SuiteConfig
from ingest.records import Provenance
from storage.flush import Change, Moved, Opened, Resolved, Shadowed, ShadowEnded
from storage.rows import Rows
from storage.sink import Resumption
from streams.facts import CityFacts
from streams.partition import STATE_VERSION, Partition
from streams.rules import BY_MINUTES, Rules, encode_rules
from streams.scoring import Message
from tests.streams.citylog import FACTS, START_NS
from tests.streams.test_rules import rules
from tests.streams.test_scoring import CONFIG, LOG, SPEED, WHOLE, Run, message

S = 10**9
# Something of every section. The first shadow finds more than the suite, the second less.
TOLD = Rules.read(
    {
        "suite": {"city_open_spreads": 3.6},
        "severity": {"level": "critical"},
        "quantity": {
            "intensity": {"city_open_after": 2, "close_after": 3},
            "no2": {"detectors": {"flatline": False}, "high": 500.0},
            "temperature": {"max_rate": 0.05, "silence_floor_s": 20.0},
        },
        "sensor": {"environment-0-0": {"detectors": {"silence": False}}},
        "shadow": {
            "tight": {"suite": {"city_open_spreads": 3.0, "warm_up": 10}},
            "no-range": {"detectors": {"range": False}},
        },
    }
)
# What the minute stage finds is off, and what each of two shadows would find of it is recorded.
TRIED = {
    "detectors": {"incident": False, "service-level": False},
    "shadow": {
        "obstacles": {"detectors": {"incident": True}},
        "levels": {
            "detectors": {"service-level": True},
            "sensor": {"traffic-0-1": {"detectors": {"service-level": False}}},
        },
    },
}
# Keeps a shadow and ends the other.
OTHER = Rules.read({"shadow": {"tight": {"suite": {"warm_up": 12}}}})
NONE = Rules()
NOWHERE = CityFacts()
ANEW = Resumption(0, 0, None, None)
EAGER = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
PLACES = st.integers(0, len(LOG))


def of_rules(told: Rules) -> Message:
    return Message(0, Provenance("rules", [], control="rules"), encode_rules(told))


def inserted(told: list[tuple[int, Message]], log: list[Message] = LOG) -> list[Message]:
    """Return a log with messages before those at some places."""
    whole = list(log)
    for place, one in sorted(told, key=lambda pair: pair[0], reverse=True):
        whole.insert(place, one)
    return [one._replace(offset=offset) for offset, one in enumerate(whole)]


def cut(log: list[Message], cuts: set[int]) -> Run:
    run = Run()
    for start, stop in pairwise([0, *sorted(one for one in cuts if 0 < one < len(log)), len(log)]):
        run.flush(log[start:stop])
    return run


STORY = inserted([(12, of_rules(TOLD)), (45, of_rules(OTHER)), (52, of_rules(TOLD))])
TRIAL = of_rules(Rules.read(TRIED))
TALE = cut(STORY, set())
MESSAGES = st.one_of(
    rules().map(of_rules),
    st.sampled_from([TOLD, OTHER, NONE]).map(of_rules),
    st.just(TRIAL),
    st.just(of_rules(TOLD)._replace(value=b"damaged")),
)


def test_the_story_has_everything_in_it() -> None:
    assert [one.offset for one in TALE.ruled] == [12, 46, 54]
    assert [one.fingerprint for one in TALE.ruled] == [
        TOLD.fingerprint,
        OTHER.fingerprint,
        TOLD.fingerprint,
    ]
    kinds = {
        (type(one).__name__, one.shadow)
        if isinstance(one, ShadowEnded)
        else (type(one.change).__name__, one.shadow)
        for one in TALE.shadowed
    }
    assert kinds == {
        ("Opened", "tight"),
        ("Resolved", "tight"),
        ("Opened", "no-range"),
        ("Resolved", "no-range"),
        ("ShadowEnded", "no-range"),
    }
    severities = {one.page.severity for one in TALE.changes if isinstance(one, Opened)}
    assert "critical" in severities
    # Rules change what is found, not what is stored.
    assert TALE.changes != WHOLE.changes
    whole, ours = (Rows.concatenate(one.rows) for one in (WHOLE, TALE))
    assert ours.value.tobytes() == whole.value.tobytes()
    assert TALE.total("readings") == WHOLE.total("readings")


@given(told=st.lists(st.tuples(PLACES, MESSAGES), max_size=5), cuts=st.sets(st.integers(1, 70)))
@EAGER
def test_rules_anywhere_and_any_cuts_give_the_same_to_the_bit(
    told: list[tuple[int, Message]], cuts: set[int]
) -> None:
    log = inserted(told)
    assert cut(log, cuts).outcome() == cut(log, set()).outcome()


@given(
    told=st.lists(st.tuples(PLACES, MESSAGES), max_size=4),
    one=st.integers(0, 70),
    other=st.integers(0, 70),
)
@EAGER
def test_a_crash_anywhere_gives_the_same_to_the_bit(
    told: list[tuple[int, Message]], one: int, other: int
) -> None:
    """Saved at one offset, stored up to another, behind or at it: all comes out once."""
    log = inserted(told)
    saved, stored = sorted((min(one, len(log)), min(other, len(log))))
    first, before = Run(), Run()
    first.flush(log[:stored])
    before.flush(log[:saved])
    after = Run(Resumption(stored, saved, STATE_VERSION, before.partition.snapshot()))
    after.flush(log[saved:])
    for name in ("rows", "fresh", "changes", "letters", "shadowed", "ruled"):
        getattr(first, name).extend(getattr(after, name))
    for key, counts in after.counts.items():
        first.counts.setdefault(key, Counter()).update(counts)
    first.partition = after.partition
    assert first.outcome() == cut(log, set()).outcome()


def test_of_a_stretch_that_is_half_replayed_a_shadow_tells_the_other_half() -> None:
    """Within one check for silences, so that all is judged in one step."""
    values = [-1.0, -2.0, *(50.0 + n % 3 for n in range(6))]
    readings = [
        message(0, [(SPEED, START_NS + n * 10**9, value)]) for n, value in enumerate(values)
    ]
    log = inserted([(0, of_rules(OTHER))], readings)
    whole = cut(log, set())
    assert [type(one.change) for one in whole.shadowed] == [Opened, Resolved]
    run = Run(Resumption(5, 0, None, None))
    run.flush(log)
    assert run.shadowed == whole.shadowed[1:]
    assert run.changes == whole.changes[1:]
    assert run.ruled == []


@given(rules())
@EAGER
def test_rules_before_the_first_reading_are_as_if_they_were_the_defaults(told: Rules) -> None:
    """Thresholds of all series, at least; those the worker itself could have been given."""
    only = Rules(suite=told.suite)
    run = cut(inserted([(0, of_rules(only))]), set())
    plain = Run()
    plain.partition = Partition(
        Resumption(0, 0, None, None),
        replace(SuiteConfig(), **only.suite.model_dump(exclude_none=True)),
        FACTS,
    )
    plain.flush(LOG)
    assert pages(run.changes) == pages(plain.changes)
    whole, ours = (Rows.concatenate(one.rows) for one in (plain, run))
    assert ours.score.tobytes() == whole.score.tobytes()


def pages(changes: list[Change]) -> list[object]:
    return [one if isinstance(one, Moved) else one.page for one in changes]


def test_a_shadow_is_a_suite_of_its_own_that_begins_with_its_rules() -> None:
    """It finds what a suite with its rules finds that sees the log from there on."""
    place = 20
    shadow = {"suite": {"city_open_spreads": 3.0, "warm_up": 10}}
    beside = Run()
    beside.flush(inserted([(place, of_rules(Rules.read({"shadow": {"tight": shadow}})))]))
    assert beside.changes == WHOLE.changes
    # Live, but with nothing learned at that place, and the watermark as it stood.
    alone = Run()
    alone.flush(LOG[:place])
    live = alone.partition
    live.suite = type(live.suite)(SuiteConfig())
    live.suite.add(live.ruling.limits(live.keys))
    alone.changes.clear()
    alone.flush(
        [
            one._replace(offset=place + number)
            for number, one in enumerate([of_rules(Rules.read(shadow)), *LOG[place:]])
        ]
    )
    found = [one.change for one in beside.shadowed if isinstance(one, Shadowed)]
    wanted = [
        one for one in alone.changes if not isinstance(one, Moved) and one.page.kind in KIND_NAMES
    ]
    assert len(found) > 5
    assert found == wanted


def of_minutes(run: Run, shadow: str) -> list[Opened | Resolved]:
    """Return what a shadow's minute stage found."""
    return [
        one.change
        for one in run.shadowed
        if isinstance(one, Shadowed) and one.shadow == shadow and one.change.page.kind in BY_MINUTES
    ]


def live_of_minutes(run: Run, *kinds: str) -> list[Opened | Resolved]:
    return [one for one in run.changes if not isinstance(one, Moved) and one.page.kind in kinds]


def test_a_shadow_finds_what_the_minute_stage_would_if_it_were_switched_on() -> None:
    """To the bit, where its suite has seen what the present one has seen."""
    run = cut(inserted([(0, TRIAL)]), set())
    assert live_of_minutes(run, "incident", "service-level") == []
    wanted = live_of_minutes(WHOLE, "incident")
    assert wanted
    obstacles = [one for one in of_minutes(run, "obstacles") if one.page.kind == "incident"]
    assert obstacles == wanted
    levels = [one for one in of_minutes(run, "levels") if one.page.kind == "service-level"]
    assert levels
    assert levels == [
        one for one in live_of_minutes(WHOLE, "service-level") if one.page.sensor != "traffic-0-1"
    ]
    # Neither sees what only the other was told to look for.
    assert {one.page.kind for one in of_minutes(run, "levels")}.isdisjoint({"incident"})
    assert {one.page.kind for one in of_minutes(run, "obstacles")}.isdisjoint({"service-level"})
    # And what the present rules have on is found on both sides.
    others = set(BY_MINUTES) - {"incident", "service-level"}
    assert live_of_minutes(run, *others) == live_of_minutes(WHOLE, *others)


def test_a_shadow_without_a_kernel_tells_nothing_of_it() -> None:
    told = Rules.read({"shadow": {"calm": {"detectors": {"incident": False}}}})
    run = cut(inserted([(0, of_rules(told))]), set())
    assert run.changes == WHOLE.changes
    found = {one.page.kind for one in of_minutes(run, "calm")}
    assert "service-level" in found
    assert "incident" not in found


def test_a_shadow_of_the_suite_alone_has_no_minute_stage() -> None:
    run = cut(inserted([(0, of_rules(OTHER))]), set())
    assert run.partition.shadow_minutes == {}
    assert of_minutes(run, "tight") == []


def test_a_shadow_that_is_begun_later_knows_what_the_present_stage_knows() -> None:
    """A profile of the hours takes weeks; alerts it opens by itself."""
    run, plain = Run(), Run()
    half = len(LOG) // 2
    run.flush(inserted([(half, TRIAL)])[: half + 1])
    plain.flush(LOG[:half])
    stage, present = run.partition.shadow_minutes["levels"], plain.partition.minutes
    for ours, theirs in zip(stage._running, present._running, strict=True):
        for one, other in zip(ours.state, theirs.state, strict=True):
            assert one.tobytes() == other.tobytes()
        assert not any((one.opened_ns != NEVER).any() for one in ours.alerts)


def test_when_a_shadow_no_longer_looks_at_minutes_its_alerts_of_them_are_over() -> None:
    tried = {**TRIED, "shadow": {"obstacles": {"suite": {"warm_up": 9}}}}
    messages = [(0, TRIAL), (len(LOG), of_rules(Rules.read(tried)))]
    run = cut(inserted(messages), set())
    assert run.partition.shadow_minutes == {}
    ends = [(one.shadow, one.kinds) for one in run.shadowed if isinstance(one, ShadowEnded)]
    assert ends == [("levels", ()), ("obstacles", BY_MINUTES)]
    state = msgspec.msgpack.decode(run.partition.snapshot())
    assert state[5][2] == {}


def test_minutes_of_a_shadow_come_through_a_restart() -> None:
    whole = cut(inserted([(5, TRIAL)]), set())
    first = Run()
    first.flush(inserted([(5, TRIAL)])[:40])
    after = Run(Resumption(40, 40, STATE_VERSION, first.partition.snapshot()))
    after.flush(inserted([(5, TRIAL)])[40:])
    assert first.shadowed + after.shadowed == whole.shadowed
    assert after.partition.snapshot() == whole.partition.snapshot()


def test_a_shadow_that_an_older_worker_ran_without_minutes_gets_them() -> None:
    first = Run()
    first.flush(inserted([(5, TRIAL)])[:40])
    state = msgspec.msgpack.decode(first.partition.snapshot())
    state[5] = state[5][:2]
    after = Run(Resumption(40, 40, STATE_VERSION, msgspec.msgpack.encode(state)))
    assert sorted(after.partition.shadow_minutes) == ["levels", "obstacles"]


def test_what_ends_with_its_rules_is_forgotten_and_begins_anew() -> None:
    run = cut(STORY[:55], set())
    partition = run.partition
    assert sorted(partition.shadows) == ["no-range", "tight"]
    # Ended at 46 and here again from 54 on, with nothing learned; the other one went on.
    fresh, old = partition.shadows["no-range"], partition.shadows["tight"]
    every = np.arange(len(partition.keys))
    assert (fresh.newest_ns(every) < 0).all()
    assert (old.newest_ns(every) > 0).any()
    (ended,) = (one for one in run.shadowed if isinstance(one, ShadowEnded))
    assert ended.shadow == "no-range"
    assert ended.at is not None


def test_no_shadow_costs_no_step_and_no_byte() -> None:
    run = Run()
    run.flush(inserted([(5, of_rules(TOLD)), (9, of_rules(NONE))]))
    assert run.partition.shadows == {}
    state = msgspec.msgpack.decode(run.partition.snapshot())
    assert state[5] is None


def test_rules_that_are_said_again_change_nothing_and_are_not_noted() -> None:
    once = cut(inserted([(10, of_rules(TOLD))]), set())
    again = cut(inserted([(10, of_rules(TOLD)), (11, of_rules(TOLD)), (40, of_rules(TOLD))]), set())
    assert len(again.ruled) == 1
    assert again.changes == once.changes
    assert again.shadowed == once.shadowed
    assert again.partition.snapshot() == once.partition.snapshot()
    assert again.partition.seen == once.partition.seen + 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"value": b"rubbish"}, "not rules"),
        ({"value": b'{"version":2}'}, "rules of version 2, version 1 is read"),
        (
            {"value": encode_rules(Rules.read({"suite": {"city_open_spreads": 2.0}}))},
            "suite: city_close_spreads must not exceed",
        ),
        ({"provenance": Provenance("x", [], control="paint")}, "no message of this kind is known"),
        ({"refusal": "the database refuses it: why"}, "the database refuses it: why"),
    ],
)
def test_what_cannot_be_obeyed_is_a_dead_letter_and_changes_nothing(
    change: dict[str, object], why: str
) -> None:
    run = cut(inserted([(30, of_rules(TOLD)._replace(**change))]), set())
    (ours,) = (one for one in run.letters if one.letter.reason == "unreadable-rules")
    assert ours.letter.place.startswith(f"offset 30: {why}")
    assert ours.letter.records == 1
    assert ours.letter.mqtt_topic == ""
    assert run.total("refused") == WHOLE.total("refused") + 1
    assert run.total("reason unreadable-rules") == 1
    assert run.total("readings") == WHOLE.total("readings")
    assert run.changes == WHOLE.changes
    assert run.ruled == []
    assert run.partition.seen == WHOLE.partition.seen + 1


def test_severity_is_that_of_the_rules_at_the_reading() -> None:
    """And not that of rules that came later in the same flush."""
    bad = [message(0, [(SPEED, START_NS + n * 10**9, -1.0)]) for n in range(2)]
    loud = Rules.read({"severity": {"range": "critical"}})
    quiet = Rules.read({"quantity": {"averageVehicleSpeed": {"severity": {"range": "minor"}}}})
    log = inserted([(0, of_rules(loud)), (2, of_rules(quiet))], bad)
    run = cut(log, set())
    (opened,) = run.changes
    assert isinstance(opened, Opened)
    assert opened.page.severity == "critical"


def test_a_detector_that_is_switched_off_closes_what_it_opened_on_good_readings() -> None:
    off = Rules.read({"detectors": {"range": False}})
    bad = [message(0, [(SPEED, START_NS + n * 10**9, -1.0 - n % 3)]) for n in range(9)]
    run = cut(inserted([(3, of_rules(off))], bad), set())
    opened, resolved = run.changes
    assert isinstance(opened, Opened)
    assert isinstance(resolved, Resolved)
    assert resolved.page.since == opened.page.since
    assert Rows.concatenate(run.rows).quality.tolist() == [4, 4, 4, 1, 1, 1, 1, 1, 1]


def test_what_the_minute_stage_finds_is_switched_and_rated_too() -> None:
    kinds = {one.page.kind for one in WHOLE.changes if isinstance(one, Opened)}
    assert kinds >= {"incident", "service-level"}
    told = Rules.read({"detectors": {"incident": False}, "severity": {"service-level": "critical"}})
    run = cut(inserted([(0, of_rules(told))]), set())
    opened = [one.page for one in run.changes if isinstance(one, Opened)]
    assert {page.kind for page in opened} == kinds - {"incident"}
    assert {one.severity for one in opened if one.kind == "service-level"} == {"critical"}


def test_what_the_minute_stage_has_opened_is_over_when_it_is_switched_off() -> None:
    told = of_rules(Rules.read({"detectors": {"service-level": False}}))
    for place in range(len(LOG)):
        run = cut(inserted([(place, told)]), set())
        moves = [one for one in run.changes if not isinstance(one, Moved)]
        ours = [one for one in moves if one.page.kind == "service-level"]
        if ours:
            break
    resolved = [one for one in ours if isinstance(one, Resolved)]
    assert len(ours) == 2 * len(resolved)
    assert {one.cause for one in resolved} == {"no longer judged"}


def judged_by(facts: CityFacts, resumption: Resumption = ANEW) -> Run:
    """Return a run of a worker whose settings say that of the city."""
    run = Run()
    run.partition = Partition(resumption, CONFIG, facts)
    return run


# Stations that are of no road are compared with nobody; without an empty road's speed there is no
# level of service.
OF_CITY = frozenset({"incident", "service-level"})


def test_what_the_city_says_holds_from_its_place_in_the_log_on_whatever_settings_say() -> None:
    told = [(0, of_rules(Rules().of(NOWHERE))), (30, of_rules(Rules().of(FACTS)))]
    log = inserted(told)
    runs = [judged_by(facts) for facts in (FACTS, NOWHERE)]
    for run in runs:
        run.flush(log)
        assert run.partition.facts == FACTS
    one, other = runs
    assert one.outcome() == other.outcome()
    assert [run.partition.is_of_settings for run in runs] == [True, False]
    at = min(one.page.since for one in live_of_minutes(one, *OF_CITY))
    unsaid = judged_by(FACTS)
    unsaid.flush(LOG)
    assert at > min(one.page.since for one in live_of_minutes(unsaid, *OF_CITY))
    never = judged_by(FACTS)
    never.flush(inserted(told[:1]))
    assert live_of_minutes(never, *OF_CITY) == []


def test_what_the_log_says_of_the_city_comes_through_a_restart_with_other_settings() -> None:
    log = inserted([(5, TRIAL), (9, of_rules(Rules.read(TRIED).of(FACTS)))])
    whole = judged_by(NOWHERE)
    whole.flush(log)
    first = judged_by(NOWHERE)
    first.flush(log[:40])
    resumption = Resumption(40, 40, STATE_VERSION, first.partition.snapshot())
    after = judged_by(CityFacts(limits="WHO 2021"), resumption)
    assert not after.partition.was_of_others
    after.flush(log[40:])
    assert after.partition.snapshot() == whole.partition.snapshot()
    assert first.changes + after.changes == whole.changes
    assert first.shadowed + after.shadowed == whole.shadowed


def test_with_the_last_word_of_the_log_settings_hold_again() -> None:
    run = judged_by(NOWHERE)
    run.flush(inserted([(5, of_rules(Rules().of(FACTS))), (9, of_rules(NONE))])[:12])
    assert run.partition.facts == NOWHERE


def test_what_changes_with_the_city_keeps_what_was_learned_and_ends_what_is_not_judged() -> None:
    place = next(
        place
        for place in range(len(LOG))
        if {type(one) for one in live_of_minutes(cut(LOG[:place], set()), "incident")} == {Opened}
    )
    run = judged_by(FACTS)
    run.flush(inserted([(place, of_rules(Rules().of(NOWHERE)))]))
    resolved = [one for one in live_of_minutes(run, "incident") if isinstance(one, Resolved)]
    assert [one.cause for one in resolved] == ["no longer judged"]
    # What no fact of the city touches goes on as if nothing had been said.
    others = set(BY_MINUTES) - OF_CITY
    assert live_of_minutes(run, *others) == live_of_minutes(WHOLE, *others)


def test_a_state_that_other_settings_have_judged_is_known_as_one() -> None:
    first = judged_by(FACTS)
    first.flush(LOG[:20])
    resumption = Resumption(20, 20, STATE_VERSION, first.partition.snapshot())
    assert not judged_by(FACTS, resumption).partition.was_of_others
    other = judged_by(NOWHERE, resumption).partition
    assert (other.was_of_others, other.facts, other.is_of_settings) == (True, NOWHERE, True)
    # One from before it was noted says nothing.
    state = msgspec.msgpack.decode(first.partition.snapshot())
    older = Resumption(20, 20, STATE_VERSION, msgspec.msgpack.encode(state[:6]))
    assert not judged_by(NOWHERE, older).partition.was_of_others


@pytest.mark.parametrize(
    "damage",
    ["rules", "version", "missing", "more", "shadow", "series", "minutes", "of whom", "levels"],
)
def test_damaged_rules_in_a_state_are_refused(damage: str) -> None:
    trial = cut(inserted([(9, TRIAL)])[:30], set())
    whose = trial if damage in ("minutes", "of whom") else TALE
    state = msgspec.msgpack.decode(whose.partition.snapshot())
    told, shadows, minutes, levels = state[5]
    if damage == "rules":
        told = told[:-1]
    elif damage == "version":
        told = told.replace(b'"version":1', b'"version":9')
    elif damage == "missing":
        del shadows["tight"]
    elif damage == "more":
        shadows["another"] = shadows["tight"]
    elif damage == "shadow":
        shadows["tight"] = shadows["tight"][:-1]
    elif damage == "minutes":
        minutes["levels"] = minutes["levels"][:-1]
    elif damage == "of whom":
        minutes["tight"] = trial.partition.minutes.save()
    elif damage == "levels":
        levels["another"] = levels["tight"]
    else:
        shadows["tight"] = Run().partition.suite.save()
    state[5] = [told, shadows, minutes, levels]
    with pytest.raises(StateError):
        Partition(Resumption(9, 9, STATE_VERSION, msgspec.msgpack.encode(state)), CONFIG, FACTS)


@pytest.mark.parametrize("version", [1, 2])
def test_a_state_of_a_version_before_rules_is_read(version: int) -> None:
    state = msgspec.msgpack.decode(WHOLE.partition.snapshot())
    older = msgspec.msgpack.encode(state[: {1: 2, 2: 4}[version]])
    partition = Partition(Resumption(9, 9, version, older), CONFIG, FACTS)
    assert partition.ruling.rules == Rules()
    assert partition.suite.save() == WHOLE.partition.suite.save()


def test_a_hole_in_the_stream_is_nobodys_pause() -> None:
    """Whoever falls silent after it is found as soon as before it, live and by a shadow."""
    series = [f"environment/z/air-{number}/temperature" for number in range(2)]
    noise = iter(np.random.default_rng(3).normal(12.0, 0.3, 1000))
    run, offset = Run(), 1
    run.flush([of_rules(Rules.read({"shadow": {"tight": {"suite": {"warm_up": 10}}}}))])

    def speak(names: list[str], seconds: range) -> None:
        nonlocal offset
        for second in seconds:
            now_ns = START_NS + second * S
            readings = [(name, now_ns, float(next(noise))) for name in names]
            run.flush([message(offset, readings, arrived_ns=now_ns, complete_ns=now_ns)])
            offset += 1

    speak(series, range(0, 600, 10))
    speak(series, range(3_600, 3_900, 10))
    assert run.changes == []
    speak(series[:1], range(3_900, 4_080, 10))
    opened = [one for one in run.changes if isinstance(one, Opened)]
    assert [(one.page.kind, one.page.sensor) for one in opened] == [("silence", "air-1")]
    found = [one.change for one in run.shadowed if isinstance(one, Shadowed)]
    assert [(one.page.kind, one.page.sensor) for one in found] == [("silence", "air-1")]
