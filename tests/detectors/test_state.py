"""Saved state, wrong input, and the numbers behind the scores."""

import json
import math
import re
import struct
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors import Limits, StateError, Suite, SuiteConfig, tail_score
from tests.detectors.naive import t_tail
from tests.detectors.strategies import SERIES, STATE, limits

MARK = b"citywatch-detectors\n"


def lived_in() -> Suite:
    suite = Suite()
    suite.add(limits())
    suite.step(
        np.arange(SERIES, dtype=np.int32),
        np.arange(SERIES, dtype=np.int64) * 10**18,
        np.full(SERIES, 0.5),
        np.ones(SERIES, np.uint8),
    )
    return suite


def parts(data: bytes) -> tuple[dict[str, object], bytes]:
    length, _ = struct.unpack_from("<II", data, len(MARK))
    start = len(MARK) + 8
    return json.loads(data[start : start + length]), data[start + length :]


def sealed(header: dict[str, object], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return MARK + struct.pack("<II", len(text), crc32(text + body)) + text + body


def test_the_state_describes_itself() -> None:
    header, body = parts(lived_in().save())
    assert header["version"] == 4
    assert header["series"] == SERIES
    names = header["columns"]
    assert isinstance(names, list)
    rows = np.frombuffer(body, "<f8").reshape(SERIES, len(names))
    assert rows[:, names.index("state")].tolist() == STATE.tolist()
    assert rows[:, names.index("level")].tolist() == np.where(STATE, 0.0, 0.5).tolist()
    times = np.frombuffer(body, "<i8").reshape(SERIES, len(names))[:, names.index("last_ns")]
    assert times.tolist() == [number * 10**18 for number in range(SERIES)]


def test_an_empty_suite_is_saved_and_loaded() -> None:
    suite = Suite.load(Suite().save())
    assert len(suite) == 0
    suite.add(limits())
    assert len(suite) == SERIES


@pytest.mark.parametrize("version", [0, 5, True, "2", [2], None])
def test_an_unknown_version_is_named(version: object) -> None:
    header, body = parts(lived_in().save())
    with pytest.raises(StateError, match=re.escape(f"version {version}; only those up to 4")):
        Suite.load(sealed(header | {"version": version}, body))


def measures() -> Suite:
    suite = Suite()
    plain = limits()
    suite.add(Limits(plain.low, plain.high, plain.max_rate))
    return suite


def noisy_batch(start: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(start)
    return (
        rng.integers(0, SERIES, 500).astype(np.int32),
        np.arange(start, start + 500) * 10**9,
        rng.choice([0.0, 0.25, 1.0, 7.0], 500),
        np.ones(500, np.uint8),
    )


@pytest.mark.parametrize(("version", "left_out"), [(1, 5), (2, 4), (3, 1)])
def test_an_older_state_is_read_as_one_of_measures_that_are_never_silent(
    version: int, left_out: int
) -> None:
    suite = measures()
    suite.step(*noisy_batch(1))
    saved = suite.save()
    header, body = parts(saved)
    names = header["columns"]
    assert isinstance(names, list)
    assert names[-5:] == ["state", "heard_ns", "pause_s", "silent_ns", "rests_ns"]
    older_body = np.frombuffer(body, "<f8").reshape(SERIES, len(names))[:, :-left_out].tobytes()
    older = header | {"version": version, "columns": names[:-left_out]}

    loaded = Suite.load(sealed(older, older_body))

    assert loaded.save() == saved
    verdicts = loaded.step(*noisy_batch(501))
    assert verdicts.score.tobytes() == suite.step(*noisy_batch(501)).score.tobytes()
    assert np.isfinite(verdicts.score).any()
    for changed, rest in ((older, body), (older | {"columns": names}, older_body)):
        with pytest.raises(StateError, match=f"version {version} with other columns or length"):
            Suite.load(sealed(changed, rest))


def test_without_a_word_about_states_all_are_measures() -> None:
    suite = Suite()
    plain = limits()
    suite.add(Limits(plain.low, plain.high, plain.max_rate, np.zeros(SERIES, np.bool_)))
    assert suite.save() == measures().save()


def test_other_columns_or_lengths_are_refused() -> None:
    header, body = parts(lived_in().save())
    assert Suite.load(sealed(header, body)).save() == lived_in().save()
    for changed, rest in (
        (header | {"columns": ["level"]}, body),
        (header | {"series": SERIES + 1}, body),
        (header, body[:-8]),
    ):
        with pytest.raises(StateError, match="other columns or length"):
            Suite.load(sealed(changed, rest))


@pytest.mark.parametrize("text", [b"[]", b"{}", b"{", b"\xff", b'{"version": 1}'])
def test_a_header_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(StateError):
        Suite.load(MARK + struct.pack("<II", len(text), crc32(text)) + text)


@given(data=st.data())
def test_damage_anywhere_is_noticed(data: st.DataObject) -> None:
    saved = bytearray(lived_in().save())
    place = data.draw(st.integers(0, len(saved) - 1))
    if data.draw(st.booleans()):
        saved[place] ^= data.draw(st.integers(1, 255))
    else:
        del saved[place:]
    with pytest.raises(StateError):
        Suite.load(bytes(saved))


@given(st.binary(max_size=200))
def test_noise_is_no_state(noise: bytes) -> None:
    for data in (noise, MARK + noise):
        with pytest.raises(StateError):
            Suite.load(data)


def test_wrong_input_is_refused_and_changes_nothing() -> None:
    suite = lived_in()
    before = suite.save()
    one = np.ones(1)
    for series in (-1, SERIES):
        with pytest.raises(IndexError, match=f"within 0 and {SERIES - 1}"):
            suite.step(
                np.array([series], np.int32), one.astype(np.int64), one, one.astype(np.uint8)
            )
    with pytest.raises(ValueError, match="one length"):
        suite.step(np.zeros(2, np.int32), one.astype(np.int64), one, one.astype(np.uint8))
    assert suite.save() == before


def test_read_only_columns_and_empty_batches_are_welcome() -> None:
    suite = lived_in()
    columns = (np.zeros(3, np.int32), np.arange(1, 4), np.ones(3), np.ones(3, np.uint8))
    for column in columns:
        column.flags.writeable = False
    assert suite.step(*columns).fresh.all()
    before = suite.save()
    verdicts = suite.step(*(column[:0] for column in columns))
    assert len(verdicts.fresh) == len(verdicts.score) == len(verdicts.transitions) == 0
    assert suite.save() == before


@pytest.mark.parametrize(
    ("low", "high", "rate", "words"),
    [
        ([0.0], [1.0, 2.0], [1.0], "one length"),
        ([2.0], [1.0], [1.0], "low must not exceed"),
        ([np.nan], [1.0], [1.0], "low must not exceed"),
        ([0.0], [1.0], [-1.0], "max_rate"),
        ([0.0], [1.0], [np.nan], "max_rate"),
    ],
)
def test_limits_that_limit_nothing_are_refused(
    low: list[float], high: list[float], rate: list[float], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Limits(np.array(low), np.array(high), np.array(rate))


@pytest.mark.parametrize(
    "state", [np.zeros(1), np.zeros(3, np.bool_), np.zeros((2, 1), np.bool_), np.zeros(2, np.uint8)]
)
def test_states_are_told_by_one_bool_a_series(state: np.ndarray) -> None:
    with pytest.raises(ValueError, match="state"):
        Limits(np.zeros(2), np.ones(2), np.ones(2), state)


@pytest.mark.parametrize(
    "wrong",
    [
        {"warm_up": 0},
        {"level_weight": 1.5},
        {"floor_absolute": 0.0},
        {"city_open_spreads": math.nan},
        {"city_close_spreads": 9.0},
    ],
)
def test_thresholds_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SuiteConfig(**wrong)


def test_series_whose_low_sixteen_bits_agree_are_kept_apart() -> None:
    suite = Suite()
    suite.add(limits(70_000))
    series = np.array([3, 65_539] * 50, np.int32)
    time_ns = np.arange(1, 101)
    value = np.where(series == 3, 2.0, 7.0)
    verdicts = suite.step(series, time_ns, value, np.ones(100, np.uint8))
    assert verdicts.fresh.all()
    assert verdicts.expected[-2:].tolist() == [2.0, 7.0]


@given(st.floats(0, 60))
def test_the_score_agrees_with_the_textbook_sum(z: float) -> None:
    score = float(tail_score(np.array([z]))[0])
    assert 10.0**-score == pytest.approx(t_tail(z), rel=1e-6)


def test_the_score_agrees_with_an_integral_of_the_density() -> None:
    # Far out the textbook sum cancels; the integral over u = 1 / t does not.
    const = math.gamma(3.5) / (math.gamma(3.0) * math.sqrt(6 * math.pi))
    for z in (0.5, 3.0, 4.2, 30.0, 1e3, 1e6):
        u = (np.arange(200_000) + 0.5) / 200_000 / z
        density = const * u**5 / (u * u + 1 / 6.0) ** 3.5
        chance = 2.0 * float(density.mean()) / z
        assert float(tail_score(np.array([z]))[0]) == pytest.approx(-math.log10(chance), rel=1e-8)


def test_scores_rise_and_end() -> None:
    z = np.concatenate(([0.0], np.logspace(-8, 300, 20_000), [np.inf]))
    with np.errstate(over="ignore"):
        score = tail_score(z)
    assert score[0] == 0.0
    assert (np.diff(score) >= -1e-13).all()
    assert 250 < score[-1] <= 300
    assert np.isnan(tail_score(np.array([np.nan]))[0])
