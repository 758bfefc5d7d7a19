"""The panels as Grafana's dashboard JSON, and the files that provision it.

The builders come from Grafana's own SDK, which knows the schema but no PostgreSQL query; that one
class is here. Everything is deterministic: the same panels give the same bytes.
"""

import json
from collections.abc import Callable
from typing import Any, Final

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    geomap,
    piechart,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.piechart import PieChartType

from dashboards.panels import PANELS, VARIABLES, Kind, Panel, Threshold, Variable

DASHBOARD_UID: Final = "citywatch-overview"
DATASOURCE_UID: Final = "citywatch-database"
DATASOURCE_NAME: Final = "Citywatch"
DATASOURCE_TYPE: Final = "grafana-postgresql-datasource"
FOLDER_UID: Final = "citywatch"
FOLDER_TITLE: Final = "Citywatch"
# Grafana may hold so many connections; its database role is allowed twenty.
MAX_CONNECTIONS: Final = 10

_SOURCE: Final = models.DataSourceRef(type_val=DATASOURCE_TYPE, uid=DATASOURCE_UID)

# The service's names and the secret's place are those of docker-compose.yml.
DATASOURCE_YAML: Final = f"""\
# Written by `citywatch dashboards render`; change dashboards/grafana.py instead.
apiVersion: 1
datasources:
  - uid: {DATASOURCE_UID}
    name: {DATASOURCE_NAME}
    type: {DATASOURCE_TYPE}
    access: proxy
    url: timescaledb:5432
    user: grafana
    isDefault: true
    editable: false
    jsonData:
      database: citywatch
      sslmode: disable
      postgresVersion: 1500
      # The SQL says itself what it needs, and runs without the extension too.
      timescaledb: false
      maxOpenConns: {MAX_CONNECTIONS}
      maxIdleConns: 2
    secureJsonData:
      password: $__file{{/run/secrets/grafana_database_password}}
"""

PROVIDER_YAML: Final = f"""\
# Written by `citywatch dashboards render`; change dashboards/grafana.py instead.
apiVersion: 1
providers:
  - name: {FOLDER_UID}
    folder: {FOLDER_TITLE}
    folderUid: {FOLDER_UID}
    type: file
    disableDeletion: true
    allowUiUpdates: false
    options:
      path: /var/lib/citywatch/dashboards
"""


class PostgresQuery(Dataquery):
    """One SQL question to the database."""

    def __init__(self, sql: str, form: str) -> None:
        self._json = {
            "datasource": _SOURCE,
            "editorMode": "code",
            "format": form,
            "rawQuery": True,
            "rawSql": sql,
            "refId": "A",
        }

    def to_json(self) -> dict[str, object]:
        """Return what the dashboard holds."""
        return self._json


class _Query(Builder[PostgresQuery]):
    def __init__(self, sql: str, form: str) -> None:
        self._query = PostgresQuery(sql, form)

    def build(self) -> PostgresQuery:
        return self._query


