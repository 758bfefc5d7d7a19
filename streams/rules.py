"""Rules: thresholds, switches and severities of the detectors, as people write them.

A file of rules says what differs from the worker's defaults: for every series (`[suite]`,
`[detectors]`, `[severity]`), for a quantity, for a sensor, for one quantity of one sensor. The
closer section wins. `[shadow.<name>]` holds the same once more, laid over all that: a second suite
runs by it, and nobody is told what it finds.

Rules travel through the log of readings, so that a change holds from one offset on, whoever reads
it when. What travels is canonical: the same rules are the same bytes, and have one fingerprint.

One long module: a section is a few lines of fields, and what is said of them is checked together.
"""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Annotated, Any, Final

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
)

from detectors import KIND_NAMES
from ingest.quantities import QUANTITIES
from ingest.records import KafkaRecord, Provenance
from ingest.topics import is_level, readings_topic
from storage.pages import Severity
from streams.facts import CityFacts
from streams.kernels import kernels
from streams.thresholds import OF_QUANTITY, OF_SENSOR, SECTION, MinuteRules

RULES_VERSION: Final = 1
# What a message of rules is called in its header.
CONTROL: Final = "rules"
# Below what Kafka takes in one message; a sensor with a section of its own needs about 60 bytes.
MAX_RULES_BYTES: Final = 256 << 10
# Of what the city says of itself: some 30,000 sensors in groups. With the rules it goes through in
# one message, of a MiB at most.
MAX_CITY_BYTES: Final = 512 << 10
# Each costs as much as the live suite, and as the minute stage where it switches one of its kinds.
MAX_SHADOWS: Final = 4
# In the place of a bridge.
_SENDER: Final = "citywatch-rules"
# What the minute stage finds.
BY_MINUTES: Final = tuple(
    dict.fromkeys(kind.name for kernel in kernels(CityFacts()) for kind in kernel.kinds)
)
# The quantities that each kind is looked for in, where it is not all of them. Clocks are judged by
# the first series of a sensor, and states by their range alone: they have no level, no rate, and no
# period.
_JUDGED: Final[dict[str, frozenset[str]]] = {
    **dict.fromkeys(
        ("level", "flatline", "rate", "silence"),
        frozenset(name for name, row in QUANTITIES.items() if not row.is_state),
    ),
    **{
        kind.name: frozenset().union(
            *(
                QUANTITIES if other.of_clocks else other.quantities
                for other in kernels(CityFacts())
                if kind.name in {one.name for one in other.kinds}
            )
        )
        for kernel in kernels(CityFacts())
        for kind in kernel.kinds
    },
}
# What a state has none of, beside the switches of those.
_OF_MEASURES: Final = (
    "warm_up", "city_open_spreads", "city_close_spreads", "city_open_after", "flatline_chance",
    "silence_floor_s", "silence_factor", "health_open_after", "close_after", "max_rate",
)  # fmt: skip
# What speaks by how rare it is, on one scale: of the suite its level, and of the minutes these.
SCORED: Final = (
    "level",
    *dict.fromkeys(
        kind.name for kernel in kernels(CityFacts()) for kind in kernel.kinds if kind.is_scored
    ),
)
# What can be switched off. A bad flag that a sensor gives its own reading cannot.
SWITCHES: Final = ("level", "flatline", "range", "rate", "silence", *BY_MINUTES)
_KINDS: Final = (*KIND_NAMES, *BY_MINUTES)
# Of a faulty file nobody mends more at once.
_MAX_FAULTS: Final = 100
_RANGE: Final = ("low", "high", "max_rate")
# What pydantic puts before the message of a validator.
_OWN_MESSAGE: Final = "Value error, "


class RulesError(ValueError):
    """Rules that cannot be used.

    Attributes
    ----------
    faults : list of str
        Each with its place.
    """

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def _quantity(name: str) -> str:
    if name not in QUANTITIES:
        raise ValueError("no such quantity")
    return name


def _sensor(name: str) -> str:
    if not is_level(name):
        raise ValueError("no id of a sensor")
    return name


