"""deploy/mosquitto-tls.conf on the real Mosquitto: who is let in, as whom, and what for."""

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tests.deploy.shipped_broker import (
    DEADLINE_S,
    NOT_AUTHORIZED,
    Broker,
    Client,
    server_files,
    trusting,
    until,
)

pytestmark = pytest.mark.integration

TOPIC = "city/live/traffic/north/{}"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def broker(repository: Path, tmp_path: Path, authority: trustme.CA) -> Iterator[Broker]:
    broker = Broker(repository, tmp_path, server_files(authority, tmp_path))
    broker.start()
    yield broker
    broker.stop()


def certified(authority: trustme.CA, name: str, issuer: trustme.CA | None = None) -> ssl.SSLContext:
    """Return the context of a client that shows a certificate with a common name."""
    context = trusting(authority)
    (issuer or authority).issue_cert(common_name=name).configure_cert(context)
    return context


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    clients: list[Client] = []
    yield clients
    for client in clients:
        client.close()


@pytest.fixture
def plain(broker: Broker, clients: list[Client]) -> Callable[..., Client]:
    def connect(user: str, **options: bool) -> Client:
        clients.append(Client(broker.port, user, **options))
        return clients[-1]

    return connect


@pytest.fixture
def by_certificate(
    broker: Broker, clients: list[Client], authority: trustme.CA
) -> Callable[..., Client]:
    def connect(name: str, user: str | None = None, **options: bool) -> Client:
        tls = certified(authority, name)
        clients.append(Client(broker.certificate_port, user, tls=tls, **options))
        return clients[-1]

    return connect


@pytest.fixture
def by_password(
    broker: Broker, clients: list[Client], authority: trustme.CA
) -> Callable[..., Client]:
    def connect(user: str | None) -> Client:
        clients.append(Client(broker.password_port, user, tls=trusting(authority)))
        return clients[-1]

    return connect


def test_starts_without_a_complaint(broker: Broker) -> None:
    # Two lines are the test's doing: its user and the probe that sends nothing.
    own = r"should not be run as root|Client <unknown> closed"
    log = "".join(line for line in broker.log.splitlines() if not re.search(own, line))
    assert not re.search(r"error|unknown|deprecated|warning", log, re.IGNORECASE), log


def test_certificate_of_a_sensor_is_its_name(
    plain: Callable[..., Client], by_certificate: Callable[..., Client]
) -> None:
    bridge, sensor = plain("bridge"), by_certificate("loop-0042")
    assert bridge.subscribe("city/live/#") == 1
    assert sensor.publish(TOPIC.format("loop-0043"), b"forged") == NOT_AUTHORIZED
    assert sensor.publish(TOPIC.format("loop-0042"), b"own") < 0x80
    # The forged one was sent first: had it passed, it would stand before this.
    assert bridge.take(1) == [b"own"]


def test_certificate_may_hold_an_id_that_a_password_file_cannot(
    plain: Callable[..., Client], by_certificate: Callable[..., Client]
) -> None:
    bridge, sensor = plain("bridge"), by_certificate("urn:dev:mac:0024befffe804ff1")
    bridge.subscribe("city/live/#")
    assert sensor.publish(TOPIC.format("urn:dev:mac:0024befffe804ff1"), b"own") < 0x80
    assert bridge.take(1) == [b"own"]


def test_what_a_client_calls_itself_does_not_count(by_certificate: Callable[..., Client]) -> None:
    sensor = by_certificate("loop-0042", user="loop-0043")  # with that one's password
    assert sensor.code == 0
    assert sensor.publish(TOPIC.format("loop-0043")) == NOT_AUTHORIZED
    assert sensor.publish(TOPIC.format("loop-0042")) < 0x80


@pytest.mark.parametrize("name", ["+", "#", "loop-0042/#"])
def test_certificate_with_a_wildcard_as_name_opens_nothing(
    by_certificate: Callable[..., Client], name: str
) -> None:
    sensor = by_certificate(name)
    for target in (name, "loop-0042"):
        topic = TOPIC.format(target.replace("+", "x").replace("#", "x"))
        assert sensor.publish(topic) == NOT_AUTHORIZED


def test_sensor_with_a_certificate_reads_nothing(
    plain: Callable[..., Client], by_certificate: Callable[..., Client]
) -> None:
    bridge, curious = plain("bridge"), by_certificate("loop-0043")
    bridge.subscribe("city/live/#")
    # Mosquitto grants every subscription and applies the ACL to what it would deliver.
    for topic in ("city/live/#", "#", "$SYS/#", TOPIC.format("loop-0043")):
        curious.subscribe(topic)
    by_certificate("loop-0042").publish(TOPIC.format("loop-0042"), b"private")
    assert bridge.take(1) == [b"private"]
    # The broker answers in order: whatever it had for the curious one came before this answer.
    curious.publish(TOPIC.format("loop-0043"))
    assert curious.received.empty()


