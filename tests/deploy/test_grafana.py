"""Grafana's provisioning against docker-compose.yml and the roles; no engine and no Grafana."""

import json
import re
from pathlib import Path
from typing import Any

import yaml


def _mounts(service: dict[str, Any]) -> dict[str, str]:
    volumes = (volume.split(":") for volume in service["volumes"])
    return {target: source for source, target, *_ in volumes}


def test_datasource_reaches_the_database(services: dict[str, Any], repository: Path) -> None:
    folder = repository / "dashboards/provisioning/datasources"
    roles = (repository / "deploy/database-roles.sh").read_text(encoding="utf-8")
    (file,) = folder.glob("*.yaml")
    (source,) = yaml.safe_load(file.read_text(encoding="utf-8"))["datasources"]
    host, _, port = source["url"].partition(":")
    assert port == "5432"
    assert host in services["grafana"]["depends_on"]
    assert set(services[host]["networks"]) & set(services["grafana"]["networks"])
    assert source["jsonData"]["database"] == services[host]["environment"]["POSTGRES_DB"]
    assert f"ALTER ROLE {source['user']} LOGIN" in roles
    found = re.fullmatch(r"\$__file\{/run/secrets/(\w+)\}", source["secureJsonData"]["password"])
    assert found is not None, "a password belongs into a secret"
    assert found[1] in services["grafana"]["secrets"]
    assert found[1] in roles


def test_provider_reads_the_folder_that_is_mounted(
    services: dict[str, Any], repository: Path
) -> None:
    mounts = _mounts(services["grafana"])
    (file,) = (repository / "dashboards/provisioning/dashboards").glob("*.yaml")
    (provider,) = yaml.safe_load(file.read_text(encoding="utf-8"))["providers"]
    folder = repository / mounts[provider["options"]["path"]]
    dashboards = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    assert dashboards
    assert all(dashboard["panels"] for dashboard in dashboards)
    assert repository / mounts["/etc/grafana/provisioning"] == file.parents[1]
