"""What a city has said of itself, and its sensors do not say."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo


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
    air_quality_index : {"EU", "US"}
    limits : str
        Whose limits of concentrations count, a key of `exceedance.STANDARDS`.
    noise_limits_db : tuple of three floats or None
        By day, evening and night; national law says them.
    groups : mapping of str to Group
    holidays : tuple of date
        Local days that are as Sundays.
    """

    time_zone: str = "UTC"
    air_quality_index: Literal["EU", "US"] = "EU"
    limits: str = "EU 2008/50/EC"
    noise_limits_db: tuple[float | None, float | None, float | None] = (None, None, None)
    groups: Mapping[str, Group] = field(default_factory=dict)
    holidays: tuple[date, ...] = ()

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
