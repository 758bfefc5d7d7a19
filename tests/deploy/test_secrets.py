import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def make(repository: Path, tmp_path: Path) -> Path:
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("mosquitto_passwd is not installed (Debian: mosquitto)")
    subprocess.run([repository / "deploy/make-secrets", tmp_path / "secrets"], check=True)
    return tmp_path / "secrets"


def test_writes_every_secret_once(make: Path, repository: Path, compose: dict[str, Any]) -> None:
    before = {file.name: file.read_text(encoding="ascii") for file in make.iterdir()}
    assert set(before) == set(compose["secrets"])
    assert len(set(before.values())) == len(before)
    subprocess.run([repository / "deploy/make-secrets", make], check=True)
    assert {file.name: file.read_text(encoding="ascii") for file in make.iterdir()} == before


def test_folder_is_closed_and_files_are_readable_to_containers(make: Path) -> None:
    assert make.stat().st_mode & 0o777 == 0o700
    for file in make.iterdir():
        assert file.stat().st_mode & 0o444 == 0o444, file.name
        assert file.stat().st_mode & 0o133 == 0, file.name


def test_passwords_are_long_and_need_no_quotes(make: Path) -> None:
    for file in make.glob("*_password"):
        text = file.read_text(encoding="ascii")
        assert text.isalnum()
        assert len(text) == 64


def test_broker_file_holds_no_plain_password(make: Path) -> None:
    plain = (make / "mqtt_bridge_password").read_text(encoding="ascii")
    hashed = (make / "mosquitto_passwords").read_text(encoding="ascii")
    assert hashed.startswith("bridge:$")
    assert plain not in hashed


def test_starts_the_site_settings_from_the_example(make: Path, repository: Path) -> None:
    settings = make.parent / "citywatch.env"
    example = (repository / "deploy/citywatch.env.example").read_bytes()
    assert settings.read_bytes() == example
    assert settings.stat().st_mode & 0o777 == 0o600
    settings.write_text("CITYWATCH_NAMESPACE=live\n")
    subprocess.run([repository / "deploy/make-secrets", make], check=True)
    assert settings.read_text() == "CITYWATCH_NAMESPACE=live\n"
