"""From settings to what each room wants to be told."""

from psycopg.conninfo import make_conninfo

from citywatch.settings import Settings, secret
from ingest.bridge import BridgeConfig
from ingest.mqtt import MqttConfig
from ingest.topics import mqtt_filter
from paging.pager import PagerConfig
from streams.worker import WorkerConfig


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


def bridge_config(settings: Settings) -> BridgeConfig:
    """Return what the bridge wants to know."""
    mqtt, bridge, kafka = settings.mqtt, settings.bridge, settings.kafka
    return BridgeConfig(
        namespace=settings.namespace,
        mqtt=MqttConfig(
            host=mqtt.host,
            port=mqtt.port,
            filter=mqtt_filter(settings.namespace),
            client_id=bridge.client_id,
            share_group=f"{bridge.share_group}-{settings.namespace}"
            if bridge.share_group
            else None,
            receive_maximum=bridge.receive_maximum,
            session_expiry_s=bridge.session_expiry_s,
            username=mqtt.username,
            password=secret(mqtt.password, mqtt.password_file),
        ),
        bootstrap=kafka.bootstrap,
        partitions=kafka.partitions,
        replication_factor=kafka.replication_factor,
        flush_interval_s=bridge.flush_interval_s,
        max_batch_rows=bridge.max_batch_rows,
        max_payload_bytes=bridge.max_payload_bytes,
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
    )


def pager_config(settings: Settings) -> PagerConfig:
    """Return what the pager wants to know."""
    return PagerConfig(**settings.pager.model_dump())
