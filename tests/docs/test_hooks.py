"""docs/hooks.md names every kind of hook and what it may be told, and its examples are good."""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paging.hooks import HookTerms
from paging.hooks.kinds import KINDS
from paging.hooks.notify import service_of

PAGE = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text(encoding="utf-8")
TERMS = {field.name: field for field in msgspec.structs.fields(HookTerms)}


def examples() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for block in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL):
        found |= tomllib.loads(block)["hook"]
    return found


def row(name: str) -> list[str]:
    """Return the cells behind a name in whatever table has it."""
    found = re.search(rf"^\| `{name}` \| (.*) \|$", PAGE, re.MULTILINE)
    assert found is not None, name
    return [cell.strip() for cell in found[1].split("|")]


def test_every_kind_has_an_example() -> None:
    assert {one["type"] for one in examples().values()} == set(KINDS)
    assert re.findall(r"^## `(.+)`$", PAGE, re.MULTILINE) == list(KINDS)


@pytest.mark.parametrize("name", examples())
def test_an_example_is_good(name: str) -> None:
    values = examples()[name]
    terms = msgspec.convert({key: one for key, one in values.items() if key in TERMS}, HookTerms)
    kind = KINDS[terms.type]
    options = kind.read({key: one for key, one in values.items() if key not in TERMS})
    assert isinstance(options, kind.options)


def test_the_types_and_terms_are_all_named_with_their_defaults() -> None:
    assert row("type")[1] == ", ".join(f"`{name}`" for name in KINDS)
    for name, field in TERMS.items():
        default = row(name)[0]
        if name not in {"type", "events"}:
            assert float(default) == field.default
    rates = {kind.name: kind.per_minute for kind in KINDS.values()}
    own = re.findall(r"of `(\w+)` (\d+)", row("per_minute")[1])
    assert (
        dict.fromkeys(rates, TERMS["per_minute"].default)
        | {name: float(rate) for name, rate in own}
        == rates
    )


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_every_option_is_named_in_its_section_or_for_all(kind: Any) -> None:
    before, _, rest = PAGE.partition(f"## `{kind.name}`")
    section = rest.partition("\n## ")[0] + before.partition("## `webhook`")[0]
    for field in msgspec.structs.fields(kind.options):
        assert re.search(rf"\b{field.name}\b", section), field.name


@pytest.mark.parametrize("url", re.findall(r"\| `(\w+://.+)` \|", PAGE))
def test_the_urls_are_of_services_that_apprise_knows(url: str) -> None:
    assert any(service_of(url, address) for address in ("+34600000000", "anna@example.org"))
