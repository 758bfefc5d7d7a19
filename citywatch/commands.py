"""The commands of the parts: bridge, worker, pager, console, and those that look or publish.

Rooms are imported inside the commands: `citywatch bridge` should not wait for what only the pager
needs.

One long module: each command is its options and a few lines of wiring, and all are wired alike.
"""

import asyncio
import json
import logging
import signal
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import psycopg
import typer

from citywatch.cli import SettingsFile, app, load, until_signal
from citywatch.settings import Settings, SettingsError, secret
from ingest.topics import database_schema

_LOG = logging.getLogger(__name__)
_FAILURE: Final = 1
# Digits of a fingerprint that people compare.
_FINGERPRINT: Final = 12
# Of one payload in a list.
_PAYLOAD_BYTES: Final = 2_000

dashboards = typer.Typer(no_args_is_help=True, help="Grafana dashboards as code.")
database = typer.Typer(no_args_is_help=True, help="The database.")
evaluate = typer.Typer(no_args_is_help=True, help="How good the detectors are.")
rejects = typer.Typer(no_args_is_help=True, help="What was not taken, and why.")
rules = typer.Typer(no_args_is_help=True, help="Rules of the detectors, and their shadows.")
app.add_typer(dashboards, name="dashboards")
app.add_typer(database, name="db")
app.add_typer(rejects, name="rejects")
app.add_typer(rules, name="rules")
app.add_typer(evaluate, name="evaluate")

Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")]
Moment = Annotated[datetime | None, typer.Option(help="UTC.")]
Reason = Annotated[str | None, typer.Option(help="Only those of one reason.")]


@app.command()
def bridge(settings_file: SettingsFile = None) -> None:
    """Carry messages from MQTT to Kafka."""
    from citywatch.wiring import bridge_config
    from ingest.bridge import run
    from ingest.kafka import KafkaSetupError
    from ingest.mqtt import SubscriberError

    config = bridge_config(load(settings_file))
    try:
        until_signal(lambda stop: run(config, stop))
    except (KafkaSetupError, SubscriberError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_FAILURE) from error


@app.command()
def worker(settings_file: SettingsFile = None) -> None:
    """Score readings and store them, exactly once."""
    from citywatch.liveness import watched_worker
    from citywatch.wiring import dsn, worker_config
    from ingest.kafka import KafkaSetupError
    from streams.app import StreamsApp

    settings = load(settings_file)
    kafka = settings.kafka

    async def work(stop: asyncio.Event) -> None:
        streams = StreamsApp(
            worker_config(settings),
            bootstrap=kafka.bootstrap,
            partitions=kafka.partitions,
            replication_factor=kafka.replication_factor,
            dsn=dsn(settings),
            log_id=kafka.log_id,
        )
        with watched_worker(settings.worker, streams.meter):
            await streams.run(stop)

    try:
        until_signal(work)
    except KafkaSetupError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_FAILURE) from error


@app.command()
def console(settings_file: SettingsFile = None) -> None:
    """Serve the page for operators."""
    from citywatch.wiring import dsn
    from dashboards.console.server import serve

    settings = load(settings_file)
    place = settings.console
    schema = database_schema(settings.namespace)

    async def work(stop: asyncio.Event) -> None:
        serving = asyncio.create_task(
            serve(dsn(settings), schema, place.host, place.port, tile_url=place.tile_url)
        )
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if serving.done():
            serving.result()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    until_signal(work)


@app.command()
def api(settings_file: SettingsFile = None) -> None:
    """Serve the API for people on duty and their tools, and where links in pages lead."""
    from citywatch.wiring import api_routes, dsn, routes_file
    from paging.api.server import create_app, serve

    settings = load(settings_file)
    place = settings.api
    schema = database_schema(settings.namespace)
    file = routes_file(settings)
    served = create_app(
        dsn(settings),
        schema,
        api_routes(settings, file),
        routes_file=file,
        look_every_s=settings.pager.poll_interval_s,
    )
    until_signal(lambda stop: serve(served, place.host, place.port, stop))


