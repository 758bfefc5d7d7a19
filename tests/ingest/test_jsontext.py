"""JSON from strangers: what is read, what is not, and never an exception."""

import json
from math import inf, isnan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest import reject
from ingest.jsontext import MAX_DEPTH, load
from ingest.reject import Reject
from tests.ingest.strategies import JSON


@given(JSON)
@settings(deadline=None)
def test_what_json_holds_is_what_is_loaded(content: Any) -> None:
    assert load(json.dumps(content).encode()) == json.loads(json.dumps(content))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Infinity", inf),
        ("-Infinity", -inf),
        ("1e999", inf),
        ("-1e999", -inf),
        ("1e-999", 0.0),
        ("9" * 400, 10**400 - 1),
    ],
)
def test_numbers_that_no_float_holds_are_read(text: str, value: float) -> None:
    assert load(text.encode()) == value
    assert load(b'{"a": [%s, 1]}' % text.encode()) == {"a": [value, 1]}


def test_what_is_not_a_number_is_read() -> None:
    found = load(b'{"a": NaN, "b": 2}')
    assert isnan(found["a"])
    assert found["b"] == 2


def test_the_last_of_equal_keys_counts_for_both_readers() -> None:
    assert load(b'{"a": 1, "a": 2}') == {"a": 2}
    assert load(b'{"a": NaN, "a": 2}') == {"a": 2}


@pytest.mark.parametrize("inner", [b"1", b"NaN"], ids=["strict", "lenient"])
@pytest.mark.parametrize(
    ("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")], ids=["arrays", "objects"]
)
def test_depth_is_bounded(opening: bytes, closing: bytes, inner: bytes) -> None:
    def nested(depth: int) -> bytes:
        return opening * depth + inner + closing * depth

    assert not isinstance(load(nested(MAX_DEPTH)), Reject)
    for depth in (MAX_DEPTH + 1, 900, 100_000):
        assert load(nested(depth)) == Reject(reject.TOO_DEEP, "$")


def test_brackets_side_by_side_or_in_text_are_not_deep() -> None:
    assert load(b"[" + b"[]," * 50 + b"{}]") == [[]] * 50 + [{}]
    assert load(b'"' + b"[" * 50 + b'"') == "[" * 50
    assert load(b'{"a": "' + b"{" * 50 + b'"}') == {"a": "{" * 50}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"{",
        b'{"a": 1',
        b"{'a': 1}",
        b'{"a": 1}x',
        b'{"a": nan}',
        b"[1,]",
        b"\xef\xbb\xbf{}",  # a byte order mark
        b'"\xff"',
        "{}".encode("utf-16"),
        b'["\xc3"]',
        b'"\\ud800"',  # half a character, which no UTF-8 can hold
        b'{"\\udfff": NaN}',
        b"9" * 5_000,
    ],
)
def test_what_cannot_be_read_is_malformed(payload: bytes) -> None:
    assert load(payload) == Reject(reject.MALFORMED, "$")


@given(st.binary(max_size=60) | st.text(alphabet='[]{}":,1eNa \\uI-', max_size=60))
def test_any_bytes_give_a_value(payload: bytes | str) -> None:
    found = load(payload if isinstance(payload, bytes) else payload.encode())
    if isinstance(found, Reject):
        assert found in {Reject(reject.MALFORMED, "$"), Reject(reject.TOO_DEEP, "$")}
    else:
        assert found is None or isinstance(found, bool | int | float | str | list | dict)
