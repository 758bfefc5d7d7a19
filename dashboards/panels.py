"""The panels of the overview as data: what each shows, and the question it asks.

The SQL is Grafana's: `$__timeFilter` and `$__timeGroupAlias` become the range and the step that
the viewer chose, `${namespace}` the schema, so one dashboard serves live and every replay. The
namespace stands bare in the SQL, because it names a schema; that is safe only because Grafana's
role can read and do nothing else. No panel scans readings: the newest of each series stand in a
table of their own, and a chart is one range of the primary key.
"""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

Kind = Literal["timeseries", "bars", "band", "stat", "share", "table", "map"]


class Grid(NamedTuple):
    """A place in Grafana's grid of 24 columns."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Threshold:
    """From `value` on, the colour changes; None starts at the bottom."""

    value: float | None
    colour: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Parameters
    ----------
    title, description : str
        As shown; the description is behind the panel's (i).
    kind : Kind
        How it is drawn.
    sql : str
        The question, with Grafana's macros and variables.
    columns : tuple of str
        What the drawing needs from the answer.
    grid : Grid
        Where it stands.
    unit : str
        A unit id of Grafana.
    step : str
        The smallest `$__interval`; a minute where the data come by the minute.
    thresholds : tuple of Threshold
        Colours by value.
    """

    title: str
    description: str
    kind: Kind
    sql: str
    columns: tuple[str, ...]
    grid: Grid
    unit: str = "short"
    step: str = "1m"
    thresholds: tuple[Threshold, ...] = ()


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of the dashboard, filled by `sql`, `current` until it is."""

    name: str
    label: str
    sql: str
    current: str = ""


VARIABLES: Final = (
    Variable(
        "namespace",
        "Namespace",
        # The pattern is the one that names the schemas of namespaces.
        r"SELECT nspname FROM pg_catalog.pg_namespace"
        r" WHERE nspname = 'live' OR nspname LIKE 'replay\_%' ORDER BY nspname",
        current="live",
    ),
    Variable("zone", "Zone", "SELECT DISTINCT zone FROM ${namespace}.sensor ORDER BY zone"),
    Variable(
        "sensor",
        "Sensor",
        "SELECT name FROM ${namespace}.sensor WHERE zone = ${zone:sqlstring} ORDER BY name",
    ),
    Variable(
        "quantity",
        "Quantity",
        "SELECT quantity FROM ${namespace}.series JOIN ${namespace}.sensor USING (sensor_id)"
        " WHERE name = ${sensor:sqlstring} ORDER BY quantity",
    ),
)


def _per_second(column: str, title: str) -> str:
    # The minute under way is left out: half a minute would read as half the rate.
    return f"""SELECT $__timeGroupAlias(minute, $__interval),
       sum({column})::double precision / (60 * count(DISTINCT minute)) AS "{title}"
FROM ${{namespace}}.ledger
WHERE $__timeFilter(minute) AND minute < date_trunc('minute', now())
GROUP BY 1
ORDER BY 1"""  # noqa: S608 - column and title are constants of this module


PANELS: Final = (
    Panel(
        title="Age of newest row",
        description="Between the newest reading's event time and now. Grows when nothing arrives.",
        kind="stat",
        sql="""SELECT extract(epoch FROM now() - max(time)) AS "age"
