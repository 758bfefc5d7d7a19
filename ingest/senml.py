"""SenML packs in JSON (RFC 8428), to readings.

Gateways speak in packs of hundreds of records, so a pack is read twice over: `_quick` knows the
plain ones, which is nearly all of them, and gives up at the first thing that is not; `_thorough`
reads any pack record by record and says of each that cannot be taken why. Where both give an
answer it is the same. They stand in one module, long as it gets, because neither may change
without the other.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import isfinite
from typing import Annotated, Any, Final, NamedTuple, TypeGuard

import msgspec
from msgspec import UNSET, UnsetType

from ingest import jsontext, reject
from ingest.message import Acceptance, Channel, Message, Refused
from ingest.privacy import UNKNOWN, fingerprinted, kind_of, kind_within
from ingest.quantities import PRIVATE_DOMAIN, QUANTITIES
from ingest.reject import Reject
from ingest.topics import MqttTopic, is_level
from ingest.units import Conversion, senml_conversion

# RFC 8428, section 4.4: what a pack says that does not say its version.
VERSION: Final = 10
# Later versions are sums of features (RFC 9100); of these one is known, secondary units (RFC 8798).
VERSIONS: Final = frozenset({*range(1, VERSION + 1), VERSION + 16})
# Section 4.5.3: a time below it counts from the arrival.
RELATIVE_S: Final = 2.0**28
# Section 4.5.1.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9:./_-]*")
# Section 4.3.
_BASE: Final = frozenset({"bn", "bt", "bu", "bv", "bs", "bver"})
_TEXTS: Final = ("vs", "vd")
_VALUES: Final = frozenset({"v", "vb", "s", *_TEXTS})
_LABELS: Final = _BASE | _VALUES | {"n", "u", "t", "ut"}
# No time in seconds that far from 1970 is within any limit; in microseconds it is still exact.
_BEYOND_S: Final = 1e11
_KEPT_UNIT: Final = re.compile(r"[A-Za-z0-9/%]{0,12}")
# Resolved records repeat their base name; Kafka takes no message above 1 MiB.
_MAX_KEPT_BYTES: Final = 512 << 10
# Names that are remembered; beyond it the memory starts anew.
_MAX_KNOWN: Final = 100_000


class Resolved(NamedTuple):
    """One record with all base fields applied (RFC 8428, section 4.6).

    A field that cannot be resolved is the `Reject` that says so.

    Parameters
    ----------
    number : int
        Of the record in the pack, from 0.
    name : str or Reject
        Base name and name.
    unit : str, Reject or None
    value : float, bool or Reject
        In `unit`; a bool where the record says `vb`.
    time_ns : int or Reject
        UTC nanoseconds, whole microseconds.
    texts : tuple of str
        Which of `vs` and `vd` the record has.
    foreign : tuple of str
        Labels that RFC 8428 does not define.
    fault : Reject or None
        Of the record as a whole.
    """

    number: int
    name: str | Reject
    unit: str | Reject | None
    value: float | Reject
    time_ns: int | Reject
    texts: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    fault: Reject | None = None


def decode(
    payload: bytes, topic: MqttTopic, received_ns: int, acceptance: Acceptance
) -> Message | Reject:
    """Read one pack published on a sensor's topic.

    Parameters
    ----------
    payload : bytes
        The MQTT payload.
    topic : MqttTopic
        Where it was published. A record's name is `<sensor>/<quantity>`, `<sensor>:<quantity>` or
        `<quantity>` alone, which is the topic's sensor's; the sensor must be the topic's or a
        part of it (`<sensor>:<part>`, `<sensor>.<part>`), unless the topic's is a gateway.
    received_ns : int
        Arrival, UTC nanoseconds.
    acceptance : Acceptance

    Returns
    -------
    Message or Reject
        A `Message` as soon as one record was taken or withheld; else what was wrong with the
        first record.
    """
    message = _quick(payload, topic, received_ns, acceptance)
    return _thorough(payload, topic, received_ns, acceptance) if message is None else message


def resolve(pack: Iterable[Any], received_ns: int) -> list[Resolved] | Reject:
    """Apply the base fields of a pack.

    A record of nothing but base fields measures nothing and is not in the result.

    Parameters
    ----------
    pack : iterable
        The elements of the JSON array.
    received_ns : int
        Arrival, UTC nanoseconds: what relative times are relative to.

    Returns
    -------
    list of Resolved or Reject
        A `Reject` for a version that is not understood, which is about the whole pack.
    """
    base: dict[str, Any] = {}
    is_sealed = False
    found = []
    for number, record in enumerate(pack):
        place = f"$[{number}]"
        if not isinstance(record, dict):
            shape = Reject(reject.SHAPE, place)
            found.append(Resolved(number, shape, None, shape, shape, fault=shape))
            continue
        # Some writers spell out what they do not say.
        fields = record
        if None in record.values():
            fields = {label: value for label, value in record.items() if value is not None}
        version = fields.get("bver", VERSION)
        if not (_is_number(version) and version in VERSIONS):
            return Reject(reject.SHAPE, f"{place}.bver")
        if not _BASE.isdisjoint(fields):
            base |= {label: value for label, value in fields.items() if label in _BASE}
        foreign = tuple(label for label in record if label not in _LABELS)
        # Section 4.4: such a label must be understood, a base label in all records that follow.
        must = [label for label in foreign if label.endswith("_")]
        is_sealed = is_sealed or any(label.startswith("b") for label in must)
        if record and all(label.startswith("b") for label in record):
            continue
        found.append(
            Resolved(
                number,
                _name(fields, base, place),
                _unit(fields, base, place),
                _value(record, base, place),
                _time_ns(fields, base, place, received_ns),
                tuple(label for label in _TEXTS if label in fields),
                foreign,
                Reject(reject.SHAPE, place) if must or is_sealed else None,
            )
        )
    return found


def _name(fields: Mapping[str, Any], base: Mapping[str, Any], place: str) -> str | Reject:
    parts = base.get("bn", ""), fields.get("n", "")
    if all(isinstance(part, str) for part in parts):
        name = "".join(parts)
        if _NAME.fullmatch(name):
            return name
    return Reject(reject.IDENTITY, f"{place}.n")


def _unit(fields: Mapping[str, Any], base: Mapping[str, Any], place: str) -> str | Reject | None:
    unit = fields.get("u", base.get("bu"))
    return unit if unit is None or isinstance(unit, str) else Reject(reject.UNIT, f"{place}.u")


def _value(record: Mapping[str, Any], base: Mapping[str, Any], place: str) -> float | Reject:
    """Return the number or bool, or where it is not one.

    A base value stands for itself where the record has none (section 4.5.4); an explicit null
    is how JavaScript writes NaN, and no sum of anything.
    """
    number, truth, bv = record.get("v"), record.get("vb"), base.get("bv", 0.0)
    if truth is not None:
        is_value = isinstance(truth, bool) and number is None
        return truth if is_value else Reject(reject.VALUE, f"{place}.vb")
    if number is None and "bv" in base and _VALUES.isdisjoint(record):
        number = 0.0
    if _is_number(number) and _is_number(bv):
        return _float(bv) + _float(number)
    return Reject(reject.VALUE, f"{place}.v")


def _time_ns(
    fields: Mapping[str, Any], base: Mapping[str, Any], place: str, received_ns: int
) -> int | Reject:
    bt, t = base.get("bt", 0.0), fields.get("t", 0.0)
    if not (_is_number(bt) and _is_number(t)):
        return Reject(reject.TIME, f"{place}.t")
    seconds = _float(bt) + _float(t)
    if not isfinite(seconds):
        return Reject(reject.TIME, f"{place}.t")
    since_us = 0 if seconds >= RELATIVE_S else received_ns // 1_000
    seconds = max(-_BEYOND_S, min(_BEYOND_S, seconds))
    return (since_us + round(seconds * 1e6)) * 1_000


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer of hundreds of digits
        return float("inf") if number > 0 else float("-inf")


class _Reading(NamedTuple):
    channel: Channel
    time_ns: int
    value: float


class _Refusals:
    """The records of one pack that cannot be taken, in groups.

    One for each reason; those that may be kept apart from those that may not.
    """

    def __init__(self, topic: MqttTopic) -> None:
        self._topic = topic
        self._groups: dict[tuple[str, bool], tuple[Reject, list[dict[str, Any] | None]]] = {}

    def add(self, fault: Reject, record: Resolved) -> None:
        kept = _kept(record, self._topic)
        _, records = self._groups.setdefault((fault.reason, kept is None), (fault, []))
        records.append(kept)

    def groups(self) -> list[Refused]:
        return [
            Refused(fault, len(records), _packed(records))
            for fault, records in self._groups.values()
        ]


def _thorough(
    payload: bytes, topic: MqttTopic, received_ns: int, acceptance: Acceptance
) -> Message | Reject:
    """Read any pack, record by record."""
    pack = jsontext.load(payload)
    if isinstance(pack, Reject):
        return pack
    if not isinstance(pack, list):
        return Reject(reject.SHAPE, "$")
    records = resolve(pack, received_ns)
    if isinstance(records, Reject):
        return records
    is_camera = topic.domain == PRIVATE_DOMAIN
    withheld = Counter(_kinds(pack, records, is_camera))
    refusals = _Refusals(topic)
    readings: list[_Reading] = []
    for record in records:
        if is_camera and record.texts and isinstance(record.value, Reject):
            continue
        reading = _judge(record, topic, received_ns, acceptance)
        if isinstance(reading, Reject):
            refusals.add(reading, record)
        else:
            readings.append(reading)
    refused = refusals.groups()
    if readings or withheld:
        columns = [list(column) for column in zip(*readings, strict=True)] or [[], [], []]
        message = _message(*columns)
        message.withheld, message.refused = dict(withheld), refused
        return message
    return refused[0].fault if refused else Reject(reject.EMPTY, "$")


def _kinds(pack: list[Any], records: list[Resolved], is_camera: bool) -> Iterator[str]:
    """Yield the kind of each thing that is not let through.

    Of other sensors only what must be a camera's counts: the rest is left out as any decoder of
    SenML leaves out what it does not know.
    """
    for fields in pack:
        if isinstance(fields, dict):
            for label, value in fields.items():
                if label not in _LABELS and value is not None:
                    kind = kind_within(label, value)
                    if is_camera or kind != UNKNOWN:
                        yield kind
    for record in records if is_camera else ():
        name = "" if isinstance(record.name, Reject) else _split(record.name, "")[1]
        for label in record.texts:
            yield kind_of(name or label)


def _judge(
    record: Resolved, topic: MqttTopic, received_ns: int, acceptance: Acceptance
) -> _Reading | Reject:
    """Return the reading a record holds, or the first thing that is wrong with it."""
    if record.fault:
        return record.fault
    if isinstance(record.name, Reject):
        return record.name
    channel = _channel(record.name, topic, acceptance)
    if isinstance(channel, str):
        return Reject(channel, f"$[{record.number}].n")
    value = _converted(record, channel)
    if isinstance(value, Reject):
        return value
    time_ns = _timely(record, received_ns, acceptance)
    return time_ns if isinstance(time_ns, Reject) else _Reading(channel, time_ns, value)


def _timely(record: Resolved, received_ns: int, acceptance: Acceptance) -> int | Reject:
    time_ns = record.time_ns
    if isinstance(time_ns, Reject):
        return time_ns
    earliest_ns, latest_ns = acceptance.window(received_ns)
    if time_ns < earliest_ns:
        return Reject(reject.PAST, f"$[{record.number}].t")
    if time_ns > latest_ns:
        return Reject(reject.FUTURE, f"$[{record.number}].t")
    return time_ns


def _converted(record: Resolved, channel: Channel) -> float | Reject:
    """Return the value in the unit of the table."""
    place, unit = f"$[{record.number}]", record.unit
    if isinstance(unit, Reject):
        return unit
    conversion = Conversion(1.0) if unit is None else senml_conversion(unit, channel.quantity)
    if conversion is None:
        return Reject(reject.UNIT, f"{place}.u")
    quantity = QUANTITIES[channel.quantity]
    if record.texts and quantity.domain != PRIVATE_DOMAIN:
        return Reject(reject.VALUE, f"{place}.{record.texts[0]}")
    value: bool | float | Reject = record.value
    if isinstance(value, Reject):
        return value
    if isinstance(value, bool):
        return float(value) if quantity.is_state else Reject(reject.VALUE, f"{place}.vb")
    return value * conversion.factor + conversion.offset


def _split(name: str, sensor: str) -> tuple[str, str]:
    """Return sensor and quantity of a resolved name; `sensor` is whose a bare quantity is."""
    at = max(name.rfind("/"), name.rfind(":"))
    return (sensor if at < 0 else name[:at]), name[at + 1 :]


def _channel(name: str, topic: MqttTopic, acceptance: Acceptance) -> Channel | str:
    """Return the channel of a resolved name, or the reason why it is none."""
    sensor, quantity = _split(name, topic.sensor)
    if not is_level(sensor):
        return reject.IDENTITY
    is_part = sensor[:-1].startswith((f"{topic.sensor}:", f"{topic.sensor}."))
    if not (sensor == topic.sensor or is_part or topic.sensor in acceptance.gateways):
        return reject.IDENTITY
    known = QUANTITIES.get(quantity)
    if known is None:
        return reject.QUANTITY
    if known.domain != topic.domain:
        return reject.DOMAIN
    if is_part and topic.domain == PRIVATE_DOMAIN:
        # What people call a part of a camera does not pass.
        sensor = fingerprinted(topic.sensor, [sensor[len(topic.sensor) :]])
    return Channel(sensor, quantity)


def _kept(record: Resolved, topic: MqttTopic) -> dict[str, Any] | None:
    """Return a record as it may be kept, if it says nothing but what any sensor may say.

    By allowlist, like everything about privacy: a number under the name of a quantity that no
    camera has, at a time, in a unit.
    """
    _, name, unit, value, time_ns, texts, foreign, fault = record
    if isinstance(name, Reject) or isinstance(value, Reject) or isinstance(time_ns, Reject):
        return None
    sensor, quantity = _split(name, topic.sensor)
    known = QUANTITIES.get(quantity)
    if (
        known is None
        or PRIVATE_DOMAIN in (known.domain, topic.domain)
        or not is_level(sensor)
        or texts
        or foreign
        or fault
        # Read again, an earlier time would be relative.
        or time_ns < RELATIVE_S * 1e9
    ):
        return None
    kept: dict[str, Any] = {"n": name}
    if unit is not None:
        if isinstance(unit, Reject) or not _KEPT_UNIT.fullmatch(unit):
            return None
        kept["u"] = unit
    kept["vb" if isinstance(value, bool) else "v"] = value
    kept["t"] = time_ns / 10**9
    return kept


def _packed(records: list[dict[str, Any] | None]) -> bytes | None:
    if None in records:
        return None
    # In ASCII, and NaN as NaN: msgspec would lose the one and fail at half a surrogate.
    payload = json.dumps(records, separators=(",", ":")).encode()
    return payload if len(payload) <= _MAX_KEPT_BYTES else None


def _message(channels: list[Channel], time_ns: list[int], value: list[float]) -> Message:
    """Return a message, without the readings that repeat an earlier one."""
    # The cheap questions first: most packs are one time of many channels, or the reverse.
    rows = len(channels)
    if (
        len(set(time_ns)) == rows
        or len(set(channels)) == rows
        or len(set(zip(channels, time_ns, strict=True))) == rows
    ):
        return Message(channels, time_ns, value)
    message = Message([], [], [])
    doubtful: dict[int, None] = {}
    first: dict[tuple[Channel, int], int] = {}
    for row in zip(channels, time_ns, value, strict=True):
        at = first.setdefault(row[:2], len(first))
        if at == len(message.value):
            message.channels.append(row[0])
            message.time_ns.append(row[1])
            message.value.append(row[2])
            continue
        message.repeated += 1
        known, again = message.value[at], row[2]
        if known != again and not (known != known and again != again):  # noqa: PLR0124 - NaN
            doubtful[at] = None
    message.doubtful = sorted(doubtful)
    return message


class _Record(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A record of a plain pack; whatever does not fit here is left to `_thorough`."""

    n: str | UnsetType = UNSET
    v: float | UnsetType = UNSET
    t: float | UnsetType = UNSET
    u: str | UnsetType = UNSET
    ut: float | UnsetType = UNSET
    bn: str | UnsetType = UNSET
    bt: float | UnsetType = UNSET
    bu: str | UnsetType = UNSET
    bv: float | UnsetType = UNSET
    bver: Annotated[int, msgspec.Meta(ge=1, le=VERSION)] | UnsetType = UNSET


