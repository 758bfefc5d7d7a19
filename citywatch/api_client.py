"""The API as the command line speaks to it: one request, an answer or a reason."""

from collections.abc import Iterator
from typing import Any, Final

import requests

from citywatch.settings import ApiSettings, SettingsError, secret

# The API answers within its statement timeout, or that the database is away.
_TIMEOUT_S: Final = 20.0


class ApiError(Exception):
    """The API could not be asked, or refused; the message says why."""


class ApiClient:
    """Speaks to the API with the token of whoever runs the command.

    Raises
    ------
    SettingsError
        If there is no token.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self._url = settings.url.rstrip("/")
        token = secret(settings.token, settings.token_file)
        if not token:
            raise SettingsError("api.token or api.token_file: expected a token of the API")
        if not (token.isascii() and token.isprintable()):
            raise SettingsError("api.token or api.token_file: a token is letters, digits, _ and -")
        self._session = requests.Session()
        # Nothing of the environment or of ~/.netrc is to take the token's place.
        self._session.trust_env = False
        self._session.headers["Authorization"] = f"Bearer {token}"

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: dict[str, Any] | None = None,
    ) -> Any:
        """Return what the API answers.

        Raises
        ------
        ApiError
            If it does not answer, or refuses.
        """
        try:
            answer = self._session.request(
                method,
                f"{self._url}{path}",
                json=body,
                params=query,
                timeout=_TIMEOUT_S,
                # A token goes to nobody else.
                allow_redirects=False,
            )
            told = answer.json()
        except requests.RequestException as error:
            raise ApiError(f"{self._url} does not answer: {type(error).__name__}") from error
        if not answer.ok:
            raise ApiError(_reason(told, answer.status_code))
        return told

    def all(self, path: str, query: dict[str, Any], most: int) -> list[Any]:
        """Return up to so many entries of a list."""
        return [one for one, _ in zip(self._listed(path, query, most), range(most), strict=False)]

    def _listed(self, path: str, query: dict[str, Any], most: int) -> Iterator[Any]:
        after: dict[str, str] = {}
        while True:
            part = self.ask("GET", path, query={**query, **after, "limit": min(most, 200)})
            yield from part["items"]
            if part["next"] is None:
                return
            after = {"after": part["next"]}


def _reason(told: Any, status: int) -> str:
    if not isinstance(told, dict):
        return f"the API answers with status {status}"
    faults = [f"{one['where']}: {one['what']}" for one in told.get("errors") or ()]
    return "\n".join([str(told.get("detail") or told.get("title") or status), *faults])
