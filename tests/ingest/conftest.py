"""Brokers that a test of the bridge may stop and kill."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fix_services import make_kafka
from tests.ingest.scaffold import Brokers


@pytest.fixture
def own_brokers(pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[Brokers]:
    """Return a pair of brokers of the test's own, started."""
    brokers = Brokers(tmp_path, make_kafka(pytestconfig, tmp_path))
    try:
        brokers.mqtt.start()
        brokers.kafka.start()
        yield brokers
    finally:
        brokers.mqtt.stop()
        brokers.kafka.stop()
