"""The example files name every setting, and nothing that is not one."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel
from typer.testing import CliRunner

import citywatch.duty_commands  # noqa: F401 - adds its commands
import paging.routes
from citywatch.cli import app
from citywatch.settings import GroupSettings, Settings, read_settings
from detectors import SuiteConfig
from paging.checking import faults_of, remarks_on
from paging.hooks import ALL_EVENTS, HookTerms
from paging.hooks.kinds import KINDS
from paging.matching import Match
from paging.routes import Route, Routes, read_routes
from streams.rules import Rules, SuiteRules
from streams.ruling import Ruling


def _names(model: type[BaseModel], prefix: str = "") -> set[str]:
    names: set[str] = set()
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            names |= _names(type(field.default), f"{prefix}{name}.")
        else:
            names.add(prefix + name)
    return names


def test_settings_file_says_the_defaults(repository: Path) -> None:
    assert read_settings(repository / "deploy/citywatch.toml", {}) == Settings()


def test_settings_file_names_every_setting(repository: Path) -> None:
    text = (repository / "deploy/citywatch.toml").read_text(encoding="utf-8")
    # A setting without a default stands in a comment.
    table = tomllib.loads(re.sub(r"^# (?=\w+ = |\[)", "", text, flags=re.MULTILINE))
    groups = table.pop("groups")
    assert {key for group in groups.values() for key in group} == set(GroupSettings.model_fields)
    Settings.model_validate({"groups": groups})
    named = {
        f"{section}.{key}" if isinstance(rest, dict) else section
        for section, rest in table.items()
        for key in (rest if isinstance(rest, dict) else [None])
    }
    assert named == _names(Settings) - {"groups"}


def test_environment_example_names_settings(repository: Path) -> None:
    text = (repository / "deploy/citywatch.env.example").read_text(encoding="utf-8")
    lines = dict(re.findall(r"^#(CITYWATCH_[A-Z_]+)=(.+)$", text, re.MULTILINE))
    assert lines
    read_settings(None, lines)
    assert not re.search(r"^[^#\n]", text, re.MULTILINE), "an example sets nothing by itself"


def test_rules_say_the_defaults_and_name_every_threshold(repository: Path) -> None:
    text = (repository / "deploy/rules.toml").read_text(encoding="utf-8")
    rules = Rules.read(tomllib.loads(text))
    assert Ruling(rules, SuiteConfig()).suite == SuiteConfig()
    assert set(rules.suite.model_fields_set) == set(SuiteRules.model_fields)
    assert rules.model_fields_set == {"suite"}


def test_what_rules_show_in_comments_is_understood(repository: Path) -> None:
    text = (repository / "deploy/rules.toml").read_text(encoding="utf-8")
    shown = re.sub(r"^# (?=\[|\w+ = )", "", text, flags=re.MULTILINE)
    rules = Rules.read(tomllib.loads(shown))
    Ruling(rules, SuiteConfig())
    # What the city says of itself stands in the settings.
    assert rules.model_fields_set == set(Rules.model_fields) - {"city"}


def _all_routes(repository: Path) -> str:
    """Return the example of routes with all that stands in comments."""
    text = (repository / "deploy/routes.toml").read_text(encoding="utf-8")
    return re.sub(r"^# (?=\[|\w+ = )", "", text, flags=re.MULTILINE)


def test_what_routes_show_in_comments_has_no_fault_either(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "routes.toml"
    file.write_text(_all_routes(repository), encoding="utf-8")
    found = CliRunner().invoke(app, ["pager", "check", str(file)])
    assert found.exit_code == 0, found.output
    assert {line for line in found.stdout.splitlines() if line.startswith("remark")} == {
        f"remark: hook {name}: no step reaches it"
        for name in ("pagerduty", "alertmanager-1", "sms")
    }
    lines = (repository / "deploy/routes.toml").read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.startswith("#") and line[1:2] not in ("", " ")]


def test_routes_show_every_kind_of_hook_and_every_key(repository: Path) -> None:
    table = tomllib.loads(_all_routes(repository))
    terms = set(HookTerms.__struct_fields__)
    shown: dict[str, set[str]] = {name: set() for name in KINDS}
    for hook in table["hook"].values():
        shown[hook["type"]] |= set(hook)
    for name, kind in KINDS.items():
        assert shown[name] - terms == set(kind.options.__struct_fields__), name
    assert set.union(*shown.values()) >= terms
    tables = {
        "pager": [table["pager"]],
        "shift": [table["shift"]],
        "darkness": [table["darkness"]],
        "flapping": [table["flapping"]],
        "policy": table["policy"].values(),
        "step": [step for one in table["policy"].values() for step in one["steps"]],
        "rotation": table["rotation"].values(),
        "area": [*table["gateway"].values(), *table["power-area"].values()],
        "inhibit": table["inhibit"],
        "corroborate": table["corroborate"],
        "shadow": table["shadow"],
        "route": table["route"],
    }
    for name, found in tables.items():
        form = getattr(paging.routes, f"_{name.title()}Table")
        keys = set(form.__struct_encode_fields__)
        assert set().union(*found) == keys, name


def test_how_often_a_hook_is_told_is_as_its_kind_unless_the_file_says(repository: Path) -> None:
    text = _all_routes(repository)
    hooks = read_routes(text, KINDS).hooks
    assert {name: hook.terms.per_minute for name, hook in hooks.items()} == {
        "control-room": 600,
        "on-call": 600,
        "pagerduty": 60,
        "alertmanager-1": 600,
        "sms": 30,
    }
    # Two pagers and one key: what PagerDuty takes.
    assert 2 * KINDS["pagerduty"].per_minute <= 120
    said = text.replace("[hook.sms]\n", "[hook.sms]\nper_minute = 600\n")
    assert read_routes(said, KINDS).hooks["sms"].terms.per_minute == 600


def test_the_example_of_routes_has_no_fault_and_shows_what_holds_without_it(
    repository: Path,
) -> None:
    routes = read_routes((repository / "deploy/routes.toml").read_text("utf-8"), KINDS)

    assert faults_of(routes) == []
    assert remarks_on(routes) == []
    bare = Routes(routes=(), policies={}, hooks={})
    for name in (
        "shifts",
        "budget",
        "flapping",
        "darkness",
        "summary_wait",
        "stale_after",
        "late_wait",
        "link",
    ):
        assert getattr(routes, name) == getattr(bare, name)
    shown = replace(routes.routes[0], match=Match())
    assert shown == Route("sensors", Match(), "control-room")
    terms = routes.hooks["control-room"].terms
    assert terms == HookTerms(type="webhook", events=ALL_EVENTS)