def _switch(name: str) -> str:
    if name not in SWITCHES:
        raise ValueError(f"no detector that can be switched off: {', '.join(SWITCHES)} can")
    return name


def _kind(name: str) -> str:
    if name not in _KINDS:
        raise ValueError(f"no kind of alert: {', '.join(_KINDS)} are")
    return name


def _scored(name: str) -> str:
    if name not in SCORED:
        raise ValueError(f"no kind that has such a score: {', '.join(SCORED)} have")
    return name


_Readings = Annotated[int, Field(ge=1, le=100_000)]
_Remembered = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
_Weight = Annotated[float, Field(gt=0, le=1)]
_Share = Annotated[float, Field(ge=0, le=10)]
_Spreads = Annotated[float, Field(gt=0, le=1_000)]
_Chance = Annotated[float, Field(gt=0, lt=1)]
_Seconds = Annotated[float, Field(gt=0, le=31 * 86_400)]
_Value = Annotated[float, Field(allow_inf_nan=False)]
_Detectors = dict[Annotated[str, AfterValidator(_switch)], bool]
_Severities = dict[Annotated[str, AfterValidator(_kind)], Severity]
# -log10 of how often in a minute; a chance that a float64 can hold.
_Decades = Annotated[float, Field(ge=0, le=300)]
_Scores = dict[Annotated[str, AfterValidator(_scored)], _Decades]
_Quantity = Annotated[str, AfterValidator(_quantity)]
_Sensor = Annotated[str, AfterValidator(_sensor)]
_Shadow = Annotated[str, Field(pattern="^[a-z][a-z0-9-]{0,39}$")]


class _Section(BaseModel):
    model_config = SECTION


def _city(values: Any) -> CityFacts:
    return values if isinstance(values, CityFacts) else CityFacts.read(values)


class _Thresholds(_Section):
    """Those that each series may have its own of: the fields of `detectors.Terms`."""

    warm_up: _Readings | None = None
    city_open_spreads: _Spreads | None = None
    city_close_spreads: _Spreads | None = None
    city_open_after: _Readings | None = None
    health_open_after: _Readings | None = None
    close_after: _Readings | None = None
    flatline_chance: _Chance | None = None
    silence_floor_s: _Seconds | None = None
    silence_factor: Annotated[float, Field(ge=1, le=1_000)] | None = None


class SuiteRules(_Thresholds):
    """Those of every series: the fields of `detectors.SuiteConfig`."""

    level_weight: _Weight | None = None
    spread_weight: _Weight | None = None
    innovation_bound: _Spreads | None = None
    adopt_after: _Readings | None = None
    city_rest_s: Annotated[float, Field(ge=0, le=86_400)] | None = None
    early_widening: Annotated[float, Field(ge=0, le=1_000)] | None = None
    smooth_widening: _Share | None = None
    floor_absolute: Annotated[float, Field(gt=0, le=1e6)] | None = None
    floor_relative: _Weight | None = None
    repeat_floor: _Weight | None = None
    repeat_prior: _Remembered | None = None
    change_prior: _Remembered | None = None
    repeat_memory: _Remembered | None = None
    repeat_lesson: _Remembered | None = None
    rate_max_gap_s: _Seconds | None = None
    forget_after_s: _Seconds | None = None
    allowed_lateness_s: _Seconds | None = None
    silence_decay: _Weight | None = None


class Scope(_Thresholds):
    """What some series have otherwise than all."""

    detectors: _Detectors = {}
    severity: _Severities = {}
    score: _Scores = {}
    minutes: MinuteRules = MinuteRules()


class QuantityRules(Scope):
    """Of a quantity, or of one quantity of one sensor; ranges are in the quantity's unit."""

    low: _Value | None = None
    high: _Value | None = None
    max_rate: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class SensorRules(Scope):
    """Of a sensor."""

    quantity: dict[_Quantity, QuantityRules] = {}


