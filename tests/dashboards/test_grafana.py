"""The overview: every question runs on the real schema, and the JSON holds together.

Grafana itself is not here: its server is in no package registry. What is checked is what this
project writes: the SQL with the macros expanded the way Grafana's PostgreSQL plugin expands them,
and the JSON by the rules that Grafana's documentation gives for it.
"""

import asyncio
import itertools
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

import dashboards
from dashboards.grafana import DATASOURCE_TYPE, DATASOURCE_UID, overview, overview_json
from dashboards.panels import PANELS, VARIABLES, Panel, Variable
from dashboards.render import files, render
from storage.duty import PagesOf, figures
from storage.migrate import session_options
from tests.dashboards import citydata

ROOT = Path(dashboards.__file__).parent
GRID_WIDTH = 24
TIME_SHAPED = {"timeseries", "bars", "band"}
_GROUP = re.compile(r"\$__timeGroup(Alias)?\(([^,()]*), ?([^)]*)\)")
_FILTER = re.compile(r"\$__timeFilter\(([^)]*)\)")
_VARIABLE = re.compile(r"\$\{(\w+)(:sqlstring)?\}")


def expand(
    sql: str,
    variables: dict[str, str],
    since: datetime,
    until: datetime,
    step_s: int = 60,
) -> str:
    """Replace variables and macros as Grafana does before it sends the SQL."""

    def variable(match: re.Match[str]) -> str:
        value = variables[match[1]]
        return "'" + value.replace("'", "''") + "'" if match[2] else value

    def group(match: re.Match[str]) -> str:
        assert match[3] == "$__interval"
        seconds = f"floor(extract(epoch from {match[2]})/{step_s})*{step_s}"
        return f'{seconds} AS "time"' if match[1] else seconds

    sql = _VARIABLE.sub(variable, sql)
    sql = _GROUP.sub(group, sql)
    sql = _FILTER.sub(
        lambda m: f"{m[1]} BETWEEN '{since.isoformat()}' AND '{until.isoformat()}'", sql
    )
    sql = sql.replace("$__timeFrom()", f"'{since.isoformat()}'")
    sql = sql.replace("$__timeTo()", f"'{until.isoformat()}'")
    sql = sql.replace("$__interval_ms", str(step_s * 1000))
    assert "$" not in sql, f"not expanded: {sql}"
    return sql


@pytest.fixture
def city(dsn: str, schema: str) -> tuple[str, str, datetime]:
    now = datetime.now(UTC)
    citydata.fill(dsn, schema, now, minutes=40)
    return dsn, schema, now


def ask(city: tuple[str, str, datetime], sql: str, **variables: str) -> list[dict[str, Any]]:
    dsn, schema, now = city
    expanded = expand(sql, {"namespace": schema} | variables, now - timedelta(hours=1), now)
    # Without a search_path, as Grafana has none for a replay.
    with psycopg.connect(dsn, row_factory=psycopg.rows.dict_row) as connection:
        return connection.execute(expanded).fetchall()


@pytest.mark.integration
@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_panel_answers_with_its_columns(city: tuple[str, str, datetime], panel: Panel) -> None:
    rows = ask(city, panel.sql, zone="harbour", sensor="air-harbour-001", quantity="pm25")
    assert rows, "no rows"
    assert set(panel.columns) <= rows[0].keys()
    for column in panel.columns:
        assert any(row[column] is not None for row in rows), f"{column} is NULL throughout"
    if panel.kind in TIME_SHAPED:
        times = [row["time"] for row in rows]
        assert times == sorted(times)


@pytest.mark.integration
def test_variables_lead_to_a_series(city: tuple[str, str, datetime]) -> None:
    chosen: dict[str, str] = {}
    for variable in VARIABLES:
        options = [next(iter(row.values())) for row in ask(city, variable.sql, **chosen)]
        if variable.name == "namespace":
            assert city[1] in options
        else:
            chosen[variable.name] = options[0]
    (band,) = (panel for panel in PANELS if panel.kind == "band")
    assert ask(city, band.sql, **chosen)


@pytest.mark.integration
def test_a_name_with_a_quote_stays_a_name(city: tuple[str, str, datetime]) -> None:
    (band,) = (panel for panel in PANELS if panel.kind == "band")
    assert ask(city, band.sql, zone="z", sensor="a' OR true --", quantity="pm25") == []


@pytest.mark.integration
def test_rates_are_per_second_of_whole_minutes(city: tuple[str, str, datetime]) -> None:
    dsn, schema, now = city
    minute = now.replace(second=0, microsecond=0) - timedelta(minutes=3)
    with citydata.connect(dsn, schema) as connection:
        connection.execute("DELETE FROM ledger")
        connection.execute(
            "INSERT INTO ledger (bridge, source, minute, messages, stored) VALUES"
            " ('b', 'x', %(m)s, 600, 6000), ('b', 'y', %(m)s, 600, 0)",
            {"m": minute},
        )
    by_title = {panel.title: panel.sql for panel in PANELS}
    assert [row["rows/s"] for row in ask(city, by_title["Rows stored"])] == [100.0]
    assert [row["messages/s"] for row in ask(city, by_title["Messages received"])] == [20.0]


