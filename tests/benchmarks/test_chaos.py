"""What the chaos test strikes with, and what it believes was published."""

from datetime import datetime
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.blows import KINDS, plan
from benchmarks.restless import SENSORS, RestlessComposer, readings
from ingest.quantities import QUANTITIES
from simulators.city import City
from tests.simulators.entities import plain

SECOND_NS = 10**9


@given(st.integers(0, 2**32), st.floats(10, 600))
def test_a_plan_follows_from_its_seed_and_deals_every_kind_before_any_again(
    seed: int, duration_s: float
) -> None:
    names = list(KINDS)
    blows = plan(seed, duration_s, names)
    assert blows == plan(seed, duration_s, names)
    assert blows == sorted(blows)
    assert all(blow.at_s > 0 and blow.at_s + blow.lasts_s + 17 <= duration_s for blow in blows)
    for start in range(0, len(blows), len(names)):
        round_ = [blow.name for blow in blows[start : start + len(names)]]
        assert len(set(round_)) == len(round_)
    for blow in blows:
        low, high = KINDS[blow.name].lasts_s
        assert low <= blow.lasts_s <= high


def test_what_is_written_down_is_what_was_sent_sound_late_or_twice(tmp_path: Path) -> None:
    city = City(SENSORS, 3)
    file = tmp_path / "published"
    composer = RestlessComposer(city, "live", 3, file)
    sent = []
    newest: dict[str, str] = {}
    overtaken = 0
    for block in range(200):
        who = np.arange(block % 2, SENSORS, 20)
        time_ns = np.full(len(who), (1_790_000_000 + block) * SECOND_NS)
        for message in composer.messages(who, time_ns, city.observe(who, time_ns)):
            sent.append(message)
            if not message.bad:
                observed = plain(message.payload)["dateObserved"]
                overtaken += observed < newest.get(message.topic, "")
                newest[message.topic] = max(observed, newest.get(message.topic, ""))
    composer.close()
    expected = []
    for message in sent:
        if not message.bad:
            entity = plain(message.payload)
            sensor = message.topic.rpartition("/")[2]
            expected += [
                (sensor, name, entity["dateObserved"], float(entity[name]))
                for name in entity
                if name in QUANTITIES
            ]
    found = list(readings(file))
    assert sorted(found) == sorted(expected)
    assert all(datetime.fromisoformat(one[2]).tzinfo for one in found)
    assert overtaken > 0
    assert any(message.bad for message in sent)
    assert any(message.repeat for message in sent)


def test_some_sensors_go_dark_for_longer_than_a_minute_and_come_back(tmp_path: Path) -> None:
    city = City(SENSORS, 3)
    composer = RestlessComposer(city, "live", 3, tmp_path / "published")
    who = np.arange(SENSORS)
    heard: dict[str, list[int]] = {}
    for second in range(300):
        time_ns = np.full(SENSORS, (1_790_000_000 + second) * SECOND_NS)
        for message in composer.messages(who, time_ns, city.observe(who, time_ns)):
            heard.setdefault(message.topic.rpartition("/")[2], []).append(second)
    composer.close()
    pauses = {
        topic: max(np.diff([*sorted(seconds), 300]).tolist()) for topic, seconds in heard.items()
    }
    dark = [topic for topic, pause in pauses.items() if pause > 60]
    assert 40 < len(dark) < 130
    assert len(heard) == SENSORS


def test_some_sensors_move_and_some_clocks_gain(tmp_path: Path) -> None:
    city = City(SENSORS, 3)
    composer = RestlessComposer(city, "live", 3, tmp_path / "published")
    who = np.arange(SENSORS)
    zones: dict[str, set[str]] = {}
    gained: dict[str, float] = {}
    for second in range(60):
        now_s = 1_790_000_000 + second
        time_ns = np.full(SENSORS, now_s * SECOND_NS)
        for message in composer.messages(who, time_ns, city.observe(who, time_ns)):
            _, _, _, zone, sensor = message.topic.split("/")
            zones.setdefault(sensor, set()).add(zone)
            if not message.bad:
                observed = datetime.fromisoformat(plain(message.payload)["dateObserved"])
                ahead = observed.timestamp() - now_s
                gained[sensor] = max(ahead, gained.get(sensor, 0.0))
    composer.close()
    assert sum(len(found) > 2 for found in zones.values()) >= 5
    ahead = [sensor for sensor, most in gained.items() if most > 5]
    assert len(ahead) == SENSORS // 50
