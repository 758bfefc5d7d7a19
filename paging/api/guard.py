"""Who may come in: a token by header, its role, and a bound on those who try.

Every operation names the role that it needs as the scope of its security requirement, so the
OpenAPI document says it, and the test of all operations reads it there.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from time import monotonic
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from starlette.exceptions import HTTPException

from paging.api.problems import ProblemError
from paging.api.tokens import Caller, Connection, Role, find, hashed, is_token

_MAX_ADDRESSES: Final = 10_000
# A subscriber of IPv6 has 2^64 addresses.
_SUBSCRIBER_BITS: Final = 64
_BEARER: Final = HTTPBearer(
    auto_error=False, scheme_name="token", description="By `citywatch token create`."
)


class Failures:
    """How often an address may show a token that is none: a bucket that fills again.

    An address that is over its bound is refused unasked, but for tokens that were good lately: so
    whoever guesses behind the city's proxy does not lock out those who are on duty.

    Parameters
    ----------
    burst : int
        How many at once.
    per_s : float
        How many a second in the long run.
    clock : callable
        Seconds.
    """

    def __init__(
        self, burst: int = 20, per_s: float = 0.2, clock: Callable[[], float] = monotonic
    ) -> None:
        self._burst = burst
        self._per_s = per_s
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._good: OrderedDict[bytes, None] = OrderedDict()

    def refuses(self, address: str, token: str) -> bool:
        """Say whether a token of this address is not even looked at."""
        return hashed(token) not in self._good and self._present(address) < 1

    def good(self, token: str) -> None:
        """Remember a token that was good."""
        key = hashed(token)
        self._good[key] = None
        self._good.move_to_end(key)
        if len(self._good) > _MAX_ADDRESSES:
            self._good.popitem(last=False)

    def bad(self, address: str, token: str) -> None:
        """Count a failure."""
        self._good.pop(hashed(token), None)
        key = _subscriber(address)
        self._left[key] = (max(self._present(address) - 1, 0.0), self._clock())
        self._left.move_to_end(key)
        if len(self._left) > _MAX_ADDRESSES:
            self._left.popitem(last=False)

    def _present(self, address: str) -> float:
        left, at = self._left.get(_subscriber(address), (float(self._burst), self._clock()))
        return min(left + (self._clock() - at) * self._per_s, float(self._burst))


def shown(request: Request) -> str:
    """Return the token of a request's header.

    Raises
    ------
    ProblemError
        401 where there is none that could be one, 429 where too many were wrong: whoever has none
        costs no connection to the database.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return looked_at(request, token.strip() if scheme.lower() == "bearer" else "")


def looked_at(request: Request, token: str) -> str:
    """Return a token that may be looked up.

    Raises
    ------
    ProblemError
        As `shown`.
    """
    failures: Failures = request.app.state.failures
    address = _address(request)
    if failures.refuses(address, token):
        raise ProblemError(429, "too many wrong tokens", headers={"Retry-After": "60"})
    if not is_token(token):
        if token:
            failures.bad(address, token)
        raise _unknown()
    return token


async def connection(
    request: Request, _token: Annotated[str, Depends(shown)]
) -> AsyncIterator[Connection]:
    """Lend a connection to a request, the same to everything that it asks."""
    async with request.app.state.pool.connection() as lent:
        yield lent


# It is given back before the answer is written: who reads slowly keeps nobody else waiting.
Database = Annotated[Connection, Depends(connection, scope="function")]


async def authenticated(request: Request, database: Connection, token: str) -> Caller:
    """Return whose token it is.

    Raises
    ------
    ProblemError
        401 where it is nobody's.
    """
    failures: Failures = request.app.state.failures
    caller = await find(database, token)
    if caller is None:
        failures.bad(_address(request), token)
        raise _unknown()
    failures.good(token)
    return caller


async def _caller(
    request: Request,
    scopes: SecurityScopes,
    database: Database,
    token: Annotated[str, Depends(shown)],
    # For the document: the header is read above, before a connection is taken.
    _bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
) -> Caller:
    return await _permitted(request, database, token, scopes.scopes)


async def _permitted(
    request: Request, database: Connection, token: str, roles: Iterable[str]
) -> Caller:
    caller = await authenticated(request, database, token)
    for role in roles:
        if not caller.may(role):  # type: ignore[arg-type] # a scope here is a role
            raise ProblemError(403, f"this needs the role {role}; {caller.name} is {caller.role}")
    request.state.caller = caller
    return caller


def at_least(role: Role) -> Any:
    """Return the dependency on a caller of a role."""
    return Security(_caller, scopes=[role])


Viewer = Annotated[Caller, at_least("viewer")]
Responder = Annotated[Caller, at_least("responder")]
Admin = Annotated[Caller, at_least("admin")]


class GuardedRoute(APIRoute):
    """An operation that says what is wrong with a request to none but those who may make it.

    The framework reads a body before it asks who is there, so that is asked here where it could
    not be read.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of requests."""
        handle = super().get_route_handler()
        roles = [
            role
            for one in self.dependant.dependencies
            if one.call is _caller
            for role in one.own_oauth_scopes or ()
        ]

        async def guarded(request: Request) -> Response:
            try:
                return await handle(request)
            except (RequestValidationError, HTTPException) as error:
                is_form = getattr(error, "status_code", None) in (None, HTTPStatus.BAD_REQUEST)
                if is_form and not hasattr(request.state, "caller"):
                    token = shown(request)
                    async with request.app.state.pool.connection() as lent:
                        await _permitted(request, lent, token, roles)
                raise

        return guarded


def _unknown() -> ProblemError:
    headers = {"WWW-Authenticate": "Bearer"}
    return ProblemError(401, "a valid token is needed", headers=headers)


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _subscriber(address: str) -> str:
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(int(parsed) >> _SUBSCRIBER_BITS)
    return address
