"""Settings: one typed, frozen object, read once at the edge and handed down.

A TOML file comes first, `CITYWATCH_<SECTION>__<KEY>` from the environment overrides it, and every
wrong key is reported at once with what was expected. In the environment a list is written with
commas. Passwords come from the environment or from files named by `*_file`; they are never shown.
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from ingest.topics import NAMESPACE_PATTERN, is_level

PREFIX = "CITYWATCH_"
_MAX_FILE_BYTES = 1 << 20
# Each is a line in the broker's ACL that somebody writes by hand.
_MAX_GATEWAYS = 1000
# storage.upkeep.LEAST_KEPT_DAYS, which a test holds it against: settings import no room but ingest.
_LEAST_KEPT_DAYS = 6
# Whose limits there are: detectors.exceedance.STANDARDS, which a test holds it against.
_LIMITS = Literal["EU 2008/50/EC", "EU 2024/2881", "WHO 2021"]
# All of them are asked for at every new series of a partition.
_MAX_GROUPS = 1000
_MAX_HOLIDAYS = 1000
# What pydantic puts before the message of a validator.
_OWN_MESSAGE = "Value error, "

Port = Annotated[int, Field(ge=1, le=65535)]
OptionalPort = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Decibels = Annotated[float, Field(ge=0, le=140)]
# 0 is for ever.
Days = Annotated[int, Field(ge=0, le=36_500)]


class SettingsError(Exception):
    """Settings that cannot be used; the message lists every fault, a line each."""


def _level(text: str) -> str:
    if not is_level(text):
        raise ValueError("an id that can stand as one level of an MQTT topic is expected")
    return text


def _listed(value: Any) -> Any:
    """Return what the environment writes with commas as a list, anything else as it is."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",")] if value.strip() else []