_PACK: Final = msgspec.json.Decoder(list[_Record])


class _Known(NamedTuple):
    channel: Channel
    factor: float
    offset: float


# Base name, name, and unit; UNSET where there is none.
_Key = tuple[str, str | UnsetType, str | UnsetType]


class _Memory:
    """What the names and units of plain records came to: the same few come for ever.

    Kept apart by what decides it: whose topic it is, in which domain, and whether a gateway's.
    """

    def __init__(self, limit: int = _MAX_KNOWN) -> None:
        self._limit = limit
        self._size = 0
        self._sources: dict[tuple[str, str, bool], dict[_Key, _Known]] = {}

    def of(self, topic: MqttTopic, acceptance: Acceptance) -> dict[_Key, _Known]:
        if self._size >= self._limit:
            self._sources.clear()
            self._size = 0
        source = topic.domain, topic.sensor, topic.sensor in acceptance.gateways
        known = self._sources.get(source)
        if known is None:
            known = self._sources[source] = {}
            self._size += 1
        return known

    def learn(self, key: _Key, topic: MqttTopic, acceptance: Acceptance) -> _Known | None:
        """Return what a record comes to; None, and nothing is remembered, if it is refused."""
        bn, n, unit = key
        name = bn if n is UNSET else bn + n
        channel = _channel(name, topic, acceptance) if _NAME.fullmatch(name) else reject.IDENTITY
        if isinstance(channel, str):
            return None
        factor, offset = 1.0, 0.0
        if unit is not UNSET:
            conversion = senml_conversion(unit, channel.quantity)
            if conversion is None:
                return None
            factor, offset = conversion
        found = self.of(topic, acceptance)[key] = _Known(channel, factor, offset)
        self._size += 1
        return found


