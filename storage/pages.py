"""What the stream worker tells the pager: a page of each alert that fires, gets worse or is over.

It passes through the outbox. The worker may not know the pager and the pager may not know the
worker, so the form of what passes between them, the name of the bell and the sentence that people
read stand here, beside the table.
"""

from datetime import UTC, datetime
from math import floor, isfinite, log10
from typing import Annotated, Final, Literal, get_args
from uuid import UUID

import msgspec
from msgspec import structs

PAGE_VERSION: Final = 1
# QARTOD: there is no value.
MISSING: Final = 9

Event = Literal["firing", "resolved"]
Category = Literal["city", "sensor-health"]
Severity = Literal["informational", "minor", "major", "critical"]
# The worst is the last.
SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)
Window = Literal["hour", "8 hours", "24 hours", "calendar day"]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]

# UCUM codes that people write otherwise; a code that is missing here is shown as it is.
_SPOKEN_UNITS: Final = {
    "1": "",
    "Cel": "°C",
    "ug/m3": "µg/m³",
    "mg/m3": "mg/m³",
    "{person}/m2": "persons/m²",
}
# Kinds whose figures have a unit of their own, whatever their sensor measures.
UNITS: Final = {"silence": "s", "clock-skew": "s", "crowd": "{person}/m2"}
# What a sensor does when it is at fault; of the city one says how it is.
_VERBS: Final = {
    "flatline": "is stuck at",
    "range": "claims an impossible",
    "rate": "jumps faster than it can, now",
    "reported": "comes with a bad quality flag, at",
    "spike": "has single values far off, the last one",
    "noise-change": "does not scatter as it did, but by",
    "air-quality": "makes the air bad, on average",
    "exceedance": "is over the limit, on average",
    "noise": "is too loud for the time of day, on average",
    "service-level": "tells of traffic that has broken down, at",
    "incident": "tells of an obstacle before the next station, at",
    "crowd": "tells of a crowd that is too dense, of",
    "season": "is unusual for the hour, at",
    "shift": "has changed its level, to",
    "forecast": "does not follow from what was before, at",
    "novelty": "goes beyond all that it has done so far, at",
    "tampering": "sees nobody where there are always people, but",
    "drift": "drifts away from its neighbours, by",
    "clock-skew": "comes from a clock that runs off, with a lag of",
}
# Of these a run of zeros is no instrument that is stuck: it is a camera that sees nobody.
_PEOPLE: Final = frozenset(
    {"peopleCount", "peopleCountTowards", "peopleCountAway", "occupancyCount"}
)
_BY_INDEX: Final = "makes the air bad, by"
_NOBODY: Final = "counts nobody, reading after reading, as if it were covered:"
# What is told by how rare it is: of these the score is -log10 of how often in a minute.
_RARE: Final = frozenset(
    {"spike", "noise-change", "season", "shift", "forecast", "novelty", "tampering"}
)
# The record that this is read off fades over four weeks: of more than so much it cannot tell.
_MOST_DAYS: Final = 730.0
_MINUTES_A_DAY: Final = 1_440.0
_OVER: Final[dict[Window, str]] = {
    "hour": "over an hour",
    "8 hours": "over 8 hours",
    "24 hours": "over 24 hours",
    "calendar day": "over the calendar day",
}
# What a camera tells of itself: 1 while it lasts.
_CONDITIONS: Final = {
    "signalLoss": "the loss of its signal",
    "imageTooDark": "an image that is too dark",
    "imageTooBright": "an image that is too bright",
    "imageTooBlurry": "an image that is blurred",
    "sceneChange": "that it has been turned or covered",
    "storageFailure": "a failure of its storage",
}
# What a person can compare at a glance, and what it takes at the most to tell a value from the
# limit that it has passed; the exact figures are fields of the page.
_SIGNIFICANT_DIGITS: Final = 3
_MOST_DIGITS: Final = 6
# What is further from 1 than this is no measurement, and nobody counts its zeros.
_LEAST_IN_FULL: Final = 1e-9
_MOST_IN_FULL: Final = 1e12
# Float noise of `expected - lower` against `upper - expected`, relative to the band.
_SYMMETRY_TOLERANCE: Final = 1e-6


