"""The commands of people on duty, and of whoever lets them in.

What staff do goes through the API with their own token, so that history has their name and nobody
needs a login of the database; tokens are made by the owner of the schema, in the database itself.
Routes are checked and tried with the file alone.

One long module: each command is its options, one question and a table, and all are made alike.
"""

import json
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from citywatch.api_client import ApiClient, ApiError
from citywatch.cli import SettingsFile, app, load, until_signal
from citywatch.commands import Json, query
from citywatch.tables import aligned, printable
from ingest.topics import database_schema
from paging.durations import span_of

_FAILURE: Final = 1
# How long a test page is waited for.
_TEST_S: Final = 30.0
_SENTENCE: Final = 100

token = typer.Typer(no_args_is_help=True, help="Tokens of the API.")
alerts = typer.Typer(no_args_is_help=True, help="Alerts: what is, why, and who has it.")
silence = typer.Typer(no_args_is_help=True, help="Silences, at most 7 days.")
maintenance = typer.Typer(no_args_is_help=True, help="Maintenance windows, at most 90 days.")
oncall = typer.Typer(no_args_is_help=True, help="Who is on call.")
pager = typer.Typer(invoke_without_command=True, subcommand_metavar="[COMMAND]")
for name, group in (
    ("token", token),
    ("alerts", alerts),
    ("silence", silence),
    ("maintenance", maintenance),
    ("oncall", oncall),
    ("pager", pager),
):
    app.add_typer(group, name=name)

Matches = Annotated[
    list[str], typer.Argument(help="LABEL=GLOB, as zone=harbour or sensor=!traffic-0*.")
]
Comment = Annotated[str, typer.Option(help="Why.")]
Why = Annotated[str | None, typer.Option("--comment", help="Why.")]
For = Annotated[str | None, typer.Option("--for", help="How long: 30m, 2h, 3d.")]
Until = Annotated[datetime | None, typer.Option(help="UTC, instead of --for.")]
From = Annotated[datetime | None, typer.Option("--from", help="UTC; now without.")]
Over = Annotated[bool, typer.Option("--all", help="Also those that are over.")]
Some = Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")]
IsPage = Annotated[bool, typer.Option("--page", help="The id is a page's, as in /groups/ID.")]
Routes = Annotated[
    Path | None, typer.Argument(help="The routes file; that of the settings without.")
]
Name = Annotated[str, typer.Argument(help="Whose it is: what history will say.")]


@token.command("create")
def token_create(
    name: Name,
    role: Annotated[str, typer.Option(help="viewer, responder or admin.")],
    settings_file: SettingsFile = None,
    days: Annotated[int, typer.Option(min=1, max=3_650, help="How long it counts.")] = 90,
) -> None:
    """Make a token, and show it this once."""
    from paging.api.tokens import ROLES, create

    found = next((one for one in ROLES if one == role), None)
    if found is None:
        raise typer.BadParameter(f"--role: one of {', '.join(ROLES)} is expected")
    settings = load(settings_file)
    try:
        made, ends = query(settings, lambda connection: create(connection, name, found, days))
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_FAILURE) from error
    # The token alone goes to standard output, for a file that only its owner can read.
    typer.echo(f"{name} is {role} until {ends:%Y-%m-%d %H:%M} UTC; it is not shown again", err=True)
    typer.echo(made)


@token.command("list")
def token_list(settings_file: SettingsFile = None) -> None:
    """List all tokens, without what is secret of them."""
    from paging.api.tokens import listed

    now = datetime.now(UTC)
    rows = [
        (
            one.name,
            one.role,
            "revoked"
            if one.revoked_at
            else "ended"
            if one.expires_at is None or one.expires_at <= now
            else "good",
            f"{one.created_at:%Y-%m-%d %H:%M}",
            f"{one.expires_at:%Y-%m-%d %H:%M}" if one.expires_at else "-",
        )
        for one in query(load(settings_file), listed)
    ]
    typer.echo(aligned(["name", "role", "is", "made", "ends"], rows))


@token.command("revoke")
def token_revoke(name: Name, settings_file: SettingsFile = None) -> None:
    """Let a token count no more, at once."""
    from paging.api.tokens import revoke

    if not query(load(settings_file), lambda connection: revoke(connection, name)):
        typer.echo(f"there is no token {name}", err=True)
        raise typer.Exit(_FAILURE)
    typer.echo(f"{name} is revoked")