_MEMORY: Final = _Memory()


def _quick(  # noqa: C901 - a call a record would double its cost
    payload: bytes, topic: MqttTopic, received_ns: int, acceptance: Acceptance
) -> Message | None:
    """Read a pack of plain records in good time; None for any other, and if none is taken."""
    try:
        records = _PACK.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    known = _MEMORY.of(topic, acceptance)
    bn, bt, bv = "", 0.0, 0.0
    bu: str | UnsetType = UNSET
    channels, seconds, values = [], [], []
    odd: list[tuple[int, _Key, float, float]] = []
    for number, record in enumerate(records):
        if record.bn is not UNSET:
            bn = record.bn
        if record.bt is not UNSET:
            bt = record.bt
        if record.bu is not UNSET:
            bu = record.bu
        if record.bv is not UNSET:
            bv = record.bv
        n, u, v, t = record.n, record.u, record.v, record.t
        if v is UNSET:
            if record.bn is UNSET or not (n is u is t is record.ut is UNSET):
                return None
            continue  # base fields only
        key = bn, n, bu if u is UNSET else u
        second = bt if t is UNSET else bt + t
        found = known.get(key) or _MEMORY.learn(key, topic, acceptance)
        if found is None:
            odd.append((number, key, second, bv + v))
            continue
        channel, factor, offset = found
        channels.append(channel)
        seconds.append(second)
        values.append((bv + v) * factor + offset)
    if not channels:
        return None
    time_ns = _times_ns(seconds, received_ns)
    earliest_ns, latest_ns = acceptance.window(received_ns)
    if time_ns is None or min(time_ns) < earliest_ns or max(time_ns) > latest_ns:
        return None
    message = _message(channels, time_ns, values)
    if odd:
        message.refused = _refused(odd, topic, received_ns, acceptance)
    return message


