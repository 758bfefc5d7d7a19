import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.shipped_broker import NOT_AUTHORIZED, Broker, Client, ServerFiles


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
        assert file.is_file(), "no certificates unless asked for"
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


NAMES = ("-b", "mqtt.city.example", "-b", "127.0.0.1", "-b", "fd00::1", "-c", "loop-0042")


def _openssl(*arguments: object) -> str:
    argv = [str(shutil.which("openssl")), *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def certificates(make: Path, repository: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    subprocess.run([repository / "deploy/make-secrets", *NAMES, make], check=True)
    return make


def _mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


def test_writes_the_secrets_of_tls(certificates: Path, repository: Path) -> None:
    tls = yaml.safe_load((repository / "deploy/compose.tls.yml").read_text(encoding="utf-8"))
    for name in tls["secrets"]:
        # Mounted as they are, for a user that this machine does not know.
        assert _mode(certificates / name) == 0o444, name
    assert not list(certificates.glob(".*")), "something is left over"


def test_keys_that_are_not_mounted_are_their_owners(certificates: Path) -> None:
    assert _mode(certificates / "mosquitto_ca_key") == 0o600
    assert _mode(certificates / "clients") == 0o700
    assert _mode(certificates / "clients/loop-0042.key") == 0o600
    assert sorted(file.name for file in (certificates / "clients").iterdir()) == [
        "loop-0042.crt",
        "loop-0042.key",
    ]


@pytest.mark.parametrize(
    ("name", "purpose", "other"),
    [
        ("mosquitto_certificate", "sslserver", "sslclient"),
        ("clients/loop-0042.crt", "sslclient", "sslserver"),
    ],
)
def test_certificates_are_good_for_their_purpose_only(
    certificates: Path, name: str, purpose: str, other: str
) -> None:
    verify = ["verify", "-x509_strict", "-CAfile", certificates / "mosquitto_ca"]
    _openssl(*verify, "-purpose", purpose, certificates / name)
    with pytest.raises(subprocess.CalledProcessError):
        _openssl(*verify, "-purpose", other, certificates / name)


def test_certificates_say_whose_they_are(certificates: Path) -> None:
    show = ["x509", "-noout", "-subject", "-nameopt", "RFC2253", "-ext", "subjectAltName", "-in"]
    broker = _openssl(*show, certificates / "mosquitto_certificate")
    assert "DNS:mqtt.city.example, IP Address:127.0.0.1, IP Address:FD00:" in broker
    client = _openssl(*show[:5], "-in", certificates / "clients/loop-0042.crt")
    assert client == "subject=CN=loop-0042\n"
    text = _openssl("x509", "-noout", "-text", "-in", certificates / "clients/loop-0042.crt")
    assert "NIST CURVE: P-256" in text


def test_certificates_are_kept_and_one_more_is_added(certificates: Path, repository: Path) -> None:
    before = {file: file.read_bytes() for file in certificates.rglob("*") if file.is_file()}
    more = ["-c", "gateway@north", "-c", "urn:dev:mac:01", *NAMES]
    subprocess.run([repository / "deploy/make-secrets", *more, certificates], check=True)
    after = {file: file.read_bytes() for file in certificates.rglob("*") if file.is_file()}
    assert before.items() <= after.items()
    new = {file.name for file in after.keys() - before.keys()}
    assert new == {f"{name}.{end}" for name in more[1:4:2] for end in ("crt", "key")}


def test_a_removed_certificate_is_made_anew(certificates: Path, repository: Path) -> None:
    files = [certificates / "mosquitto_certificate", certificates / "mosquitto_key"]
    before = [file.read_bytes() for file in files]
    files[0].unlink()
    subprocess.run([repository / "deploy/make-secrets", *NAMES, certificates], check=True)
    assert all(file.read_bytes() != old for file, old in zip(files, before, strict=True))


@pytest.mark.parametrize(
    "arguments",
    [["-c", "a/b"], ["-c", "+"], ["-c", ""], ["-b", "-"], ["-c", "x" * 65], ["-q"], ["-b"]],
)
def test_refuses_what_is_no_name_before_it_writes(
    repository: Path, tmp_path: Path, arguments: list[str]
) -> None:
    done = subprocess.run(
        [repository / "deploy/make-secrets", *arguments, tmp_path / "secrets"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr
    assert not (tmp_path / "secrets").exists()


@pytest.mark.integration
def test_shipped_broker_lets_in_who_has_such_a_certificate(
    certificates: Path, repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "broker").mkdir()
    files = ServerFiles(*(certificates / f"mosquitto_{name}" for name in ServerFiles._fields))
    broker = Broker(repository, tmp_path / "broker", files)
    tls = ssl.create_default_context(cafile=str(files.ca))
    tls.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    client = certificates / "clients/loop-0042"
    tls.load_cert_chain(client.with_suffix(".crt"), client.with_suffix(".key"))
    broker.start()
    try:
        sensor = Client(broker.certificate_port, None, tls=tls)
        try:
            assert sensor.publish("city/live/traffic/north/loop-0043") == NOT_AUTHORIZED
            assert sensor.publish("city/live/traffic/north/loop-0042") < 0x80
        finally:
            sensor.close()
    finally:
        broker.stop()
