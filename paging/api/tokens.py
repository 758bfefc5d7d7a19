"""Tokens: 256 random bits, shown once and kept as a hash, with a role, a name and an end.

They are made and revoked by whoever owns the schema; the API itself can only look one up.
"""

import hmac
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import crc32
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final, Literal, get_args
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation
from psycopg.rows import TupleRow, class_row

Role = Literal["viewer", "responder", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
_RANK: Final = {role: rank for rank, role in enumerate(ROLES)}
NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,39}$"
# Who else writes history, so that nobody can be taken for them.
RESERVED: Final = frozenset({"worker", "pager", "bridge", "citywatch"})
_BYTES: Final = 32
_CHECK_BYTES: Final = 4
# Recognised by scanners for secrets, and by what refuses garbage before the database is asked.
_PREFIX: Final = "cw_"
_FORM: Final = re.compile(r"cw_[A-Za-z0-9_-]{48}")

_FIND: Final = """
    SELECT name, role, hash FROM api_token
    WHERE hash = %s AND revoked_at IS NULL AND expires_at > now()
"""
_ADD: Final = """
    INSERT INTO api_token (name, role, hash, expires_at)
    VALUES (%s, %s, %s, now() + %s * INTERVAL '1 day') RETURNING expires_at
"""
_LIST: Final = """
    SELECT token_id, name, role, created_at, expires_at, revoked_at FROM api_token
    ORDER BY created_at, token_id
"""
_REVOKE: Final = """
    UPDATE api_token SET revoked_at = coalesce(revoked_at, now()) WHERE name = %s
"""

Connection = AsyncConnection[TupleRow]


class NameTakenError(ValueError):
    """A token has this name already, or had; what history says of it must stay true."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever has shown a token."""

    name: str
    role: Role

    def may(self, role: Role) -> bool:
        """Say whether this role is at least another."""
        return _RANK[self.role] >= _RANK[role]


@dataclass(frozen=True, slots=True)
class Listed:
    """A token without what is secret of it."""

    token_id: UUID
    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


def mint() -> str:
    """Return a new token."""
    body = secrets.token_bytes(_BYTES)
    return _PREFIX + urlsafe_b64encode(body + _check(body)).decode()


def is_token(text: str) -> bool:
    """Say whether this could be a token: what is not need not be looked up."""
    if _FORM.fullmatch(text) is None:
        return False
    data = urlsafe_b64decode(text.removeprefix(_PREFIX))
    return data[_BYTES:] == _check(data[:_BYTES])


def hashed(token: str) -> bytes:
    """Return what is kept of a token.

    Of 256 random bits a plain hash is as good as a slow one: there is nothing to guess.
    """
    return sha256(token.encode()).digest()


async def find(connection: Connection, token: str) -> Caller | None:
    """Return whose token this is; None where it is nobody's, has ended or was revoked."""
    wanted = hashed(token)
    cursor = await connection.execute(_FIND, (wanted,))
    row = await cursor.fetchone()
    # The index finds it by its hash, of which an attacker chooses nothing; this compares it once
    # more in constant time.
    if row is None or not hmac.compare_digest(bytes(row[2]), wanted):
        return None
    return Caller(row[0], row[1])


async def create(connection: Connection, name: str, role: Role, days: int) -> tuple[str, datetime]:
    """Make a token, and return it with its end.

    Raises
    ------
    NameTakenError
    ValueError
        If the name cannot be one.
    """
    if re.fullmatch(NAME_PATTERN, name) is None or name.lower() in RESERVED:
        raise ValueError(
            f"{name!r}: a name of up to 40 letters, digits, '.', '_', '@' and '-' is expected, and"
            f" none of {', '.join(sorted(RESERVED))}"
        )
    token = mint()
    try:
        cursor = await connection.execute(_ADD, (name, role, hashed(token), days))
    except UniqueViolation as error:
        raise NameTakenError(f"a token has or had the name {name}") from error
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - an INSERT with RETURNING
    return token, row[0]


async def listed(connection: Connection) -> list[Listed]:
    """Return all tokens, oldest first."""
    async with connection.cursor(row_factory=class_row(Listed)) as cursor:
        return await (await cursor.execute(_LIST)).fetchall()


async def revoke(connection: Connection, name: str) -> bool:
    """Let a token count no more; say whether there is one of this name."""
    cursor = await connection.execute(_REVOKE, (name,))
    return cursor.rowcount > 0


def _check(body: bytes) -> bytes:
    return crc32(body).to_bytes(_CHECK_BYTES, "big")
