import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from citywatch import endpoint as module
from citywatch.endpoint import Endpoint
from paging.meter import Meter as PagerMeter
from storage.flush import Buried, Flush, Gap, SavedState, Step
from storage.rows import Rows
from storage.sink import Outcome
from streams.meter import Meter

READINGS, LETTERS = "live.readings", "live.dead-letters"


def well() -> str | None:
    return None


@contextmanager
def serving(
    meter: Meter,
    alive: Callable[[], str | None] = well,
    ready: Callable[[], str | None] = well,
) -> Iterator[Endpoint]:
    endpoint = Endpoint("127.0.0.1", 0, meter.registry, alive, ready)
    endpoint.start()
    try:
        yield endpoint
    finally:
        endpoint.stop()


def get(endpoint: Endpoint, path: str, method: str = "GET") -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", endpoint.port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def rows(count: int) -> Rows:
    empty = Rows.concatenate([])
    return Rows(
        **{name: np.zeros(count, getattr(empty, name).dtype) for name in Rows.__dataclass_fields__}
    )


def busy_meter() -> Meter:
    """Return a meter that has seen some of everything."""
    meter = Meter("live", 0.2)
    meter.backlog(lambda: (7, 11))
    meter.progress.assigned([(READINGS, 0), (READINGS, 1), (LETTERS, 0)])
    meter.progress.took((READINGS, 0), 41, 0.0)
    meter.progress.log_end((READINGS, 0), 42, 50, 0.0)
    meter.retrying(0.0)
    meter.flushed(
        Flush(
            steps=[Step(READINGS, 0, 40, 42), Step(LETTERS, 0, 0, 1)],
            fresh=rows(3),
            suspects=rows(2),
            letters=[Buried("b", "s", None)],  # type: ignore[arg-type]
            gaps=[Gap(READINGS, 0, 10, 14)],
        ),
        Outcome(3, 1, 1),
        0.2,
    )
    meter.saved(SavedState(READINGS, 0, 42, 42, 1, b"12345"), 0.1)
    meter.flushed(
        Flush(steps=[Step(READINGS, 1, 0, 9)], fresh=rows(1), suspects=rows(0)),
        Outcome(1, 0, 0),
        0.1,
    )
    return meter


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_say_what_was_committed() -> None:
    with serving(busy_meter()) as endpoint:
        status, text = get(endpoint, "/metrics")
    found = samples(text)
    name = "citywatch_worker_"
    expected = {
        ("messages_total", "readings"): 11,
        ("messages_total", "dead_letters"): 1,
        ("messages_lost_total",): 4,
        ("rows_total", "stored"): 4,
        ("rows_total", "duplicate"): 1,
        ("rows_total", "late_conflict"): 1,
        ("dead_letters_total",): 1,
        ("database_retries_total",): 1,
        ("database_up",): 0,
        ("flush_duration_seconds_count",): 2,
        ("state_save_duration_seconds_count",): 1,
        ("flush_rows_sum",): 6,
        ("pending_rows",): 7,
        ("held_bytes",): 11,
        ("partitions_owned",): 2,
        ("lag_messages", "0", "readings"): 9,
        ("state_size_bytes", "0"): 5,
        ("state_age_seconds", "0"): 0,
    }
    assert status == 200
    for (metric, *labels), value in expected.items():
        assert found[name + metric, *labels] == value, metric
    assert found[name + "state_age_seconds", "1"] > 0
    assert found["process_resident_memory_bytes",] > 1e6


def test_a_partition_that_has_gone_has_no_metrics() -> None:
    meter = busy_meter()
    meter.released({(READINGS, 0), (LETTERS, 0)})
    with serving(meter) as endpoint:
        found = samples(get(endpoint, "/metrics")[1])
    for name, *labels in found:
        assert name == "citywatch_worker_messages_total" or "dead_letters" not in labels
        assert "0" not in labels, name


def test_promtool_has_nothing_to_say_about_the_metrics() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    with serving(busy_meter()) as endpoint:
        _, text = get(endpoint, "/metrics")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_health_and_readiness_are_told_with_their_reason() -> None:
    with serving(Meter("live", 0.2), well, lambda: "31 s behind the log") as endpoint:
        assert get(endpoint, "/healthz") == (200, "ok\n")
        assert get(endpoint, "/readyz?verbose") == (503, "31 s behind the log\n")
        assert get(endpoint, "/")[0] == 404
        assert get(endpoint, "/metrics/")[0] == 404
        assert get(endpoint, "/metrics", "POST")[0] == 501


def test_clients_that_say_nothing_keep_nobody_out_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MAX_CLIENTS", 3)
    monkeypatch.setattr(module, "_PATIENCE_S", 0.3)
    with serving(Meter("live", 0.2)) as endpoint, ExitStack() as exits:
        place = ("127.0.0.1", endpoint.port)
        mute = [exits.enter_context(socket.create_connection(place, 5)) for _ in range(4)]
        assert mute[3].recv(1) == b""  # one too many: hung up on at once
        assert [each.recv(1) for each in mute[:3]] == [b"", b"", b""]
        assert get(endpoint, "/healthz")[0] == 200


def test_a_port_that_is_taken_is_an_error() -> None:
    with (
        serving(Meter("live", 0.2)) as endpoint,
        pytest.raises(OSError, match="in use"),
    ):
        Endpoint("127.0.0.1", endpoint.port, Meter("live", 0.2).registry, well, well)


def test_it_listens_on_ipv6_where_told() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        endpoint = Endpoint("::1", 0, Meter("live", 0.2).registry, well, well)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    endpoint.start()
    endpoint.stop()
    assert endpoint.port


def test_a_pager_that_does_not_look_at_the_outbox_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 100.0
    monkeypatch.setattr("paging.meter.time.monotonic", lambda: now_s)
    meter = PagerMeter()
    now_s = 131.0
    assert meter.unready() == "no look at the outbox for 31 s"
    meter.looked()
    assert meter.unready() is None