class Layer(_Section):
    """What may be said of series; a shadow is one."""

    suite: SuiteRules = SuiteRules()
    detectors: _Detectors = {}
    score: _Scores = {}
    minutes: MinuteRules = MinuteRules()
    quantity: dict[_Quantity, QuantityRules] = {}
    sensor: dict[_Sensor, SensorRules] = {}

    @property
    def is_about_minutes(self) -> bool:
        """Whether anything of the minute stage is switched here, or speaks from elsewhere on."""
        sections: list[Layer | Scope] = [self, *(scope for _, scope in self.scopes())]
        return any(
            said(one.minutes)
            or not set(BY_MINUTES).isdisjoint(one.score)
            or not set(BY_MINUTES).isdisjoint(one.detectors)
            for one in sections
        )

    def scopes(self) -> Iterator[tuple[str, Scope]]:
        """Yield the sections that speak of some series, with their places."""
        for quantity, of_quantity in self.quantity.items():
            yield f"quantity.{quantity}", of_quantity
        for sensor, of_sensor in self.sensor.items():
            yield f"sensor.{sensor}", of_sensor
            for quantity, of_series in of_sensor.quantity.items():
                yield f"sensor.{sensor}.quantity.{quantity}", of_series


class Rules(Layer):
    """All that a file of rules may say."""

    severity: _Severities = {}
    shadow: Annotated[dict[_Shadow, Layer], Field(max_length=MAX_SHADOWS)] = {}
    # What came with them of the city; no file of rules says it. None: as each worker's settings.
    city: Annotated[CityFacts, BeforeValidator(_city), PlainSerializer(CityFacts.said)] | None = (
        None
    )

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Rules":
        """Check what a file says.

        Raises
        ------
        RulesError
            With every fault and its place.
        """
        try:
            rules = cls.model_validate(dict(values))
        except ValidationError as error:
            raise RulesError(list(_told(error))[:_MAX_FAULTS]) from error
        city = len(msgspec.json.encode(rules.city.said())) if rules.city is not None else 0
        size = len(rules.canonical) - city
        if size > MAX_RULES_BYTES:
            raise RulesError([f"{size} bytes; at most {MAX_RULES_BYTES} go through the log"])
        if city > MAX_CITY_BYTES:
            raise RulesError([f"city: {city} bytes; at most {MAX_CITY_BYTES} go through the log"])
        return rules

    def of(self, city: CityFacts) -> "Rules":
        """Return the rules with what a city says of itself.

        Raises
        ------
        RulesError
            If that is too much to go through the log.
        """
        return Rules.read(said(self) | {"city": city.said()})

    @property
    def canonical(self) -> bytes:
        """The rules as JSON: the same rules are the same bytes."""
        return msgspec.json.encode(said(self), order="sorted")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical form, in hexadecimal."""
        return sha256(self.canonical).hexdigest()

    def shadowed(self, name: str) -> "Rules":
        """Return the rules that a shadow is judged by: its own, laid over these."""
        own = said(self)
        own.pop("shadow", None)
        return Rules.model_validate(laid(own, said(self.shadow[name])))


def without_effect(rules: Rules) -> list[str]:
    """Return what is said and changes nothing, each with its place.

    Workers pass over it, for it may stand in their log; a file of rules that says it is refused.
    """
    faults = []
    for name, shadow in rules.shadow.items():
        faults += [
            f"shadow.{name}.{place}.severity: a shadow pages nobody, so it has no severity"
            for place, scope in shadow.scopes()
            if scope.severity
        ]
    layers = [("", rules), *((f"shadow.{name}.", layer) for name, layer in rules.shadow.items())]
    for prefix, layer in layers:
        faults += _unruled(f"{prefix}".rstrip("."), None, layer.minutes)
        for place, scope in layer.scopes():
            quantity = place.rpartition("quantity.")[2] if "quantity." in place else None
            faults += [
                f"{prefix}{place}.{section}.{kind}: {kind} does not judge {quantity}"
                for section in ("detectors", "severity", "score")
                for kind in getattr(scope, section)
                if quantity is not None and quantity not in _JUDGED.get(kind, QUANTITIES)
            ]
            faults += _unruled(f"{prefix}{place}", quantity, scope.minutes)
            if quantity in QUANTITIES and QUANTITIES[quantity].is_state:
                faults += [
                    f"{prefix}{place}.{name}: {quantity} is a state, judged by its range alone"
                    for name in _OF_MEASURES
                    if getattr(scope, name, None) is not None
                ]
    faults += [
        f"shadow.{name}: says nothing that the present rules do not"
        for name, layer in rules.shadow.items()
        if not said(layer)
    ]
    return faults


def _unruled(place: str, quantity: str | None, minutes: MinuteRules) -> Iterator[str]:
    """Yield the thresholds of the minute stage that mean nothing in a section."""
    for kind, name in minutes.said():
        whole = ".".join(filter(None, (place, "minutes", kind, name)))
        if quantity is None and (kind, name) in OF_QUANTITY:
            yield f"{whole}: is that of a quantity: [{_beside(place)}quantity.<name>]"
        elif quantity is not None and kind in OF_SENSOR:
            yield f"{whole}: {kind} judges a sensor: [sensor.<id>]"
        elif quantity is not None and quantity not in _JUDGED[kind]:
            yield f"{whole}: {kind} does not judge {quantity}"


def _beside(place: str) -> str:
    return f"{place}." if place else ""


def said(section: BaseModel) -> dict[str, Any]:
    """Return what a section says, without what it leaves as it is."""
    return section.model_dump(exclude_defaults=True, by_alias=True)


def encode_rules(rules: Rules) -> bytes:
    """Return the rules as they go through the log."""
    envelope = {
        "version": RULES_VERSION,
        "fingerprint": rules.fingerprint,
        "rules": msgspec.Raw(rules.canonical),
    }
    return msgspec.json.encode(envelope, order="sorted")


def rules_record(rules: Rules, namespace: str, partition: int) -> KafkaRecord:
    """Return the message that brings rules to a partition."""
    provenance = Provenance(_SENDER, [], control=CONTROL)
    topic = readings_topic(namespace)
    return KafkaRecord(topic, partition, encode_rules(rules), provenance.headers(namespace))


def decode_rules(data: bytes) -> Rules:
    """Read rules from the log.

    Raises
    ------
    RulesError
        If they are damaged, of another version, or say what this version does not know.
    """
    # The envelope takes about 100 bytes.
    most = MAX_RULES_BYTES + MAX_CITY_BYTES
    if len(data) > most + 1_000:
        raise RulesError([f"{len(data)} bytes, at most {most} are read"])
    try:
        envelope = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RulesError([f"not rules: {error}"]) from error
    version = envelope.get("version")
    if version != RULES_VERSION or type(version) is not int:
        raise RulesError([f"rules of version {version!r:.20}, version {RULES_VERSION} is read"])
    values = envelope.get("rules")
    if not isinstance(values, dict):
        raise RulesError(["not rules: there are none in it"])
    rules = Rules.read(values)
    if envelope.get("fingerprint") != rules.fingerprint:
        raise RulesError(["the fingerprint is not that of the rules: damaged"])
    return rules


def laid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Lay one mapping over another, section by section."""
    whole = dict(below)
    for name, value in above.items():
        under = whole.get(name)
        is_section = isinstance(under, dict) and isinstance(value, dict)
        whole[name] = laid(under or {}, value) if is_section else value
    return whole


def _told(error: ValidationError) -> Iterator[str]:
    for fault in error.errors(include_url=False, include_input=False):
        # Pydantic says that it is the key and not the value that is wrong.
        place = [str(part) for part in fault["loc"] if part != "[key]"]
        message = fault["msg"].removeprefix(_OWN_MESSAGE)
        if fault["type"] == "extra_forbidden":
            message = "no such rule"
            if place[-1] in _RANGE and "sensor" in place:
                sensor = ".".join(place[:-1])
                message = f"a range is that of a quantity: [{sensor}.quantity.<name>]"
        yield f"{'.'.join(place)}: {message}"
