from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from citywatch.settings import Settings, SettingsError, read_settings, secret
from citywatch.wiring import bridge_config, worker_config
from detectors.exceedance import STANDARDS
from storage.upkeep import LEAST_KEPT_DAYS


def write(folder: Path, text: str) -> Path:
    file = folder / "citywatch.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_defaults_bind_and_reach_this_machine_only() -> None:
    settings = read_settings(None, {})

    assert settings.namespace == "live"
    assert settings.mqtt.host == settings.console.host == "127.0.0.1"
    assert settings.kafka.bootstrap.startswith("127.0.0.1:")


def test_environment_overrides_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, '[mqtt]\nhost = "broker"\nport = 1884\n')

    settings = read_settings(file, {"CITYWATCH_MQTT__PORT": "1885", "PATH": "/bin"})

    assert (settings.mqtt.host, settings.mqtt.port) == ("broker", 1885)


def test_every_fault_is_reported_at_once(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        'namespace = "Live!"\nshoes = 1\n[mqtt]\nport = 70000\ncolour = "red"\n',
    )
    environment = {
        "CITYWATCH_KAFKA__PARTITIONS": "many",
        "CITYWATCH_KAFKA__PARTITION": "4",
        "CITYWATCH_WORKERS__X": "1",
    }

    with pytest.raises(SettingsError) as caught:
        read_settings(file, environment)

    lines = str(caught.value).splitlines()
    for start in (
        "namespace: ",
        "shoes: no such setting",
        "mqtt.port: ",
        "mqtt.colour: no such setting",
        "kafka.partitions: ",
        "CITYWATCH_KAFKA__PARTITION: no such setting",
        "CITYWATCH_WORKERS__X: no such setting",
    ):
        assert sum(line.startswith(start) for line in lines) == 1, (start, lines)
    assert len(lines) == 7


def test_a_section_that_is_no_table_is_a_fault_not_a_crash(tmp_path: Path) -> None:
    file = write(tmp_path, "mqtt = 5\n")

    with pytest.raises(SettingsError, match="mqtt: a section is expected"):
        read_settings(file, {"CITYWATCH_MQTT__PORT": "1883"})


def faults(file: Path | None, environment: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read_settings(file, environment)
    return str(caught.value).splitlines()


def test_a_section_given_as_a_value_hides_no_other_fault(tmp_path: Path) -> None:
    file = write(tmp_path, 'kafka = "no"\n[mqtt]\ncolour = "red"\n')
    environment = {
        "CITYWATCH_KAFKA__PARTITION": "4",
        "CITYWATCH_KAFKA__PARTITIONS": "many",
        "CITYWATCH_MQTT": "5",
        "CITYWATCH_MQTT__PORT": "0",
        "CITYWATCH_MQTT__PROT": "1883",
    }

    lines = faults(file, environment)

    starts = [
        "kafka: a section is expected",
        "CITYWATCH_KAFKA__PARTITION: no such setting",
        "CITYWATCH_MQTT: a section",
        "CITYWATCH_MQTT__PROT: no such setting",
        "mqtt.port: ",
        "mqtt.colour: no such setting",
        "kafka.partitions: ",
    ]
    assert len(lines) == len(starts), lines
    assert all(any(line.startswith(start) for line in lines) for start in starts), lines


def test_tls_needs_nothing_else() -> None:
    mqtt = read_settings(None, {"CITYWATCH_MQTT__TLS": "true"}).mqtt
    assert (mqtt.tls, mqtt.ca_file, mqtt.certificate_file, mqtt.key_file) == (True, *[None] * 3)


def test_a_certificate_comes_with_its_key(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        '[mqtt]\ntls = true\nca_file = "ca"\ncertificate_file = "crt"\nkey_file = "key"\n',
    )
    mqtt = read_settings(file, {}).mqtt
    assert (mqtt.ca_file, mqtt.certificate_file, mqtt.key_file) == (
        Path("ca"),
        Path("crt"),
        Path("key"),
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            'tls = true\ncertificate_file = "crt"',
            ["mqtt.key_file: missing: mqtt.certificate_file needs its key"],
        ),
        (
            'tls = true\nkey_file = "key"',
            ["mqtt.key_file: given without mqtt.certificate_file"],
        ),
        ('ca_file = "ca"', ["mqtt.ca_file: given, but mqtt.tls is false"]),
        (
            'ca_file = "ca"\ncertificate_file = "crt"\nkey_file = "key"',
            [
                "mqtt.ca_file: given, but mqtt.tls is false",
                "mqtt.certificate_file: given, but mqtt.tls is false",
                "mqtt.key_file: given, but mqtt.tls is false",
            ],
        ),
        # One fault, not a second that is only its consequence.
        ('certificate_file = "crt"', ["mqtt.certificate_file: given, but mqtt.tls is false"]),
    ],
)
def test_files_for_tls_that_do_not_fit_are_named(
    tmp_path: Path, given: str, expected: list[str]
) -> None:
    assert faults(write(tmp_path, f"[mqtt]\n{given}\n"), {}) == expected


