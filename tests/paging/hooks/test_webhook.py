"""What a webhook sends, and that receivers can tell it from what somebody else sends."""

import asyncio
import base64
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import standardwebhooks
from aiohttp import web
from hypothesis import example, given
from hypothesis import strategies as st

from paging.hooks import Secret, SecretError
from paging.hooks.kinds import KINDS
from paging.hooks.schema import notice_schema, schema_text
from paging.hooks.webhook import message_id, read_key, signed
from paging.notices import Recipient, decode_notice, encode_notice, for_delivery
from tests.paging.hooks.scaffold import KEY, SECRET, SIGNING_KEY, notice_of, served

DOCS = Path(__file__).parents[3] / "docs"
OTHER_KEY = f"whsec_{base64.b64encode(bytes(range(24))).decode()}"
ENVIRONMENT = {"KEY": SIGNING_KEY, "OTHER": OTHER_KEY, "SECRET": SECRET}

Verifier = Callable[[Mapping[str, str], bytes, str, float], bool]


def documented() -> str:
    """Return the verifier that docs/hooks.md shows."""
    page = (DOCS / "hooks.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def is_genuine() -> Verifier:
    names: dict[str, Any] = {}
    exec(documented(), names)  # noqa: S102 - it is what the test is about
    return names["is_genuine"]


def sent(**options: Any) -> tuple[Mapping[str, str], bytes]:
    """Send a notice and return what came: headers and body."""
    seen: list[tuple[Mapping[str, str], bytes]] = []

    async def look(request: web.Request) -> web.Response:
        seen.append((request.headers, await request.read()))
        return web.Response()

    async def once() -> None:
        kind = KINDS["webhook"]
        async with served(look) as url:
            values = kind.read({"url": url} | options)
            async with kind.open(values, ENVIRONMENT) as notifier:
                await notifier.send(notice_of(), KEY)

    asyncio.run(once())
    return seen[0]


def now() -> float:
    return datetime.now(UTC).timestamp()


def test_the_verifier_has_ten_lines() -> None:
    assert len([line for line in documented().splitlines() if line.strip()]) == 10


def test_a_request_is_genuine(is_genuine: Verifier) -> None:
    headers, body = sent(keys=[{"env": "KEY"}])
    assert is_genuine(headers, body, SIGNING_KEY, now())
    assert headers["Idempotency-Key"] == headers["webhook-id"] == KEY
    assert decode_notice(body) == notice_of()


@pytest.mark.parametrize("key", [SIGNING_KEY, OTHER_KEY])
def test_while_a_key_is_changed_both_are_good(is_genuine: Verifier, key: str) -> None:
    headers, body = sent(keys=[{"env": "OTHER"}, {"env": "KEY"}])
    assert is_genuine(headers, body, key, now())
    assert standardwebhooks.Webhook(key).verify(body, dict(headers)) == json.loads(body)


def test_what_was_tampered_with_is_not_genuine(is_genuine: Verifier) -> None:
    headers, body = sent(keys=[{"env": "KEY"}])
    later = str(int(headers["webhook-timestamp"]) + 1)
    tampered: list[tuple[Mapping[str, str], bytes]] = [
        (headers, body.replace(b'"trigger"', b'"resolve"')),
        (headers, body + b" "),
        (headers, b""),
        ({**headers, "webhook-id": f"{KEY}0"}, body),
        ({**headers, "webhook-timestamp": later}, body),
        ({**headers, "webhook-signature": headers["webhook-signature"][:-1]}, body),
        ({**headers, "webhook-signature": "v1,"}, body),
        ({**headers, "webhook-signature": headers["webhook-signature"].replace("v1", "v1a")}, body),
    ]
    assert [is_genuine(head, data, SIGNING_KEY, now()) for head, data in tampered] == [False] * 8


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_what_lacks_a_header_is_not_genuine(is_genuine: Verifier, missing: str) -> None:
    headers, body = sent(keys=[{"env": "KEY"}])
    rest = {name: value for name, value in headers.items() if name.lower() != missing}
    assert not is_genuine(rest, body, SIGNING_KEY, now())


@pytest.mark.parametrize("apart_s", [-301, 301, 86_400])
def test_an_old_or_early_request_is_not_genuine(is_genuine: Verifier, apart_s: float) -> None:
    headers, body = sent(keys=[{"env": "KEY"}])
    stamp = int(headers["webhook-timestamp"])
    assert not is_genuine(headers, body, SIGNING_KEY, stamp + apart_s)
    assert is_genuine(headers, body, SIGNING_KEY, stamp + 299)


def test_another_key_has_not_signed_it(is_genuine: Verifier) -> None:
    headers, body = sent(keys=[{"env": "KEY"}])
    assert not is_genuine(headers, body, OTHER_KEY, now())


@given(
    st.dictionaries(
        st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]),
        st.text(st.characters(max_codepoint=0x2FF), max_size=40)
        | st.sampled_from(["9" * 5000, "²", "v1,\udcff", "v1,ü", "0", "1" * 400]),
    )
)
def test_the_verifier_says_no_to_whatever_else_comes(
    is_genuine: Verifier, headers: dict[str, str]
) -> None:
    assert not is_genuine(headers, b"{}", SIGNING_KEY, now())