def _refused(
    odd: list[tuple[int, _Key, float, float]],
    topic: MqttTopic,
    received_ns: int,
    acceptance: Acceptance,
) -> list[Refused]:
    """Return what is wrong with plain records that came to nothing: their names or units."""
    refusals = _Refusals(topic)
    for number, (bn, n, unit), second, value in odd:
        record = Resolved(
            number,
            _name({} if n is UNSET else {"n": n}, {"bn": bn}, f"$[{number}]"),
            None if unit is UNSET else unit,
            value,
            _time_ns({"t": second}, {}, f"$[{number}]", received_ns),
        )
        fault = _judge(record, topic, received_ns, acceptance)
        if isinstance(fault, Reject):
            refusals.add(fault, record)
    return refusals.groups()


def _times_ns(seconds: list[float], received_ns: int) -> list[int] | None:
    """Return UTC nanoseconds; None where a time is absurd."""
    low, high = min(seconds), max(seconds)
    if low < -_BEYOND_S or high > _BEYOND_S:
        return None
    if low >= RELATIVE_S:
        return [round(second * 1e6) * 1_000 for second in seconds]
    now_us = received_ns // 1_000
    return [
        (round(second * 1e6) + (0 if second >= RELATIVE_S else now_us)) * 1_000
        for second in seconds
    ]