@dashboards.command("render")
def dashboards_render(
    out: Annotated[Path, typer.Argument(help="Folder to write to.")] = Path("dashboards"),
) -> None:
    """Write the dashboard and the provisioning files."""
    from dashboards.render import render

    for path in render(out):
        typer.echo(path)


@dashboards.command("push")
def dashboards_push(settings_file: SettingsFile = None) -> None:
    """Create or update folder, datasource and dashboard in a running Grafana."""
    from dashboards.push import PushError, push

    settings = load(settings_file)
    try:
        token = secret(settings.grafana.token, settings.grafana.token_file)
        reader = secret(settings.grafana.database_dsn, None)
        typer.echo(push(settings.grafana.url, token, dsn=reader))
    except (PushError, SettingsError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_FAILURE) from error


@app.command()
def simulate(
    settings_file: SettingsFile = None,
    sensors: Annotated[int, typer.Option(min=1, max=100_000)] = 600,
    rate: Annotated[float, typer.Option(help="Messages per second.")] = 500.0,
    duration: Annotated[float | None, typer.Option(help="Seconds; endless without.")] = None,
    seed: int = 1,
    faults: Annotated[int, typer.Option(min=0, help="Labelled faults to inject.")] = 0,
    events: Annotated[str, typer.Option(help="Kinds of events to stage, with commas.")] = "",
    speed: Annotated[float, typer.Option(help="Event time in a second; ends now.")] = 1.0,
    labels: Annotated[Path | None, typer.Option(help="Where to write their labels.")] = None,
    kinds: Annotated[bool, typer.Option("--list", help="List faults and events.")] = False,
    city_settings: Annotated[
        Path | None, typer.Option(help="Only write what bridges and workers are to be told.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Where to write the counts.")] = None,
    bad_share: Annotated[float, typer.Option(help="Share of broken messages.")] = 0.0,
    duplicate_share: Annotated[float, typer.Option(help="Share of repeats.")] = 0.0,
    privacy_probe: Annotated[bool, typer.Option(help="Send fields to withhold.")] = False,
) -> None:
    """Publish a small seeded city to the MQTT broker."""
    from simulators.city import City
    from simulators.payloads import Mischief
    from simulators.publish import run_city
    from simulators.surroundings import as_toml, surroundings

    if kinds:
        typer.echo(_staged())
        return
    if city_settings is not None:
        city_settings.write_text(as_toml(surroundings(City(sensors, seed))), encoding="utf-8")
        return
    settings = load(settings_file)
    published = _until_stopped(
        lambda stop: run_city(
            **_front_door(settings),
            city=City(sensors, seed),
            rate=rate,
            duration_s=duration,
            seed=seed,
            fault_count=faults,
            labels_file=labels,
            stop=stop,
            event_kinds=[kind.strip() for kind in events.split(",") if kind.strip()],
            speed=speed,
            mischief=Mischief(bad_share, duplicate_share, privacy_probe),
        )
    )
    _tell(published, report)


@app.command()
def replay(
    settings_file: SettingsFile = None,
    file: Annotated[
        Path | None, typer.Argument(help="CSV with timestamp,value; the bundled ones without.")
    ] = None,
    sensor: Annotated[str | None, typer.Option(help="Id to publish a file as.")] = None,
    quantity: Annotated[str | None, typer.Option(help="What a file measures.")] = None,
    scale: Annotated[float, typer.Option(help="From the file's unit to ours.")] = 1.0,
    speed: Annotated[float, typer.Option(help="Original seconds per second.")] = 1.0,
    time_lapse: Annotated[
        bool, typer.Option("--time-lapse", help="Compress event time by the speed too.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Where to write the counts.")] = None,
) -> None:
    """Publish recordings of real sensors, shifted to now."""
    from simulators.recording import RecordingError, bundled, read_recording
    from simulators.recording import replay as publish

    settings = load(settings_file)
    try:
        if file is None:
            recordings = bundled()
        elif sensor is None or quantity is None:
            raise typer.BadParameter("a file needs --sensor and --quantity")
        else:
            recordings = (read_recording(file, sensor=sensor, quantity=quantity, scale=scale),)
    except RecordingError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_FAILURE) from error
    published = _until_stopped(
        lambda stop: publish(
            recordings, **_front_door(settings), stop=stop, speed=speed, time_lapse=time_lapse
        )
    )
    _tell(published, report)


