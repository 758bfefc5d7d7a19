"""Readings as columns, and their form on Kafka.

One Kafka message is one Arrow IPC stream with one record batch. pyarrow is used here only: the
rest of the project sees numpy arrays.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

SCHEMA_VERSION: Final = 1

_SCHEMA: Final = pa.schema(
    [
        pa.field("series", pa.dictionary(pa.int32(), pa.utf8()), nullable=False),
        pa.field("time_ns", pa.int64(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("quality", pa.uint8(), nullable=False),
    ],
    metadata={"citywatch": str(SCHEMA_VERSION)},
)
# Before each message: a mark, and the length of its metadata.
_PREFIX: Final = struct.Struct("<Ii")
_CONTINUES: Final = 0xFFFFFFFF
# Places in the tables of Arrow's format (Message.fbs of its repository): what kind a message is,
# its header and the length of its body; what a dictionary batch holds; and how the buffers of a
# record batch are compressed.
_KIND: Final = 1
_HEADER: Final = 2
_BODY_LENGTH: Final = 3
_DATA: Final = 1
_COMPRESSION: Final = 3
_DICTIONARY_BATCH: Final = 2
_HOLDS_BUFFERS: Final = (_DICTIONARY_BATCH, 3)


class BatchError(ValueError):
    """Bytes that are not a batch of this schema."""


@dataclass(frozen=True, slots=True)
class ReadingBatch:
    """Readings of many series, as read-only columns of one length.

    Parameters
    ----------
    keys : sequence of str
        Dictionary of the batch: the text of a `SeriesKey` per code.
    series : (n,) int32
        Code of each reading's series, an index into `keys`.
    time_ns : (n,) int64
        Event time, UTC nanoseconds since 1970, whole microseconds (what the database keeps).
    value : (n,) float64
        In the unit of the quantity.
    quality : (n,) uint8
        QARTOD flag.
    """

    keys: Sequence[str]
    series: NDArray[np.int32]
    time_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    quality: NDArray[np.uint8]

    def __post_init__(self) -> None:
        """Check the shapes and freeze the columns."""
        columns = (self.series, self.time_ns, self.value, self.quality)
        if len({column.shape for column in columns}) != 1 or self.series.ndim != 1:
            raise ValueError(f"columns differ in shape: {[column.shape for column in columns]}")
        for column in columns:
            column.flags.writeable = False

    def __len__(self) -> int:
        """Return the number of readings."""
        return len(self.series)


def encode(batch: ReadingBatch) -> bytes:
    """Return the batch as one Arrow IPC stream."""
    dictionary = pa.DictionaryArray.from_arrays(
        pa.array(batch.series), pa.array(batch.keys, pa.utf8())
    )
    record = pa.record_batch(
        [dictionary, pa.array(batch.time_ns), pa.array(batch.value), pa.array(batch.quality)],
        schema=_SCHEMA,
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _SCHEMA) as writer:
        writer.write_batch(record)
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def decode(data: bytes) -> ReadingBatch:
    """Read a batch back; the columns are views of `data`.

    Raises
    ------
    BatchError
        If `data` is not an Arrow stream of this schema with sound codes, or compressed: 20 kB
        could be 600 MB then. Kafka compresses what a bridge writes, and bounds it before.
    """
    try:
        if _is_compressed(data):
            raise BatchError("its buffers are compressed")
        with pa.ipc.open_stream(data) as reader:
            if not reader.schema.equals(_SCHEMA):
                raise BatchError(f"unexpected schema: {reader.schema}")
            record = reader.read_next_batch()
            if next(reader, None) is not None:
                raise BatchError("more than one record batch")
        record.validate(full=True)
    except (pa.ArrowException, OSError, StopIteration, struct.error, IndexError) as error:
        raise BatchError(f"not an Arrow stream of readings: {error}") from error
    if any(column.null_count for column in record.columns):
        raise BatchError("a column holds nulls")
    series, time_ns, value, quality = record.columns
    if series.dictionary.null_count:
        raise BatchError("a key is null")
    return ReadingBatch(
        keys=series.dictionary.to_pylist(),
        series=series.indices.to_numpy(zero_copy_only=True),
        time_ns=time_ns.to_numpy(zero_copy_only=True),
        value=value.to_numpy(zero_copy_only=True),
        quality=quality.to_numpy(zero_copy_only=True),
    )


def _is_compressed(data: bytes) -> bool:
    """Say whether anything in a stream must be unpacked; pyarrow would do it without asking.

    Walks over the messages by hand: pyarrow's own reader of them costs as much as decoding.
    """
    place = 0
    while place + _PREFIX.size <= len(data):
        mark, size = _PREFIX.unpack_from(data, place)
        if mark != _CONTINUES:
            raise BatchError("not an Arrow stream of the present format")
        if size <= 0:
            return False
        metadata = memoryview(data)[place + _PREFIX.size :][:size]
        (root,) = struct.unpack_from("<I", metadata)
        kind = _entry(metadata, root, _KIND)
        if kind and metadata[kind] in _HOLDS_BUFFERS:
            table = _table(metadata, root, _HEADER)
            if metadata[kind] == _DICTIONARY_BATCH:
                table = _table(metadata, table, _DATA)
            if _entry(metadata, table, _COMPRESSION):
                return True
        length = _entry(metadata, root, _BODY_LENGTH)
        body = struct.unpack_from("<q", metadata, length)[0] if length else 0
        if body < 0:
            raise BatchError("a body of negative length")
        place += _PREFIX.size + size + body
    return False


def _table(metadata: memoryview, table: int, index: int) -> int:
    """Return where the table stands that an entry of another refers to."""
    entry = _entry(metadata, table, index)
    (offset,) = struct.unpack_from("<I", metadata, entry)
    return entry + int(offset)


def _entry(metadata: memoryview, table: int, index: int) -> int:
    """Return where an entry of a flatbuffer's table stands; 0 where it is left out."""
    (back,) = struct.unpack_from("<i", metadata, table)
    directory = table - back
    (size,) = struct.unpack_from("<H", metadata, directory)
    place = 4 + 2 * index
    if place >= size:
        return 0
    (offset,) = struct.unpack_from("<H", metadata, directory + place)
    return table + int(offset) if offset else 0
