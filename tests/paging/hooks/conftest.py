import logging
from collections.abc import Iterator

import pytest

from tests.paging.hooks.scaffold import SECRET


@pytest.fixture
def _nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Listen to everything that the test logs."""
    caplog.set_level(logging.DEBUG)
    yield
    assert SECRET not in "\n".join(one.getMessage() for one in caplog.get_records("call"))
