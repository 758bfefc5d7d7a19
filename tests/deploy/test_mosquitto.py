"""deploy/mosquitto.conf and its ACL on the real Mosquitto, with real clients; no engine is used."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ingest.topics import parse_topic
from tests.deploy.shipped_broker import DEADLINE_S, NOT_AUTHORIZED, Broker, Client, until

pytestmark = pytest.mark.integration

SUBSCRIPTION = "$share/citywatch/city/live/#"  # the bridge's, where several share the load


@pytest.fixture
def broker(repository: Path, tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(repository, tmp_path)
    yield broker
    broker.stop()


@pytest.fixture
def connect(broker: Broker) -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def connect(user: str | None, **options: object) -> Client:
        clients.append(Client(broker.port, user, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def test_starts_without_a_complaint(broker: Broker) -> None:
    broker.start()
    # Two lines are the test's doing: its user and the probe that sends nothing.
    own = r"should not be run as root|Client <unknown> closed"
    log = "".join(line for line in broker.log.splitlines() if not re.search(own, line))
    assert not re.search(r"error|unknown|deprecated|warning", log, re.IGNORECASE), log


def test_refuses_an_option_it_does_not_know(broker: Broker) -> None:
    # What makes the test above mean something.
    broker.text += "max_queued_massages 0\n"
    with pytest.raises(AssertionError, match="Unknown configuration variable"):
        broker.start()


def test_lets_nobody_in_without_a_password(broker: Broker, connect: Callable[..., Client]) -> None:
    broker.start()
    assert connect(None).code == NOT_AUTHORIZED
    assert connect("stranger").code == NOT_AUTHORIZED
    assert connect("bridge").code == 0


def test_sensor_publishes_under_its_own_name_only(
    broker: Broker, connect: Callable[..., Client]
) -> None:
    broker.start()
    bridge, sensor = connect("bridge"), connect("loop-0042")
    assert bridge.subscribe(SUBSCRIPTION) == 1
    refused = [
        "city/live/traffic/north/loop-0043",
        "city/live/traffic/north/loop-0043/onvif-ej/loop-0042",
        "city/live/traffic/north/loop-00421",
        "city/live/traffic/loop-0042",
        "city/live/loop-0042",
        "city/replay-x/traffic/north/loop-0042",
        "loop-0042",
    ]
    assert [sensor.publish(topic, b"forged") for topic in refused] == [NOT_AUTHORIZED] * 7
    assert sensor.publish("city/live/traffic/north/loop-0042", b"own") < 0x80
    # The forged ones were sent first: had one passed, it would stand before this.
    assert bridge.take(1) == [b"own"]


def test_camera_publishes_its_events_below_its_name(
    broker: Broker, connect: Callable[..., Client]
) -> None:
    broker.start()
    bridge, camera = connect("bridge"), connect("loop-0042")
    bridge.subscribe(SUBSCRIPTION)
    event = "onvif-ej/RuleEngine/CountAggregation/Counter"
    forged = camera.publish(f"city/live/cameras/north/loop-0043/{event}", b"forged")
    assert forged == NOT_AUTHORIZED
    assert camera.publish(f"city/live/cameras/north/loop-0042/{event}", b"own") < 0x80
    assert bridge.take(1) == [b"own"]


def _uncomment(broker: Broker, *lines: str) -> None:
    """Take the '# ' from lines that the shipped ACL gives as an example."""
    text = broker.acl.read_text(encoding="utf-8")
    for line in lines:
        assert text.count(f"\n# {line}\n") == 1, line
        text = text.replace(f"\n# {line}\n", f"\n{line}\n")
    broker.acl.write_text(text, encoding="utf-8")


def test_gateway_speaks_for_its_zone_only(broker: Broker, connect: Callable[..., Client]) -> None:
    _uncomment(broker, "user gateway@north", "topic write city/live/+/north/#")
    broker.start()
    bridge, gateway = connect("bridge"), connect("gateway@north")
    bridge.subscribe(SUBSCRIPTION)
    refused = [
        "city/live/traffic/south/loop-0042",
        "city/live/traffic/south/gateway-north",
        "city/replay-x/traffic/north/loop-0042",
    ]
    assert [gateway.publish(topic, b"forged") for topic in refused] == [NOT_AUTHORIZED] * 3
    assert gateway.publish("city/live/traffic/north/loop-0042", b"a sensor's") < 0x80
    assert gateway.publish("city/live/environment/north/gateway-north", b"a pack") < 0x80
    assert bridge.take(2) == [b"a sensor's", b"a pack"]


def test_what_the_pattern_gives_a_gateway_is_no_sensor() -> None:
    # Its user name may stand in a topic of any zone; the bridge must not take that for a sensor.
    assert parse_topic("city/live/traffic/south/gateway-north") is not None
    assert parse_topic("city/live/traffic/south/gateway@north") is None


def test_a_sensor_that_is_denied_is_silenced_without_a_restart(
    broker: Broker, connect: Callable[..., Client]
) -> None:
    topic = "city/live/traffic/north/loop-0042"
    broker.start()
    stolen, other = connect("loop-0042"), connect("loop-0043")
    assert stolen.publish(topic) < 0x80
    _uncomment(broker, "user loop-0042", "topic deny #")
    broker.read_again()
    until(lambda: stolen.publish(topic) == NOT_AUTHORIZED, "the sensor is denied")
    assert other.publish("city/live/traffic/north/loop-0043") < 0x80


def test_sensor_reads_nothing(broker: Broker, connect: Callable[..., Client]) -> None:
    broker.start()
    bridge, curious, sensor = connect("bridge"), connect("loop-0043"), connect("loop-0042")
    bridge.subscribe(SUBSCRIPTION)
    curious.subscribe("city/live/#")
    sensor.publish("city/live/traffic/north/loop-0042", b"private")
    assert bridge.take(1) == [b"private"]
    # The broker answers in order: whatever it had for the curious one came before this answer.
    curious.publish("city/live/traffic/north/loop-0043")
    assert curious.received.empty()


def test_bridge_publishes_nothing(broker: Broker, connect: Callable[..., Client]) -> None:
    broker.start()
    bridge = connect("bridge")
    assert bridge.publish("city/live/traffic/north/loop-0042") == NOT_AUTHORIZED
    # Nor what every other user may.
    assert bridge.publish("city/live/traffic/north/bridge") == NOT_AUTHORIZED
    assert bridge.publish("city/live/traffic/north/bridge/onvif-ej/x") == NOT_AUTHORIZED


def test_health_check_of_compose_gets_its_answer(
    broker: Broker, connect: Callable[..., Client]
) -> None:
    broker.start()
    bridge = connect("bridge")
    bridge.subscribe("$SYS/broker/uptime")
    assert b"seconds" in bridge.take(1)[0]


def test_holds_for_an_absent_bridge_more_than_the_stock_queue_and_over_a_restart(
    broker: Broker, connect: Callable[..., Client]
) -> None:
    broker.start()
    bridge = connect("bridge", durable=True)
    bridge.subscribe(SUBSCRIPTION)
    bridge.close()
    sent = [b"%d" % number for number in range(3000)]  # the stock queue drops after 1000
    connect("loop-0042").publish_many("city/live/traffic/north/loop-0042", sent)
    broker.stop()
    broker.start()
    assert connect("bridge", durable=True).take(len(sent)) == sent


def test_a_sensor_added_to_the_file_comes_in_without_a_restart(
    broker: Broker, connect: Callable[..., Client]
) -> None:
    broker.start()
    assert connect("cam-7").code == NOT_AUTHORIZED
    broker.set_password("cam-7", "wrong")
    broker.read_again()  # as deploy/mosquitto.passwords.example says
    until(lambda: connect("cam-7").code == 0, "the new sensor comes in")


def test_a_password_that_is_taken_back_ends_the_connection(
    broker: Broker, connect: Callable[..., Client]
) -> None:
    broker.start()
    gone, other = connect("loop-0042"), connect("loop-0043")
    broker.remove_password("loop-0042")
    broker.read_again()
    # It tries to come back by itself.
    assert gone.connected.get(timeout=DEADLINE_S) == NOT_AUTHORIZED
    assert other.publish("city/live/traffic/north/loop-0043") < 0x80
    assert other.connected.empty()