@alerts.command("list")
def alerts_list(
    settings_file: SettingsFile = None,
    state: Annotated[list[str] | None, typer.Option(help="May be given many times.")] = None,
    severity: Annotated[list[str] | None, typer.Option()] = None,
    zone: Annotated[list[str] | None, typer.Option()] = None,
    kind: Annotated[list[str] | None, typer.Option()] = None,
    sensor: Annotated[list[str] | None, typer.Option()] = None,
    since: Annotated[datetime | None, typer.Option(help="UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(help="UTC.")] = None,
    limit: Some = 50,
    as_json: Json = False,
) -> None:
    """List alerts, newest first; without --state those that are not over."""
    wanted = {
        "state": state or ["open", "acknowledged", "stale"],
        "severity": severity,
        "zone": zone,
        "kind": kind,
        "sensor": sensor,
        "since": _moment(since),
        "until": _moment(until),
    }
    found = _list(settings_file, "/v1/alerts", wanted, limit)
    _tell(
        found,
        as_json,
        ["id", "since", "severity", "state", "zone", "what"],
        [
            (
                one["alert_id"],
                _clock(one["opened_at"]),
                one["severity"],
                one["state"],
                one["zone"],
                one["sentence"],
            )
            for one in found
        ],
    )


@alerts.command("show")
def alerts_show(
    alert: Annotated[str, typer.Argument(help="Its id.")],
    settings_file: SettingsFile = None,
    as_json: Json = False,
) -> None:
    """Show an alert with its history and its pages."""
    found = _ask(settings_file, "GET", f"/v1/alerts/{_id(alert)}")
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(printable(found["sentence"], 500))
    facts = (found[name] for name in ("state", "severity", "kind", "category", "zone", "sensor"))
    typer.echo(printable(", ".join(facts), 500))
    rows = [
        (_clock(one["at"]), one["state"], one["actor"], one["cause"]) for one in found["history"]
    ]
    typer.echo("\n" + aligned(["at", "state", "by", "cause"], rows))
    pages = [
        (one["page_id"], one["cause"], one["alerts"], _clock(one["told_at"]), _has_it(one))
        for one in found["pages"]
    ]
    typer.echo("\n" + aligned(["page", "cause", "alerts", "told", "has it"], pages))


@alerts.command("ack")
def alerts_ack(
    of: Annotated[str, typer.Argument(help="The id of an alert.")],
    settings_file: SettingsFile = None,
    comment: Why = None,
    is_page: IsPage = False,
) -> None:
    """Say that you have an alert, or all alerts of a page; its steps stop until it gets worse."""
    path = f"/v1/{'pages' if is_page else 'alerts'}/{_id(of)}/acknowledgement"
    done = _ask(settings_file, "POST", path, {"comment": comment})
    typer.echo(f"{done['changed']} acknowledged" if done["changed"] else "somebody has it already")


@alerts.command("mark")
def alerts_mark(
    of: Annotated[str, typer.Argument(help="The id of an alert.")],
    settings_file: SettingsFile = None,
    is_false: Annotated[
        bool, typer.Option("--false/--right", help="Nothing was wrong, or something was.")
    ] = True,
    comment: Why = None,
    is_page: IsPage = False,
) -> None:
    """Say what you think of the pages of an alert."""
    path = f"/v1/{'pages' if is_page else 'alerts'}/{_id(of)}/mark"
    done = _ask(settings_file, "PUT", path, {"is_false": is_false, "comment": comment})
    typer.echo(f"{len(done['pages'])} marked as {'false' if is_false else 'right'}")


@silence.command("add")
def silence_add(
    match: Matches,
    comment: Comment,
    settings_file: SettingsFile = None,
    lasts: For = None,
    until: Until = None,
    begins: From = None,
    as_json: Json = False,
) -> None:
    """Silence alerts; what is not silenced any more is told then, if it still is."""
    _add(settings_file, "silences", match, comment, (begins, until, lasts), as_json=as_json)


@silence.command("list")
def silence_list(
    settings_file: SettingsFile = None,
    over: Over = False,
    limit: Some = 100,
    as_json: Json = False,
) -> None:
    """List silences, newest first."""
    _tell_orders(_list(settings_file, "/v1/silences", {"all": over}, limit), as_json)


@silence.command("expire")
def silence_expire(
    of: Annotated[str, typer.Argument(help="Its id.")], settings_file: SettingsFile = None
) -> None:
    """End a silence now."""
    _ask(settings_file, "DELETE", f"/v1/silences/{_id(of)}")
    typer.echo("ended")


@maintenance.command("add")
def maintenance_add(
    match: Matches,
    comment: Comment,
    settings_file: SettingsFile = None,
    lasts: For = None,
    until: Until = None,
    begins: From = None,
    as_json: Json = False,
) -> None:
    """Plan maintenance of zones, sensors or whatever else is worked on."""
    _add(settings_file, "maintenance", match, comment, (begins, until, lasts), as_json=as_json)


@maintenance.command("list")
def maintenance_list(
    settings_file: SettingsFile = None,
    over: Over = False,
    limit: Some = 100,
    as_json: Json = False,
) -> None:
    """List maintenance windows, newest first."""
    _tell_orders(_list(settings_file, "/v1/maintenance", {"all": over}, limit), as_json)


@maintenance.command("end")
def maintenance_end(
    of: Annotated[str, typer.Argument(help="Its id.")], settings_file: SettingsFile = None
) -> None:
    """End a maintenance window now."""
    _ask(settings_file, "DELETE", f"/v1/maintenance/{_id(of)}")
    typer.echo("ended")


@oncall.command("show")
def oncall_show(
    settings_file: SettingsFile = None,
    at: Annotated[datetime | None, typer.Option(help="UTC; now without.")] = None,
    days: Annotated[int, typer.Option(min=1, max=92, help="Of the schedule.")] = 14,
    as_json: Json = False,
) -> None:
    """Say who is on call, and who will be."""
    begins = at.replace(tzinfo=UTC) if at else datetime.now(UTC)
    span = {"since": begins.isoformat(), "until": (begins + timedelta(days=days)).isoformat()}
    client = _client(settings_file)
    found = {
        "now": _asked(client, "GET", "/v1/oncall", query={"at": begins.isoformat()}),
        "schedule": _asked(client, "GET", "/v1/oncall/schedule", query=span),
        "overrides": _all(client, "/v1/oncall/overrides", {}, 500),
    }
    if as_json:
        typer.echo(json.dumps(found))
        return
    for one in found["now"]:
        stands_in = ", standing in" if one["is_override"] else ""
        typer.echo(f"{one['rotation']}: {one['person']} until {_clock(one['until'])}{stands_in}")
    rows = [
        (
            one["rotation"],
            one["person"],
            _clock(one["begins_at"]),
            _clock(one["until"]),
            "stands in" if one["is_override"] else "",
        )
        for one in found["schedule"]
    ]
    typer.echo("\n" + aligned(["rotation", "person", "from", "until", ""], rows))
    overrides = [
        (
            one["id"],
            one["rotation"],
            one["person"],
            _clock(one["begins_at"]),
            _clock(one["ends_at"]),
            one["author"],
        )
        for one in found["overrides"]
    ]
    typer.echo("\n" + aligned(["override", "rotation", "person", "from", "until", "by"], overrides))


@oncall.command("override")
def oncall_override(
    rotation: Annotated[str, typer.Argument()],
    person: Annotated[str, typer.Argument(help="Who stands in.")],
    settings_file: SettingsFile = None,
    lasts: For = None,
    until: Until = None,
    begins: From = None,
) -> None:
    """Let somebody stand in."""
    span = _span(begins, until, lasts)
    body = {"rotation": rotation, "person": person, **span}
    made = _ask(settings_file, "POST", "/v1/oncall/overrides", body)
    typer.echo(f"{made['id']}: {person} until {_clock(made['ends_at'])}")


@oncall.command("cancel")
def oncall_cancel(
    of: Annotated[str, typer.Argument(help="Its id.")], settings_file: SettingsFile = None
) -> None:
    """Let somebody stand in no longer."""
    _ask(settings_file, "DELETE", f"/v1/oncall/overrides/{_id(of)}")
    typer.echo("ended")


@pager.callback()
def serve_pager(context: typer.Context, settings_file: SettingsFile = None) -> None:
    """Tell people of alerts: one page a cause, by the routes."""
    if context.invoked_subcommand is not None:
        return
    from citywatch.liveness import served_pager
    from citywatch.settings import SettingsError
    from citywatch.wiring import dsn, pager_config, routes_file
    from paging.hooks import SecretError
    from paging.meter import Meter
    from paging.pager import NamespaceRefusedError, Pager

    settings = load(settings_file)
    schema = database_schema(settings.namespace)
    file, meter = routes_file(settings), Meter()
    try:
        served = Pager(
            dsn(settings),
            schema,
            settings.namespace,
            pager_config(settings, file),
            routes_file=file,
            meter=meter,
        )
    except (NamespaceRefusedError, SettingsError, ValueError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_FAILURE) from error
    try:
        with served_pager(settings.pager, meter):
            until_signal(served.run)
    except SecretError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_FAILURE) from error


@pager.command("check")
def pager_check(file: Routes = None, settings_file: SettingsFile = None) -> None:
    """Name every unreachable route, and every matcher, hook or person that is not there."""
    from paging.checking import faults_of, remarks_on

    routes = _routes(file, settings_file)
    faults = faults_of(routes)
    for fault in faults:
        typer.echo(fault, err=True)
    for remark in remarks_on(routes):
        typer.echo(f"remark: {remark}")
    if faults:
        raise typer.Exit(_FAILURE)
    typer.echo(f"{len(routes.routes)} routes, {len(routes.policies)} policies: nothing is wrong")


@pager.command("try")
def pager_try(
    alert: Annotated[Path, typer.Option(help="JSON, as `citywatch alerts show --json` has it.")],
    file: Routes = None,
    settings_file: SettingsFile = None,
) -> None:
    """Show where an alert would go; exit 1 where nobody would be told."""
    from paging.checking import faults_of
    from paging.stages import STAGES
    from paging.trial import TrialError, read_alert, trial, written

    routes = _routes(file, settings_file)
    if faults := faults_of(routes):
        typer.echo("\n".join(faults), err=True)
        raise typer.Exit(_FAILURE)
    now = datetime.now(UTC)
    try:
        lines = trial(read_alert(alert.read_bytes(), now), routes, now)
    except (OSError, TrialError) as error:
        typer.echo(f"{alert}: {error}", err=True)
        raise typer.Exit(_FAILURE) from error
    for line in written(lines):
        typer.echo(printable(line, 500))
    outcomes = {line.outcome for line in lines if line.stage in dict(STAGES)}
    # What only waits is told in the end, or dropped by a line of its own.
    if outcomes & {"drop", "mute"} or not any(line.outcome == "tell" for line in lines):
        typer.echo("nobody would be told", err=True)
        raise typer.Exit(_FAILURE)


@pager.command("explain")
def pager_explain(
    alert: Annotated[str, typer.Argument(help="Its id.")],
    settings_file: SettingsFile = None,
    as_json: Json = False,
) -> None:
    """Show, stage by stage, why an alert paged or did not, and whom it reached."""
    client, alert_id = _client(settings_file), _id(alert)
    found = _asked(client, "GET", f"/v1/alerts/{alert_id}/decisions")
    causes = _asked(client, "GET", f"/v1/alerts/{alert_id}")["pages"]
    pages = [_asked(client, "GET", f"/v1/pages/{one['page_id']}") for one in causes]
    if not found and not pages and not as_json:
        typer.echo("the pager has said nothing of it: it was not told of it, or not yet")
        return
    rows = []
    for one in found:
        rows += [(one["at"], stage["stage"], "pass", stage["reason"]) for stage in one["passed"]]
        until = f" (until {_clock(one['until'])})" if one["until"] else ""
        rows.append((one["at"], one["stage"], one["outcome"], one["reason"] + until))
    rows += [_delivery(one) for page in pages for one in page["deliveries"]]
    # Stable: what was said in one turn stays in its order.
    rows.sort(key=lambda row: datetime.fromisoformat(row[0]))
    shown = [(_clock(at), *words) for at, *words in rows]
    _tell(
        {"decisions": found, "pages": pages},
        as_json,
        ["at", "stage", "outcome", "reason"],
        shown,
    )


def _delivery(one: dict[str, Any]) -> tuple[str, str, str, str]:
    to = one["hook"] if one["person"] is None else f"{one['person']} by {one['hook']}"
    word = f"{one['event']} to {to}, step {one['step']}"
    if one["delivered_at"]:
        return one["delivered_at"], "delivery", "tell", f"{word}: taken, attempt {one['attempts']}"
    if one["abandoned_at"]:
        return one["abandoned_at"], "delivery", "drop", f"{word}: given up"
    return one["created_at"], "delivery", "hold", f"{word}: {one['attempts']} attempts so far"


@pager.command("test")
def pager_test(
    policy: Annotated[str, typer.Argument(help="Whose first step is told.")],
    settings_file: SettingsFile = None,
) -> None:
    """Send a page that says it is a test, and wait whether it comes."""
    client = _client(settings_file)
    made = _asked(client, "POST", "/v1/test-pages", {"policy": policy})
    ends = time.monotonic() + _TEST_S
    while True:
        found = _asked(client, "GET", f"/v1/test-pages/{made['id']}")
        told = found["deliveries"]
        if told and all(one["delivered_at"] or one["abandoned_at"] for one in told):
            break
        if time.monotonic() > ends:
            break
        time.sleep(0.5)
    rows = [
        (
            one["hook"],
            one["person"] or "-",
            "came" if one["delivered_at"] else "given up" if one["abandoned_at"] else "under way",
            one["attempts"],
        )
        for one in told
    ]
    typer.echo(aligned(["hook", "person", "it", "attempts"], rows))
    if not told or not all(one["delivered_at"] for one in told):
        typer.echo("not everybody has it" if told else "no pager has taken it up", err=True)
        raise typer.Exit(_FAILURE)


@app.command()
def duty(
    settings_file: SettingsFile = None,
    since: Annotated[datetime | None, typer.Option(help="UTC; 28 days ago without.")] = None,
    until: Annotated[datetime | None, typer.Option(help="UTC; now without.")] = None,
    as_json: Json = False,
) -> None:
    """Show the figures of the duty: times, pages a shift, by cause, and how many were false."""
    ends = until.replace(tzinfo=UTC) if until else datetime.now(UTC)
    begins = since.replace(tzinfo=UTC) if since else ends - timedelta(days=28)
    span = {"since": begins.isoformat(), "until": ends.isoformat()}
    found = _ask(settings_file, "GET", "/v1/figures", query=span)
    if as_json:
        typer.echo(json.dumps(found))
        return
    rows = [
        (
            one["cause"],
            one["pages"],
            *(
                _seconds(one[name][which])
                for name in ("to_page", "to_acknowledge", "to_resolve")
                for which in ("median_s", "p95_s")
            ),
            one["marked"],
            one["false"],
        )
        for one in found["causes"]
    ]
    heading = ["cause", "pages", "to page", "p95", "to acknowledge", "p95", "to resolve", "p95"]
    typer.echo(aligned([*heading, "marked", "false"], rows))
    pages = sorted(one["pages"] for one in found["shifts"])
    typer.echo(
        f"\n{len(pages)} shifts: {pages[len(pages) // 2]} pages in the middle one,"
        f" {pages[-1]} in the worst"
    )


def _client(settings_file: Path | None) -> ApiClient:
    return ApiClient(load(settings_file).api)


def _ask(
    settings_file: Path | None,
    method: str,
    path: str,
    body: Any = None,
    query: dict[str, Any] | None = None,
) -> Any:
    return _asked(_client(settings_file), method, path, body, query)


def _asked(
    client: ApiClient,
    method: str,
    path: str,
    body: Any = None,
    query: dict[str, Any] | None = None,
) -> Any:
    """Return what the API answers, or end with its reason."""
    try:
        return client.ask(method, path, body, query)
    except ApiError as error:
        raise _refused(error) from error


def _refused(error: ApiError) -> typer.Exit:
    """Show why, a line for each thing that is wrong."""
    for line in str(error).split("\n"):
        typer.echo(printable(line, 2_000), err=True)
    return typer.Exit(_FAILURE)


def _list(settings_file: Path | None, path: str, wanted: dict[str, Any], limit: int) -> list[Any]:
    return _all(_client(settings_file), path, wanted, limit)


def _all(client: ApiClient, path: str, wanted: dict[str, Any], limit: int) -> list[Any]:
    try:
        return client.all(path, wanted, limit)
    except ApiError as error:
        raise _refused(error) from error


def _add(
    settings_file: Path | None,
    path: str,
    matches: Sequence[str],
    comment: str,
    times: tuple[datetime | None, datetime | None, str | None],
    *,
    as_json: bool,
) -> None:
    body = {"match": _match(matches), "comment": comment, **_span(*times)}
    made = _ask(settings_file, "POST", f"/v1/{path}", body)
    if as_json:
        typer.echo(json.dumps(made))
    else:
        typer.echo(f"{made['id']}: until {_clock(made['ends_at'])}")


def _match(matches: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in matches:
        label, is_there, pattern = one.partition("=")
        if not is_there:
            raise typer.BadParameter(f"{one!r}: LABEL=GLOB is expected, as zone=harbour")
        found.setdefault(label, []).append(pattern)
    return found


def _span(begins: datetime | None, until: datetime | None, lasts: str | None) -> dict[str, Any]:
    if (until is None) == (lasts is None):
        raise typer.BadParameter("one of --for and --until is expected")
    first = begins.replace(tzinfo=UTC) if begins else None
    if lasts is not None:
        try:
            span = span_of(lasts)
        except ValueError as error:
            raise typer.BadParameter(f"--for: {error}") from error
        ends = (first or datetime.now(UTC)) + span
    else:
        assert until is not None  # noqa: S101 - one of both is given
        ends = until.replace(tzinfo=UTC)
    told = {"ends_at": ends.isoformat()}
    return told if first is None else told | {"begins_at": first.isoformat()}


def _tell_orders(found: list[Any], as_json: bool) -> None:
    rows = [
        (
            one["id"],
            " ".join(f"{label}={patterns}" for label, patterns in _shown(one["match"]).items()),
            _clock(one["begins_at"]),
            _clock(one["lifted_at"] or one["ends_at"]),
            one["author"],
            one["comment"],
        )
        for one in found
    ]
    _tell(found, as_json, ["id", "match", "from", "until", "by", "why"], rows)


def _shown(match: dict[str, Any]) -> dict[str, str]:
    return {label: one if isinstance(one, str) else "|".join(one) for label, one in match.items()}


def _tell(found: Any, as_json: bool, heading: list[str], rows: list[tuple[Any, ...]]) -> None:
    """Print what was found, as JSON or with its last column in full."""
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = aligned(heading[:-1], [row[:-1] for row in rows]).splitlines()
    width = max(map(len, table))
    for line, last in zip(table, [heading[-1], *(row[-1] for row in rows)], strict=True):
        typer.echo(f"{line.ljust(width)}  {printable(str(last), _SENTENCE)}".rstrip())


def _routes(file: Path | None, settings_file: Path | None) -> Any:
    """Read the routes, or end with every fault of their form."""
    from citywatch.settings import SettingsError
    from citywatch.wiring import pager_routes
    from paging.hooks.kinds import KINDS
    from paging.routes import RoutesError, read_routes

    try:
        if file is None:
            return pager_routes(load(settings_file))
        return read_routes(file.read_text(encoding="utf-8"), KINDS)
    except (OSError, UnicodeDecodeError, RoutesError, SettingsError) as error:
        typer.echo(str(error) if file is None else f"{file}: {error}", err=True)
        raise typer.Exit(_FAILURE) from error


def _id(text: str) -> str:
    if re.fullmatch(r"[0-9a-fA-F-]{32,36}", text) is None:
        raise typer.BadParameter(f"{text!r}: an id is expected, as the lists and links have it")
    return text


def _moment(moment: datetime | None) -> str | None:
    return moment.replace(tzinfo=UTC).isoformat() if moment else None


def _clock(text: str | None) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S}" if text else "-"


def _has_it(page: dict[str, Any]) -> str:
    return str(page["acknowledged_by"] or "-")


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"
