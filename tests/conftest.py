"""Options and the fixture modules; the fixtures themselves are in `fix_*.py`."""

import pytest
from hypothesis import settings

# What passes once passes always; what random examples find is looked for by `make search`.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("search", derandomize=False, print_blob=True)
settings.load_profile("repeatable")

pytest_plugins = ["tests.fix_services"]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("citywatch", "existing services instead of the embedded stack")
    group.addoption("--mqtt", metavar="HOST:PORT", help="MQTT v5 broker")
    group.addoption("--kafka", metavar="HOST:PORT", help="Kafka broker")
    group.addoption(
        "--apache-kafka",
        action="store_true",
        help="start Apache Kafka for the session, not the embedded broker (make kafka-jars)",
    )
    group.addoption("--dsn", metavar="DSN", help="TimescaleDB or PostgreSQL")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Take one test after the other where they share services: some count who is connected."""
    if any(config.getoption(name) for name in ("--mqtt", "--kafka", "--dsn")):
        config.option.numprocesses = 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, so that at the end no process works while the others are done."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