@evaluate.command("nab")
def evaluate_nab(
    data: Annotated[Path, typer.Option(help="Folder with data/ and labels/ of the benchmark.")],
    out: Annotated[Path, typer.Option(help="Where to write the scores, in its own layout.")],
    threshold: Annotated[
        float | None, typer.Option(help="Of all files; the best for each profile without.")
    ] = None,
) -> None:
    """Score the Numenta Anomaly Benchmark: each file from scratch, no look ahead."""
    from citywatch.tables import aligned
    from simulators.nab import PROFILES, BenchmarkError, detect, rate, read_corpus, write_results

    try:
        files = read_corpus(data)
    except BenchmarkError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_FAILURE) from error
    scores = detect(files)
    write_results(out, files, scores)
    rows = []
    for name, profile in PROFILES.items():
        rated = rate(files, scores, profile, threshold)
        found = f"{rated.found}/{rated.windows}"
        rows.append(
            (name, f"{rated.score:.2f}", f"{rated.threshold:.6g}", found, rated.false_alarms)
        )
    typer.echo(aligned(["profile", "score", "threshold", "windows", "false alarms"], rows))


@database.command("migrate")
def database_migrate(settings_file: SettingsFile = None) -> None:
    """Bring the namespace's schema to the newest version."""
    from citywatch.wiring import dsn, upkeep
    from storage.migrate import migrate
    from storage.roles import grant
    from storage.upkeep import settle

    settings = load(settings_file)
    place = (dsn(settings), database_schema(settings.namespace))
    try:
        applied = migrate(*place)
        remarks = settle(*place, upkeep(settings)) + grant(*place)
    except psycopg.Error as error:
        typer.echo(f"The database refused: {error}", err=True)
        raise typer.Exit(_FAILURE) from error
    for name in applied:
        typer.echo(f"applied {name}")
    for remark in remarks:
        typer.echo(remark)
    typer.echo("the schema is up to date")


Members = Annotated[
    list[str] | None, typer.Option(help="A role that logs in; may be given many times.")
]


@database.command("grant")
def database_grant(
    settings_file: SettingsFile = None,
    writer: Members = None,
    pager: Members = None,
    api: Members = None,
    reader: Members = None,
) -> None:
    """Give the namespace's roles their rights, and let services in as members of them."""
    from citywatch.wiring import dsn
    from storage.roles import Group, grant

    settings = load(settings_file)
    schema = database_schema(settings.namespace)
    members: dict[Group, list[str]] = {
        "writer": writer or [],
        "pager": pager or [],
        "api": api or [],
        "reader": reader or [],
    }
    try:
        remarks = grant(dsn(settings), schema, members)
    except psycopg.Error as error:
        typer.echo(f"The database refused: {error}", err=True)
        raise typer.Exit(_FAILURE) from error
    for remark in remarks:
        typer.echo(remark, err=True)
    if remarks:
        raise typer.Exit(_FAILURE)
    typer.echo(f"the roles of {schema} have their rights")


@database.command("expire")
def database_expire(settings_file: SettingsFile = None) -> None:
    """Remove what need not be kept any longer; TimescaleDB does it by itself, every hour."""
    from citywatch.wiring import upkeep
    from storage.expiry import expire_all

    settings = load(settings_file)
    query(settings, lambda connection: expire_all(connection, upkeep(settings).keep))
    typer.echo("what was old is gone")


