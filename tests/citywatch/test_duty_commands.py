"""The commands of people on duty, against a real API; and routes, against the file alone."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import requests
from typer.testing import CliRunner, Result

import citywatch.commands
import citywatch.demo_command
import citywatch.duty_commands  # noqa: F401 - adds its commands
from citywatch.cli import app
from ingest.topics import database_schema
from storage.migrate import session_options
from tests.paging.api.conftest import ROUTES
from tests.paging.scaffold import Table, page_of

ROOT = Path(__file__).parents[2]
Run = Callable[..., Result]


def cli(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(app, words, env={"COLUMNS": "250", "NO_COLOR": "1"} | environment)


@pytest.fixture
def routes_file(tmp_path: Path) -> Path:
    file = tmp_path / "routes.toml"
    file.write_text(ROUTES, encoding="utf-8")
    return file


@pytest.fixture
def run(dsn: str, schema: str, namespace: str, routes_file: Path, tmp_path: Path) -> Iterator[Run]:
    """Serve the API as its own process, and run commands with a token of each role."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    settings = {
        "CITYWATCH_NAMESPACE": namespace,
        "CITYWATCH_DATABASE__DSN": dsn,
        "CITYWATCH_API__PORT": str(port),
        "CITYWATCH_PAGER__ROUTES_FILE": str(routes_file),
    }
    assert database_schema(namespace) == schema
    tokens = {}
    for role in ("viewer", "responder", "admin"):
        made = cli("token", "create", f"a-{role}", "--role", role, **settings)
        assert made.exit_code == 0, made.output
        tokens[role] = made.stdout.strip()
        (tmp_path / role).write_text(made.stdout, encoding="utf-8")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "citywatch", "api"],
            env=os.environ | settings,
            stdout=log,
            stderr=log,
        )

    def run(role: str, *words: str) -> Result:
        return cli(*words, CITYWATCH_API__URL=url, CITYWATCH_API__TOKEN_FILE=str(tmp_path / role))

    try:
        ends = time.monotonic() + 30
        while True:
            try:
                assert requests.get(f"{url}/healthz", timeout=5).status_code == 200
                break
            except requests.ConnectionError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < ends
                time.sleep(0.05)
        yield run
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said, said
    assert not any(token in said for token in tokens.values())


def id_of(result: Result) -> str:
    found = re.match(r"[0-9a-f-]{36}", result.stdout)
    assert found is not None, result.output
    return found[0]


@pytest.mark.integration
def test_a_night_in_the_terminal(run: Run, dsn: str, schema: str) -> None:
    table = Table(dsn, schema)
    pages = [page_of(zone="harbour"), page_of(zone="centre", severity="critical")]
    table.put(*pages)

    listed = run("viewer", "alerts", "list", "--zone", "centre")
    assert (listed.exit_code, listed.stdout.count("\n")) == (0, 2)
    assert pages[1].sentence in listed.stdout
    everything = json.loads(run("viewer", "alerts", "list", "--json").stdout)
    assert {one["alert_id"] for one in everything} == {str(one.alert_id) for one in pages}

    alert = str(pages[0].alert_id)
    refused = run("viewer", "alerts", "ack", alert)
    assert (refused.exit_code, "responder" in refused.stderr) == (1, True)
    assert run("responder", "alerts", "ack", alert, "--comment", "going").stdout == (
        "1 acknowledged\n"
    )
    assert "already" in run("responder", "alerts", "ack", alert).stdout
    shown = run("viewer", "alerts", "show", alert).stdout
    assert "a-responder" in shown
    assert "going" in shown
    assert "said nothing of it" in run("viewer", "pager", "explain", alert).stdout
    too_long = run("responder", "alerts", "ack", alert, "--comment", "x" * 501).stderr
    first, second = too_long.splitlines()
    assert first == "the request is not understood"
    assert second.startswith("body.comment: ")
    assert run("responder", "alerts", "mark", alert).exit_code == 1, "nobody was told"
    assert run("viewer", "alerts", "show", str(uuid4())).exit_code == 1
    assert run("viewer", "alerts", "show", "../tokens").exit_code == 2
    table.close()


