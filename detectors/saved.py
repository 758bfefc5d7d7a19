"""Columns as bytes and back, exactly, with a checksum: how state is saved that is not a table."""

import json
import struct
from collections.abc import Mapping
from typing import Any, Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from detectors.table import StateError

_MAGIC: Final = b"citywatch-columns-1\n"
_LENGTHS: Final = struct.Struct("<II")  # length of the header, CRC-32 of header and body
_TYPES: Final = ("<f8", "<i8", "|u1")


def to_bytes(columns: Mapping[str, NDArray[Any]]) -> bytes:
    """Return named columns of float64, int64 or uint8, of any shape, as bytes."""
    bodies = [np.ascontiguousarray(column) for column in columns.values()]
    header = json.dumps(
        [
            [name, body.dtype.newbyteorder("<").str, body.shape]
            for name, body in zip(columns, bodies, strict=True)
        ]
    ).encode()
    body = b"".join(one.astype(one.dtype.newbyteorder("<"), copy=False).tobytes() for one in bodies)
    return b"".join((_MAGIC, _LENGTHS.pack(len(header), crc32(body, crc32(header))), header, body))


def from_bytes(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the columns that `to_bytes` was given; they can be written to.

    Raises
    ------
    StateError
        If the bytes are damaged or nothing of the kind.
    """
    start = len(_MAGIC) + _LENGTHS.size
    if data[: len(_MAGIC)] != _MAGIC or len(data) < start:
        raise StateError("not saved columns: they do not begin with their mark")
    length, checksum = _LENGTHS.unpack_from(data, len(_MAGIC))
    if crc32(memoryview(data)[start:]) != checksum:
        raise StateError("damaged columns: the checksum does not match")
    columns: dict[str, NDArray[Any]] = {}
    place = start + length
    # What bears the right checksum was written by `to_bytes`; sizes are checked all the same.
    for name, kind, shape in json.loads(data[start:place]):
        count = int(np.prod(shape, dtype=np.int64))
        stop = place + count * 8 if kind != "|u1" else place + count
        if kind not in _TYPES or stop > len(data):
            raise StateError(f"damaged columns: {name} of {shape} {kind} is not there")
        columns[name] = np.frombuffer(data[place:stop], kind).reshape(shape).copy()
        place = stop
    return columns
