"""What rules mean for each series: the thresholds and limits it is judged by.

Everything here is worked out when rules change or series are new; a flush only reads columns.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detectors import Limits, Suite, SuiteConfig, Terms, calibration
from ingest.quantities import QUANTITIES
from ingest.topics import SeriesKey
from storage.pages import Severity
from streams.rules import BY_MINUTES, Rules, RulesError, Scope, laid, said

# What switches a detector off: counts that are never reached, a chance that nothing falls below,
# a range that everything lies in.
_OFF: Final[dict[str, dict[str, float]]] = {
    "level": {"city_open_after": inf},
    "flatline": {"flatline_chance": 0.0},
    "silence": {"silence_floor_s": inf},
    "rate": {"max_rate": inf},
    "range": {"low": -inf, "high": inf},
}


class Ruling:
    """Rules, worked out over a worker's defaults.

    Parameters
    ----------
    rules : Rules
    defaults : SuiteConfig
        What holds where the rules say nothing.

    Attributes
    ----------
    suite : SuiteConfig
        What all series have in common.
    terms : Terms
        Numbers: what a series has that no section speaks of.
    shadows : dict of str to Ruling
        That of each shadow, by its name.

    Raises
    ------
    RulesError
        If thresholds contradict each other, with every place where they do.
    """

    def __init__(self, rules: Rules, defaults: SuiteConfig) -> None:
        self.rules = rules
        faults: list[str] = []
        try:
            self.suite = replace(defaults, **said(rules.suite))
        except ValueError as error:
            # What follows from it would only hide it.
            raise RulesError([f"suite: {error}"]) from error
        self._memo: dict[tuple[str, str | None], dict[str, float]] = {}
        self._minutes: dict[tuple[str, str | None], dict[str, Any]] = {}
        shared = self._worked_out([], "")
        self.terms = Terms._make(shared[name] for name in Terms._fields)
        faults += self._contradictions()
        self.shadows: dict[str, Ruling] = {}
        for name in sorted(rules.shadow):
            try:
                self.shadows[name] = Ruling(rules.shadowed(name), defaults)
            except RulesError as error:
                faults += [f"shadow.{name}: {fault}" for fault in error.faults]
        if faults:
            raise RulesError(faults)

    def columns(self, keys: Sequence[SeriesKey]) -> dict[str, NDArray[np.float64]]:
        """Return the thresholds in which some of the series differ from `terms`.

        Parameters
        ----------
        keys : sequence of SeriesKey, length n

        Returns
        -------
        dict of str to (n,) float64
            By the names of `Terms`.
        """
        if not self.rules.quantity and not self.rules.sensor:
            return {}
        found = [self._own(key) for key in keys]
        columns = {}
        for name in Terms._fields:
            column = np.array([own[name] for own in found])
            if bool((column != getattr(self.terms, name)).any()):
                columns[name] = column
        return columns

    def limits(self, keys: Sequence[SeriesKey]) -> Limits:
        """Return what each series can report; of a quantity that is not known, anything."""
        rows = [QUANTITIES.get(key.quantity) for key in keys]
        own = [self._own(key) for key in keys]
        return Limits(
            low=np.array([one["low"] for one in own]),
            high=np.array([one["high"] for one in own]),
            max_rate=np.array([one["max_rate"] for one in own]),
            state=np.array([row is not None and row.is_state for row in rows], np.bool_),
            period_s=np.array([row.period_s if row is not None else inf for row in rows]),
        )

    def severity(self, kind: str, key: SeriesKey) -> Severity | None:
        """Return how severe a kind of alert is there; None where the rules do not say."""
        severity = self.rules.severity.get(kind)
        for scope in self._scopes(key.quantity, key.sensor):
            severity = scope.severity.get(kind, severity)
        return severity

    @property
    def with_minutes(self) -> frozenset[str]:
        """The shadows that have a minute stage: those that say something of it."""
        return frozenset(
            name for name, layer in self.rules.shadow.items() if layer.is_about_minutes
        )

    @property
    def is_about_minutes(self) -> bool:
        """Whether anything of the minute stage may be off, or speak from another score on."""
        return self.rules.is_about_minutes

    @property
    def fixes_minutes(self) -> bool:
        """Whether it says how severe anything of the minute stage is."""
        said_of = (self.rules.severity, *(scope.severity for _, scope in self.rules.scopes()))
        return any(not set(BY_MINUTES).isdisjoint(one) for one in said_of)

    def is_on(self, kind: str, key: SeriesKey) -> bool:
        """Say whether a kind of alert is looked for in a series."""
        found = self.rules.detectors.get(kind, True)
        for scope in self._scopes(key.quantity, key.sensor):
            found = scope.detectors.get(kind, found)
        return found

    def speaks_from(self, kind: str, key: SeriesKey) -> float:
        """Return from which calibrated score on a kind of the minute stage speaks there."""
        found = self.rules.score.get(kind, calibration.SPEAKS_FROM)
        for scope in self._scopes(key.quantity, key.sensor):
            found = scope.score.get(kind, found)
        return found

    def thresholds(self, key: SeriesKey) -> Mapping[str, Mapping[str, Any]]:
        """Return what is said of the minute stage's thresholds there: kind to name to value."""
        place = (key.quantity, key.sensor if key.sensor in self.rules.sensor else None)
        found = self._minutes.get(place)
        if found is None:
            found = said(self.rules.minutes)
            for scope in self._scopes(*place):
                found = laid(found, said(scope.minutes))
            self._minutes[place] = found
        return found

    def least(self, name: str) -> float:
        """Return the lowest that a threshold of `Terms` may have in any series."""
        found = [float(getattr(self.suite, name))]
        for _, scope in self.rules.scopes():
            own = getattr(scope, name)
            if own is not None:
                found.append(float(own))
        return min(found)

    def rule(self, suite: Suite, keys: Sequence[SeriesKey], *, limits: bool) -> None:
        """Let a suite judge by these rules from now on.

        Parameters
        ----------
        suite : Suite
        keys : sequence of SeriesKey
            Of all its series.
        limits : bool
            Whether it may have been judged by others: its ranges and rates are part of its state.
        """
        suite.judge_by(self.suite, self.terms, self.columns(keys))
        if limits:
            # Of a quantity that is not known any more, nobody can say another range.
            known = [slot for slot, key in enumerate(keys) if key.quantity in QUANTITIES]
            suite.limit(np.array(known, np.intp), self.limits([keys[slot] for slot in known]))

    def _scopes(self, quantity: str, sensor: str | None) -> Iterator[Scope]:
        """Yield the sections that speak of a series, the closest last."""
        if quantity in self.rules.quantity:
            yield self.rules.quantity[quantity]
        if sensor is not None and sensor in self.rules.sensor:
            of_sensor = self.rules.sensor[sensor]
            yield of_sensor
            if quantity in of_sensor.quantity:
                yield of_sensor.quantity[quantity]

    def _own(self, key: SeriesKey) -> dict[str, float]:
        """Return the thresholds and limits of a series; alike for all that no section names."""
        place = (key.quantity, key.sensor if key.sensor in self.rules.sensor else None)
        own = self._memo.get(place)
        if own is None:
            own = self._memo[place] = self._worked_out(list(self._scopes(*place)), key.quantity)
        return own

    def _worked_out(self, scopes: Sequence[Scope], quantity: str) -> dict[str, float]:
        own = {name: float(getattr(self.suite, name)) for name in Terms._fields}
        own |= {"low": -inf, "high": inf, "max_rate": inf}
        row = QUANTITIES.get(quantity)
        if row is not None:
            own |= {"low": row.low, "high": row.high, "max_rate": row.max_rate}
        switches = dict(self.rules.detectors)
        for scope in scopes:
            own |= {name: float(value) for name, value in _numbers(scope).items()}
            switches |= scope.detectors
        for detector, is_on in switches.items():
            if not is_on:
                own |= _OFF.get(detector, {})
        return own

    def _places(self) -> Iterator[tuple[str, str, str | None]]:
        """Yield what sections, alone or together, speak of: place, quantity, sensor."""
        rules = self.rules
        for quantity in sorted(rules.quantity):
            yield f"quantity.{quantity}", quantity, None
        for sensor, section in sorted(rules.sensor.items()):
            if _numbers(section):
                for quantity in sorted(rules.quantity.keys() - section.quantity.keys()):
                    yield f"sensor.{sensor} with quantity.{quantity}", quantity, sensor
                yield f"sensor.{sensor}", "", sensor
            for quantity in sorted(section.quantity):
                yield f"sensor.{sensor}.quantity.{quantity}", quantity, sensor

    def _contradictions(self) -> Iterator[str]:
        for place, quantity, sensor in self._places():
            own = self._worked_out(list(self._scopes(quantity, sensor)), quantity)
            if own["city_close_spreads"] > own["city_open_spreads"]:
                yield (
                    f"{place}: city_close_spreads ({own['city_close_spreads']:g}) must not exceed"
                    f" city_open_spreads ({own['city_open_spreads']:g})"
                )
            if quantity and own["low"] > own["high"]:
                yield f"{place}: low ({own['low']:g}) must not exceed high ({own['high']:g})"


def _numbers(scope: Scope) -> dict[str, Any]:
    """Return the thresholds and limits of a section."""
    names = {*Terms._fields, *_OFF["range"], *_OFF["rate"]}
    return {name: value for name, value in said(scope).items() if name in names}
