"""The commands of people on duty, and of whoever lets them in.

What staff do goes through the API with their own token, so that history has their name and nobody
needs a login of the database; tokens are made by the owner of the schema, in the database itself.
Routes are checked and tried with the file alone.
"""

from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from citywatch.cli import SettingsFile, app, load
from citywatch.commands import query

_FAILURE: Final = 1

token = typer.Typer(no_args_is_help=True, help="Tokens of the API.")
app.add_typer(token, name="token")

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
    from citywatch.tables import aligned
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
