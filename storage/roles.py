"""Who may do what in a namespace's schema, held by the database itself.

Each namespace has group roles, `<schema>_writer` for its workers and `<schema>_reader`, and the
live city `<schema>_pager` and `<schema>_api` as well; services log in as members of one of them,
and whoever migrates owns the tables. So a replay's worker has no right on `live`, nobody has a
right to decide or deliver a page of a replay, a pager can touch no alert, and who draws dashboards
sees neither what dead letters held nor what a hook answered. Rights that are not
listed here are taken away again whenever the schema is brought up to date.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import psycopg
from psycopg import Connection
from psycopg.errors import InsufficientPrivilege
from psycopg.sql import SQL, Identifier

from ingest.topics import LIVE, database_schema
from storage.migrate import session_options

Group = Literal["writer", "pager", "api", "reader"]
GROUPS: Final[tuple[Group, ...]] = ("writer", "pager", "api", "reader")
# What the live city alone has: in a replay there is nobody who could page, or ask for it.
LIVE_GROUPS: Final[frozenset[Group]] = frozenset({"pager", "api"})
# Reads every namespace, where somebody has made it: for Grafana and the console.
ALL_READERS: Final = "citywatch_reader"

_RIGHTS: Final[Mapping[Group, Mapping[str, str]]] = {
    "writer": {
        "sensor": "SELECT, INSERT, UPDATE",
        "series": "SELECT, INSERT, UPDATE",
        "reading": "SELECT, INSERT",
        "latest": "SELECT, INSERT, UPDATE",
        "alert": "SELECT, INSERT, UPDATE",
        "alert_transition": "SELECT, INSERT",
        "outbox": "SELECT, INSERT",
        "stream_position": "SELECT, INSERT, UPDATE",
        "detector_state": "SELECT, INSERT, UPDATE",
        "ledger": "SELECT, INSERT, UPDATE",
        "ledger_kind": "SELECT, INSERT, UPDATE",
        "dead_letter": "INSERT",
        "log_gap": "INSERT",
        "rules_applied": "INSERT",
        "shadow_alert": "SELECT, INSERT, UPDATE",
    },
    "pager": {
        "outbox": "SELECT, UPDATE (decided_at)",
        "pager_turn": "SELECT, UPDATE (revision, shift, wakes_at, decider, decided_at)",
        "page_track": "SELECT, INSERT, UPDATE, DELETE",
        "page_group": "SELECT, INSERT, UPDATE",
        "page_member": "SELECT, INSERT",
        "decision": "INSERT",
        "notice": "SELECT, INSERT",
        "delivery": "SELECT, INSERT, UPDATE (next_attempt_at, attempts, missed, claimed_until,"
        " delivered_at, abandoned_at, heeded_at, last_error)",
        "silence": "SELECT",
        "oncall_override": "SELECT",
        "page_test": "SELECT, UPDATE (decided_at)",
        "sensor": "SELECT (name, zone)",
    },
    "api": {
        "sensor": "SELECT",
        "series": "SELECT",
        # That somebody has one, `acknowledge_alert` writes with its owner's rights.
        "alert": "SELECT",
        "alert_transition": "SELECT",
        "page_group": "SELECT (group_key, cause, cause_name, route, policy, labels, severity,"
        " opened_at, told_at, acknowledged_at, acknowledged_by, first_acknowledged_at, closed_at)",
        "page_member": "SELECT",
        "decision": "SELECT",
        "notice": "SELECT",
        # Without what a hook answered.
        "delivery": "SELECT (delivery_id, notice_id, group_key, event, step, hook, person,"
        " created_at, attempts, delivered_at, abandoned_at)",
        "silence": "SELECT, INSERT, UPDATE (lifted_at, lifted_by)",
        "oncall_override": "SELECT, INSERT, UPDATE (lifted_at, lifted_by)",
        "page_mark": "SELECT, INSERT, UPDATE",
        "page_test": "SELECT, INSERT",
        "api_token": "SELECT",
    },
    "reader": {
        **dict.fromkeys(
            (
                "sensor",
                "series",
                "reading",
                "reading_scored",
                "reading_1m",
                "reading_15m",
                "reading_1d",
                "latest",
                "alert",
                "alert_transition",
                "ledger",
                "ledger_kind",
                "ledger_past",
                "ledger_ever",
                "expired",
                "log_gap",
                "dead_letter_listed",
                "rules_applied",
                "shadow_alert",
                "page_track",
                "page_group",
                "page_member",
                "decision",
                "page_mark",
            ),
            "SELECT",
        ),
        # Without what was said, and what the other side answered. Who was told is no secret of
        # these: what the pager remembers of a group, which counting those that wait needs, says so.
        "outbox": "SELECT (outbox_id, alert_id, event, at, created_at, decided_at)",
        "delivery": "SELECT (delivery_id, notice_id, group_key, event, step, hook, created_at,"
        " next_attempt_at, attempts, delivered_at, abandoned_at)",
        "notice": "SELECT (notice_id, group_key, revision, event, at)",
    },
}
# What is not for everybody who may use the schema.
_ROUTINES: Final[Mapping[Group, tuple[str, ...]]] = {
    "writer": (),
    "pager": (),
    "api": ("acknowledge_alert(uuid, text, text)", "acknowledge_page(text, text, text)"),
    "reader": (),
}
# What a service needs of the whole database; a worker stages suspects in a temporary table.
_DATABASE: Final[Mapping[Group, tuple[str, ...]]] = {
    "writer": ("CONNECT", "TEMPORARY"),
    "pager": ("CONNECT",),
    "api": ("CONNECT",),
    "reader": ("CONNECT",),
}


def group_role(schema: str, group: Group) -> str:
    """Return the name of a namespace's group role."""
    return f"{schema}_{group}"


