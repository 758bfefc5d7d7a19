"""The one table of what a city measures.

Names follow the FIWARE Smart Data Models, units are UCUM codes. Whatever needs the unit, the
physical range or the usual period of a quantity reads it here and nowhere else.
"""

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a quantity means and what a working sensor can report.

    Parameters
    ----------
    name : str
        The Smart Data Models attribute name.
    unit : str
        UCUM code of every stored value.
    low, high : float
        Physical range in `unit`; a value outside it is a sensor fault, not an event.
    max_rate : float
        Fastest believable change in `unit` per second; `inf` where a jump is a real event.
    domain : str
        The topic level the quantity is reported under.
    period_s : float
        Usual reporting period; `inf` where it reports changes only.
    is_state : bool
        Whether a value stands until the next one says otherwise, as that of an event or a counter
        does: there is no level to leave and no flatline.
    least : float
        Smallest difference in `unit` that anybody would look up for; 0 of a state.
    """

    name: str
    unit: str
    low: float
    high: float
    max_rate: float
    domain: str
    period_s: float
    is_state: bool = False
    least: float = 0.0


def _state(name: str, high: float) -> Quantity:
    return Quantity(name, "1", 0.0, high, inf, "cameras", inf, is_state=True)


# Ranges are those of the instruments in common use: inductive loops and radar for traffic,
# EN 14625/14211/14626 reference analysers and low-cost optical counters for air, IEC 61672 class 2
# meters for noise. A temperature moves at most about 1 degree a second past a passing exhaust. The
# least difference is what instruments in the field disagree by, of counts what chance makes of some
# hundred.
_ROWS = (
    Quantity("intensity", "1", 0.0, 20_000.0, inf, "traffic", 60.0, least=20.0),
    Quantity("occupancy", "1", 0.0, 1.0, inf, "traffic", 60.0, least=0.05),
    Quantity("averageVehicleSpeed", "km/h", 0.0, 250.0, inf, "traffic", 60.0, least=8.0),
    Quantity("averageHeadwayTime", "s", 0.0, 3_600.0, inf, "traffic", 60.0, least=5.0),
    Quantity("pm25", "ug/m3", 0.0, 2_000.0, inf, "environment", 60.0, least=5.0),
    Quantity("pm10", "ug/m3", 0.0, 5_000.0, inf, "environment", 60.0, least=10.0),
    Quantity("no2", "ug/m3", 0.0, 2_000.0, inf, "environment", 60.0, least=15.0),
    Quantity("o3", "ug/m3", 0.0, 1_500.0, inf, "environment", 60.0, least=15.0),
    Quantity("so2", "ug/m3", 0.0, 5_000.0, inf, "environment", 60.0, least=15.0),
    Quantity("co", "mg/m3", 0.0, 200.0, inf, "environment", 60.0, least=0.5),
    Quantity("temperature", "Cel", -60.0, 65.0, 2.0, "environment", 60.0, least=1.0),
    Quantity("relativeHumidity", "1", 0.0, 1.0, 0.05, "environment", 60.0, least=0.05),
    Quantity("LAeq", "dB", 15.0, 140.0, inf, "environment", 60.0, least=5.0),
    Quantity("peopleCount", "1", 0.0, 100_000.0, inf, "cameras", 60.0, least=20.0),
    Quantity("peopleCountTowards", "1", 0.0, 100_000.0, inf, "cameras", 60.0, least=20.0),
    Quantity("peopleCountAway", "1", 0.0, 100_000.0, inf, "cameras", 60.0, least=20.0),
    Quantity("averageCrowdSpeed", "km/h", 0.0, 40.0, inf, "cameras", 60.0, least=0.8),
    # What cameras tell by events (ONVIF Analytics, Device and Imaging services): crossings one by
    # one, a running count, how many are inside now, and 0 or 1 for what begins and ends.
    _state("lineCrossings", 1e6),
    _state("objectCount", 1e12),
    Quantity("occupancyCount", "1", 0.0, 100_000.0, inf, "cameras", inf, least=20.0),
    _state("loitering", 1.0),
    _state("objectsInside", 1.0),
    # Of a fault a working camera reports 0 only, so 1 is out of range by itself.
    _state("signalLoss", 0.0),
    _state("imageTooDark", 0.0),
    _state("imageTooBright", 0.0),
    _state("imageTooBlurry", 0.0),
    _state("sceneChange", 0.0),
    _state("storageFailure", 0.0),
    # Travel time over a stretch of road: not a Smart Data Models attribute of
    # TrafficFlowObserved, but what probe-vehicle systems report about it.
    Quantity("averageTravelTime", "s", 0.0, 86_400.0, inf, "traffic", 300.0, least=60.0),
)

QUANTITIES: dict[str, Quantity] = {row.name: row for row in _ROWS}
DOMAINS: tuple[str, ...] = ("traffic", "environment", "cameras")
# Of its sensors only what is listed may pass.
PRIVATE_DOMAIN = "cameras"