Ids = Annotated[
    tuple[Annotated[str, AfterValidator(_level)], ...],
    BeforeValidator(_listed),
    Field(max_length=_MAX_GATEWAYS),
]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MqttSettings(_Section):
    """The MQTT broker that sensors publish to."""

    host: str = "127.0.0.1"
    port: Port = 1883
    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    tls: bool = False
    # Who vouches for the broker; without it whoever this machine trusts.
    ca_file: Path | None = None
    # Where the broker asks its clients for certificates; the key has no passphrase.
    certificate_file: Path | None = None
    key_file: Annotated[Path | None, Field(validate_default=True)] = None

    # On the fields, not on the whole: a check of the whole is not made where a field is wrong,
    # and its fault would come to light only when the others are mended.
    @field_validator("ca_file", "certificate_file", "key_file")
    @classmethod
    def _only_with_tls(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls") is False:
            raise ValueError("given, but mqtt.tls is false")
        return value

    @field_validator("key_file")
    @classmethod
    def _both_or_neither(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        # The certificate is not there where it is itself a fault.
        certificate = info.data.get("certificate_file", value)
        if value is None and certificate is not None:
            raise ValueError("missing: mqtt.certificate_file needs its key")
        if value is not None and certificate is None:
            raise ValueError("given without mqtt.certificate_file")
        return value


class KafkaSettings(_Section):
    """The Kafka cluster between ingest and streams."""

    bootstrap: str = "127.0.0.1:9092"
    partitions: Annotated[int, Field(ge=1, le=1024)] = 4
    replication_factor: Annotated[int, Field(ge=1, le=7)] = 1
    # The broker drops what a retry sends twice. False for a broker that cannot.
    idempotence: bool = True
    # Names the incarnation of the topics. Change it when they were deleted and made again:
    # positions in the log that is gone then count no more.
    log_id: str = "1"


class DatabaseSettings(_Section):
    """TimescaleDB or PostgreSQL."""

    dsn: SecretStr = SecretStr("postgresql://citywatch@127.0.0.1:5432/citywatch")
    password_file: Path | None = None

    # Otherwise the end of the password would be the name of a host that no log can do without.
    @field_validator("dsn")
    @classmethod
    def _one_at_sign(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if "://" in text and text.partition("?")[0].count("@") > 1:
            raise ValueError("an @ of the user or the password is written as %40")
        return value


class RetentionSettings(_Section):
    """How long things are kept. `citywatch db migrate` and `citywatch db expire` read it."""

    # A chunk of a day goes into TimescaleDB's columnstore; it can still be written to.
    columnstore_after_days: Annotated[int, Field(ge=1, le=36_500)] = 7
    readings_days: Days = 90
    # The levels that charts of long windows are drawn from; they outlive the readings.
    minutes_days: Days = 400
    quarter_hours_days: Days = 1_830
    days_days: Days = 0
    # What dead letters hold of their messages; the letters are kept with the ledger.
    payloads_days: Days = 30
    ledger_days: Days = 800
    # From the end of an alert on: its pages; the alert, with its transitions.
    pages_days: Days = 400
    alerts_days: Days = 1_830

    @field_validator("readings_days", "minutes_days", "quarter_hours_days")
    @classmethod
    def _beyond_a_refresh(cls, value: int) -> int:
        # What is gone must never be looked at again to fill the next level: it would be emptied.
        if 0 < value < _LEAST_KEPT_DAYS:
            raise ValueError(f"0, which is for ever, or at least {_LEAST_KEPT_DAYS} is expected")
        return value


class BridgeSettings(_Section):
    """The bridge from MQTT to Kafka."""

    # Stable: the broker keeps the session of unacknowledged messages under it.
    client_id: Annotated[str, Field(min_length=1, max_length=64)] = "bridge-1"
    # Set it, alike, where several bridges split the load; one bridge alone is safer without:
    # Mosquitto before 2.0.12 loses what arrives for a group none of whose members is connected.
    share_group: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,40}$")] | None = None
    # Messages that wait in the bridge at most: the backpressure, and the bound on memory.
    receive_maximum: Annotated[int, Field(ge=1, le=65_535)] = 5_000
    session_expiry_s: Annotated[int, Field(ge=0)] = 86_400
    flush_interval_s: Seconds = 0.05
    max_batch_rows: Count = 5_000
    max_payload_bytes: Count = 262_144
    # Ids of devices that may speak for every sensor of the zone they publish in; all others speak
    # for themselves. The broker's ACL keeps each to its zone.
    gateways: Ids = ()
    # A sensor's clock that is off by more is reported.
    clock_ahead_s: Seconds = 5.0
    clock_behind_s: Seconds = 900.0
    # Older readings are refused: each foreign day would make a chunk of its own in the database.
    max_age_days: Annotated[int, Field(ge=1, le=3650)] = 31


class WorkerSettings(_Section):
    """The stream worker."""

    flush_interval_s: Seconds = 0.2
    max_flush_rows: Count = 20_000
    # Readings held while the database is away; beyond it the consumer pauses.
    max_pending_rows: Count = 200_000
    state_interval_s: Seconds = 10.0
    # Without progress for longer the process ends, to be started again. More than what the database
    # allows a statement (60 s) and a lock (20 s); a database that is away does not count.
    stall_after_s: Annotated[float, Field(ge=10, le=86_400)] = 180.0
    # Where /metrics, /healthz and /readyz are; port 0: nowhere. A port for each worker of a host.
    metrics_host: str = "127.0.0.1"
    metrics_port: OptionalPort = 9471


class CitySettings(_Section):
    """What of a city cannot be read off its sensors."""

    # Of the IANA database, like "Europe/Madrid": for days, evenings and nights.
    time_zone: str = "UTC"
    # Both agencies have changed their bands; without a year it is the version in force.
    air_quality_index: Literal["EU", "EU before 2024", "US", "US 2018"] = "EU"
    limits: _LIMITS = "EU 2008/50/EC"
    # Local days that are as Sundays.
    holidays: Annotated[
        tuple[date, ...], BeforeValidator(_listed), Field(max_length=_MAX_HOLIDAYS)
    ] = ()
    # Limits of noise are national; without them noise is not judged.
    noise_day_db: Decibels | None = None
    noise_evening_db: Decibels | None = None
    noise_night_db: Decibels | None = None

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            return value if value == "UTC" else ZoneInfo(value).key
        # OSError: the name of a folder, ValueError: no name at all.
        except (KeyError, OSError, ValueError) as error:
            raise ValueError("a time zone that this host knows is expected") from error


class GroupSettings(_Section):
    """Sensors that belong together: their readings go to one partition."""

    kind: Literal["road", "place", "neighbours"]
    # Of a road its stations, in the direction of traffic.
    sensors: Annotated[Ids, Field(min_length=1)]
    # Of a road: how fast one drives when it is empty, or, where it has no signals, the length of a
    # vehicle and of what a station sees of the road.
    free_flow_kmh: Annotated[float, Field(gt=0, le=300)] | None = None
    seen_length_m: Annotated[float, Field(gt=0, le=100)] | None = None
    # What each camera of it sees of the ground.
    area_m2: Annotated[float, Field(gt=0, le=1e6)] | None = None

    @field_validator("sensors")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a sensor stands in it twice")
        return value


class PagerSettings(_Section):
    """The pager."""

    # Whom it tells, when and by what; without it everything goes to the webhook.
    routes_file: Path | None = None
    webhook_url: Annotated[str, Field(pattern="^https?://.")] | None = None
    webhook_timeout_s: Seconds = 5.0
    poll_interval_s: Seconds = 1.0
    batch: Annotated[int, Field(ge=1, le=1000)] = 50
    lease_s: Seconds = 30.0
    # With the back-off below: a hook may be away for a working day, where its terms allow it.
    max_attempts: Annotated[int, Field(ge=1, le=10_000)] = 1000
    backoff_base_s: Seconds = 0.5
    backoff_cap_s: Seconds = 60.0
    # As of a worker.
    metrics_host: str = "127.0.0.1"
    metrics_port: OptionalPort = 9481


class ConsoleSettings(_Section):
    """The page for operators."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    # A tile server of the city's own, like "https://tiles.example/{z}/{x}/{y}.png"; none by
    # default, because the page loads nothing from elsewhere.
    tile_url: str | None = None


class ApiSettings(_Section):
    """The API for people on duty and their tools: where it listens, and what speaks to it."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8081
    # Of `citywatch alerts`, `silence`, `maintenance`, `oncall`, `duty` and `pager explain`.
    url: Annotated[str, Field(pattern="^https?://.")] = "http://127.0.0.1:8081"
    token: SecretStr | None = None
    token_file: Path | None = None


class GrafanaSettings(_Section):
    """The Grafana that dashboards are pushed to."""

    url: str = "http://127.0.0.1:3000"
    token: SecretStr | None = None
    token_file: Path | None = None
    # What a pushed datasource connects with: a role that may only read. None leaves the
    # datasource to Grafana's provisioning.
    database_dsn: SecretStr | None = None


class Settings(_Section):
    """Everything that can be set."""

    namespace: Annotated[str, Field(pattern=f"^{NAMESPACE_PATTERN}$")] = "live"
    mqtt: MqttSettings = MqttSettings()
    kafka: KafkaSettings = KafkaSettings()
    database: DatabaseSettings = DatabaseSettings()
    retention: RetentionSettings = RetentionSettings()
    bridge: BridgeSettings = BridgeSettings()
    worker: WorkerSettings = WorkerSettings()
    city: CitySettings = CitySettings()
    groups: Annotated[
        dict[Annotated[str, AfterValidator(_level)], GroupSettings], Field(max_length=_MAX_GROUPS)
    ] = {}
    pager: PagerSettings = PagerSettings()
    console: ConsoleSettings = ConsoleSettings()
    api: ApiSettings = ApiSettings()
    grafana: GrafanaSettings = GrafanaSettings()

    @field_validator("groups")
    @classmethod
    def _in_one_group(cls, value: dict[str, GroupSettings]) -> dict[str, GroupSettings]:
        seen: dict[str, str] = {}
        for name, group in value.items():
            for sensor in group.sensors:
                if seen.setdefault(sensor, name) != name:
                    raise ValueError(f"{sensor} stands in {seen[sensor]} and in {name}")
        return value


def read_settings(file: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from a TOML file, if one is given, and the environment.

    Raises
    ------
    SettingsError
        If the file cannot be read, or any key or value is wrong; all faults are listed.
    """
    values = _read_file(file) if file else {}
    faults = list(_drop_valued_sections(values))
    for name, path, text in _environment_keys(environment):
        if fault := _put(values, path, text):
            faults.append(f"{name}: {fault}")
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        faults.extend(_describe(error))
    if faults:
        raise SettingsError("\n".join(faults))
    return settings


def secret(value: SecretStr | None, file: Path | None) -> str | None:
    """Return a secret given directly or by file.

    Raises
    ------
    SettingsError
        If the file cannot be read.
    """
    if file is None:
        return value.get_secret_value() if value is not None else None
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from error


def _read_file(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            text = stream.read(_MAX_FILE_BYTES + 1)
        if len(text) > _MAX_FILE_BYTES:
            raise SettingsError(f"{file}: larger than {_MAX_FILE_BYTES} bytes")
        return tomllib.loads(text.decode())
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{file}: {error}") from error


def _environment_keys(environment: Mapping[str, str]) -> Iterator[tuple[str, list[str], str]]:
    for name, text in sorted(environment.items()):
        # CITYWATCH_SETTINGS names the file; the command line reads it.
        if name.startswith(PREFIX) and name != f"{PREFIX}SETTINGS":
            yield name, name.removeprefix(PREFIX).lower().split("__"), text


def _drop_valued_sections(values: dict[str, Any]) -> Iterator[str]:
    """Take out sections that are given as values, a fault each; they would hide their keys'."""
    for name in [name for name in values if _is_section(Settings, name)]:
        if not isinstance(values[name], dict):
            del values[name]
            yield f"{name}: a section is expected, [{name}]"


def _is_section(model: type[BaseModel], name: str) -> bool:
    field = model.model_fields.get(name)
    return field is not None and isinstance(field.default, BaseModel)


def _put(values: dict[str, Any], path: list[str], text: str) -> str | None:
    """Set one key of the environment; return what is wrong with it where it cannot be set."""
    model: type[BaseModel] = Settings
    section = values
    for part in path[:-1]:
        if not _is_section(model, part):
            return "no such setting"
        model = type(model.model_fields[part].default)
        section = section.setdefault(part, {})
    if path[-1] not in model.model_fields:
        return "no such setting"
    if _is_section(model, path[-1]):
        return "a section; its keys are set by names that go on with __<KEY>"
    section[path[-1]] = text
    return None


def _describe(error: ValidationError) -> Iterator[str]:
    for fault in error.errors(include_url=False, include_input=False):
        place = ".".join(map(str, fault["loc"]))
        message = fault["msg"].removeprefix(_OWN_MESSAGE)
        if fault["type"] == "extra_forbidden":
            message = "no such setting"
        yield f"{place}: {message}"