@pytest.mark.parametrize("token", ["cw_\u2713\u2713", "cw_a\nb", "cw_\xfc"])
def test_what_cannot_be_a_token_is_not_sent(token: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "citywatch", "alerts", "list"],
        env=os.environ | {"CITYWATCH_API__TOKEN": token, "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert "api.token" in result.stderr
    assert "Traceback" not in result.stderr
    assert token not in result.stderr


@pytest.mark.integration
def test_the_log_says_why_a_routes_file_is_not_taken_up(
    run: Run, routes_file: Path, tmp_path: Path
) -> None:
    routes_file.write_text(ROUTES.replace('"day"', '"days"'), encoding="utf-8")
    ends = time.monotonic() + 30
    while not (found := re.search(r".*cannot be used.*", (tmp_path / "log").read_text())):
        assert time.monotonic() < ends
        time.sleep(0.05)
    assert re.search(r'error="\S+/routes.toml: route city: there is no policy days"$', found[0])
    assert run("viewer", "oncall", "show").exit_code == 0


@pytest.mark.integration
def test_an_explanation_in_the_terminal_ends_with_whom_it_reached(
    run: Run, dsn: str, schema: str
) -> None:
    table, page, key = Table(dsn, schema), page_of(), str(uuid4())
    table.put(page)
    table.execute(
        "INSERT INTO page_group (group_key, cause, cause_name, route, policy, labels, opened_at,"
        " told_at, body) VALUES (%s, 'sensors', '', 'city', 'day', '{}', now(), now(), '{}')",
        key,
    )
    table.execute("INSERT INTO page_member VALUES (%s, %s, now())", key, page.alert_id)
    table.execute(
        "INSERT INTO decision (at, alert_id, group_key, stage, outcome, reason, trail)"
        " VALUES (now(), %s, %s, 'routing', 'tell', 'by policy day',"
        ' \'[["news", "it is new"]]\')',
        page.alert_id,
        key,
    )
    table.execute(
        "WITH n AS (INSERT INTO notice (group_key, revision, event, at, payload)"
        " VALUES (%s, 1, 'trigger', now(), '{\"title\": \"one\"}')"
        " RETURNING notice_id, group_key)"
        " INSERT INTO delivery (notice_id, key, group_key, event, step, hook, person, attempts,"
        " created_at, delivered_at, abandoned_at)"
        " SELECT notice_id, hook, group_key, 'trigger', 1, hook, person, attempts,"
        " now() + interval '1 s', now() + told, now() + lost FROM n, (VALUES"
        " ('control', NULL, 1, interval '2 s', NULL), ('phone', 'anna', 9, NULL, interval '9 s'),"
        " ('mail', 'bo', 3, NULL, NULL)) AS x (hook, person, attempts, told, lost)",
        key,
    )

    shown = run("viewer", "pager", "explain", str(page.alert_id)).stdout.splitlines()

    assert [line.split(maxsplit=2)[-1].strip() for line in shown[1:]] == [
        "news      pass     it is new",
        "routing   tell     by policy day",
        "delivery  hold     trigger to bo by mail, step 1: 3 attempts so far",
        "delivery  tell     trigger to control, step 1: taken, attempt 1",
        "delivery  drop     trigger to anna by phone, step 1: given up",
    ]
    found = json.loads(run("viewer", "pager", "explain", str(page.alert_id), "--json").stdout)
    assert [one["stage"] for one in found["decisions"]] == ["routing"]
    assert len(found["pages"][0]["deliveries"]) == 3
    table.close()


@pytest.mark.integration
def test_orders_in_the_terminal(run: Run) -> None:
    made = run(
        "responder", "silence", "add", "zone=harbour", "zone=!harbour-7", "kind=spike",
        "--for", "2h", "--comment", "works",
    )  # fmt: skip
    silence = id_of(made)
    (one,) = json.loads(run("viewer", "silence", "list", "--json").stdout)
    assert one["match"] == {"zone": ["harbour", "!harbour-7"], "kind": ["spike"]}
    assert "kind=spike zone=harbour|!harbour-7" in run("viewer", "silence", "list").stdout
    assert run("responder", "silence", "expire", silence).exit_code == 0
    assert json.loads(run("viewer", "silence", "list", "--json").stdout) == []
    assert len(json.loads(run("viewer", "silence", "list", "--all", "--json").stdout)) == 1

    soon = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S")
    words = ("sensor=loop-*", "--from", soon, "--for", "8h", "--comment", "paint")
    assert run("responder", "maintenance", "add", *words).exit_code == 1
    window = id_of(run("admin", "maintenance", "add", *words))
    assert "paint" in run("viewer", "maintenance", "list").stdout
    assert run("admin", "maintenance", "end", window).exit_code == 0

    for wrong in (
        ("zone", "--for", "1h"),
        ("zone=a",),
        ("zone=a", "--for", "1 week"),
        ("zone=a", "--for", "1h", "--until", "2030-01-01"),
    ):
        assert run("responder", "silence", "add", *wrong, "--comment", "x").exit_code == 2
    unknown = run("responder", "silence", "add", "colour=red", "--for", "1h", "--comment", "x")
    assert (unknown.exit_code, "colour" in unknown.stderr) == (1, True)


@pytest.mark.integration
def test_the_duty_in_the_terminal(run: Run) -> None:
    before = json.loads(run("viewer", "oncall", "show", "--json").stdout)["now"][0]["person"]
    other = "bo" if before == "anna" else "anna"
    override = id_of(run("responder", "oncall", "override", "primary", other, "--for", "2h"))
    shown = run("viewer", "oncall", "show").stdout
    assert shown.startswith(f"primary: {other} until")
    assert "standing in" in shown
    assert run("responder", "oncall", "cancel", override).exit_code == 0
    assert run("viewer", "oncall", "show").stdout.startswith(f"primary: {before} until")
    figures = run("viewer", "duty")
    assert figures.exit_code == 0, figures.output
    assert "shifts: 0 pages in the middle one" in figures.stdout
    assert json.loads(run("viewer", "duty", "--json").stdout)["causes"][0]["pages"] == 0


@pytest.mark.integration
def test_tokens_are_made_listed_and_revoked(dsn: str, schema: str, namespace: str) -> None:
    settings = {"CITYWATCH_NAMESPACE": namespace, "CITYWATCH_DATABASE__DSN": dsn}
    made = cli("token", "create", "anna", "--role", "viewer", "--days", "3", **settings)
    assert re.fullmatch(r"cw_[\w-]{48}\n", made.stdout)
    assert "anna is viewer until" in made.stderr
    for wrong in (("anna", "viewer"), ("worker", "viewer"), ("a b", "viewer"), ("bo", "king")):
        refused = cli("token", "create", wrong[0], "--role", wrong[1], **settings)
        assert refused.exit_code in (1, 2)
        assert "cw_" not in refused.output
    listed = cli("token", "list", **settings).stdout
    assert "good" in listed
    assert made.stdout.strip() not in listed
    assert cli("token", "revoke", "anna", **settings).exit_code == 0
    assert "revoked" in cli("token", "list", **settings).stdout
    assert cli("token", "revoke", "nobody", **settings).exit_code == 1
    with psycopg.connect(dsn, options=session_options(schema)) as connection:
        assert connection.execute("SELECT count(*) FROM api_token").fetchone() == (1,)


def test_without_a_token_or_an_api_it_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "citywatch", "alerts", "list"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "expected a token" in done.stderr
    away = {"CITYWATCH_API__URL": "http://127.0.0.1:1", "CITYWATCH_API__TOKEN": "cw_secret"}
    nobody = cli("alerts", "list", **away)
    assert nobody.exit_code == 1
    assert "does not answer" in nobody.stderr
    assert "secret" not in nobody.output


FAULTY = ROUTES.replace(
    "[[route]]",
    '[[route]]\nname = "all"\npolicy = "nobody-knows"\n[[route]]\nname = "late"\npolicy = "day"\n'
    'match = { zone = "north" }\n[[route]]',
)


def test_routes_are_checked(routes_file: Path) -> None:
    good = cli("pager", "check", str(routes_file))
    assert (good.exit_code, "nothing is wrong" in good.stdout) == (0, True)
    assert cli("pager", "check", str(ROOT / "deploy/routes.toml")).exit_code == 0

    routes_file.write_text(FAULTY, encoding="utf-8")
    faulty = cli("pager", "check", str(routes_file))
    assert faulty.exit_code == 1
    assert "route all: there is no policy nobody-knows" in faulty.stderr
    assert "route late: unreachable, all takes all that it would" in faulty.stderr

    routes_file.write_text(ROUTES + 'match = { colour = "red" }\n', encoding="utf-8")
    unknown = cli("pager", "check", str(routes_file))
    assert unknown.exit_code == 1
    assert "colour: no such label" in unknown.stderr
    assert cli("pager", "check", str(routes_file) + ".none").exit_code == 1


def test_a_pager_whose_secret_is_a_pipe_says_so_and_ends(routes_file: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    secret = f'{{ file = "{pipe}" }}'
    routes_file.write_text(ROUTES.replace('{ env = "NOBODY" }', secret), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ended = cli(
        "pager",
        CITYWATCH_DATABASE__DSN="postgresql://127.0.0.1:1/nowhere",
        CITYWATCH_PAGER__ROUTES_FILE=str(routes_file),
        CITYWATCH_PAGER__METRICS_PORT=str(port),
    )
    assert (ended.exit_code, ended.stderr) == (1, f"{pipe}: no regular file\n")


def tried(tmp_path: Path, routes: Path, **changes: object) -> Result:
    alert = {
        "category": "city", "kind": "noise", "severity": "major", "sensor": "mic-1",
        "quantity": "LAeq", "zone": "north", "domain": "environment",
    }  # fmt: skip
    file = tmp_path / "alert.json"
    file.write_text(json.dumps(alert | changes), encoding="utf-8")
    return cli("pager", "try", "--alert", str(file), str(routes))


def test_a_pager_that_runs_takes_up_its_file_and_says_so_by_http(
    routes_file: Path, tmp_path: Path
) -> None:
    """The database is away: what concerns the file alone does not wait for it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "CITYWATCH_DATABASE__DSN": "postgresql://127.0.0.1:1/none",
        "CITYWATCH_PAGER__ROUTES_FILE": str(routes_file),
        "CITYWATCH_PAGER__POLL_INTERVAL_S": "0.1",
        "CITYWATCH_PAGER__METRICS_PORT": str(port),
        "NOBODY": "http://127.0.0.1:1/",
    }
    with (tmp_path / "log").open("wb") as log:
        pager = subprocess.Popen(
            [sys.executable, "-m", "citywatch", "pager"],
            env=os.environ | settings,
            stdout=log,
            stderr=log,
        )

    def says(line: str) -> None:
        url = f"http://127.0.0.1:{port}/metrics"
        deadline = time.monotonic() + 40
        while True:
            try:
                text = requests.get(url, timeout=5).text
            except requests.ConnectionError:
                text = ""
            if line in text.splitlines():
                return
            assert pager.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, text
            time.sleep(0.05)

    try:
        says("citywatch_pager_routes_outdated 0.0")
        routes_file.write_text(FAULTY, encoding="utf-8")
        says("citywatch_pager_routes_outdated 1.0")
        routes_file.write_text(ROUTES + "# as it was\n", encoding="utf-8")
        says('citywatch_pager_routes_files_total{outcome="taken"} 1.0')
        says("citywatch_pager_routes_outdated 0.0")
        assert requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5).text == "ok\n"
    finally:
        pager.terminate()
        assert pager.wait(20) == 0
    assert (tmp_path / "log").read_text().count("the last good one stays in force") == 1


def test_where_an_alert_would_go(tmp_path: Path, routes_file: Path) -> None:
    told = tried(tmp_path, routes_file)
    assert told.exit_code == 0, told.output
    assert "grouped by zone=north kind=noise" in told.stdout
    assert re.search(r"step 1 +tell +at once: control, (anna|bo) by phone", told.stdout)
    assert re.search(r"step 2 +tell +after 5m: bo by phone", told.stdout)

    quiet = tried(tmp_path, routes_file, severity="informational")
    assert quiet.exit_code == 1
    assert "does not page" in quiet.stdout
    dark = tried(tmp_path, routes_file, kind="silence", category="sensor-health")
    assert dark.exit_code == 0, dark.output
    assert "waits whether others fall silent with it" in dark.stdout
    replay = tried(tmp_path, routes_file, namespace="replay-x")
    assert (replay.exit_code, "not 'live'" in replay.stdout) == (1, True)
    wrong = tried(tmp_path, routes_file, severity="terrible")
    assert (wrong.exit_code, "severity" in wrong.stderr) == (1, True)
