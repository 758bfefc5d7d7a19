"""The command line: every command reads the settings and wires rooms together, nothing more."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Final

import typer
import uvloop

from citywatch import __version__
from citywatch.log_lines import Lines
from citywatch.settings import PREFIX, Settings, SettingsError, read_settings

_USAGE_ERROR: Final = 2

app = typer.Typer(
    name="citywatch",
    help="Real-time monitoring of a city's sensors.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        envvar=f"{PREFIX}SETTINGS",
        help="TOML file; CITYWATCH_<SECTION>__<KEY> in the environment overrides it.",
    ),
]


def main() -> None:
    """Run the command line."""
    # Imported for what they add to `app`; each imports its room only when its command runs.
    from citywatch import commands, demo_command, duty_commands  # noqa: F401

    try:
        app()
    except SettingsError as error:  # a file of secrets, read where it is needed
        typer.echo(f"These settings cannot be used:\n{error}", err=True)
        raise SystemExit(_USAGE_ERROR) from error


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"citywatch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[  # noqa: ARG001 - typer calls it back
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    level = os.environ.get("LOG_LEVEL", "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        raise typer.BadParameter(f"LOG_LEVEL: expected the name of a level, not {level!r}")
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(Lines())
    logging.basicConfig(level=level, handlers=[lines])
    # Reconnects of the libraries are told by the rooms, once each.
    for name in ("faust", "mode", "yoyo", "aiohttp.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Of a Kafka that is away it writes thousands of errors a second.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def load(file: Path | None) -> Settings:
    """Read the settings, or end with every fault listed."""
    try:
        return read_settings(file)
    except SettingsError as error:
        typer.echo(f"These settings cannot be used:\n{error}", err=True)
        raise typer.Exit(_USAGE_ERROR) from error


def until_signal(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `work` until it ends or SIGINT or SIGTERM sets the event it was given."""

    async def supervised() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await work(stop)

    uvloop.run(supervised())
