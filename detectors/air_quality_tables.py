"""The tables of the European and the U.S. air quality index, each with its version and source.

The numbers come from transcriptions of the sources named (pages of the agencies, public code), not
from the documents themselves, and were compared where there were two. The worked examples that the
agencies publish are in the tests.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detectors.averages import DAY, EIGHT_HOURS, HOUR

POLLUTANTS: Final = ("pm25", "pm10", "no2", "o3", "so2", "co")


@dataclass(frozen=True, slots=True)
class Bands:
    """An index that names a band: 1 (good) to 6 (extremely poor).

    Parameters
    ----------
    edges : dict of pollutant to five floats
        The highest concentration of each band but the last, in ug/m3.
    window : dict of pollutant to int
        Averaging period, a window of `averages`.
    """

    edges: dict[str, tuple[float, ...]]
    window: dict[str, int]

    def edge_columns(self) -> NDArray[np.float64]:
        """Return the edges as (5, pollutants), NaN where a pollutant has none."""
        columns = np.full((5, len(POLLUTANTS)), np.nan)
        for name, edges in self.edges.items():
            columns[:, POLLUTANTS.index(name)] = edges
        return columns

    def windows(self) -> NDArray[np.intp]:
        """Return the window of each pollutant."""
        return np.array([self.window.get(name, HOUR) for name in POLLUTANTS], np.intp)


# The European Environment Agency's index as revised in 2024, in use since 2025: ETC HE Report
# 2024/17. Hourly means of all five pollutants.
EAQI_2024: Final = Bands(
    edges={
        "pm25": (5.0, 15.0, 50.0, 90.0, 140.0),
        "pm10": (15.0, 45.0, 120.0, 195.0, 270.0),
        "no2": (10.0, 25.0, 60.0, 100.0, 150.0),
        "o3": (60.0, 100.0, 120.0, 160.0, 180.0),
        "so2": (20.0, 40.0, 125.0, 190.0, 275.0),
    },
    window=dict.fromkeys(("pm25", "pm10", "no2", "o3", "so2"), HOUR),
)
# The same with six bands before that revision. Running 24-hour means of particles, hourly means of
# gases.
EAQI_BEFORE_2024: Final = Bands(
    edges={
        "pm25": (10.0, 20.0, 25.0, 50.0, 75.0),
        "pm10": (20.0, 40.0, 50.0, 100.0, 150.0),
        "no2": (40.0, 90.0, 120.0, 230.0, 340.0),
        "o3": (50.0, 100.0, 130.0, 240.0, 380.0),
        "so2": (100.0, 200.0, 350.0, 500.0, 750.0),
    },
    window={"pm25": DAY, "pm10": DAY, "no2": HOUR, "o3": HOUR, "so2": HOUR},
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a breakpoint table, concentrations in its smallest steps."""

    low: int
    high: int
    index_low: int
    index_high: int


@dataclass(frozen=True, slots=True)
class Scale:
    """Breakpoints of one pollutant over one averaging period.

    Parameters
    ----------
    pollutant : str
    window : int or None
        A window of `averages`; None for the NowCast, which stands for the 24-hour mean of particles
        until the day is over.
    steps : float
        Smallest steps in one unit of the table: concentrations are cut off there, not rounded.
    gas_g_mol : float or None
        Molar mass; None where the table is in ug/m3. Tables of gases are in ppb here.
    rows : tuple of Row
        Rising. Above the last one its line goes on. Below the first there is no index.
    ends : bool
        Whether it is held at the end of the last row instead, because another period says more.
    """

    pollutant: str
    window: int | None
    steps: float
    gas_g_mol: float | None
    rows: tuple[Row, ...]
    ends: bool = False


# Upper ends of the categories. Since 2024 the last one is a single line from 301 to 500; before it
# was cut at 400.
_INDEX_2024: Final = (0, 50, 100, 150, 200, 300, 500)
_INDEX_2018: Final = (0, 50, 100, 150, 200, 300, 400, 500)


def _rows(index: tuple[int, ...], highs: tuple[int, ...], first: int = 0) -> tuple[Row, ...]:
    """Return rows from their upper ends, `first` being the category of the first one."""
    rows = []
    low = 0 if first == 0 else highs[0]
    ends = highs if first == 0 else highs[1:]
    for place, high in enumerate(ends, first):
        index_low = index[place] + 1 if place else 0
        rows.append(Row(low, high, index_low, index[place + 1]))
        low = high + 1
    return tuple(rows)


# g/mol, from the standard atomic weights.
_O3: Final = 47.997
_NO2: Final = 46.005
_SO2: Final = 64.058
_CO: Final = 28.010


def _scales(index: tuple[int, ...], pm25: tuple[int, ...], cut: bool) -> tuple[Scale, ...]:
    """Return all scales; `cut` says whether the last category has two lines."""

    def last(*highs: int) -> tuple[int, ...]:
        return highs if cut else (*highs[:-2], highs[-1])

    return (
        Scale("pm25", None, 10.0, None, _rows(index, pm25)),
        Scale("pm10", None, 1.0, None, _rows(index, last(54, 154, 254, 354, 424, 504, 604))),
        Scale("no2", HOUR, 1.0, _NO2, _rows(index, last(53, 100, 360, 649, 1249, 1649, 2049))),
        Scale("o3", EIGHT_HOURS, 1.0, _O3, _rows(index, (54, 70, 85, 105, 200)), ends=True),
        # From 0.125 ppm on; whichever of the two is higher counts.
        Scale("o3", HOUR, 1.0, _O3, _rows(index, last(125, 164, 204, 404, 504, 604), first=2)),
        Scale("so2", HOUR, 1.0, _SO2, _rows(index, (35, 75, 185, 304)), ends=True),
        Scale("so2", DAY, 1.0, _SO2, _rows(index, last(305, 604, 804, 1004), first=4)),
        # 0.1 ppm is 100 ppb.
        Scale("co", EIGHT_HOURS, 0.01, _CO, _rows(index, last(44, 94, 124, 154, 304, 404, 504))),
    )


# 40 CFR 58 Appendix G, Table 2, as amended by 89 FR 16202 (6 March 2024, in force 6 May 2024), and
# EPA-454/B-24-002 (May 2024), Table 6.
AQI_2024: Final = _scales(_INDEX_2024, (90, 354, 554, 1254, 2254, 3254), cut=False)
# The version before: 40 CFR 58 Appendix G as amended in 2013 (particles) and 2015 (ozone), and
# EPA 454/B-18-007 (September 2018), Table 5.
AQI_2018: Final = _scales(_INDEX_2018, (120, 354, 554, 1504, 2504, 3504, 5004), cut=True)
