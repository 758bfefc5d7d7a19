"""Put folder, datasource and dashboard into a running Grafana, as often as one likes.

This is the one place that knows grafana-api-client, and its ways: a request builder changes as it
is used, so each request starts a new one; it reads an empty answer as broken JSON; it sets no
timeout; a status it has no class for is told in the message alone.
"""

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg
import requests
from grafana_api_client import (
    GrafanaClient,
    GrafanaClientError,
    GrafanaServerError,
    GrafanaUnauthorizedError,
)
from psycopg.conninfo import conninfo_to_dict

from dashboards.grafana import (
    DASHBOARD_UID,
    DATASOURCE_NAME,
    DATASOURCE_TYPE,
    DATASOURCE_UID,
    FOLDER_TITLE,
    FOLDER_UID,
    MAX_CONNECTIONS,
    overview,
)

# To connect, and between two bytes of an answer.
TIMEOUT_S: Final = (5.0, 15.0)
_ABSENT: Final = "404"
_FORBIDDEN: Final = "403"


class PushError(Exception):
    """Grafana did not take what was pushed; the message says why, and what to do."""


def push(url: str, token: str | None, *, dsn: str | None = None) -> str:
    """Create or update folder, datasource and dashboard, and return the dashboard's address.

    Parameters
    ----------
    url : str
        Where Grafana is, like ``http://127.0.0.1:3000``.
    token : str or None
        A service account's token with the role Admin.
    dsn : str, optional
        The database as Grafana shall reach it, best with a role that can only read. Without it
        the datasource must be there already, by provisioning or an earlier push.

    Raises
    ------
    PushError
        If Grafana cannot be reached, refuses, or answers what cannot be understood.
    """
    if not token:
        raise PushError("no Grafana token: set grafana.token or grafana.token_file")
    client = _client(url, token)
    try:
        _put_folder(client)
        _put_datasource(client, dsn)
        answer = _ask(
            client,
            "post",
            "dashboards/db",
            {
                "dashboard": overview() | {"id": None},
                "folderUid": FOLDER_UID,
                "message": "citywatch dashboards push",
                "overwrite": True,
            },
        )
    finally:
        client.session.close()
    path = answer.get("url") if isinstance(answer, dict) else None
    parts = urlsplit(url)
    # Grafana's own path, where it says one, already holds the prefix it is served under.
    root = f"{parts.scheme}://{parts.netloc}"
    return f"{root}{path}" if path else f"{url.rstrip('/')}/d/{DASHBOARD_UID}"


def _client(url: str, token: str) -> GrafanaClient:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise PushError(f"grafana.url: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PushError(f"grafana.url: expected http(s)://host[:port], got {url!r}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    client = GrafanaClient(
        token,
        host=host,
        port=port,
        url_path_prefix=parts.path.strip("/"),
        protocol=parts.scheme,
    )
    # A redirect would turn a POST into a GET, and could carry the token elsewhere.
    client.custom_requests_params = {"timeout": TIMEOUT_S, "allow_redirects": False}
    return client


def _put_folder(client: GrafanaClient) -> None:
    if _found(client, f"folders/{FOLDER_UID}") is None:
        _ask(client, "post", "folders", {"uid": FOLDER_UID, "title": FOLDER_TITLE})


def _put_datasource(client: GrafanaClient, dsn: str | None) -> None:
    place = f"datasources/uid/{DATASOURCE_UID}"
    found = _found(client, place)
    if dsn is None:
        if found is None:
            raise PushError(
                f"Grafana has no datasource {DATASOURCE_UID!r}: provision it, or push with a dsn"
            )
    elif found is None:
        _ask(client, "post", "datasources", _datasource(dsn))
    elif found.get("readOnly"):
        return  # provisioned from a file, which Grafana lets nobody change
    else:
        _ask(client, "put", place, _datasource(dsn))


def _datasource(dsn: str) -> dict[str, Any]:
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        # The error's own text may repeat the dsn, and with it the password.
        raise PushError("the dsn of Grafana's datasource cannot be read") from error
    return {
        "uid": DATASOURCE_UID,
        "name": DATASOURCE_NAME,
        "type": DATASOURCE_TYPE,
        "access": "proxy",
        "url": f"{parts.get('host', '127.0.0.1')}:{parts.get('port', 5432)}",
        "user": parts.get("user", ""),
        "jsonData": {
            "database": parts.get("dbname", "citywatch"),
            "sslmode": parts.get("sslmode", "disable"),
            "postgresVersion": 1500,
            "timescaledb": False,
            "maxOpenConns": MAX_CONNECTIONS,
            "maxIdleConns": 2,
        },
        "secureJsonData": {"password": parts.get("password", "")},
    }


def _found(client: GrafanaClient, path: str) -> dict[str, Any] | None:
    answer = _ask(client, "get", path, {}, absent_is_none=True)
    return answer if isinstance(answer, dict) else None


def _ask(
    client: GrafanaClient,
    method: str,
    path: str,
    payload: dict[str, Any],
    *,
    absent_is_none: bool = False,
) -> Any:
    request: Callable[..., Any] = client.make_raw_request
    try:
        return request(method, path, payload)
    except GrafanaClientError as error:
        if absent_is_none and _status(error) == _ABSENT:
            return None
        raise _refusal(error, f"{method.upper()} {path}") from error
    except GrafanaServerError as error:
        raise PushError(f"Grafana failed at {method.upper()} {path}: {error}") from error
    except requests.exceptions.JSONDecodeError as error:
        if error.doc == "":  # an empty answer is a plain yes
            return None
        raise PushError(f"{client.url_host} does not answer as Grafana does") from error
    except requests.RequestException as error:
        late = isinstance(error, requests.Timeout)
        why = "does not answer in time" if late else f"cannot be reached ({type(error).__name__})"
        raise PushError(f"Grafana at {client.url_host} {why}") from error


def _refusal(error: GrafanaClientError, request: str) -> PushError:
    if isinstance(error, GrafanaUnauthorizedError):
        return PushError("Grafana does not know the token (401): is it one of this Grafana?")
    if _status(error) == _FORBIDDEN:
        return PushError("the token may not do this (403): its account needs the role Admin")
    return PushError(f"Grafana refused {request}: {error}")


def _status(error: GrafanaClientError) -> str:
    """Return the status from "Client Error 404: ...", the only place the client keeps it."""
    return str(error).removeprefix("Client Error ")[:3]
