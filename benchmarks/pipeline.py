"""PIPE-2000: the whole way of a reading, everything on this machine, at 2,000 messages a second.

Runs the demo (`citywatch demo`) and prints what it measured from the outside, with machine and
commit. Tolerances: balanced; sensor to stored p99 under 2 s; every injected fault alerted and
paged once; no process above 512 MiB.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MAX_RSS_MIB = 512
ROOT = Path(__file__).parents[1]


def measure(rate: float, sensors: int, duration_s: float, mqtt: str) -> dict[str, Any]:
    """Run the demo once and return its facts."""
    with tempfile.TemporaryDirectory(prefix="citywatch-bench-") as data_dir:
        options = {
            "--duration": duration_s,
            "--rate": rate,
            "--sensors": sensors,
            "--data-dir": data_dir,
            "--mqtt": mqtt,
        }
        argv = [sys.executable, "-m", "citywatch", "demo", "--headless", "--json"]
        argv += [str(part) for pair in options.items() for part in pair]
        ended = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    if not ended.stdout.strip():
        raise SystemExit("the demo gave no figures")
    facts: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return facts


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    ).stdout.strip()
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "commit": commit or None,
    }


def main() -> None:
    """Measure, print a table, end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=2000.0)
    parser.add_argument("--sensors", type=int, default=2000)
    parser.add_argument("--duration", type=float, default=60.0)
    parser.add_argument("--mqtt", default="auto")
    options = parser.parse_args()
    facts = measure(options.rate, options.sensors, options.duration, options.mqtt)
    heaviest = max(facts["peak_rss_mib"].values())
    ok = facts["ok"] and heaviest < MAX_RSS_MIB
    rate = facts["messages"] / options.duration
    stored, paged = facts["stored_latency_ms"], facts["page_latency_ms"]
    print(f"messages per second      {rate:10.0f}")
    print(f"readings stored          {facts['stored']:10,}   balanced: {facts['balanced']}")
    print(f"sensor to stored, ms     p50 {stored['p50']}   p99 {stored['p99']}")
    print(f"sensor to page, ms       p50 {paged['p50']}   p99 {paged['p99']}")
    print(
        f"faults / alerted / paged {facts['faults_injected']} / {facts['faults_alerted']}", end=""
    )
    print(f" / {facts['faults_paged']}")
    for name, size in facts["peak_rss_mib"].items():
        print(f"peak memory, MiB         {size:10.1f}   {name}")
    for complaint in facts["complaints"]:
        print(f"not well: {complaint}")
    print(json.dumps({**facts, **machine(), "scenario": "PIPE-2000", "ok": ok}))
    if not ok:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