def overview() -> dict[str, Any]:
    """Return the overview dashboard, as Grafana's JSON model."""
    board = (
        dashboard.Dashboard("Citywatch overview")
        .uid(DASHBOARD_UID)
        .description("A city's sensors: what arrives, what is stored, what is wrong.")
        .tags(["citywatch"])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("10s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
    )
    for variable in VARIABLES:
        board.with_variable(_variable(variable))
    for number, panel in enumerate(PANELS, start=1):
        board.with_panel(_panel(number, panel))
    rendered: dict[str, Any] = json.loads(JSONEncoder().encode(board.build()))
    return rendered


def overview_json() -> str:
    """Return the overview dashboard as text, the same for the same panels."""
    return json.dumps(overview(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _variable(variable: Variable) -> dashboard.QueryVariable:
    built = (
        dashboard.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(_SOURCE)
        .query(variable.sql)
        .refresh(models.VariableRefresh.ON_DASHBOARD_LOAD)
        .multi(multi=False)
    )
    if variable.current:
        built.current(models.VariableOption(text=variable.current, value=variable.current))
    return built


def _panel(number: int, panel: Panel) -> Any:
    grid = models.GridPos(x=panel.grid.x, y=panel.grid.y, w=panel.grid.width, h=panel.grid.height)
    form = "time_series" if panel.kind in ("timeseries", "bars", "band") else "table"
    built = (
        _KINDS[panel.kind]()
        .id(number)
        .title(panel.title)
        .description(panel.description)
        .datasource(_SOURCE)
        .grid_pos(grid)
        .interval(panel.step)
        .unit(panel.unit)
        .with_target(_Query(panel.sql, form))
    )
    if panel.thresholds:
        built.thresholds(_thresholds(panel.thresholds))
        built.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    return built


def _thresholds(steps: tuple[Threshold, ...]) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=step.value, color=step.colour) for step in steps])
    )


def _timeseries() -> timeseries.Panel:
    return timeseries.Panel().line_width(1).fill_opacity(8).min(0)


def _bars() -> timeseries.Panel:
    stacked = common.StackingConfig().mode(common_models.StackingMode.NORMAL)
    return (
        timeseries.Panel()
        .draw_style(common_models.GraphDrawStyle.BARS)
        .fill_opacity(70)
        .stacking(stacked)
    )


def _band() -> timeseries.Panel:
    def value(key: str, setting: Any) -> models.DynamicConfigValue:
        return models.DynamicConfigValue(id_val=key, value=setting)

    def edge(*more: models.DynamicConfigValue) -> list[models.DynamicConfigValue]:
        return [
            value("custom.lineWidth", 0),
            value("color", {"mode": "fixed", "fixedColor": "blue"}),
            value("custom.hideFrom", {"legend": True, "tooltip": False, "viz": False}),
            *more,
        ]

    dashed = value("custom.lineStyle", {"fill": "dash", "dash": [8, 6]})
    return (
        timeseries.Panel()
        .line_width(1)
        .fill_opacity(0)
        .override_by_name("expected", [dashed])
        .override_by_name("lower", edge())
        .override_by_name(
            "upper", edge(value("custom.fillBelowTo", "lower"), value("custom.fillOpacity", 15))
        )
    )


def _stat() -> stat.Panel:
    newest = common.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False)
    return stat.Panel().reduce_options(newest)


def _share() -> piechart.Panel:
    rows = common.ReduceDataOptions().calcs(["lastNotNull"]).values(values=True)
    return piechart.Panel().pie_type(PieChartType.DONUT).reduce_options(rows)


def _table() -> table.Panel:
    return table.Panel().show_header(show_header=True)


def _map() -> geomap.Panel:
    place = (
        common.FrameGeometrySource()
        .mode(common_models.FrameGeometrySourceMode.COORDS)
        .latitude("latitude")
        .longitude("longitude")
    )
    marker = {
        "size": {"fixed": 5, "min": 2, "max": 15},
        "color": {"field": "state", "fixed": "blue"},
        "opacity": 0.8,
        "symbol": {"mode": "fixed", "fixed": "img/icons/marker/circle.svg"},
    }
    sensors = (
        common.MapLayerOptions()
        .type("markers")
        .name("Sensors")
        .config({"style": marker, "showLegend": False})
        .location(place)
    )
    # Which map lies below is for Grafana's own settings to say.
    ground = common.MapLayerOptions().type("default").name("Map")
    view = geomap.MapViewConfig().id("fit").all_layers(all_layers=True)
    return geomap.Panel().basemap(ground).layers([sensors]).view(view)


_KINDS: Final[dict[Kind, Callable[[], Any]]] = {
    "timeseries": _timeseries,
    "bars": _bars,
    "band": _band,
    "stat": _stat,
    "share": _share,
    "table": _table,
    "map": _map,
}
