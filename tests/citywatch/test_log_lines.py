"""What a line of the log holds, and what nobody can write into it."""

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citywatch.log_lines import Lines


def line(name: str = "paging.sender", message: str = "page failed", **facts: Any) -> str:
    """Return what stands behind the time and the level."""
    facts = {"name": name, "levelname": "INFO", "msg": message} | facts
    return Lines().format(logging.makeLogRecord(facts)).partition(" INFO ")[2]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3, "3"),
        (0.123456, "0.123"),
        ("g/1/1/webhook", "g/1/1/webhook"),
        ("no answer", '"no answer"'),
        ("", '""'),
        ("a=b", '"a=b"'),
        ('say "no"', r'"say \"no\""'),
        ("a\\b", r'"a\\b"'),
        (["hook:a", "person:bo"], "hook:a,person:bo"),
        (None, "None"),
        ("one\ntwo", r'"one\ntwo"'),
        ("\x1b[2Jgone\x07", r'"\x1b[2Jgone\x07"'),
        ("a\u2028b\u202ec\x85", r'"a\u2028b\u202ec\x85"'),
        ("\ud800", r'"\ud800"'),
        ("Größe", "Größe"),
    ],
)
def test_a_fact_stands_behind_its_name(value: Any, shown: str) -> None:
    assert line(fact=value) == f"paging.sender page failed fact={shown}"


def test_facts_come_in_the_order_in_which_they_were_said() -> None:
    said = line(key="a", attempts=3, error="answered with status 500", delay_s=1.5)
    facts = 'key=a attempts=3 error="answered with status 500" delay_s=1.500'
    assert said == f"paging.sender page failed {facts}"


def test_a_line_without_facts_is_as_it_was() -> None:
    assert line("streams.worker", "started") == "streams.worker started"


def test_what_a_library_attaches_is_not_shown() -> None:
    assert line("uvicorn.error", "started", color_message="\x1b[1mstarted") == (
        "uvicorn.error started"
    )
    assert line("pagingelse", fact="x") == "pagingelse page failed"


def test_a_fact_is_bounded() -> None:
    assert len(line(error="x" * 100_000, groups=["y" * 40] * 10_000)) < 5_000


@given(st.text())
def test_whatever_a_fact_holds_it_stays_in_its_line(text: str) -> None:
    said = line(error=text, key="k")
    assert said.isprintable()
    assert said.endswith(" key=k")


def test_a_traceback_follows_the_facts() -> None:
    record = logging.makeLogRecord({"name": "paging.decider", "msg": "a turn failed", "events": 2})
    try:
        int("sesame")
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    first, second, *_, last = Lines().format(record).splitlines()
    assert first.endswith("a turn failed events=2")
    assert (second, last) == (
        "Traceback (most recent call last):",
        "ValueError: invalid literal for int() with base 10: 'sesame'",
    )
