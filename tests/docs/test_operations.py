"""docs/operations.md names the metrics, alerts and codes that there are, and all of them."""

import re
from pathlib import Path

import yaml

from citywatch.watchdog import STALLED
from paging.meter import Meter as PagerMeter
from streams.meter import Meter

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
RULES = (ROOT / "deploy/prometheus-rules.yml").read_text(encoding="utf-8")
# What a family of each type is called in a query, after its name.
SUFFIXES = {"counter": "_total"}


def metrics() -> dict[str, tuple[str, set[str]]]:
    """Return type and labels of every metric of our own."""
    meter = Meter("live", 0.2)
    meter.backlog(lambda: (0, 0))
    meter.city(lambda: 0)
    meter.progress.assigned([("live.readings", 0)])
    meter.progress.log_end(("live.readings", 0), 0, 1, 0.0)
    meter._state_bytes[0] = 1
    meter.watermark(0, 1)
    pager = PagerMeter()
    found = {}
    for family in (*meter.registry.collect(), *pager.registry.collect()):
        if family.name.startswith("citywatch_"):
            labels = {name for each in family.samples for name in each.labels} - {"le"}
            found[family.name + SUFFIXES.get(family.type, "")] = (family.type, labels)
    return found


def test_the_table_of_metrics_is_complete() -> None:
    rows = re.findall(r"^\| `(citywatch_\w+)(?:\{([\w,]+)\})?` \| (\w+) \|", GUIDE, re.MULTILINE)
    told = {name: (kind, set(labels.split(",")) - {""}) for name, labels, kind in rows}
    # A counter with labels has no sample before it has counted.
    told_of = {name: kind for name, (kind, _) in told.items()}
    assert told_of == {name: kind for name, (kind, _) in metrics().items()}
    for name, (_, labels) in metrics().items():
        assert labels <= told[name][1], name


def test_the_metrics_are_named_by_the_conventions() -> None:
    for name, (kind, _) in metrics().items():
        assert (kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(ms|minutes|kb|mb|count)$", name), name


def test_every_metric_that_a_rule_or_a_sentence_names_exists() -> None:
    known = set(metrics()) | {"citywatch_worker"}
    for text in (GUIDE, RULES):
        named = set(re.findall(r"\bcitywatch_(?:worker|pager)_\w+", text))
        assert named
        assert named <= known


def test_the_table_of_alerts_is_that_of_the_rules() -> None:
    rules = [rule["alert"] for group in yaml.safe_load(RULES)["groups"] for rule in group["rules"]]
    assert re.findall(r"^\| `(Citywatch\w+)` \|", GUIDE, re.MULTILINE) == rules


def test_the_exit_code_of_a_stall_is_told() -> None:
    assert f"| {STALLED} | no progress |" in GUIDE