def refusal(port: int, context: ssl.SSLContext) -> str:
    """Return why a broker breaks off the handshake; a broker that does not lets this time out."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as plain:
        # With TLS 1.3 the client's side is done before the broker has looked at the certificate.
        with (
            pytest.raises(ssl.SSLError) as caught,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted,
        ):
            encrypted.recv(1)
        return str(caught.value.reason)


def test_without_a_certificate_nobody_comes_in(broker: Broker, authority: trustme.CA) -> None:
    assert "CERTIFICATE_REQUIRED" in refusal(broker.certificate_port, trusting(authority))


def test_certificate_of_another_authority_is_refused(broker: Broker, authority: trustme.CA) -> None:
    forged = certified(authority, "loop-0042", issuer=trustme.CA())
    assert "UNKNOWN_CA" in refusal(broker.certificate_port, forged)


def test_certificate_without_a_name_is_refused(
    broker: Broker, authority: trustme.CA, clients: list[Client]
) -> None:
    context = trusting(authority)
    authority.issue_cert("loop-0042").configure_cert(context)  # an alternative name only
    clients.append(Client(broker.certificate_port, "loop-0042", tls=context))
    assert clients[-1].code >= 0x80


def test_broker_of_another_authority_is_refused_by_the_client(broker: Broker) -> None:
    for port in (broker.certificate_port, broker.password_port):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as plain,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            trusting(trustme.CA()).wrap_socket(plain, server_hostname="127.0.0.1")


def test_password_over_tls(
    plain: Callable[..., Client], by_password: Callable[..., Client]
) -> None:
    assert by_password(None).code == NOT_AUTHORIZED
    assert by_password("stranger").code == NOT_AUTHORIZED
    bridge, sensor = plain("bridge"), by_password("loop-0042")
    bridge.subscribe("city/live/#")
    assert sensor.publish(TOPIC.format("loop-0043"), b"forged") == NOT_AUTHORIZED
    assert sensor.publish(TOPIC.format("loop-0042"), b"own") < 0x80
    assert bridge.take(1) == [b"own"]


def test_certificate_does_not_replace_the_password_where_one_is_asked_for(
    broker: Broker, authority: trustme.CA, clients: list[Client]
) -> None:
    clients.append(Client(broker.password_port, None, tls=certified(authority, "loop-0042")))
    assert clients[-1].code == NOT_AUTHORIZED


def test_plain_listener_still_asks_for_passwords(plain: Callable[..., Client]) -> None:
    assert plain("stranger").code == NOT_AUTHORIZED
    assert plain("loop-0042").publish(TOPIC.format("loop-0042")) < 0x80


@pytest.mark.parametrize("tls", [False, True])
def test_bridge_gets_what_came_over_tls_while_it_was_away(
    broker: Broker,
    plain: Callable[..., Client],
    by_certificate: Callable[..., Client],
    tls: bool,
) -> None:
    bridge = by_certificate if tls else plain
    first = bridge("bridge", durable=True)
    assert first.subscribe("city/live/#") == 1
    first.close()
    sent = [b"%d" % number for number in range(50)]
    by_certificate("loop-0042").publish_many(TOPIC.format("loop-0042"), sent)
    broker.stop()
    broker.start()
    assert bridge("bridge", durable=True).take(len(sent)) == sent


def test_reading_its_files_again_leaves_the_connected_alone(
    broker: Broker, by_certificate: Callable[..., Client]
) -> None:
    stolen, other = by_certificate("loop-0042"), by_certificate("loop-0043")
    assert stolen.publish(TOPIC.format("loop-0042")) < 0x80
    with broker.acl.open("a", encoding="utf-8") as acl:
        acl.write("\nuser loop-0042\ntopic deny #\n")
    broker.read_again()
    until(lambda: stolen.publish(TOPIC.format("loop-0042")) == NOT_AUTHORIZED, "the denial is read")
    assert other.publish(TOPIC.format("loop-0043")) < 0x80
    assert other.connected.empty(), "it had to connect again"


def test_a_renewed_certificate_is_shown_without_a_restart(
    broker: Broker, authority: trustme.CA
) -> None:
    def shown() -> bytes | None:
        with (
            socket.create_connection(("127.0.0.1", broker.password_port), DEADLINE_S) as plain,
            trusting(authority).wrap_socket(plain, server_hostname="127.0.0.1") as encrypted,
        ):
            return encrypted.getpeercert(binary_form=True)

    before = shown()
    server_files(authority, broker.folder)
    broker.read_again()
    until(lambda: shown() != before, "the new certificate is shown")


def test_every_listener_is_bounded(broker: Broker) -> None:
    # max_connections is of the listener that it follows.
    listeners = broker.text.split("\nlistener ")[1:]
    assert len(listeners) == 2
    assert all("\nmax_connections " in listener for listener in listeners)
    assert all("\ntls_version tlsv1.2\n" in listener for listener in listeners)
