import csv
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from simulators import recording as module
from simulators.payloads import Composer
from simulators.recording import (
    FOLDER,
    Anchor,
    Recording,
    RecordingError,
    RecordingSource,
    Shift,
    bundled,
    read_recording,
    replay,
    shift_of,
)

NOW_NS = 1_795_400_000 * 10**9
FILES = {
    "nab-occupancy-6005": ("occupancy_6005.csv", "occupancy", 100, 2380),
    "nab-occupancy-t4013": ("occupancy_t4013.csv", "occupancy", 100, 2500),
    "nab-traveltime-387": ("TravelTime_387.csv", "averageTravelTime", 1, 2500),
}


def nanoseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def small(
    tmp_path: Path, name: str = "mine", quantity: str = "LAeq", spacing_s: int = 300
) -> Recording:
    begin = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
    stamps = [datetime.fromtimestamp(begin + spacing_s * n, UTC) for n in range(10)]
    rows = "".join(f"{stamp:%Y-%m-%d %H:%M:%S},{60 + n}\n" for n, stamp in enumerate(stamps))
    path = write(tmp_path / f"{name}.csv", "timestamp,value\n" + rows)
    return read_recording(path, sensor=name, quantity=quantity)


@pytest.mark.parametrize("number", range(3))
def test_bundled_recordings_are_complete(number: int) -> None:
    recording = bundled()[number]
    name, quantity, divisor, rows = FILES[recording.sensor.name]
    with (FOLDER / name).open(newline="") as lines:
        table = list(csv.reader(lines))[1:]
    assert len(recording) == len(table) == rows
    assert recording.sensor.quantities == (quantity,)
    assert recording.sensor.zone == "twin-cities"
    assert recording.sensor.entity == "TrafficFlowObserved"
    assert recording.value.tolist() == [float(Decimal(row[1]) / divisor) for row in table]
    assert recording.time_ns.tolist() == [nanoseconds(row[0]) for row in table]


def test_bundled_recordings_hold_what_their_files_begin_and_end_with() -> None:
    first, second, third = bundled()
    assert (first.value[0], first.value[-1]) == (0.0306, 0.0556)
    assert (second.value[0], second.value[-1]) == (0.1356, 0.0806)
    assert (third.value[0], third.value[-1]) == (564.0, 305.0)
    assert third.time_ns[0] == nanoseconds("2015-07-10 14:24:00")


def test_labelled_windows_lie_within_their_recordings() -> None:
    assert [len(recording.windows) for recording in bundled()] == [1, 2, 3]
    for recording in bundled():
        for begin, end in recording.windows:
            assert recording.time_ns[0] < begin < end < recording.time_ns[-1]


def test_source_and_licence_lie_beside_the_recordings() -> None:
    assert "Permission is hereby granted" in (FOLDER / "LICENSE.txt").read_text(encoding="utf-8")
    source = (FOLDER / "SOURCE.md").read_text(encoding="utf-8")
    assert all(name in source for name, *_ in FILES.values())


@pytest.mark.parametrize(("anchor", "index"), [("first", 0), ("last", -1)])
def test_shift_puts_the_anchor_at_the_start_and_keeps_the_spacing(
    anchor: Anchor, index: int
) -> None:
    recording = bundled()[2]
    shift = shift_of(recording, NOW_NS, anchor=anchor, speed=50.0)
    event = shift.event_ns(recording.time_ns)
    assert event[index] == NOW_NS
    np.testing.assert_array_equal(np.diff(event), np.diff(recording.time_ns))


@pytest.mark.parametrize(("anchor", "index"), [("first", 0), ("last", -1)])
def test_time_lapse_compresses_event_time(anchor: Anchor, index: int) -> None:
    recording = bundled()[0]
    shift = shift_of(recording, NOW_NS, anchor=anchor, speed=300.0, time_lapse=True)
    event = shift.event_ns(recording.time_ns)
    assert event[index] == NOW_NS
    spacing = np.diff(event) / 1e9
    np.testing.assert_allclose(spacing, np.diff(recording.time_ns) / 300e9, atol=1e-6)
    assert np.median(spacing) == pytest.approx(1.0)