def test_without_a_key_nothing_is_signed() -> None:
    headers, _ = sent()
    assert headers["Idempotency-Key"] == KEY
    assert not [name for name in headers if name.lower().startswith("webhook-")]


def test_the_signature_is_that_of_the_standard() -> None:
    # The vector that the libraries of Standard Webhooks are tested with.
    key = read_key(Secret(env="KEY"), ENVIRONMENT)
    at = datetime.fromtimestamp(1_614_265_330, UTC)
    headers = signed("msg_p5jXN8AQM9LWM0D4loKWxJek", at, b'{"test": 2432232314}', [key])
    assert headers["webhook-timestamp"] == "1614265330"
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(
    st.text(max_size=60),
    st.binary(max_size=200),
    st.lists(st.binary(min_size=24, max_size=64), min_size=1, max_size=4),
)
def test_the_reference_library_takes_every_signature(
    text: str, body: bytes, keys: list[bytes]
) -> None:
    headers = signed(message_id(text) or "-", datetime.now(UTC), body, keys)
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    for key in keys:
        try:
            standardwebhooks.Webhook(key).verify(body, dict(headers), json_parse=False)
        except UnicodeDecodeError:
            # It reads text only; ours are JSON.
            assert not _is_text(body)


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


@given(st.text(max_size=60), st.text(max_size=60))
@example("sms:anna.b", "sms:anna%2Eb")
def test_message_ids_are_different_and_have_no_full_stop(one: str, other: str) -> None:
    assert "." not in message_id(one)
    assert (one == other) == (message_id(one) == message_id(other))


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        f"whsec_{SECRET}!",
        f"whsec_{base64.b64encode(bytes(range(23))).decode()}",
        f"whsec_{base64.b64encode(bytes(range(65))).decode()}",
        base64.b64encode(bytes(range(32))).decode(),
        "whsec_",
    ],
    ids=["bare", "not-base64", "short", "long", "no-prefix", "empty"],
)
def test_what_is_no_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(SecretError, match="KEY: expected whsec_") as caught:
        read_key(Secret(env="KEY"), {"KEY": text})
    assert (
        text.removeprefix("whsec_") not in str(caught.value).replace("whsec_", "") or not text[6:]
    )


def test_a_url_that_is_none_is_refused_without_repeating_it() -> None:
    kind = KINDS["webhook"]

    async def once() -> None:
        async with kind.open(kind.read({"url": {"env": "SECRET"}}), ENVIRONMENT):
            pass

    with pytest.raises(SecretError, match="SECRET: expected") as caught:
        asyncio.run(once())
    assert SECRET not in str(caught.value)


def test_five_keys_are_too_many() -> None:
    with pytest.raises(msgspec.ValidationError, match="keys"):
        KINDS["webhook"].read({"url": "https://hook.example", "keys": [{"env": "KEY"}] * 5})


def test_the_schema_that_stands_in_the_docs_is_the_notice_s() -> None:
    found = (DOCS / "notice.schema.json").read_text(encoding="utf-8")
    assert found == schema_text(), "run python -m paging.hooks.schema docs/notice.schema.json"


@pytest.mark.parametrize(
    "notice",
    [
        notice_of(),
        notice_of(event="resolve"),
        notice_of(event="acknowledge", actor="anna", link=None, alerts=()),
        for_delivery(notice_of(), step=2, to=Recipient(name="anna", address="+34")),
    ],
)
def test_every_notice_is_valid_by_the_schema(notice: Any) -> None:
    validator = _validator()
    validator.validate(msgspec.json.decode(encode_notice(notice)))


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 1},
        {"event": "firing"},
        {"group": "two words"},
        {"at": 1741096999},
        {"severity": "fatal"},
        {"step": 0},
        {"counts": {"open": "two"}},
    ],
)
def test_what_is_no_notice_is_not_valid_by_the_schema(changes: dict[str, Any]) -> None:
    values = msgspec.json.decode(encode_notice(notice_of()))
    assert not _validator().is_valid(values | changes)


def test_the_schema_says_what_every_field_is() -> None:
    for record in notice_schema()["$defs"].values():
        assert "----" not in record["description"]
        if record["title"] != "Counts":
            assert not [
                name for name, one in record["properties"].items() if "description" not in one
            ]


def _validator() -> jsonschema.Draft202012Validator:
    schema = notice_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