class PageError(ValueError):
    """Bytes that are not a page of this version."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One alert transition to be told to people.

    Parameters
    ----------
    version : int
        `PAGE_VERSION`; a reader refuses what it does not know.
    namespace : str
        `live` or `replay-<name>`.
    alert_id : UUID
        The alert; its text is the outbox's `dedup_key`.
    event : {'firing', 'resolved'}
        The transition; of an alert that gets worse it is `firing` as well.
    category : {'city', 'sensor-health'}
        Whether the city or the sensor is at fault.
    kind, severity : str
        As in the table `alert`.
    sensor, quantity, unit, domain, zone : str
        The series; `unit` is a UCUM code.
    longitude, latitude : float or None
        WGS 84 degrees, where the sensor's place is known.
    since : datetime
        Event time of the reading that opened the alert.
    resolved_at : datetime or None
        Event time of the reading that closed it; given exactly when `event` is 'resolved'.
    seen : float
        The value that made the transition, in `unit`; of a silence that begins its pause so far in
        seconds, with quality 9 where the sensor has never said anything usable. 0 with quality 9
        where there was no value.
    expected, lower, upper : float or None
        What was expected, and the range in which no alert would open, in `unit`; where a limit is
        all that is known, that.
    score : float or None
        -log10 of how often an event of the series goes as far in a minute, by its own record; of
        `drift` of a tail probability.
    sentence : str
        The transition in plain words; left out, `sentence` writes it.
    quality : int or None
        QARTOD flag of the reading that made the transition, where the writer tells it.
    window : str or None
        What `seen` is the mean of, where it is one over a window that a law or an index names.
    clock_offset_s : float or None
        How far the sensor's clock is ahead (behind: negative), where it is known to be off.

    Raises
    ------
    ValueError
        If a number is not finite, a time has no zone, or `resolved_at` and `event` disagree.
    """

    version: Literal[1] = PAGE_VERSION
    namespace: str
    alert_id: UUID
    event: Event
    category: Category
    kind: str
    severity: Severity
    sensor: str
    quantity: str
    unit: str
    domain: str
    zone: str
    longitude: float | None = None
    latitude: float | None = None
    since: Moment
    resolved_at: Moment | None = None
    seen: float
    expected: float | None = None
    lower: float | None = None
    upper: float | None = None
    score: float | None = None
    sentence: str = ""
    quality: int | None = None
    clock_offset_s: float | None = None
    window: Window | None = None

    def __post_init__(self) -> None:
        """Refuse at the writer what the reader could not read: JSON has no NaN."""
        numbers = (self.longitude, self.latitude, self.seen, self.expected, self.clock_offset_s)
        for number in (*numbers, self.lower, self.upper, self.score):
            if number is not None and not isfinite(number):
                raise ValueError(f"a number of a page is not finite: {number}")
        for moment in (self.since, self.resolved_at):
            if moment is not None and moment.tzinfo is None:
                raise ValueError(f"a time of a page has no zone: {moment}")
        if (self.resolved_at is not None) != (self.event == "resolved"):
            raise ValueError(f"resolved_at is {self.resolved_at} in a page that says {self.event}")
        if not self.sentence:
            msgspec.structs.force_setattr(self, "sentence", sentence(self))


def encode_page(page: Page) -> bytes:
    """Return the page as JSON, as it stands in `outbox.payload` and goes to hooks."""
    return msgspec.json.encode(page)


def decode_page(data: bytes | str) -> Page:
    """Read a page; fields that are not known yet are passed over.

    Raises
    ------
    PageError
        If `data` is not a page of this version; the message names the field.
    """
    try:
        return msgspec.json.decode(data, type=Page)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PageError(str(error)) from error


def outbox_channel(schema: str) -> str:
    """Return the NOTIFY channel that rings when rows were written to a schema's outbox."""
    return f"{schema}_outbox"


def sentence(page: Page) -> str:
    """Return an alert transition in one plain sentence.

    For example "averageVehicleSpeed of traffic-0042 (harbour) is 8.1 km/h; expected 48 ± 9 km/h
    since 14:03:20 UTC".
    """
    subject = _subject(page)
    if page.quality == MISSING and page.seen == 0 and page.kind != "silence":
        return f"{subject} sends readings without a value since {_clock(page.since)} UTC"
    condition = _CONDITIONS.get(page.quantity)
    if condition and page.kind == "range" and page.seen in (0.0, 1.0):
        return _condition(page, condition)
    unit, digits = _SPOKEN_UNITS.get(page.unit, page.unit), _digits(page)
    seen = _with_unit(_number(page.seen, digits), unit)
    if page.kind == "air-quality" and not unit:
        seen = f"an index of {seen}"
    if page.window is not None:
        seen = f"{seen} {_OVER[page.window]}"
    usual = _usual(page.expected, page.lower, page.upper, unit, digits)
    if page.resolved_at is None:
        if page.kind == "reported" and page.clock_offset_s:
            way = "ahead" if page.clock_offset_s > 0 else "behind"
            offset = f"{abs(page.clock_offset_s):,.0f} s {way}"
            return f"{subject} comes from a clock that is {offset}, since {_clock(page.since)} UTC"
        if page.kind == "silence":
            within = "" if page.upper is None else f"; expected within {_number(page.upper)} s"
            return f"{subject} is silent since {_clock(page.since)} UTC{within}"
        expected = f"; expected {usual}" if usual else ""
        rare = _how_often(page.score) if page.kind in _RARE and page.score is not None else ""
        return f"{subject} {_verb(page)} {seen}{expected} since {_clock(page.since)} UTC{rare}"
    return f"{subject} {_over(page, seen, usual)}; alert {_span(page.since, page.resolved_at)}"


