"""From settings to what each room wants to be told."""

from psycopg.conninfo import make_conninfo

from citywatch.settings import Settings, SettingsError, secret
from ingest.assembly import AssemblyConfig
from ingest.bridge import BridgeConfig
from ingest.message import Acceptance
from ingest.mqtt import MqttConfig, TlsFiles
from ingest.topics import LIVE, mqtt_filter
from paging.hooks.kinds import KINDS
from paging.pager import PagerConfig
from paging.renewal import RoutesFile
from paging.routes import Routes, RoutesError, read_routes, webhook_routes
from paging.sender import SenderConfig
from storage.expiry import Keep
from storage.upkeep import Upkeep
from streams.facts import CityFacts, Group
from streams.worker import WorkerConfig

_DAY_NS = 86_400 * 10**9
# How often a bridge that has nothing waiting says so to the workers. It keeps silent for two of
# these after it has connected: what the broker has kept for it must come first.
_VOUCH_INTERVAL_S = 10.0


def dsn(settings: Settings) -> str:
    """Return the connection string with its password.

    Raises
    ------
    SettingsError
        If the password file cannot be read.
    """
    text = settings.database.dsn.get_secret_value()
    password = secret(None, settings.database.password_file)
    return make_conninfo(text, password=password) if password else text


def upkeep(settings: Settings) -> Upkeep:
    """Return how the database is to be kept."""
    days = settings.retention
    return Upkeep(
        keep=Keep(
            readings=days.readings_days,
            payloads=days.payloads_days,
            ledger=days.ledger_days,
            pages=days.pages_days,
            alerts=days.alerts_days,
        ),
        minutes=days.minutes_days,
        quarter_hours=days.quarter_hours_days,
        days=days.days_days,
        compress=days.columnstore_after_days,
        reach=settings.bridge.max_age_days,
    )


def assembly_config(settings: Settings) -> AssemblyConfig:
    """Return how messages become records."""
    bridge = settings.bridge
    return AssemblyConfig(
        namespace=settings.namespace,
        bridge=bridge.client_id,
        partitions=settings.kafka.partitions,
        max_payload_bytes=bridge.max_payload_bytes,
        acceptance=Acceptance(
            gateways=frozenset(bridge.gateways), max_age_ns=bridge.max_age_days * _DAY_NS
        ),
        clock_ahead_ns=round(bridge.clock_ahead_s * 1e9),
        clock_behind_ns=round(bridge.clock_behind_s * 1e9),
        groups={
            sensor: name for name, group in settings.groups.items() for sensor in group.sensors
        },
    )


def tls_files(settings: Settings) -> TlsFiles | None:
    """Return the files for a TLS connection to the MQTT broker; None for a plain one."""
    mqtt = settings.mqtt
    if not mqtt.tls:
        return None
    return TlsFiles(mqtt.ca_file, mqtt.certificate_file, mqtt.key_file)


def bridge_config(settings: Settings) -> BridgeConfig:
    """Return what the bridge wants to know."""
    mqtt, bridge, kafka = settings.mqtt, settings.bridge, settings.kafka
    return BridgeConfig(
        assembly=assembly_config(settings),
        mqtt=MqttConfig(
            host=mqtt.host,
            port=mqtt.port,
            filter=mqtt_filter(settings.namespace),
            # A session belongs to one namespace: another's bridge must not be handed its messages.
            client_id=f"{bridge.client_id}.{settings.namespace}",
            share_group=f"{bridge.share_group}-{settings.namespace}"
            if bridge.share_group
            else None,
            receive_maximum=bridge.receive_maximum,
            session_expiry_s=bridge.session_expiry_s,
            username=mqtt.username,
            password=secret(mqtt.password, mqtt.password_file),
            tls=tls_files(settings),
        ),
        bootstrap=kafka.bootstrap,
        replication_factor=kafka.replication_factor,
        flush_interval_s=bridge.flush_interval_s,
        max_batch_rows=bridge.max_batch_rows,
        idempotence=kafka.idempotence,
        vouch_interval_s=_VOUCH_INTERVAL_S if settings.namespace == LIVE else None,
    )


def worker_config(settings: Settings) -> WorkerConfig:
    """Return what the worker wants to know."""
    worker = settings.worker
    return WorkerConfig(
        namespace=settings.namespace,
        flush_interval_s=worker.flush_interval_s,
        max_flush_rows=worker.max_flush_rows,
        max_pending_rows=worker.max_pending_rows,
        state_interval_s=worker.state_interval_s,
        facts=city_facts(settings),
    )


def city_facts(settings: Settings) -> CityFacts:
    """Return what the kernels of the minute stage must know of the city."""
    city = settings.city
    return CityFacts(
        time_zone=city.time_zone,
        air_quality_index=city.air_quality_index,
        limits=city.limits,
        noise_limits_db=(city.noise_day_db, city.noise_evening_db, city.noise_night_db),
        groups={
            name: Group(
                sensors=group.sensors,
                kind=group.kind,
                free_flow_kmh=group.free_flow_kmh,
                seen_length_m=group.seen_length_m,
                area_m2=group.area_m2,
            )
            for name, group in settings.groups.items()
        },
        holidays=city.holidays,
    )


def routes_file(settings: Settings) -> RoutesFile | None:
    """Return the pager's routes file, if it has one."""
    path = settings.pager.routes_file
    return None if path is None else RoutesFile(path, lambda text: read_routes(text, KINDS))


def pager_routes(settings: Settings, file: RoutesFile | None = None) -> Routes:
    """Return whom the pager tells.

    Parameters
    ----------
    settings : Settings
    file : RoutesFile, optional
        The one of the settings, by whoever looks at it again later.

    Raises
    ------
    SettingsError
        If the routes file cannot be read or is at fault, or there is neither it nor a webhook.
    """
    pager = settings.pager
    file = file or routes_file(settings)
    if file is None:
        if pager.webhook_url is None:
            raise SettingsError("pager: expected routes_file or webhook_url, or nobody is paged")
        return webhook_routes(pager.webhook_url, timeout_s=pager.webhook_timeout_s)
    try:
        return file.read()
    except RoutesError as error:
        raise SettingsError(str(error)) from error


def api_routes(settings: Settings, file: RoutesFile | None = None) -> Routes:
    """Return what the API tells of the duty: as the pager has it, or that there is nobody.

    `file` as for `pager_routes`.

    Raises
    ------
    SettingsError
        If the routes file cannot be read or is at fault.
    """
    pager = settings.pager
    if pager.routes_file is None and pager.webhook_url is None:
        return Routes(routes=(), policies={}, hooks={})
    return pager_routes(settings, file)


def pager_config(settings: Settings, file: RoutesFile | None = None) -> PagerConfig:
    """Return what the pager wants to know; `file` as for `pager_routes`.

    Raises
    ------
    SettingsError
        If there is nobody to page.
    ValueError
        If the routes are at fault.
    """
    bounds = settings.pager.model_dump(include=set(SenderConfig.__dataclass_fields__))
    return PagerConfig(routes=pager_routes(settings, file), sender=SenderConfig(**bounds))