def grant(
    dsn: str,
    schema: str,
    members: Mapping[Group, list[str] | None] | None = None,
    *,
    is_live: bool | None = None,
) -> list[str]:
    """Make the namespace's roles, give them their rights, and say what could not be done.

    Parameters
    ----------
    dsn, schema : str
        Of whoever owns the schema.
    members : mapping of Group to list of str, optional
        Roles that log in, to be made members.
    is_live : bool, optional
        Whether there may be `LIVE_GROUPS`; by default in the schema of the live city alone.

    Raises
    ------
    psycopg.Error
        If the database cannot be reached, the schema is another's, or a member is no role.
    """
    remarks = []
    with psycopg.connect(dsn, autocommit=True, options=session_options(schema)) as connection:
        pages = schema == database_schema(LIVE) if is_live is None else is_live
        for group in GROUPS:
            role = group_role(schema, group)
            if group in LIVE_GROUPS and not pages:
                if _exists(connection, role):
                    _take(connection, schema, role)
                if (members or {}).get(group):
                    remarks.append(f"{schema} is no live city: it has no {group}")
                continue
            if not _exists(connection, role) and not _make(connection, role):
                remarks.append(
                    f"there is no role {role}, and {connection.info.user} may not make it: as a"
                    f" superuser, CREATE ROLE {role}; then `citywatch db grant`"
                )
                continue
            with connection.transaction():
                _give(connection, schema, role, group)
            remarks += _give_of_database(connection, role, group)
            for member in (members or {}).get(group) or []:
                _join(connection, role, member)
        readers = group_role(schema, "reader")
        if _exists(connection, ALL_READERS) and _exists(connection, readers):
            try:
                _join(connection, readers, ALL_READERS)
            except InsufficientPrivilege:
                remarks.append(
                    f"{connection.info.user} may not let {ALL_READERS} read {schema}: as a"
                    f" superuser, GRANT {readers} TO {ALL_READERS}"
                )
    return remarks


def _exists(connection: Connection[Any], role: str) -> bool:
    query = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s)"
    row = connection.execute(query, (role,)).fetchone()
    return bool(row and row[0])


def _make(connection: Connection[Any], role: str) -> bool:
    try:
        connection.execute(SQL("CREATE ROLE {}").format(Identifier(role)))
    except InsufficientPrivilege:
        return False
    return True


def _take(connection: Connection[Any], schema: str, role: str) -> None:
    """Take away every right of a role in a schema."""
    for statement in (
        "REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {role}",
        "REVOKE ALL ON ALL ROUTINES IN SCHEMA {schema} FROM {role}",
        "REVOKE ALL ON SCHEMA {schema} FROM {role}",
    ):
        names = {"schema": Identifier(schema), "role": Identifier(role)}
        connection.execute(SQL(statement).format(**names))


def _give(connection: Connection[Any], schema: str, role: str, group: Group) -> None:
    names = {"schema": Identifier(schema), "role": Identifier(role)}
    # First everything away: what an older version gave, too.
    _take(connection, schema, role)
    connection.execute(SQL("GRANT USAGE ON SCHEMA {schema} TO {role}").format(**names))
    for table, rights in _RIGHTS[group].items():
        connection.execute(
            SQL("GRANT {rights} ON {schema}.{table} TO {role}").format(
                rights=SQL(rights),
                table=Identifier(table),
                **names,
            )
        )
    for routine in _ROUTINES[group]:
        connection.execute(
            SQL("GRANT EXECUTE ON FUNCTION {schema}.{routine} TO {role}").format(
                routine=SQL(routine), **names
            )
        )


def _give_of_database(connection: Connection[Any], role: str, group: Group) -> list[str]:
    """Give what a group needs of the database and does not have as everybody."""
    remarks = []
    has = "SELECT has_database_privilege(%s, current_database(), %s), current_database()"
    for right in _DATABASE[group]:
        for is_second_look in (False, True):
            row = connection.execute(has, (role, right)).fetchone()
            assert row is not None  # noqa: S101 - a SELECT without FROM has one row
            if row[0]:
                break
            if is_second_look:
                remarks.append(
                    f"{role} lacks a right: as the owner of the database,"
                    f" GRANT {right} ON DATABASE {row[1]} TO {role}"
                )
                break
            try:
                connection.execute(
                    SQL("GRANT {} ON DATABASE {} TO {}").format(
                        SQL(right),
                        Identifier(row[1]),
                        Identifier(role),
                    )
                )
            except InsufficientPrivilege:
                continue
    return remarks


def _join(connection: Connection[Any], role: str, member: str) -> None:
    query = "SELECT pg_has_role(%s, %s, 'MEMBER')"
    row = connection.execute(query, (member, role)).fetchone()
    if not (row and row[0]):
        connection.execute(SQL("GRANT {} TO {}").format(Identifier(role), Identifier(member)))