@app.command()
def audit(
    settings_file: SettingsFile = None,
    since: Moment = None,
    until: Moment = None,
    as_json: Json = False,
) -> None:
    """Balance what bridges took in against what is stored; exit 1 where it does not."""
    from citywatch.tables import aligned
    from storage.audit import COUNTS
    from storage.audit import audit as balance

    if since and until and since >= until:
        raise typer.BadParameter("--since must be before --until")
    settings = load(settings_file)
    found = query(settings, lambda connection: balance(connection, _utc(since), _utc(until)))
    faults = found.faults
    if as_json:
        lines = [
            asdict(line) | {"hour": line.hour.isoformat(), "missing": line.missing}
            for line in found.lines
        ]
        storage = found.storage and [
            asdict(line) | {"faults": line.faults} for line in found.storage
        ]
        whole = {"balanced": not faults, "faults": faults, "lines": lines, "storage": storage}
        typer.echo(json.dumps(whole))
    else:
        names = ["hour", "source", "bridge", *COUNTS]
        rows = [
            (
                f"{line.hour:%Y-%m-%dT%H:%M}",
                line.source,
                line.bridge,
                *(getattr(line, name) for name in COUNTS),
            )
            for line in found.lines
        ]
        typer.echo(aligned([name.replace("_", " ") for name in names], rows))
        for title in ("reasons", "kinds"):
            totals: Counter[str] = Counter()
            for line in found.lines:
                totals.update(getattr(line, title))
            typer.echo(f"{'not taken' if title == 'reasons' else 'withheld'}: {_told(totals)}")
        if found.storage is None:
            typer.echo("rows in storage: not counted, because they do not say when they arrived")
        else:
            names = ["source", "stored", "expired", "rows"]
            rows = [tuple(getattr(line, name) for name in names) for line in found.storage]
            typer.echo(aligned(names, rows))
        for fault in faults:
            typer.echo(f"NOT balanced: {fault}")
        if not faults:
            typer.echo("balanced")
    if faults:
        raise typer.Exit(_FAILURE)


