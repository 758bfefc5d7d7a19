"""What a city has said of itself, and its sensors do not say.

Workers have it from their settings, or from the log, where it came with rules: then it holds from
its offset on, for whoever reads the log again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, date, tzinfo
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from detectors.exceedance import STANDARDS


@dataclass(frozen=True, slots=True)
class Group:
    """Sensors that belong together; all of them are in one partition.

    Parameters
    ----------
    sensors : tuple of str
        Of a road its stations, in the direction of traffic.
    kind : {"road", "place", "neighbours"}
        Stations in a row; what stands in one place; or sensors of a kind that see the same weather
        and the same city.
    free_flow_kmh : float or None
        Speed on the road when it is empty.
    seen_length_m : float or None
        Length of a vehicle and of what a station sees of the road, together; of roads without
        signals.
    area_m2 : float or None
        What each camera of the group sees of the ground.
    """

    sensors: tuple[str, ...]
    kind: Literal["road", "place", "neighbours"] = "place"
    free_flow_kmh: float | None = None
    seen_length_m: float | None = None
    area_m2: float | None = None


@dataclass(frozen=True, slots=True)
class CityFacts:
    """What the city has said of itself.

    Parameters
    ----------
    time_zone : str
        Name in the IANA database, for days, evenings and nights.
    air_quality_index : {"EU", "EU before 2024", "US", "US 2018"}
        Whose index, in the version in force or in the one before.
    limits : str
        Whose limits of concentrations count, a key of `exceedance.STANDARDS`.
    noise_limits_db : tuple of three floats or None
        By day, evening and night; national law says them.
    groups : mapping of str to Group
    holidays : tuple of date
        Local days that are as Sundays.
    """

    time_zone: str = "UTC"
    air_quality_index: Literal["EU", "EU before 2024", "US", "US 2018"] = "EU"
    limits: str = "EU 2008/50/EC"
    noise_limits_db: tuple[float | None, float | None, float | None] = (None, None, None)
    groups: Mapping[str, Group] = field(default_factory=dict)
    holidays: tuple[date, ...] = ()

    @classmethod
    def read(cls, values: Any) -> "CityFacts":
        """Return the facts that `said` says.

        Raises
        ------
        ValueError
            If it says what is not known here: a fact, a law, a time zone.
        """
        facts = msgspec.convert(values, cls)
        if facts.said() != values:
            raise ValueError("facts that this version does not know")
        if facts.limits not in STANDARDS:
            raise ValueError(f"no limits are known as {facts.limits!r}")
        try:
            facts.zone()
        # OSError: the name of a folder.
        except (KeyError, OSError) as error:
            raise ValueError(f"no time zone of this host: {facts.time_zone!r}") from error
        return facts

    def said(self) -> dict[str, Any]:
        """Return what differs from what is so by itself, as JSON knows it.

        What later versions add leaves the rest as it is.
        """
        groups = {name: _said(group) for name, group in self.groups.items()}
        return _said(self) | ({"groups": groups} if groups else {})

    def zone(self) -> tzinfo:
        """Return the time zone; UTC needs no database of zones.

        Raises
        ------
        ZoneInfoNotFoundError
            If there is no such zone on this host.
        """
        return UTC if self.time_zone == "UTC" else ZoneInfo(self.time_zone)

    def of_sensors(self, name: str) -> dict[str, float]:
        """Return one fact of groups, by the sensors that it holds for."""
        return {
            sensor: fact
            for group in self.groups.values()
            if (fact := getattr(group, name)) is not None
            for sensor in group.sensors
        }


def _said(facts: CityFacts | Group) -> dict[str, Any]:
    defaults = {one.name: one.default for one in fields(facts)}
    found: dict[str, Any] = msgspec.to_builtins(facts)
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in found.items()
        if getattr(facts, name) != defaults[name] and name != "groups"
    }