FROM ${namespace}.latest""",
        columns=("age",),
        grid=Grid(0, 0, 5, 5),
        unit="s",
        # A usual reporting period is a minute; two without any reading at all is an outage.
        thresholds=(
            Threshold(None, "green"),
            Threshold(60, "orange"),
            Threshold(120, "red"),
        ),
    ),
    Panel(
        title="Pages",
        description="Delivered and given up in the range shown; pending now.",
        kind="stat",
        sql="""SELECT
    (SELECT count(*) FROM ${namespace}.delivery WHERE $__timeFilter(delivered_at)) AS "delivered",
    (SELECT count(*) FROM ${namespace}.delivery
     WHERE delivered_at IS NULL AND abandoned_at IS NULL) AS "pending",
    (SELECT count(*) FROM ${namespace}.delivery
     WHERE $__timeFilter(abandoned_at)) AS "given up\"""",
        columns=("delivered", "pending", "given up"),
        grid=Grid(5, 0, 10, 5),
    ),
    Panel(
        title="Quality of the newest readings",
        description="QARTOD flags of the newest reading of each series.",
        kind="share",
        sql="""SELECT CASE quality WHEN 1 THEN 'good' WHEN 2 THEN 'not evaluated'
           WHEN 3 THEN 'suspect' WHEN 4 THEN 'fail' WHEN 9 THEN 'missing'
           ELSE 'flag ' || quality END AS "flag",
       count(*) AS "series"
FROM ${namespace}.latest
GROUP BY quality
ORDER BY quality""",
        columns=("flag", "series"),
        grid=Grid(15, 0, 9, 5),
    ),
    Panel(
        title="Messages received",
        description="MQTT messages per second, redeliveries included.",
        kind="timeseries",
        sql=_per_second("messages", "messages/s"),
        columns=("time", "messages/s"),
        grid=Grid(0, 5, 12, 8),
        unit="cps",
    ),
    Panel(
        title="Rows stored",
        description="Readings stored per second, each once.",
        kind="timeseries",
        sql=_per_second("stored", "rows/s"),
        columns=("time", "rows/s"),
        grid=Grid(12, 5, 12, 8),
        unit="cps",
    ),
    Panel(
        title="Sensors",
        description="0 good, 1 doubtful quality or no reading, 2 sensor alert, 3 city alert.",
        kind="map",
        sql="""SELECT s.name AS "sensor", s.zone AS "zone", s.latitude, s.longitude,
       max(r.time) AS "newest",
       CASE WHEN bool_or(a.category = 'city') THEN 3
            WHEN bool_or(a.category = 'sensor-health') THEN 2
            WHEN coalesce(max(r.quality), 9) >= 3 THEN 1
            ELSE 0 END AS "state"
FROM ${namespace}.sensor s
JOIN ${namespace}.series q USING (sensor_id)
LEFT JOIN ${namespace}.latest r USING (series_id)
LEFT JOIN ${namespace}.alert a ON a.series_id = q.series_id AND a.state <> 'resolved'
WHERE s.latitude IS NOT NULL AND s.longitude IS NOT NULL
GROUP BY s.sensor_id
ORDER BY "state", s.sensor_id""",
        columns=("sensor", "zone", "latitude", "longitude", "newest", "state"),
        grid=Grid(0, 13, 12, 11),
        thresholds=(
            Threshold(None, "blue"),
            Threshold(1, "purple"),
            Threshold(2, "yellow"),
            Threshold(3, "red"),
        ),
    ),
    Panel(
        title="Open alerts",
        description="Not resolved yet, newest first; at most 200.",
        kind="table",
        sql="""SELECT a.opened_at AS "since", a.severity, a.state, a.category, a.kind,
       s.zone, s.name AS "sensor", q.quantity, a.seen, a.expected, a.band,
       nullif(a.score, 'NaN') AS "score", a.sentence
FROM ${namespace}.alert a
JOIN ${namespace}.series q USING (series_id)
JOIN ${namespace}.sensor s USING (sensor_id)
WHERE a.state <> 'resolved'
ORDER BY a.opened_at DESC
LIMIT 200""",
        columns=("since", "severity", "sensor", "quantity", "seen", "expected", "score"),
        grid=Grid(12, 13, 12, 11),
    ),
    Panel(
        title="$sensor, $quantity",
        description="What the sensor said, and the band in which no alert would open.",
        kind="band",
        sql="""SELECT c.time AS "time", c.value AS "seen", c.expected, c.lower, c.upper
FROM ${namespace}.series q
JOIN ${namespace}.sensor s USING (sensor_id)
CROSS JOIN LATERAL ${namespace}.chart(
    q.series_id, $__timeFrom(), $__timeTo(), $__interval_ms * interval '1 millisecond'
) c
WHERE s.name = ${sensor:sqlstring} AND q.quantity = ${quantity:sqlstring}
ORDER BY c.time""",
        columns=("time", "seen", "expected", "lower", "upper"),
        grid=Grid(0, 24, 24, 10),
        step="1s",
    ),
    Panel(
        title="Alerts opened",
        description="By severity, at the event time of the reading that opened them.",
        kind="bars",
        sql="""SELECT $__timeGroupAlias(opened_at, $__interval), severity AS "metric",
       count(*) AS "alerts"
FROM ${namespace}.alert
WHERE $__timeFilter(opened_at)
GROUP BY 1, 2
ORDER BY 1, 2""",
        columns=("time", "metric", "alerts"),
        grid=Grid(0, 34, 12, 8),
    ),
    Panel(
        title="Dead letters",
        description="Messages that could not be read, by reason.",
        kind="bars",
        sql="""SELECT $__timeGroupAlias(received_at, $__interval), reason AS "metric",
       count(*) AS "messages"
FROM ${namespace}.dead_letter_listed
WHERE $__timeFilter(received_at)
GROUP BY 1, 2
ORDER BY 1, 2""",
        columns=("time", "metric", "messages"),
        grid=Grid(12, 34, 12, 8),
    ),
    Panel(
        title="Duty",
        description="Medians of causes that people were told of in the range shown: from the first"
        " alert written down to the first delivery, and from there to whoever had it and to its"
        " end.",
        kind="stat",
        sql="""SELECT percentile_cont(0.5) WITHIN GROUP (
           ORDER BY extract(epoch FROM paged_at - fired_at)) AS "to page",
       percentile_cont(0.5) WITHIN GROUP (
           ORDER BY extract(epoch FROM CASE WHEN acknowledged_at < paged_at THEN '0'
                                            ELSE acknowledged_at - paged_at END))
           AS "to acknowledge",
       percentile_cont(0.5) WITHIN GROUP (
           ORDER BY extract(epoch FROM CASE WHEN closed_at < paged_at THEN '0'
                                            ELSE closed_at - paged_at END)) AS "to resolve"
FROM (
    SELECT g.first_acknowledged_at AS acknowledged_at, g.closed_at,
           (SELECT min(a.recorded_at) FROM ${namespace}.page_member m
            JOIN ${namespace}.alert a USING (alert_id)
            WHERE m.group_key = g.group_key) AS fired_at,
           (SELECT min(d.delivered_at) FROM ${namespace}.delivery d
            WHERE d.group_key = g.group_key AND d.event = 'trigger') AS paged_at
    FROM ${namespace}.page_group g
    WHERE $__timeFilter(g.told_at)
) page""",
        columns=("to page", "to acknowledge", "to resolve"),
        grid=Grid(0, 42, 8, 5),
        unit="s",
    ),
    Panel(
        title="False pages",
        description="Of the causes that people were told of and marked: how many were false, by"
        " the newest mark of each.",
        kind="stat",
        sql="""SELECT avg(is_false::integer) AS "false"
FROM (
    SELECT (SELECT k.is_false FROM ${namespace}.page_mark k WHERE k.group_key = g.group_key
            ORDER BY k.created_at DESC, k.author LIMIT 1) AS is_false
    FROM ${namespace}.page_group g
    WHERE $__timeFilter(g.told_at)
) page""",
        columns=("false",),
        grid=Grid(0, 47, 8, 5),
        unit="percentunit",
    ),
    Panel(
        title="Pages by cause",
        description="Causes that people were told of, when they were told first.",
        kind="bars",
        sql="""SELECT $__timeGroupAlias(told_at, $__interval), cause AS "metric",
       count(*) AS "pages"
FROM ${namespace}.page_group
WHERE $__timeFilter(told_at)
GROUP BY 1, 2
ORDER BY 1, 2""",
        columns=("time", "metric", "pages"),
        grid=Grid(8, 42, 16, 10),
    ),
)