def test_files_for_tls_that_do_not_fit_are_named_beside_other_faults(tmp_path: Path) -> None:
    file = write(tmp_path, '[mqtt]\nport = 0\ntls = true\ncertificate_file = "crt"\n')
    lines = faults(file, {})
    assert [line.partition(":")[0] for line in lines] == ["mqtt.port", "mqtt.key_file"]


def test_gateways_are_a_list_in_the_file_and_have_commas_in_the_environment(
    tmp_path: Path,
) -> None:
    file = write(tmp_path, '[bridge]\ngateways = ["urn:dev:mac:01", "gateway-north"]\n')
    name = "CITYWATCH_BRIDGE__GATEWAYS"
    assert read_settings(file, {}).bridge.gateways == ("urn:dev:mac:01", "gateway-north")
    assert read_settings(file, {name: "a, b"}).bridge.gateways == ("a", "b")
    assert read_settings(file, {name: ""}).bridge.gateways == ()


@pytest.mark.parametrize("text", ["gateway/north", "a,", "gateway+", "#", "a,b c", '["a"]'])
def test_a_gateway_is_one_level_of_a_topic(text: str) -> None:
    lines = faults(None, {"CITYWATCH_BRIDGE__GATEWAYS": text})
    assert all(line.startswith("bridge.gateways.") for line in lines), lines
    assert "one level of an MQTT topic" in lines[0]


def test_gateways_are_bounded() -> None:
    many = ",".join(f"g{number}" for number in range(1001))
    (line,) = faults(None, {"CITYWATCH_BRIDGE__GATEWAYS": many})
    assert line.startswith("bridge.gateways: ")


@pytest.mark.parametrize(
    ("name", "default", "least", "most", "wrong"),
    [
        ("clock_ahead_s", 5.0, "0.001", "86400", ["0", "-1", "86401", "nan", "inf", "soon"]),
        ("clock_behind_s", 900.0, "0.001", "86400", ["0", "-1", "86401", "nan", "inf"]),
        ("max_age_days", 31, "1", "3650", ["0", "3651", "1.5", "month"]),
    ],
)
def test_bounds_of_what_the_bridge_takes(
    name: str, default: float, least: str, most: str, wrong: list[str]
) -> None:
    key = f"CITYWATCH_BRIDGE__{name.upper()}"
    assert getattr(Settings().bridge, name) == default
    for text in (least, most):
        assert getattr(read_settings(None, {key: text}).bridge, name) == float(text)
    for text in wrong:
        (line,) = faults(None, {key: text})
        assert line.startswith(f"bridge.{name}: "), (text, line)


@pytest.mark.parametrize("name", ["readings_days", "minutes_days", "quarter_hours_days"])
def test_what_a_level_is_made_of_is_kept_long_enough_to_fill_it(name: str) -> None:
    key = f"CITYWATCH_RETENTION__{name.upper()}"
    for text in ("0", str(LEAST_KEPT_DAYS), "36500"):
        assert getattr(read_settings(None, {key: text}).retention, name) == int(text)
    for text in ("-1", "1", str(LEAST_KEPT_DAYS - 1), "36501", "1.5"):
        (line,) = faults(None, {key: text})
        assert line.startswith(f"retention.{name}: "), (text, line)


@pytest.mark.parametrize("limits", list(STANDARDS))
def test_every_standard_can_be_set(tmp_path: Path, limits: str) -> None:
    file = write(tmp_path, f'[city]\nlimits = "{limits}"\ntime_zone = "Europe/Madrid"\n')
    settings = read_settings(file, {"CITYWATCH_CITY__NOISE_NIGHT_DB": "55"})
    facts = worker_config(settings).facts
    assert (facts.limits, facts.noise_limits_db) == (limits, (None, None, 55.0))
    assert str(facts.zone()) == "Europe/Madrid"


@pytest.mark.parametrize("zone", ["Atlantis", "", "../etc", "Europe"])
def test_a_time_zone_that_is_not_there_is_a_fault(tmp_path: Path, zone: str) -> None:
    with pytest.raises(SettingsError, match=r"city\.time_zone: a time zone that this host knows"):
        read_settings(write(tmp_path, f'[city]\ntime_zone = "{zone}"\n'), {})


