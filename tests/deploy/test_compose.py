"""docker-compose.yml against the Compose Specification and against the code; no engine is used."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from citywatch.settings import read_settings

OWN = ("migrate", "bridge", "worker", "pager", "console", "api")
SERVICES = {"mosquitto", "kafka", "timescaledb", "grafana", *OWN}
FILES = ("docker-compose.yml", "deploy/compose.expose.yml", "deploy/compose.tls.yml")
_UNITS = {"m": 1 << 20, "g": 1 << 30}


def _bytes(text: str) -> int:
    return int(text[:-1]) * _UNITS[text[-1]]


def _broker_option(repository: Path, name: str, file: str = "deploy/mosquitto.conf") -> str:
    text = (repository / file).read_text(encoding="utf-8")
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found is not None, name
    return found[1]


@pytest.mark.parametrize("name", FILES)
def test_follows_the_compose_specification(repository: Path, name: str) -> None:
    # Read as a file: importing the package would load its command line, which asks for another
    # click than Faust does.
    place = "check_jsonschema/builtin_schemas/vendor/compose-spec.json"
    schema = json.loads(
        Path(str(distribution("check-jsonschema").locate_file(place))).read_text(encoding="utf-8")
    )
    validator = jsonschema.validators.validator_for(schema)(schema)
    document = yaml.safe_load((repository / name).read_text(encoding="utf-8"))
    assert [
        f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)
    ] == []
    assert not validator.is_valid({"services": {"kafka": {"imagee": "x"}}})


def test_has_every_service(services: dict[str, Any]) -> None:
    assert set(services) == SERVICES


@pytest.mark.parametrize("name", OWN)
def test_command_exists(services: dict[str, Any], name: str) -> None:
    words = services[name]["command"]
    done = subprocess.run(
        [sys.executable, "-m", "citywatch", *words, "--help"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "100"},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    # A group that wants a command would say COMMAND here, and do nothing by itself.
    assert re.search(
        rf"Usage: .*citywatch {' '.join(words)} \[OPTIONS\]( \[COMMAND\])? *$",
        done.stdout,
        re.MULTILINE,
    )


@pytest.mark.parametrize("name", OWN)
def test_environment_is_settings(services: dict[str, Any], name: str) -> None:
    environment = services[name]["environment"]
    assert all(isinstance(value, str) for value in environment.values())
    assert all(key.startswith("CITYWATCH_") for key in environment)
    settings = read_settings(None, environment)
    for key, value in environment.items():
        section, field = key.removeprefix("CITYWATCH_").lower().split("__")
        read = getattr(getattr(settings, section), field)
        read = read.get_secret_value() if hasattr(read, "get_secret_value") else read
        assert str(read) == value, key


def test_names_the_services_it_connects_to(services: dict[str, Any]) -> None:
    hosts = {"CITYWATCH_MQTT__HOST": r"(.+)", "CITYWATCH_KAFKA__BOOTSTRAP": r"(.+):9092"}
    hosts["CITYWATCH_DATABASE__DSN"] = r"postgresql://\w+@(.+):5432/citywatch"
    for name in OWN:
        for key, pattern in hosts.items():
            if key not in services[name]["environment"]:
                continue
            found = re.fullmatch(pattern, services[name]["environment"][key])
            assert found is not None, (name, key)
            target = found[1]
            assert target in services[name]["depends_on"], (name, target)
            shared = set(services[name]["networks"]) & set(services[target]["networks"])
            assert shared, f"{name} and {target} have no network in common"


def test_console_listens_where_its_port_is_published(services: dict[str, Any]) -> None:
    console = read_settings(None, services["console"]["environment"]).console
    assert console.host == "0.0.0.0"  # noqa: S104 - inside its container
    assert services["console"]["ports"] == [f"127.0.0.1:8080:{console.port}"]
    assert (
        f"http://127.0.0.1:{console.port}/healthz" in services["console"]["healthcheck"]["test"][-1]
    )


def test_api_listens_where_its_port_is_published(services: dict[str, Any]) -> None:
    api = read_settings(None, services["api"]["environment"]).api
    assert api.host == "0.0.0.0"  # noqa: S104 - inside its container
    assert services["api"]["ports"] == [f"127.0.0.1:8081:{api.port}"]
    assert f"http://127.0.0.1:{api.port}/healthz" in services["api"]["healthcheck"]["test"][-1]


def test_worker_is_asked_where_it_answers(services: dict[str, Any]) -> None:
    worker = services["worker"]
    settings = read_settings(None, worker["environment"]).worker
    assert settings.metrics_host == "0.0.0.0"  # noqa: S104 - inside its container
    assert f"http://127.0.0.1:{settings.metrics_port}/healthz" in worker["healthcheck"]["test"][-1]
    # Who can reach the network that sensors come by has no business with it.
    assert worker["networks"] == ["core"]
    assert "ports" not in worker


@pytest.mark.parametrize("name", FILES)
def test_publishes_on_loopback_unless_told_otherwise(repository: Path, name: str) -> None:
    document = yaml.safe_load((repository / name).read_text(encoding="utf-8"))
    ports = [port for service in document["services"].values() for port in service.get("ports", [])]
    assert ports
    for port in ports:
        where = port.replace("${SENSORS_ADDRESS:-127.0.0.1}", "127.0.0.1")
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", where), port
        assert where == port or name == "deploy/compose.tls.yml"
    assert all("network_mode" not in service for service in document["services"].values())


def test_kafka_names_the_address_it_is_published_on(
    services: dict[str, Any], repository: Path
) -> None:
    text = (repository / "deploy/compose.expose.yml").read_text(encoding="utf-8")
    (port,) = yaml.safe_load(text)["services"]["kafka"]["ports"]
    host, outer, inner = port.split(":")
    kafka = services["kafka"]["environment"]
    assert f"HOST://{host}:{outer}" in kafka["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert f"HOST://:{inner}" in kafka["KAFKA_LISTENERS"].split(",")


def test_waits_for_what_can_be_waited_for(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for target, rule in service.get("depends_on", {}).items():
            check = services[target]["healthcheck"]
            if rule["condition"] == "service_completed_successfully":
                assert services[target]["restart"] == "no", target
            else:
                assert rule["condition"] == "service_healthy", (name, target)
                assert check["test"][0] in {"CMD", "CMD-SHELL"}, target
                assert {"interval", "timeout", "retries", "start_period"} <= set(check), target


def test_every_service_has_a_healthcheck(services: dict[str, Any]) -> None:
    unchecked = {name for name, service in services.items() if "test" not in service["healthcheck"]}
    assert unchecked == {"migrate"}  # runs once and ends


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_is_bounded_and_closed(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert _bytes(service["mem_limit"]) > 0
    assert service["pids_limit"] > 0
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is (name != "kafka")  # its start script writes into /opt/kafka
    assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")
    assert re.fullmatch(r"\d+s", service["stop_grace_period"])


def test_images_are_pinned(services: dict[str, Any]) -> None:
    for name, service in services.items():
        # A patch release at least: 2.0.22, 2.28.1-pg18, 0.1.0.
        assert re.fullmatch(r"[a-z/-]+:\d+\.\d+\.\d+[a-z0-9-]*", service["image"]), name
        assert ("build" in service) is (name in OWN), name


def test_own_image_has_the_version_of_the_code(services: dict[str, Any]) -> None:
    version = distribution("citywatch").version
    assert {services[name]["image"] for name in OWN} == {f"citywatch:{version}"}


def test_mounted_files_exist(compose: dict[str, Any], repository: Path) -> None:
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source, _, rest = volume.partition(":")
            if source.startswith("."):
                assert rest.endswith(":ro"), volume
                assert (repository / source).exists(), f"{name}: {source}"
            else:
                assert source in compose["volumes"], f"{name}: {source}"
        for file in service.get("env_file", []):
            assert file["required"] is False, "a site's own file; may be missing"
            assert (repository / f"{file['path']}.example").is_file()


def test_shell_scripts_are_executable(repository: Path) -> None:
    for name in ("deploy/make-secrets", "deploy/database-roles.sh", ".ci/run"):
        assert (repository / name).stat().st_mode & 0o111 == 0o111, name
        subprocess.run(["/bin/bash", "-n", repository / name], check=True)


def test_secrets_are_declared_documented_and_used(
    compose: dict[str, Any], repository: Path
) -> None:
    declared = set(compose["secrets"])
    assert declared == {
        s for service in compose["services"].values() for s in service.get("secrets", [])
    }
    security = (repository / "SECURITY.md").read_text(encoding="utf-8")
    for name, secret in compose["secrets"].items():
        assert secret == {"file": f"deploy/secrets/{name}"}
        assert f"`{name}`" in security, f"SECURITY.md does not say what {name} is for"
    for name, service in compose["services"].items():
        named = set(re.findall(r"/run/secrets/(\w+)", json.dumps(service)))
        assert named <= set(service.get("secrets", [])), f"{name} reads a secret it is not given"


def test_secrets_are_ignored_by_git(
    compose: dict[str, Any], repository: Path, tmp_path: Path
) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    (tmp_path / "deploy").mkdir()
    for name in (".gitignore", "deploy/.gitignore"):
        (tmp_path / name).write_bytes((repository / name).read_bytes())
    subprocess.run([git, "init", "--quiet", tmp_path], check=True)
    files = [secret["file"] for secret in compose["secrets"].values()] + ["deploy/citywatch.env"]
    files += ["deploy/secrets/mosquitto_ca_key", "deploy/secrets/clients/loop-0042.key"]
    done = subprocess.run(
        [git, "-C", tmp_path, "check-ignore", *files, "deploy/mosquitto.acl"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(done.stdout.split()) == sorted(files)


def test_holds_no_password(repository: Path) -> None:
    text = (repository / "docker-compose.yml").read_text(encoding="utf-8")
    for line in text.splitlines():
        if re.search(r"passw|secret|token", line, re.IGNORECASE):
            # A setting that names a file, a list of names, a path, a comment: never a value.
            value = line.split("#")[0].partition(":")[2].strip()
            allowed = value == "" or "/run/secrets/" in value or "deploy/secrets/" in value
            assert allowed or re.fullmatch(r"\[[a-z_, ]+\]", value), line
        assert not re.search(r"://[^/@\s:]+:[^/@\s]+@", line), line


def test_broker_fits_into_its_container(services: dict[str, Any], repository: Path) -> None:
    mosquitto = services["mosquitto"]
    limit = int(_broker_option(repository, "memory_limit"))
    assert limit + (256 << 20) <= _bytes(mosquitto["mem_limit"])
    # 610 bytes of memory for a queued payload of 250 bytes, as measured.
    assert int(_broker_option(repository, "max_queued_bytes")) * 610 / 250 < limit
    assert int(_broker_option(repository, "max_connections")) < mosquitto["ulimits"]["nofile"]


def test_broker_lets_the_bridge_reject(repository: Path) -> None:
    bridge = read_settings(None, {}).bridge
    assert int(_broker_option(repository, "max_packet_size")) >= 2 * bridge.max_payload_bytes


def test_database_settings_agree_with_the_roles(services: dict[str, Any], repository: Path) -> None:
    roles = (repository / "deploy/database-roles.sh").read_text(encoding="utf-8")
    named = set(re.findall(r"\$\(secret (\w+)\)", roles))
    assert named <= set(services["timescaledb"]["secrets"])
    logins = {}
    for name in OWN:
        environment = services[name]["environment"]
        if dsn := environment.get("CITYWATCH_DATABASE__DSN"):
            logins[name] = re.sub(r".*//(\w+)@.*", r"\1", dsn)
            assert f"ALTER ROLE {logins[name]} LOGIN" in roles
            file = environment["CITYWATCH_DATABASE__PASSWORD_FILE"]
            assert {file.rpartition("/")[2]} <= named & set(services[name]["secrets"])
    # Each its own, and only what changes the schema owns it.
    assert len(set(logins.values())) == len(logins)
    assert [name for name, login in logins.items() if login == "citywatch"] == ["migrate"]
    assert services["timescaledb"]["environment"]["POSTGRES_DB"] == "citywatch"


@pytest.fixture(scope="module")
def tls(repository: Path) -> dict[str, Any]:
    return yaml.safe_load((repository / "deploy/compose.tls.yml").read_text(encoding="utf-8"))


def _mounts(service: dict[str, Any]) -> dict[str, str]:
    """Return what is mounted where; as compose merges files, by the place in the container."""
    pairs = (volume.split(":")[:2] for volume in service["volumes"])
    return {target: source for source, target in pairs}


def test_tls_mounts_both_configurations_where_they_look_for_each_other(
    services: dict[str, Any], tls: dict[str, Any], repository: Path
) -> None:
    assert set(tls["services"]) == {"mosquitto"}
    merged = _mounts(services["mosquitto"]) | _mounts(tls["services"]["mosquitto"])
    included = _broker_option(repository, "include_dir", "deploy/mosquitto-tls.conf")
    assert merged["/mosquitto/config/mosquitto.conf"] == "./deploy/mosquitto-tls.conf"
    assert merged[f"{included}/mosquitto.conf"] == "./deploy/mosquitto.conf"
    assert merged["/mosquitto/config/mosquitto.acl"] == "./deploy/mosquitto.acl"
    # The image reads this file, and reading its own folder again would never end.
    assert included != "/mosquitto/config"
    for volume in tls["services"]["mosquitto"]["volumes"]:
        assert volume.endswith(":ro")
        assert (repository / volume.partition(":")[0]).is_file()


def test_tls_publishes_the_listeners_that_there_are(tls: dict[str, Any], repository: Path) -> None:
    text = (repository / "deploy/mosquitto-tls.conf").read_text(encoding="utf-8")
    listeners = set(re.findall(r"^listener (\d+)$", text, re.MULTILINE))
    published = [port.rsplit(":", 2)[1:] for port in tls["services"]["mosquitto"]["ports"]]
    assert {inner for _, inner in published} == listeners == {"8883", "8884"}
    assert all(outer == inner for outer, inner in published)


def test_tls_has_the_secrets_that_it_reads(tls: dict[str, Any], repository: Path) -> None:
    text = (repository / "deploy/mosquitto-tls.conf").read_text(encoding="utf-8")
    read = set(re.findall(r" /run/secrets/(\w+)$", text, re.MULTILINE))
    assert read == set(tls["services"]["mosquitto"]["secrets"]) == set(tls["secrets"])
    guide = (repository / "docs/security.md").read_text(encoding="utf-8")
    for name, secret in tls["secrets"].items():
        assert secret == {"file": f"deploy/secrets/{name}"}
        assert f"`{name}`" in guide, f"docs/security.md does not say what {name} is"


def test_tls_broker_fits_into_its_container(
    services: dict[str, Any], tls: dict[str, Any], repository: Path
) -> None:
    text = (repository / "deploy/mosquitto-tls.conf").read_text(encoding="utf-8")
    encrypted = sum(map(int, re.findall(r"^max_connections (\d+)$", text, re.MULTILINE)))
    plain = int(_broker_option(repository, "max_connections"))
    mosquitto = tls["services"]["mosquitto"]
    # 26 KiB a connection, as measured.
    more = _bytes(mosquitto["mem_limit"]) - _bytes(services["mosquitto"]["mem_limit"])
    assert more >= encrypted * 26 * 1024
    assert plain + encrypted < mosquitto["ulimits"]["nofile"]


def test_guide_of_security_has_the_commands_that_there_are(repository: Path) -> None:
    guide = (repository / "docs/security.md").read_text(encoding="utf-8")
    for file in set(re.findall(r"\bdeploy/[\w./-]+\w", guide)) - {"deploy/citywatch.env"}:
        assert (repository / file).exists() or file.startswith("deploy/secrets"), file
    for name in re.findall(r"CITYWATCH_([A-Z]+__[A-Z_]+)", guide):
        section, key = name.lower().split("__")
        assert hasattr(getattr(read_settings(None, {}), section), key), name