@rejects.command("list")
def rejects_list(
    settings_file: SettingsFile = None,
    reason: Reason = None,
    since: Moment = None,
    until: Moment = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    with_payload: Annotated[
        bool, typer.Option("--payload", help="Show what was kept of them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List what was not taken, newest first, and count it by reason."""
    from citywatch.tables import aligned, printable
    from storage.rejects import Wanted, counted, listed

    wanted = Wanted(reason=reason, since=_utc(since), until=_utc(until))

    async def read(connection: Any) -> Any:
        shown = _PAYLOAD_BYTES if with_payload else 0
        letters = await listed(connection, wanted, limit=limit, payload_bytes=shown)
        return letters, await counted(connection, wanted)

    letters, reasons = query(load(settings_file), read)
    if as_json:
        rows = [_as_json(asdict(letter)) for letter in letters]
        typer.echo(json.dumps({"rejects": rows, "reasons": list(map(asdict, reasons))}))
        return
    table = aligned(
        ["id", "received", "bridge", "topic", "reason", "place", "records", "kept", "replayed"],
        [
            (
                letter.dead_letter_id,
                f"{letter.received_at:%Y-%m-%dT%H:%M:%S}",
                letter.bridge,
                letter.mqtt_topic or "-",
                letter.reason,
                letter.place,
                "?" if letter.records is None else letter.records or "whole",
                "-" if letter.size is None else f"{letter.size} B",
                f"{letter.replayed_at:%Y-%m-%dT%H:%M:%S}" if letter.replayed_at else "-",
            )
            for letter in letters
        ],
    )
    heading, *lines = table.splitlines()
    typer.echo(heading)
    for letter, line in zip(letters, lines, strict=True):
        typer.echo(line)
        if letter.payload is not None:
            text = letter.payload.decode(errors="backslashreplace")
            typer.echo(f"    {printable(text, _PAYLOAD_BYTES)}")
    names = ["reason", "letters", "records", "kept", "replayed"]
    typer.echo()
    typer.echo(aligned(names, [[getattr(one, name) for name in names] for one in reasons]))


@rejects.command("replay")
def rejects_replay(
    settings_file: SettingsFile = None,
    reason: Reason = None,
    ids: Annotated[
        list[int] | None, typer.Option("--id", help="Only this one; may be given many times.")
    ] = None,
    since: Moment = None,
    until: Moment = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would become of them.")
    ] = False,
) -> None:
    """Decode what was kept once more, with the code and the settings of today."""
    from aiokafka.errors import KafkaError

    from citywatch.rejects import Replayed, ReplayError, replay
    from citywatch.wiring import assembly_config
    from ingest.kafka import KafkaSetupError, RecordSender, ensure_topics
    from storage.rejects import Wanted

    settings = load(settings_file)
    kafka = settings.kafka
    config = assembly_config(settings)
    wanted = Wanted(reason=reason, ids=ids, since=_utc(since), until=_utc(until))

    def progress(done: Replayed) -> None:
        rejected = done.rejected.total()
        typer.echo(f"{done.letters} taken, {rejected} rejected once more", err=True)

    async def work(connection: Any) -> Replayed:
        if dry_run:
            return await replay(connection, None, config, wanted, progress)
        await ensure_topics(
            kafka.bootstrap, settings.namespace, kafka.partitions, kafka.replication_factor
        )
        sender = RecordSender(kafka.bootstrap, kafka.idempotence)
        try:
            await sender.start()
            return await replay(connection, sender, config, wanted, progress)
        finally:
            await sender.stop()

    try:
        done = query(settings, work)
    except (KafkaError, KafkaSetupError, OSError, ReplayError) as error:
        typer.echo(f"Not replayed to the end: {error}", err=True)
        raise typer.Exit(_FAILURE) from error
    typer.echo(
        f"{'would be replayed' if dry_run else 'replayed'}: {done.letters} dead letters with"
        f" {done.readings} readings; {done.refused} records of them refused once more"
    )
    typer.echo(f"still rejected: {_told(done.rejected)}")
    typer.echo(f"not kept: {done.not_kept}")


RulesFile = Annotated[Path, typer.Argument(help="TOML; deploy/rules.toml is an example.")]


@rules.command("check")
def rules_check(file: RulesFile, settings_file: SettingsFile = None) -> None:
    """Check a file of rules, and list every fault with its place."""
    wanted = _rules(file, load(settings_file))
    typer.echo(f"{file} can be applied: {wanted.fingerprint[:_FINGERPRINT]}")


@rules.command("apply")
def rules_apply(file: RulesFile, settings_file: SettingsFile = None) -> None:
    """Check a file of rules, and write it into every partition: workers obey it from there on.

    With it goes what [city] and [groups] of the settings say.
    """
    from aiokafka.errors import KafkaError

    from citywatch.rules import apply
    from ingest.kafka import KafkaSetupError, RecordSender, ensure_topics

    settings = load(settings_file)
    kafka = settings.kafka
    wanted = _rules(file, settings)

    async def work() -> dict[int, str | None]:
        await ensure_topics(
            kafka.bootstrap, settings.namespace, kafka.partitions, kafka.replication_factor
        )
        sender = RecordSender(kafka.bootstrap, kafka.idempotence)
        try:
            await sender.start()
            return await apply(wanted, sender, settings.namespace, kafka.partitions)
        finally:
            await sender.stop()

    try:
        done = asyncio.run(work())
    except (KafkaError, KafkaSetupError, OSError) as error:
        typer.echo(f"Not applied: {error}", err=True)
        raise typer.Exit(_FAILURE) from error
    for number, fault in done.items():
        typer.echo(f"partition {number}: {f'NOT written: {fault}' if fault else 'written'}")
    if any(done.values()):
        typer.echo("Not in every partition: apply it again", err=True)
        raise typer.Exit(_FAILURE)
    typer.echo(f"applied to {settings.namespace}: {wanted.fingerprint[:_FINGERPRINT]}")


@rules.command("show")
def rules_show(settings_file: SettingsFile = None, as_json: Json = False) -> None:
    """Say which rules hold in every partition; exit 1 where they differ."""
    from citywatch.rules import by_partition, differ, distinct
    from citywatch.tables import aligned
    from storage.rules import present

    settings = load(settings_file)
    found = query(settings, present)
    held = by_partition(found, settings.kafka.partitions)
    if as_json:
        lines = {
            number: one
            and asdict(one)
            | {
                "watermark": one.watermark and one.watermark.isoformat(),
                "recorded_at": one.recorded_at.isoformat(),
            }
            for number, one in held.items()
        }
        typer.echo(json.dumps({"differ": differ(held), "partitions": lines}))
    else:
        rows = [
            (number, one.fingerprint[:_FINGERPRINT], one.message_offset, _minute(one.watermark))
            if one
            else (number, "defaults", "-", "-")
            for number, one in held.items()
        ]
        typer.echo(aligned(["partition", "rules", "from offset", "event time"], rows))
        for fingerprint, text in distinct(held).items():
            typer.echo(f"\n{fingerprint[:_FINGERPRINT]}:\n{json.dumps(text, indent=2)}")
    if differ(held):
        typer.echo("WARNING: partitions have different rules: apply them again", err=True)
        raise typer.Exit(_FAILURE)


@rules.command("compare")
def rules_compare(
    shadow: Annotated[str, typer.Argument(help="Name of a shadow.")],
    settings_file: SettingsFile = None,
    since: Moment = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Examples of each.")] = 5,
    as_json: Json = False,
) -> None:
    """Compare what a shadow found with what people were told."""
    from citywatch.rules import compared
    from citywatch.tables import aligned, printable
    from storage.rules import ShadowUnknownError

    settings = load(settings_file)
    try:
        found = query(settings, lambda connection: compared(connection, shadow, _utc(since), limit))
    except ShadowUnknownError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_FAILURE) from error
    sides = {
        "both, of those told": ("live", True),
        "both, of the shadow's": ("shadow", True),
        "told only": ("live", False),
        "shadow only": ("shadow", False),
    }
    counts = {name: found.count(side, in_both=both) for name, (side, both) in sides.items()}
    if as_json:
        examples = [
            asdict(one)
            | {
                "opened_at": one.opened_at.isoformat(),
                "closed_at": one.closed_at and one.closed_at.isoformat(),
            }
            for one in found.found
        ]
        times = {"since": found.since.isoformat(), "until": found.until.isoformat()}
        facts = {"shadow": shadow, "partitions": found.partitions, "days": found.days} | times
        typer.echo(json.dumps(facts | {"counts": counts, "examples": examples}))
        return
    typer.echo(
        f"{shadow}, in {len(found.partitions)} of {settings.kafka.partitions} partitions, from"
        f" {_minute(found.since)} to {_minute(found.until)} of event time: {found.days:.2f} days\n"
    )
    days = found.days
    rows = [(name, count, f"{count / days:.1f}" if days else "-") for name, count in counts.items()]
    typer.echo(aligned(["alerts", "number", "a day"], rows))
    for name, (side, both) in sides.items():
        examples = found.examples(side, in_both=both)
        if examples:
            typer.echo(f"\n{name}:")
        for one in examples:
            text = printable(one.sentence, _PAYLOAD_BYTES)
            typer.echo(f"  {_minute(one.opened_at)}  {one.kind}: {text}")


@app.command()
def status(settings_file: SettingsFile = None, as_json: Json = False) -> None:
    """Say how the pipeline stands: rows, alerts, pages, age of the newest row."""
    from storage.standing import standing

    found = query(load(settings_file), standing)
    age = (datetime.now(UTC) - found.newest_at).total_seconds() if found.newest_at else None
    facts = asdict(found) | {"newest_at": None, "newest_age_s": age}
    facts["newest_at"] = found.newest_at.isoformat() if found.newest_at else None
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        for name, value in facts.items():
            typer.echo(f"{name:<16} {value}")


def query(settings: Settings, read: Callable[[Any], Any]) -> Any:
    """Run one read on the namespace's schema, or end with what the database said."""
    from citywatch.wiring import dsn
    from storage.migrate import session_options

    options = session_options(database_schema(settings.namespace))

    async def asked() -> Any:
        async with await psycopg.AsyncConnection.connect(
            dsn(settings), options=options, connect_timeout=5, autocommit=True
        ) as connection:
            return await read(connection)

    try:
        return asyncio.run(asked())
    except psycopg.errors.UndefinedTable as error:
        typer.echo(
            "The schema is not there yet, too old, or not for this user: citywatch db migrate\n"
            f"{error}",
            err=True,
        )
        raise typer.Exit(_FAILURE) from error
    except psycopg.Error as error:
        typer.echo(f"The database refused: {error}", err=True)
        raise typer.Exit(_FAILURE) from error


def _rules(file: Path, settings: Settings) -> Any:
    """Read a file of rules, with what the settings say of the city, or list every fault."""
    from citywatch.rules import read_rules
    from citywatch.wiring import city_facts
    from streams.rules import RulesError

    try:
        return read_rules(file).of(city_facts(settings))
    except RulesError as error:
        faults = "\n".join(error.faults)
        typer.echo(f"{file} cannot be applied:\n{faults}", err=True)
        raise typer.Exit(_FAILURE) from error


def _minute(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%dT%H:%M}" if moment else "-"


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment else None


def _told(counts: Mapping[str, int]) -> str:
    most_first = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{count} {name}" for name, count in most_first) or "nothing"


def _as_json(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields with times as text, and a payload as far as it is text."""
    payload = fields.pop("payload")
    told = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in fields.items()
    }
    if payload is not None:
        told["payload"] = payload.decode(errors="backslashreplace")
    return told


def _staged() -> str:
    """Return which faults and events a simulated city may have."""
    from citywatch.tables import aligned
    from simulators.events import SCRIPTS
    from simulators.faults import EXPECTED

    heads = ["event", "alert", "of", "begins after", "lasts", "told within", "over within"]
    spans = ("lead_s", "length_s", "opens_within_s", "closes_within_s")
    rows = [
        (
            kind,
            one.alert_kind,
            one.quantity or "any",
            *(_span(getattr(one, span)) for span in spans),
        )
        for kind, one in SCRIPTS.items()
    ]
    told = "\n".join(f"{kind}: {script.told}" for kind, script in SCRIPTS.items())
    faults = aligned(["fault", "alert"], [(kind, alert) for kind, (_, alert) in EXPECTED.items()])
    return f"{aligned(heads, rows)}\n\n{told}\n\n{faults}"


def _span(seconds: float) -> str:
    """Return a span of time in the unit that people would take."""
    for unit, length_s in (("d", 86_400.0), ("h", 3_600.0)):
        if seconds >= length_s:
            return f"{seconds / length_s:.3g} {unit}"
    return f"{seconds / 60:.0f} min"


def _front_door(settings: Settings) -> dict[str, Any]:
    from citywatch.wiring import tls_files
    from ingest.mqtt import tls_context

    mqtt, files = settings.mqtt, tls_files(settings)
    return {
        "host": mqtt.host,
        "port": mqtt.port,
        "namespace": settings.namespace,
        "username": mqtt.username,
        "password": secret(mqtt.password, mqtt.password_file),
        "tls": tls_context(files) if files else None,
    }


def _until_stopped(work: Callable[[threading.Event], Any]) -> Any:
    """Run blocking work that ends when SIGINT or SIGTERM sets the event."""
    from simulators.front_door import FrontDoorError

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        return work(stop)
    except (ValueError, FrontDoorError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_FAILURE) from error


def _tell(published: Any, report: Path | None) -> None:
    text = json.dumps(asdict(published))
    typer.echo(text)
    if report is not None:
        partial = report.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(report)
