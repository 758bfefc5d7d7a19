from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from citywatch.settings import Settings, SettingsError, read_settings, secret


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

    with pytest.raises(SettingsError, match="mqtt: "):
        read_settings(file, {"CITYWATCH_MQTT__PORT": "1883"})


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
