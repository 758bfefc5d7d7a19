"""Batches: what goes in comes out, and whatever else is on Kafka is a BatchError."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ingest import batch as batch_module
from ingest.batch import BatchError, ReadingBatch, decode, encode

COLUMNS = ("series", "time_ns", "value", "quality")


@st.composite
def batches(draw: st.DrawFn) -> ReadingBatch:
    keys = draw(st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True))
    n = draw(st.integers(0, 40)) if keys else 0
    codes = st.integers(0, max(len(keys) - 1, 0))
    return ReadingBatch(
        keys=keys,
        series=draw(arrays.arrays(np.int32, n, elements=codes)),
        time_ns=draw(arrays.arrays(np.int64, n)),
        value=draw(arrays.arrays(np.float64, n)),
        quality=draw(arrays.arrays(np.uint8, n)),
    )


def sample() -> ReadingBatch:
    return ReadingBatch(
        keys=["traffic/centre/s1/intensity", "traffic/centre/s1/occupancy"],
        series=np.array([0, 1, 0], np.int32),
        time_ns=np.array([1, 2, 3], np.int64),
        value=np.array([1.0, 0.5, 2.0]),
        quality=np.array([1, 1, 4], np.uint8),
    )


SAMPLE = encode(sample())


def is_same(one: ReadingBatch, other: ReadingBatch) -> bool:
    return list(one.keys) == list(other.keys) and all(
        getattr(one, name).tobytes() == getattr(other, name).tobytes()
        and getattr(one, name).dtype == getattr(other, name).dtype
        for name in COLUMNS
    )


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_what_is_compressed_is_not_unpacked(codec: str) -> None:
    """Twenty kilobytes were 600 MB."""
    series = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array(["a/b/c/d"]))
    columns = [series, pa.array([1]), pa.array([0.5]), pa.array([1], pa.uint8())]
    record = pa.record_batch(columns, schema=batch_module._SCHEMA)
    for compression, fault in ((None, ""), (codec, "compressed")):
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_stream(sink, record.schema, options=options) as writer:
            writer.write_batch(record)
        data = sink.getvalue().to_pybytes()
        if compression:
            with pytest.raises(BatchError, match=fault):
                decode(data)
        else:
            assert decode(data).keys == ["a/b/c/d"]


@given(batches())
@settings(deadline=None)
def test_a_batch_comes_back_to_the_bit(batch: ReadingBatch) -> None:
    assert is_same(decode(encode(batch)), batch)


@pytest.mark.parametrize("batch", [sample(), decode(SAMPLE)], ids=["made", "decoded"])
@pytest.mark.parametrize("name", COLUMNS)
def test_columns_are_frozen(batch: ReadingBatch, name: str) -> None:
    column = getattr(batch, name)
    with pytest.raises(ValueError, match="read-only"):
        column[0] = 0
    with pytest.raises(AttributeError):
        setattr(batch, name, column)


def test_columns_of_different_length_are_refused() -> None:
    good = sample()
    with pytest.raises(ValueError, match="differ in shape"):
        ReadingBatch(good.keys, good.series[:2], good.time_ns, good.value, good.quality)


@given(st.binary(max_size=300))
@example(b"")
@example(b"\xff\xff\xff\xff\x00\x00\x00\x00")
@settings(deadline=None)
def test_arbitrary_bytes_are_a_batch_error(data: bytes) -> None:
    with pytest.raises(BatchError):
        decode(data)


def test_a_truncated_message_is_a_batch_error_or_lacks_nothing() -> None:
    whole = 0
    for length in range(len(SAMPLE)):
        try:
            found = decode(SAMPLE[:length])
        except BatchError:
            continue
        assert is_same(found, sample())
        whole += 1
    # All that may be missing is Arrow's end-of-stream mark, which holds nothing.
    assert whole <= 8


@given(
    st.lists(
        st.tuples(
            st.integers(0, len(SAMPLE) - 1),
            st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(deadline=None, max_examples=1500)
def test_a_damaged_message_is_a_batch_error_or_a_sound_batch(
    changes: list[tuple[int, int]],
) -> None:
    data = bytearray(SAMPLE)
    for place, byte in changes:
        data[place] = byte
    try:
        found = decode(bytes(data))
    except BatchError:
        return
    assert all(isinstance(key, str) for key in found.keys)
    codes = found.series.tolist()
    assert not codes or (min(codes) >= 0 and max(codes) < len(found.keys))
    assert [getattr(found, name).dtype for name in COLUMNS] == [
        getattr(sample(), name).dtype for name in COLUMNS
    ]


def stream(schema: pa.Schema, *records: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for record in records:
            writer.write_batch(record)
    return sink.getvalue().to_pybytes()


def record(**columns: Any) -> Any:
    sound = {
        "series": pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), pa.array(["a/b/c/d"])),
        "time_ns": pa.array([1], pa.int64()),
        "value": pa.array([1.0]),
        "quality": pa.array([1], pa.uint8()),
    }
    return pa.record_batch(list((sound | columns).values()), schema=batch_module._SCHEMA)


def keyed(keys: list[str | None], codes: list[int | None]) -> Any:
    return pa.DictionaryArray.from_arrays(
        pa.array(codes, pa.int32()), pa.array(keys, pa.utf8()), safe=False
    )


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (stream(batch_module._SCHEMA), "not an Arrow stream"),
        (stream(batch_module._SCHEMA, record(), record()), "more than one"),
        (stream(batch_module._SCHEMA, record(series=keyed([None], [0]))), "null"),
        (stream(batch_module._SCHEMA, record(series=keyed(["a"], [None]))), "null"),
        (stream(batch_module._SCHEMA, record(series=keyed(["a"], [1]))), "not an Arrow stream"),
        (stream(batch_module._SCHEMA, record(series=keyed(["a"], [-1]))), "not an Arrow stream"),
        (stream(batch_module._SCHEMA, record(value=pa.array([None], pa.float64()))), "null"),
        (
            stream(pa.schema([("value", pa.float64())]), pa.record_batch([[1.0]], ["value"])),
            "unexpected schema",
        ),
    ],
    ids=["none", "two", "null key", "null code", "high code", "low code", "null value", "schema"],
)
def test_a_stream_that_is_no_batch(data: bytes, fault: str) -> None:
    with pytest.raises(BatchError, match=fault):
        decode(data)


def test_the_handmade_record_is_sound_otherwise() -> None:
    assert len(decode(stream(batch_module._SCHEMA, record()))) == 1
