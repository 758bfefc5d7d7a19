import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from paging.receiver import Receiver, serve
from storage.pages import encode_page
from tests.paging.scaffold import page_of

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


def test_a_page_is_kept_once_however_often_it_comes() -> None:
    times = iter(NOW + timedelta(seconds=second) for second in range(9))
    receiver = Receiver(lambda: next(times))
    one, other = page_of(), page_of()
    answers = post(
        receiver, ("a", encode_page(one)), ("a", encode_page(one)), ("b", encode_page(other))
    )
    assert [status for status, _ in answers] == [200, 200, 200]
    assert [(a.key, a.page, a.at) for a in receiver.arrivals] == [
        ("a", one, NOW),
        ("b", other, NOW + timedelta(seconds=1)),
    ]
    assert (receiver.posts, receiver.repeats) == (3, 1)


def test_what_is_no_page_is_not_kept() -> None:
    receiver = Receiver(lambda: NOW)
    page = encode_page(page_of())
    answers = post(
        receiver, (None, page), ("k" * 201, page), ("a", b"{}"), ("b", page + b" " * 70_000)
    )
    assert [status for status, _ in answers] == [400, 400, 400, 413]
    assert receiver.arrivals == ()


def test_the_number_kept_is_bounded() -> None:
    receiver = Receiver(lambda: NOW, limit=2)
    post(receiver, *((key, encode_page(page_of())) for key in "abc"))
    assert [arrival.key for arrival in receiver.arrivals] == ["b", "c"]
    assert receiver.posts == 3
