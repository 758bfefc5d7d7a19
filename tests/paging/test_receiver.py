import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from paging.notices import encode_notice
from paging.receiver import Receiver, serve
from tests.paging.scaffold import notice_of

NOW = datetime(2025, 3, 4, 14, 0, tzinfo=UTC)


def post(receiver: Receiver, *bodies: tuple[str | None, bytes]) -> list[tuple[int, Any]]:
    async def main() -> list[tuple[int, Any]]:
        answers = []
        async with serve(receiver) as url, aiohttp.ClientSession() as session:
            assert url.startswith("http://127.0.0.1:")
            for key, body in bodies:
                headers = {} if key is None else {"Idempotency-Key": key}
                async with session.post(url, data=body, headers=headers) as response:
                    answers.append((response.status, await response.text()))
        return answers

    return asyncio.run(main())


def test_a_notice_is_kept_once_however_often_it_comes() -> None:
    times = iter(NOW + timedelta(seconds=second) for second in range(9))
    receiver = Receiver(lambda: next(times))
    one, other = notice_of(), notice_of(kind="spike")
    answers = post(
        receiver, ("a", encode_notice(one)), ("a", encode_notice(one)), ("b", encode_notice(other))
    )
    assert [status for status, _ in answers] == [200, 200, 200]
    assert [(a.key, a.notice, a.at) for a in receiver.arrivals] == [
        ("a", one, NOW),
        ("b", other, NOW + timedelta(seconds=1)),
    ]
    assert (receiver.posts, receiver.repeats) == (3, 1)


def test_what_is_no_notice_is_not_kept() -> None:
    receiver = Receiver(lambda: NOW)
    body = encode_notice(notice_of())
    answers = post(
        receiver, (None, body), ("k" * 201, body), ("a", b"{}"), ("b", body + b" " * 70_000)
    )
    assert [status for status, _ in answers] == [400, 400, 400, 413]
    assert receiver.arrivals == ()


def test_the_number_kept_is_bounded() -> None:
    receiver = Receiver(lambda: NOW, limit=2)
    post(receiver, *((key, encode_notice(notice_of())) for key in "abc"))
    assert [arrival.key for arrival in receiver.arrivals] == ["b", "c"]
    assert receiver.posts == 3
