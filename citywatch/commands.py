"""The commands of the parts: bridge, worker, pager, console, and those that look or publish.

Rooms are imported inside the commands: `citywatch bridge` should not wait for what only the pager
needs.
"""

import asyncio
import json
import logging
import signal
import threading
from collections.abc import Callable
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

dashboards = typer.Typer(no_args_is_help=True, help="Grafana dashboards as code.")
database = typer.Typer(no_args_is_help=True, help="The database.")
app.add_typer(dashboards, name="dashboards")
app.add_typer(database, name="db")

Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")]


@app.command()
def bridge(settings_file: SettingsFile = None) -> None:
    """Carry messages from MQTT to Kafka."""
    from citywatch.wiring import bridge_config
    from ingest.bridge import run

    config = bridge_config(load(settings_file))
    until_signal(lambda stop: run(config, stop))


@app.command()
def worker(settings_file: SettingsFile = None) -> None:
    """Score readings and store them, exactly once."""
    from citywatch.wiring import dsn, worker_config
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
        await streams.run(stop)

    until_signal(work)


@app.command()
def pager(settings_file: SettingsFile = None) -> None:
    """Tell people of alerts, through the webhook."""
    from citywatch.wiring import dsn, pager_config
    from paging.pager import NamespaceRefusedError, Pager

    settings = load(settings_file)
    schema = database_schema(settings.namespace)
    try:
        served = Pager(dsn(settings), schema, settings.namespace, pager_config(settings))
    except (NamespaceRefusedError, ValueError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_FAILURE) from error
    until_signal(served.run)


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
    labels: Annotated[Path | None, typer.Option(help="Where to write their labels.")] = None,
    report: Annotated[Path | None, typer.Option(help="Where to write the counts.")] = None,
    bad_share: Annotated[float, typer.Option(help="Share of broken messages.")] = 0.0,
    duplicate_share: Annotated[float, typer.Option(help="Share of repeats.")] = 0.0,
    privacy_probe: Annotated[bool, typer.Option(help="Send fields to withhold.")] = False,
) -> None:
    """Publish a small seeded city to the MQTT broker."""
    from simulators.city import City
    from simulators.payloads import Mischief
    from simulators.publish import run_city

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


@database.command("migrate")
def database_migrate(settings_file: SettingsFile = None) -> None:
    """Bring the namespace's schema to the newest version."""
    from citywatch.wiring import dsn
    from storage.migrate import migrate

    settings = load(settings_file)
    try:
        applied = migrate(dsn(settings), database_schema(settings.namespace))
    except psycopg.Error as error:
        typer.echo(f"The database refused: {error}", err=True)
        raise typer.Exit(_FAILURE) from error
    for name in applied:
        typer.echo(f"applied {name}")
    typer.echo("the schema is up to date")


@app.command()
def audit(
    settings_file: SettingsFile = None,
    since: Annotated[datetime | None, typer.Option(help="UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(help="UTC.")] = None,
    as_json: Json = False,
) -> None:
    """Balance what bridges took in against what was stored; exit 1 where it does not."""
    from storage.audit import audit as balance

    settings = load(settings_file)
    bounds = [moment.replace(tzinfo=UTC) if moment else None for moment in (since, until)]
    lines = _query(settings, lambda connection: balance(connection, *bounds))
    missing = sum(abs(line.missing) for line in lines)
    if as_json:
        rows = [
            asdict(line) | {"hour": line.hour.isoformat(), "missing": line.missing}
            for line in lines
        ]
        typer.echo(json.dumps({"balanced": missing == 0, "lines": rows}))
    else:
        for line in lines:
            mark = "" if line.missing == 0 else f"  MISSING {line.missing}"
            typer.echo(
                f"{line.hour:%Y-%m-%d %H}h  {line.bridge:<16} {line.source:<12}"
                f" messages {line.messages}  readings {line.readings}"
                f" = stored {line.stored} + duplicates {line.duplicates}"
                f" + late conflicts {line.late_conflicts};"
                f" rejected {line.rejected}, withheld {line.withheld}{mark}"
            )
        typer.echo("balanced" if missing == 0 else f"NOT balanced: {missing} readings unaccounted")
    if missing:
        raise typer.Exit(_FAILURE)


@app.command()
def status(settings_file: SettingsFile = None, as_json: Json = False) -> None:
    """Say how the pipeline stands: rows, alerts, pages, age of the newest row."""
    from storage.standing import standing

    found = _query(load(settings_file), standing)
    age = (datetime.now(UTC) - found.newest_at).total_seconds() if found.newest_at else None
    facts = asdict(found) | {"newest_at": None, "newest_age_s": age}
    facts["newest_at"] = found.newest_at.isoformat() if found.newest_at else None
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        for name, value in facts.items():
            typer.echo(f"{name:<16} {value}")


def _query(settings: Settings, read: Callable[[Any], Any]) -> Any:
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
    except psycopg.Error as error:
        typer.echo(f"The database refused: {error}", err=True)
        raise typer.Exit(_FAILURE) from error


def _front_door(settings: Settings) -> dict[str, Any]:
    mqtt = settings.mqtt
    return {
        "host": mqtt.host,
        "port": mqtt.port,
        "namespace": settings.namespace,
        "username": mqtt.username,
        "password": secret(mqtt.password, mqtt.password_file),
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