@pytest.mark.integration
def test_the_duty_is_as_the_api_tells_it(city: tuple[str, str, datetime]) -> None:
    dsn, schema, now = city

    async def asked() -> PagesOf:
        async with await psycopg.AsyncConnection.connect(
            dsn, options=session_options(schema)
        ) as connection:
            total, *_ = await figures(connection, now - timedelta(hours=1), now)
            return total

    told = asyncio.run(asked())
    by_title = {panel.title: panel.sql for panel in PANELS}
    (duty,) = ask(city, by_title["Duty"])
    assert list(duty.values()) == [
        told.page_median_s,
        told.acknowledge_median_s,
        told.resolve_median_s,
    ]
    assert (told.page_median_s, told.acknowledge_median_s) == (2, 58)
    assert ask(city, by_title["False pages"]) == [{"false": told.false / told.marked}]
    assert sum(row["pages"] for row in ask(city, by_title["Pages by cause"])) == told.pages


@pytest.mark.integration
@pytest.mark.parametrize(
    "panel",
    [panel for panel in PANELS if "chart(" in panel.sql or "latest" in panel.sql],
    ids=lambda panel: panel.title,
)
def test_readings_are_never_scanned(city: tuple[str, str, datetime], panel: Panel) -> None:
    dsn, schema, _ = city
    # Enough rows that an index pays; a planner may scan a table of one page.
    with citydata.connect(dsn, schema) as connection:
        connection.execute(
            "INSERT INTO reading"
            " SELECT 1, now() - g * interval '10 seconds', 0, 1, 'NaN', 'NaN', 'NaN'"
            " FROM generate_series(1, 20000) g; ANALYZE reading"
        )
    plan = ask(
        city,
        "EXPLAIN " + panel.sql,
        zone="harbour",
        sensor="air-harbour-001",
        quantity="pm25",
    )
    text = "\n".join(row["QUERY PLAN"] for row in plan)
    assert "Seq Scan on reading" not in text, text


def test_committed_files_are_the_generated_ones(tmp_path: Path) -> None:
    written = render(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in written} == files().keys()
    for path in written:
        committed = ROOT / path.relative_to(tmp_path)
        assert committed.read_text() == path.read_text(), f"render again: {committed}"


def test_the_same_panels_give_the_same_bytes() -> None:
    assert overview_json() == overview_json()
    assert json.loads(overview_json()) == overview()


def test_panel_ids_are_unique_and_stable() -> None:
    ids = [panel["id"] for panel in overview()["panels"]]
    assert ids == list(range(1, len(PANELS) + 1))


def test_panels_do_not_overlap_and_fit_the_grid() -> None:
    for panel in PANELS:
        assert panel.grid.x >= 0
        assert panel.grid.x + panel.grid.width <= GRID_WIDTH
    for one, other in itertools.combinations((panel.grid for panel in PANELS), 2):
        apart = (
            one.x + one.width <= other.x
            or other.x + other.width <= one.x
            or one.y + one.height <= other.y
            or other.y + other.height <= one.y
        )
        assert apart, (one, other)
    places = [panel["gridPos"] for panel in overview()["panels"]]
    assert places == [
        {"x": g.x, "y": g.y, "w": g.width, "h": g.height} for g in (p.grid for p in PANELS)
    ]


def sources(node: Any) -> list[dict[str, str]]:
    if isinstance(node, dict):
        own = [node["datasource"]] if isinstance(node.get("datasource"), dict) else []
        return own + [found for value in node.values() for found in sources(value)]
    if isinstance(node, list):
        return [found for value in node for found in sources(value)]
    return []


def test_every_datasource_reference_is_the_provisioned_one() -> None:
    (provisioned,) = yaml.safe_load(files()["provisioning/datasources/citywatch.yaml"])[
        "datasources"
    ]
    assert (provisioned["uid"], provisioned["type"]) == (DATASOURCE_UID, DATASOURCE_TYPE)
    found = sources(overview())
    assert len(found) == 2 * len(PANELS) + len(VARIABLES)
    assert all(one == {"type": DATASOURCE_TYPE, "uid": DATASOURCE_UID} for one in found)


def test_no_secret_is_in_the_files() -> None:
    (source,) = yaml.safe_load(files()["provisioning/datasources/citywatch.yaml"])["datasources"]
    assert source["secureJsonData"]["password"].startswith("$__file{")


def test_provider_reads_where_the_dashboard_lies() -> None:
    (provider,) = yaml.safe_load(files()["provisioning/dashboards/citywatch.yaml"])["providers"]
    assert provider["options"]["path"]
    assert provider["folderUid"] == "citywatch"


def test_the_map_has_a_ground_and_a_layer() -> None:
    (panel,) = (panel for panel in overview()["panels"] if panel["type"] == "geomap")
    assert panel["options"]["basemap"]["type"] == "default"
    (layer,) = panel["options"]["layers"]
    assert layer["location"] == {
        "mode": "coords",
        "latitude": "latitude",
        "longitude": "longitude",
    }


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
def test_variables_that_are_text_are_quoted_by_grafana(variable: Variable) -> None:
    everywhere = "".join([panel.sql for panel in PANELS] + [other.sql for other in VARIABLES])
    uses = re.findall(rf"\$\{{{variable.name}(:sqlstring)?\}}", everywhere)
    wanted = "" if variable.name == "namespace" else ":sqlstring"
    assert uses
    assert set(uses) == {wanted}