GROUPS = """
[groups.ring]
kind = "road"
sensors = ["a", "b"]
free_flow_kmh = 100.0
[groups.market]
kind = "place"
sensors = ["c"]
area_m2 = 250.0
"""


def test_bridge_and_worker_are_told_of_groups(tmp_path: Path) -> None:
    settings = read_settings(write(tmp_path, GROUPS), {})
    assert bridge_config(settings).assembly.groups == {"a": "ring", "b": "ring", "c": "market"}
    groups = worker_config(settings).facts.groups
    assert (groups["ring"].sensors, groups["ring"].kind) == (("a", "b"), "road")
    assert (groups["ring"].free_flow_kmh, groups["market"].area_m2) == (100.0, 250.0)


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ('["c"]', '["a"]', "groups: a stands in ring and in market"),
        ('["a", "b"]', '["a", "a"]', "groups.ring.sensors: a sensor stands in it twice"),
        ('["a", "b"]', "[]", "groups.ring.sensors: "),
        ('["a", "b"]', '["a/b"]', "groups.ring.sensors.0: an id that can stand as one level"),
        ('"road"', '"street"', "groups.ring.kind: "),
        ("100.0", "0", "groups.ring.free_flow_kmh: "),
        ("groups.ring", 'groups."a b"', "groups.a b.[key]: an id that can stand as one level"),
    ],
)
def test_groups_that_make_no_sense_are_faults(
    tmp_path: Path, right: str, wrong: str, told: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(write(tmp_path, GROUPS.replace(right, wrong)), {})
    assert str(caught.value).startswith(told)


def test_idempotence_is_on_unless_it_is_switched_off() -> None:
    name = "CITYWATCH_KAFKA__IDEMPOTENCE"
    assert Settings().kafka.idempotence is True
    assert read_settings(None, {name: "false"}).kafka.idempotence is False
    (line,) = faults(None, {name: "sometimes"})
    assert line.startswith("kafka.idempotence: ")


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"[mqtt\n", "Expected"), (b"\xff\xfe", "decode"), (b"#" * (1 << 20) + b"##", "larger")],
)
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content)

    with pytest.raises(SettingsError, match=told) as caught:
        read_settings(file, {})
    assert "bad.toml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml: No such file"):
        read_settings(tmp_path / "absent.toml", {})


def test_secrets_are_not_shown_and_not_in_faults() -> None:
    environment = {
        "CITYWATCH_MQTT__PASSWORD": "hunter2",
        "CITYWATCH_DATABASE__DSN": "postgresql://u:hunter2@h/d",
        "CITYWATCH_MQTT__PORT": "hunter2",
    }

    with pytest.raises(SettingsError) as caught:
        read_settings(None, environment)
    del environment["CITYWATCH_MQTT__PORT"]

    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(read_settings(None, environment))


def test_a_password_that_would_become_a_host_is_a_fault() -> None:
    """Nobody could reach that host, and the log would say so."""
    for dsn, is_good in {
        "postgresql://u:hunt@er2@h/d": False,
        "postgresql://u:hunt@er/2@h/d": False,
        "postgresql://u:hunt%40er2@h/d?application_name=a@b": True,
        "host=h user=u password=hunt@er2@": True,
    }.items():
        environment = {"CITYWATCH_DATABASE__DSN": dsn}
        if is_good:
            assert read_settings(None, environment).database.dsn.get_secret_value() == dsn
            continue
        with pytest.raises(SettingsError) as caught:
            read_settings(None, environment)
        assert str(caught.value).startswith("database.dsn: ")
        assert "er2" not in str(caught.value)


def test_a_secret_comes_from_its_file_without_the_line_end(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hunter2\n", encoding="utf-8")

    assert secret(SecretStr("other"), file) == "hunter2"
    assert secret(SecretStr("given"), None) == "given"
    with pytest.raises(SettingsError, match="No such file"):
        secret(None, tmp_path / "absent")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().mqtt.port = 1


def test_no_two_namespaces_share_a_session_of_the_mqtt_broker() -> None:
    live, replay = (
        bridge_config(read_settings(None, {"CITYWATCH_NAMESPACE": namespace})).mqtt.client_id
        for namespace in ("live", "replay-a")
    )
    assert live != replay


def test_a_bridge_vouches_for_the_time_of_the_live_city_alone() -> None:
    live, replay = (
        bridge_config(read_settings(None, {"CITYWATCH_NAMESPACE": namespace})).vouch_interval_s
        for namespace in ("live", "replay-a")
    )
    assert (live, replay) == (10.0, None)