def with_last_value(page: Page, value: float, unit: str) -> Page:
    """Return the page of a silence that also says what was heard last.

    Parameters
    ----------
    page : Page
    value : float
    unit : str
        UCUM code of the series.
    """
    last = _with_unit(_number(value), _SPOKEN_UNITS.get(unit, unit))
    return structs.replace(page, sentence=f"{page.sentence}; its last value was {last}")


def judged_anew(page: Page, at: datetime) -> Page:
    """Return the page that takes another back, because its sensor is judged elsewhere now."""
    said = f"is judged anew, in another group of sensors; alert {_span(page.since, at)}"
    return structs.replace(
        page, event="resolved", resolved_at=at, sentence=f"{_subject(page)} {said}"
    )


def no_longer_judged(page: Page, at: datetime) -> Page:
    """Return the page of an alert that is over because what is set has changed."""
    said = f"is no longer judged; alert {_span(page.since, at)}"
    return structs.replace(page, sentence=f"{_subject(page)} {said}")


def _subject(page: Page) -> str:
    return f"{page.quantity} of {page.sensor} ({page.zone})"


def _verb(page: Page) -> str:
    if page.kind == "flatline" and page.seen == 0 and page.quantity in _PEOPLE:
        return _NOBODY
    if page.kind == "air-quality" and page.unit == "1":
        return _BY_INDEX
    return _VERBS.get(page.kind, "is")


def _condition(page: Page, condition: str) -> str:
    who = f"{page.sensor} ({page.zone})"
    if page.resolved_at is None:
        return f"{who} reports {condition} since {_clock(page.since)} UTC"
    return f"{who} no longer reports {condition}; alert {_span(page.since, page.resolved_at)}"


def _over(page: Page, seen: str, usual: str) -> str:
    if page.kind == "shift":
        # Back, or taken for the usual level: what is expected at this hour follows either way.
        return f"has a settled level again, now at {seen}"
    expected = f", expected {usual}" if usual else ""
    is_beyond = (page.lower is not None and page.seen < page.lower) or (
        page.upper is not None and page.seen > page.upper
    )
    if page.kind in _RARE and is_beyond:
        # The record of the series has decided, not the range.
        return f"is at {seen}, which is not rare any more{expected}"
    return f"is back at {seen}{expected}"


def _how_often(score: float) -> str:
    days = 10.0 ** min(score, 9.0) / _MINUTES_A_DAY
    if days > _MOST_DAYS:
        return ", which it does less than once in two years"
    return f", which it does once in {_number(days)} days"


def _span(begin: datetime, end: datetime) -> str:
    dated = begin.astimezone(UTC).date() != end.astimezone(UTC).date()
    return f"from {_clock(begin, dated=dated)} to {_clock(end, dated=dated)} UTC"


def _usual(
    expected: float | None, lower: float | None, upper: float | None, unit: str, digits: int
) -> str:
    def said(number: float) -> str:
        return _number(number, digits)

    # Where a limit is all that was expected, it is told once.
    if expected is None or (None in {lower, upper} and expected in {lower, upper}):
        bounds = [
            f"{word} {_with_unit(said(bound), unit)}"
            for word, bound in (("at least", lower), ("at most", upper))
            if bound is not None
        ]
        return " and ".join(bounds)
    if lower is None or upper is None:
        bound = _usual(None, lower, upper, unit, digits)
        return ", ".join(filter(None, (_with_unit(said(expected), unit), bound)))
    below, above = expected - lower, upper - expected
    if abs(below - above) <= _SYMMETRY_TOLERANCE * max(abs(below), abs(above)):
        return _with_unit(f"{said(expected)} ± {said(above)}", unit)
    return _with_unit(f"{said(expected)} ({said(lower)} to {said(upper)})", unit)


def _with_unit(text: str, unit: str) -> str:
    return f"{text} {unit}" if unit else text


def _digits(page: Page) -> int:
    """Return how many digits it takes to see that a value is beyond a limit, or that it is not."""

    def shows(digits: int) -> bool:
        def told(number: float) -> float:
            return float(_number(number, digits).replace(",", ""))

        seen = told(page.seen)
        return (page.lower is None or (seen < told(page.lower)) == (page.seen < page.lower)) and (
            page.upper is None or (seen > told(page.upper)) == (page.seen > page.upper)
        )

    enough = (digits for digits in range(_SIGNIFICANT_DIGITS, _MOST_DIGITS) if shows(digits))
    return next(enough, _MOST_DIGITS)


def _number(value: float, digits: int = _SIGNIFICANT_DIGITS) -> str:
    """Return significant digits, whole numbers in full, and an exponent only of what is absurd."""
    if value == 0 or not isfinite(value):
        return "0" if value == 0 else str(value)
    if not _LEAST_IN_FULL <= abs(value) < _MOST_IN_FULL:
        return f"{value:.{digits}g}".replace("e+", "e")
    decimals = max(0, digits - 1 - floor(log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _clock(moment: datetime, *, dated: bool = False) -> str:
    return f"{moment.astimezone(UTC):{'%Y-%m-%d %H:%M:%S' if dated else '%H:%M:%S'}}"
