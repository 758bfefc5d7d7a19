"""The routes file: what it says, and everything that can be wrong with it."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paging.checking import faults_of, remarks_on
from paging.hooks.kinds import KINDS
from paging.routes import Routes, RoutesError, Target, read_routes
from paging.stages import STAGES, routes_of
from paging.trial import trial
from tests.paging.scaffold import page_of
from tests.paging.timeline import ROUTES, moment

BASE = """
[hook.control]
type = "webhook"
url = "http://127.0.0.1:1/"
[policy.all]
steps = [{ to = ["hook:control"] }]
"""
NET = '[[route]]\nname = "net"\npolicy = "all"\n'


def read(text: str) -> Routes:
    return read_routes(text, KINDS)


def test_a_file_of_everything() -> None:
    routes = read(
        """
[pager]
link = "https://city.example"
stale_after = "2h"
[shift]
starts = ["22:00", "06:00"]
time_zone = "Europe/Madrid"
budget = 12
[hook.control]
type = "webhook"
url = { env = "HOOK" }
events = ["trigger"]
concurrency = 3
[person.anna]
control = true
[rotation.primary]
people = ["anna"]
first_day = 2025-03-03
[policy.all]
steps = [
    { to = ["hook:control", "oncall:primary"] },
    { after = "5m", to = ["person:anna/control"] },
]
[gateway.north]
sensors = ["traffic-00*"]
[power-area.hill]
sensors = ["*"]
[[inhibit]]
source = { kind = "incident" }
target = { kind = "service-level" }
[[corroborate]]
match = { kind = "exceedance" }
[[shadow]]
match = { kind = "season" }
[[route]]
name = "net"
policy = "all"
group_by = ["zone"]
group_wait = "3s"
"""
    )
    assert faults_of(routes) == []
    assert remarks_on(routes) == []
    assert routes.hooks["control"].terms.events == ("trigger",)
    assert routes.policies["all"][0].to[1] == Target("oncall", "primary")
    assert routes.policies["all"][1].to == (Target("person", "anna", "control"),)
    assert [area.name for area in routes.areas] == ["north", "hill"]
    assert routes.shifts.starts[0].hour == 6
    assert "HOOK" not in repr(routes)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[[rout]]\n", "rout: no such section"),
        ("route = 3\n", "route: tables in a list, [[route]], are expected"),
        ("[hook.x]\n", "hook.x: Object missing required field `type`"),
        ('[hook.x]\ntype = "pigeon"\n', "hook.x.type: no such kind of hook; there are"),
        ('[hook.x]\ntype = "webhook"\nurl = "x"\n', "hook.x: expected the hook's URL"),
        ('[hook.x]\ntype = "webhook"\n', "hook.x: Object missing required field `url`"),
        ('[hook."a b"]\ntype = "webhook"\n', "hook.a b: Expected `str` matching"),
        (
            '[[route]]\nname = "a"\npolicy = "all"\nwait = "1s"\n',
            "route a: Object contains unknown",
        ),
        ('[[route]]\nname = "a"\npolicy = "all"\ngroup_wait = 3\n', "route a: Expected `str`"),
        ('[[route]]\nname = "a"\npolicy = "all"\ngroup_by = ["moon"]\n', "route a: Invalid enum"),
        (
            '[[route]]\nname = "a"\npolicy = "all"\nmatch = { moon = "x" }\n',
            "route a.match.moon: no such label",
        ),
        ('[policy.x]\nsteps = [{ to = ["control"] }]\n', "policy.x: 'control' is none of hook:"),
        ('[policy.x]\nsteps = [{ to = ["hook:a/b"] }]\n', "policy.x: 'hook:a/b' is none of hook:"),
        ("[policy.x]\nsteps = []\n", "policy.x: Expected `array` of length >= 1"),
        ("[person.anna]\ncontrol = 3\n", "person.anna.control: an address, or true"),
        (
            '[rotation.x]\npeople = ["a"]\nfirst_day = 2025-01-01\ntime_zone = "Mars"\n',
            "rotation.x.time_zone: a time zone",
        ),
        ('[shift]\ntime_zone = "Mars"\n', "shift.time_zone: a time zone"),
        ("[darkness]\nshare = 2\n", "darkness: Expected `float` <= 1"),
        ("nonsense", "Expected '=' after a key"),
    ],
)
def test_what_is_not_well_formed_is_named_with_its_place(text: str, fault: str) -> None:
    with pytest.raises(RoutesError) as caught:
        read(text)
    assert any(line.startswith(fault) for line in str(caught.value).splitlines()), caught.value


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("[pager]\nstale_after = {0}\nlate_wait = {0}\n", "pager.stale_after pager.late_wait"),
        ("[shift]\nsummary_wait = {0}\n", "shift.summary_wait"),
        ("[flapping]\nwithin = {0}\n", "flapping.within"),
        (
            "[darkness]\nwait = {0}\nparent_wait = {0}\nwithin = {0}\n",
            "darkness.wait darkness.parent_wait darkness.within",
        ),
        (
            '[[inhibit]]\nsource = {{ zone = "x" }}\ntarget = {{ zone = "y" }}\nwait = {0}\n',
            "inhibit 1.wait",
        ),
        ('[[corroborate]]\nmatch = {{ zone = "x" }}\nwithin = {0}\n', "corroborate 1.within"),
        ('[policy.x]\nsteps = [{{ to = ["hook:control"], after = {0} }}]\n', "policy.x.after"),
        (
            NET + "group_wait = {0}\ngroup_interval = {0}\nrepeat_interval = {0}\n",
            "route net.group_wait route net.group_interval route net.repeat_interval",
        ),
    ],
)
def test_a_span_that_no_calendar_holds_is_named_with_its_place(text: str, places: str) -> None:
    with pytest.raises(RoutesError) as caught:
        read(text.format('"9999999d"'))
    faults = str(caught.value).splitlines()
    named = " ".join(
        fault.partition(": at most ten years, 3650d, are expected")[0] for fault in faults
    )
    assert named == places
    read(text.format('"3650d"'))


def test_every_fault_is_listed() -> None:
    text = '[x]\n[hook.x]\ntype = "pigeon"\n[darkness]\nleast = 0\n[[route]]\nname = "a"\n'
    with pytest.raises(RoutesError) as caught:
        read(text)
    assert len(str(caught.value).splitlines()) == 4


def route(name: str, match: str = "", policy: str = "all") -> str:
    return f'[[route]]\nname = "{name}"\npolicy = "{policy}"\nmatch = {{ {match} }}\n'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (BASE, "there is no route: nobody is told of anything"),
        (BASE + route("a", policy="none"), "route a: there is no policy none"),
        (
            BASE.replace("[policy", 'events = ["resolve"]\n[policy') + NET,
            "hook control: its events lack trigger",
        ),
        (BASE + route("a") + route("b", 'zone = "x"') + NET, "route b: unreachable, a takes all"),
        (
            BASE + route("a", 'severity = ["minor", "major"]')
            + route("b", 'severity = "!critical"') + NET,
            "route b: unreachable, a takes all",
        ),
        (
            BASE + route("a", 'severity = "critical"') + route("b", 'category = "city"')
            + route("c", 'severity = "critical", category = "city"') + NET,
            "route c: unreachable, b takes all",
        ),
        (
            BASE + route("a", 'zone = "harbour"') + route("b", 'zone = "!harbour"')
            + route("c", 'kind = "spike"') + NET,
            "route c: unreachable, a and b take all",
        ),
        (
            BASE + route("a", 'zone = "n*"') + route("b", 'zone = ["north-?", "!*-7"]')
            + route("c", 'zone = ["n*7", "n?"]') + NET,
            "route c: unreachable, a takes all",
        ),
        (
            BASE + route("a", 'zone = "?*"') + route("b", 'kind = "spike"') + NET,
            "route b: unreachable, a takes all",
        ),
        (
            BASE + route("a", 'zone = ["x", "!x"]') + NET,
            "route a: no alert that pages is zone=x|!x",
        ),
        (
            BASE + route("a", 'severity = "informational"') + NET,
            "route a: no alert that pages is severity=informational",
        ),
        (BASE + route("a", 'zone = "x"'), "route a: the last route must take everything"),
        (BASE + NET + NET, "route net: 2 routes have this name"),
        (
            BASE + '[policy.x]\nsteps = [{ to = ["hook:gone"] }]\n' + NET,
            "policy x: there is no hook gone",
        ),
        (
            BASE + '[policy.x]\nsteps = [{ to = ["oncall:gone"] }]\n' + NET,
            "policy x: there is no rotation gone",
        ),
        (
            BASE + '[person.anna]\n[policy.x]\nsteps = [{ to = ["person:anna"] }]\n' + NET,
            "policy x: anna is not reached by any hook",
        ),
        (
            BASE + '[person.anna]\nsms = "1"\n[policy.x]\nsteps = [{ to = ["person:anna/mail"] }]\n'
            + NET,
            "policy x: anna is not reached by mail",
        ),
        (BASE + '[person.anna]\nsms = "1"\n' + NET, "person anna: there is no hook sms"),
        (
            BASE + '[rotation.x]\npeople = ["anna"]\nfirst_day = 2025-01-01\n' + NET,
            "rotation x: there is no person anna",
        ),
        (
            BASE
            + '[policy.x]\nsteps = [{ to = ["hook:control"] }, { to = ["hook:control"] }]\n' + NET,
            "policy x: each step must come later than the one before",
        ),
        (
            BASE + '[gateway.a]\nsensors = ["x*"]\n[gateway.b]\nsensors = ["x*"]\n' + NET,
            "gateway b: x* stands in a as well",
        ),
    ],
)  # fmt: skip
def test_what_is_well_formed_and_wrong_is_named(text: str, fault: str) -> None:
    assert any(one.startswith(fault) for one in faults_of(read(text))), faults_of(read(text))


def test_what_is_odd_is_remarked() -> None:
    text = BASE + '[hook.spare]\ntype = "webhook"\nurl = "http://x/"\n' + NET
    text += '[policy.spare]\nsteps = [{ to = ["hook:spare"] }]\n'
    assert remarks_on(read(text)) == [
        "policy spare: no route uses it",
        "hook spare: no step reaches it",
    ]
    assert faults_of(read(ROUTES)) == []


def test_a_route_that_goes_on_takes_nothing_from_others() -> None:
    goes_on = route("a", 'zone = "x"') + "continue = true\n"
    assert faults_of(read(BASE + goes_on + route("b", 'zone = "x"') + NET)) == []


def test_a_route_that_is_wholly_in_shadow_is_remarked() -> None:
    text = BASE + route("a", 'kind = "level"') + route("b", 'kind = "spike"') + NET
    assert remarks_on(read(text)) == []
    text += '[[shadow]]\nmatch = { kind = "sp*" }\n[[shadow]]\nmatch = { zone = "x" }\n'
    assert remarks_on(read(text)) == ["route b: unreached, all that it would take is in shadow"]
    assert faults_of(read(text)) == []


def test_globs_that_overlap_in_too_many_ways_are_remarked() -> None:
    text = BASE
    for number in range(40):
        text += route(f"r{number}", f'sensor = "*-{number}-*"')
    routes = read(text + NET)
    assert faults_of(routes) == []
    (remark,) = remarks_on(routes)
    assert remark.startswith("routes: of so many globs it cannot be told")


some_values = st.lists(
    st.sampled_from(["a", "b", "a*", "*b", "?", "a?", "!a", "!b*", "!??*", "!?"]),
    min_size=1,
    max_size=2,
)
tables = st.fixed_dictionaries(
    {},
    optional={
        "zone": some_values,
        "severity": st.lists(
            st.sampled_from(["minor", "major", "!major", "critical"]), min_size=1, max_size=2
        ),
        "category": st.just(["city"]),
    },
)
# Of globs as short as those above, no two tell longer names apart.
ALERTS = [
    {
        "severity": severity, "category": category, "zone": "".join(zone),
        "kind": "x", "domain": "x", "sensor": "x", "quantity": "x",
    }
    for severity in ("minor", "major", "critical")
    for category in ("city", "sensor-health")
    for length in (1, 2, 3)
    for zone in product("abc", repeat=length)
]  # fmt: skip


@given(st.lists(tables, min_size=1, max_size=4))
def test_a_route_is_unreachable_if_no_alert_reaches_it(found: list[dict[str, list[str]]]) -> None:
    text = BASE
    for number, table in enumerate(found):
        match = ", ".join(f"{label} = {values}" for label, values in table.items())
        text += route(f"r{number}", match.replace("'", '"'))
    routes = read(text + NET)
    unreachable = {
        one.split(":")[0].removeprefix("route ")
        for one in faults_of(routes)
        if "unreachable" in one or "no alert that pages" in one
    }
    taken = [routes_of(labels, routes.routes) for labels in ALERTS]
    assert {len(one) for one in taken} == {1}
    reached = {one.name for (one,) in taken}
    # The net may hang there unused, but not where a route takes everything before it.
    named = routes.routes if {} in found else routes.routes[:-1]
    assert unreachable == {one.name for one in named} - reached


def test_an_alert_alone_in_the_city_waits_for_neighbours_that_do_not_come() -> None:
    text = BASE + '[[corroborate]]\nmatch = { kind = "level" }\notherwise = "drop"\n' + NET
    said = [
        (line.outcome, line.reason)
        for line in trial(page_of(kind="level"), read(text), moment(0))
        if line.stage == "corroboration"
    ]
    assert said == [
        ("hold", "0 of 1 neighbours so far"),
        ("drop", "only 0 of 1 neighbours within 5m"),
    ]


def test_where_an_alert_would_go_is_shown_stage_by_stage() -> None:
    routes = read(
        BASE.replace(
            '"hook:control"] }]',
            '"hook:control"] }, { after = "5m", to = ["oncall:p", "person:anna"] }]',
        )
        + '[person.anna]\ncontrol = true\n[rotation.p]\npeople = ["anna"]\n'
        "first_day = 2025-01-01\n" + route("quiet", 'kind = "season"', policy="nobody") + NET
    )
    lines = trial(page_of(), routes, moment(0))
    assert [line.stage for line in lines] == [
        *(name for name, _ in STAGES),
        "route net",
        "step 1",
        "step 2",
    ]
    assert lines[-3].reason == "grouped by zone=harbour kind=anomaly, told after 1s by policy all"
    assert [line.reason for line in lines[-2:]] == ["at once: control", "after 5m: anna by control"]
    lines = trial(page_of(kind="season", quality=4), routes, moment(0))
    outcomes = {line.stage: line.outcome for line in lines}
    # What stops it does not hide what would have stopped it later.
    assert (outcomes["quality"], outcomes["routing"]) == ("drop", "drop")
    assert lines[-1].reason == "tells nobody"
