import os
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from paging.hooks import Secret, SecretError
from paging.hooks.kinds import KINDS
from paging.notices import (
    Counts,
    Listed,
    NoticeError,
    Recipient,
    decode_notice,
    delivery_key,
    encode_notice,
    for_delivery,
)
from tests.paging.scaffold import NOTICED_AT, notice_of

AT = NOTICED_AT


def test_a_notice_comes_back_as_it_went() -> None:
    listed = Listed(
        alert_id=UUID(int=1),
        sensor="traffic-0042",
        quantity="averageVehicleSpeed",
        kind="level",
        severity="major",
        state="open",
        since=AT,
        sentence="slow",
    )
    notice = notice_of(
        alerts=(listed,), counts=Counts(open=1, stale=2), to=Recipient(name="anna", address="+34")
    )
    assert decode_notice(encode_notice(notice)) == notice
    assert notice.counts.total == 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 1}, "version"),
        ({"namespace": "replay-monday"}, "namespace"),
        ({"group": "two words"}, "group"),
        ({"group": ""}, "group"),
        ({"event": "resolve"}, "ended_at"),
        ({"ended_at": "2025-03-04T14:03:20Z"}, "ended_at"),
        ({"at": "2025-03-04T14:03:20"}, "at"),
        ({"title": "x" * 256}, "title"),
        ({"severity": "fatal"}, "severity"),
        ({"ring": -1}, "ring"),
    ],
)
def test_what_is_no_notice_is_refused_with_its_field(changes: dict[str, Any], reason: str) -> None:
    values = msgspec.json.decode(encode_notice(notice_of())) | changes
    with pytest.raises(NoticeError, match=reason):
        decode_notice(msgspec.json.encode(values))


def test_what_a_newer_pager_adds_is_passed_over() -> None:
    values = msgspec.json.decode(encode_notice(notice_of())) | {"mood": "grim"}
    assert decode_notice(msgspec.json.encode(values)) == notice_of()


def test_each_delivery_has_a_key_of_its_own() -> None:
    first = delivery_key("g", 1, 1, "webhook")
    others = {
        delivery_key("g", 2, 1, "webhook"),
        delivery_key("g", 1, 2, "webhook"),
        delivery_key("g", 1, 1, "sms:anna"),
    }
    assert first not in others
    assert len(others) == 3
    told = for_delivery(notice_of(), step=2, to=Recipient(name="anna"))
    assert (told.step, told.to) == (2, Recipient(name="anna"))


def test_a_secret_is_read_where_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(" s3cret\n")
    assert Secret(file=str(file)).read({}) == "s3cret"
    assert Secret(env="KEY").read({"KEY": "s3cret"}) == "s3cret"


def test_a_pipe_and_a_folder_are_no_secrets(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(SecretError, match="pipe: no regular file"):
        Secret(file=str(pipe)).read({})
    with pytest.raises(SecretError, match="Is a directory"):
        Secret(file=str(tmp_path)).read({})
    with pytest.raises(SecretError, match="/dev/zero: no regular file"):
        Secret(file="/dev/zero").read({})


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        (Secret(file="/nowhere/key"), "/nowhere/key: No such file"),
        (Secret(env="KEY"), "the environment's KEY: empty"),
    ],
)
def test_a_secret_that_is_not_there_says_where_it_should_be(secret: Secret, said: str) -> None:
    with pytest.raises(SecretError, match=said):
        secret.read({})


@pytest.mark.parametrize("values", [{}, {"file": "a", "env": "B"}, {"text": "s3cret"}])
def test_a_secret_is_never_itself(values: dict[str, str]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(values, Secret)


@pytest.mark.parametrize("values", [{}, {"url": "ftp://hook"}, {"url": "http://hook", "uri": "x"}])
def test_the_options_of_a_webhook_are_checked(values: dict[str, str]) -> None:
    with pytest.raises(msgspec.ValidationError):
        KINDS["webhook"].read(values)


def test_kinds_are_known_by_their_own_names() -> None:
    assert all(name == kind.name for name, kind in KINDS.items())