def test_event_times_are_whole_microseconds() -> None:
    assert Shift(0, 1_999, 7.0).event_ns(np.array([0, 10_000]))[1] % 1_000 == 0


def test_source_offers_each_reading_when_it_is_due(tmp_path: Path) -> None:
    recordings = [small(tmp_path, "one"), small(tmp_path, "two", spacing_s=600)]
    shifts = [shift_of(one, NOW_NS, speed=300.0, time_lapse=True) for one in recordings]
    composer = Composer([one.sensor for one in recordings], "replay-x")
    source = RecordingSource(recordings, composer, shifts, 300.0)
    assert source.due_s() == 0.0
    assert [message.topic[-3:] for message in source.take(0.5, 0, 100)] == ["one", "two"]
    assert source.due_s() == pytest.approx(1.0)
    assert len(source.take(4.0, 0, 100)) == 4 + 2
    assert len(source.take(1e9, 0, 3)) == 3
    assert len(source.take(1e9, 0, 100)) == 20 - 2 - 6 - 3
    assert source.due_s() is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "csv:1: expected the header"),
        ("time,value\n", "csv:1: expected the header"),
        ("timestamp,value\n", "no readings"),
        ("timestamp,value\n2020-01-01 00:00:00,1\n2020-01-01 00:05:00\n", "csv:3: expected"),
        ("timestamp,value\nlunch,1\n", "csv:2: not a time: 'lunch'"),
        ("timestamp,value\n2020-01-01 00:00:00,many\n", "csv:2: not a number: 'many'"),
        ("timestamp,value\n2020-01-01 00:00:00,nan\n", "csv:2: not a finite number"),
        ("timestamp,value\n2020-01-02 00:00:00,1\n2020-01-01 00:00:00,1\n", "csv:3: time goes"),
    ],
)
def test_bad_rows_are_named_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(RecordingError, match=message):
        read_recording(path, sensor="mine", quantity="LAeq")


def test_other_unusable_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecordingError, match="No such file"):
        read_recording(tmp_path / "none.csv", sensor="mine", quantity="LAeq")
    path = tmp_path / "binary.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordingError, match="decode"):
        read_recording(path, sensor="mine", quantity="LAeq")
    with pytest.raises(RecordingError, match="unknown quantity 'love'"):
        read_recording(path, sensor="mine", quantity="love")
    with pytest.raises(RecordingError, match="cannot stand in a topic: 'a/b'"):
        read_recording(path, sensor="a/b", quantity="LAeq")
    monkeypatch.setattr(module, "MAX_BYTES", 2)
    with pytest.raises(RecordingError, match="larger than 2 bytes"):
        read_recording(path, sensor="mine", quantity="LAeq")


def test_too_many_rows_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 5)
    with pytest.raises(RecordingError, match="csv:7: more than 5 rows"):
        small(tmp_path)


def test_any_file_of_the_layout_can_be_read(tmp_path: Path) -> None:
    text = "timestamp,value\r\n2020-01-01T00:00:00+02:00,68\r\n2020-01-01 00:05:00.5,70\r\n"
    recording = read_recording(
        write(tmp_path / "mine.csv", text), sensor="probe-7", quantity="temperature", scale=0.1
    )
    assert recording.sensor.entity == "AirQualityObserved"
    assert recording.value.tolist() == [6.8, 7.0]
    assert recording.time_ns.tolist() == [
        nanoseconds("2019-12-31 22:00:00"),
        nanoseconds("2020-01-01 00:05:00") + 500_000_000,
    ]


@pytest.mark.parametrize("speed", [0.0, -1.0, 1e7, float("nan")])
def test_impossible_speeds_are_refused(tmp_path: Path, speed: float) -> None:
    with pytest.raises(ValueError, match="speed must be above 0"):
        replay([small(tmp_path)], host="-", port=1, namespace="live", stop=Event(), speed=speed)


def test_two_recordings_of_one_sensor_are_refused(tmp_path: Path) -> None:
    twins = [small(tmp_path), small(tmp_path)]
    for recordings in (twins, []):
        with pytest.raises(ValueError, match="different sensors"):
            replay(recordings, host="-", port=1, namespace="live", stop=Event())
