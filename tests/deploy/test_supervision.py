"""What supervises and watches a worker, by the tools that read it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from citywatch.settings import Settings, read_settings

UNIT = "citywatch-worker@.service"


def _tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian package {package})")
    return found


def test_systemd_understands_the_unit(repository: Path, tmp_path: Path) -> None:
    analyze = _tool("systemd-analyze", "systemd")
    text = (repository / "deploy" / UNIT).read_text(encoding="utf-8")
    # It looks for the program and for the units named.
    program = shutil.which("true")
    assert program is not None
    for name, content in (
        (UNIT, text.replace("/opt/citywatch/bin/citywatch", program)),
        ("wrong@.service", text.replace("/opt/citywatch/bin/citywatch", program) + "Wrong=1\n"),
    ):
        (tmp_path / name).write_text(content, encoding="utf-8")
    told = {
        name: subprocess.run(
            [analyze, "verify", "--man=no", "--generators=no", str(tmp_path / name)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        ).stderr
        for name in (UNIT, "wrong@.service")
    }
    # It reads all units of the machine, and may have something to say of those.
    assert "Wrong" in told["wrong@.service"]
    assert [line for line in told[UNIT].splitlines() if "citywatch" in line] == []


def test_systemd_waits_for_the_worker_to_say_why(repository: Path) -> None:
    text = (repository / "deploy" / UNIT).read_text(encoding="utf-8")
    lines = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert (lines["Type"], lines["Restart"]) == ("notify", "always")
    assert float(lines["WatchdogSec"].removesuffix("s")) > Settings().worker.stall_after_s + 5
    name, port = lines["Environment"].split("=")
    ports = [
        read_settings(None, {name: port.replace("%i", str(number))}).worker.metrics_port
        for number in (1, 2)
    ]
    assert ports == [Settings().worker.metrics_port, Settings().worker.metrics_port + 1]


def test_prometheus_understands_the_rules(repository: Path) -> None:
    promtool = _tool("promtool", "prometheus")
    done = subprocess.run(
        [promtool, "check", "rules", repository / "deploy/prometheus-rules.yml"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 rules found" in done.stdout


def test_the_rule_of_partitions_expects_those_there_are(repository: Path) -> None:
    text = (repository / "deploy/prometheus-rules.yml").read_text(encoding="utf-8")
    (number,) = re.findall(r"partitions_owned\) or vector\(0\)\) < (\d+)", text)
    assert int(number) == Settings().kafka.partitions
