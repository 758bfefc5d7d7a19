"""Units that sensors name, to the units of the table of quantities.

Three vocabularies are read side by side, for they contradict each other in one name only:

- UCUM, the vocabulary of the table itself;
- the common codes of UN/CEFACT Recommendation 20 (Rev. 17), which NGSI's `unitCode` prescribes;
- the SenML units of RFC 8428, the secondary units of RFC 8798, and what IANA registered since.

That name is `%`: a hundredth in UCUM, but the plain ratio in SenML, where percent is `/100`
(RFC 8428, section 12.1, note 1). `conversion` reads it as UCUM does, `senml_conversion` as SenML.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from ingest.quantities import QUANTITIES


class Conversion(NamedTuple):
    """How a value is brought to the unit of the table: `value * factor + offset`.

    Parameters
    ----------
    factor : float
        Greater than zero.
    offset : float
        In the unit of the table.
    """

    factor: float
    offset: float = 0.0


# Amounts of a gas become masses at the temperature and pressure that Directive 2008/50/EC, Annex
# VI, section C, prescribes; it rounds them to 293 K and 101,3 kPa, which differs by 0.03 %.
REFERENCE_K: Final = 293.15
REFERENCE_PA: Final = 101_325.0
GAS_CONSTANT: Final = 8.314_462_618_153_24  # J/(mol K); exact since 2019, CODATA
# g/mol, from the abridged standard atomic weights of IUPAC 2021:
# C 12.011, N 14.007, O 15.999, S 32.06.
NO2_G_PER_MOL: Final = 46.005
O3_G_PER_MOL: Final = 47.997
SO2_G_PER_MOL: Final = 64.058
CO_G_PER_MOL: Final = 28.010

_MOL_PER_M3: Final = REFERENCE_PA / (GAS_CONSTANT * REFERENCE_K)
_GASES: Final = {
    "no2": NO2_G_PER_MOL,
    "o3": O3_G_PER_MOL,
    "so2": SO2_G_PER_MOL,
    "co": CO_G_PER_MOL,
}
_RATIOS: Final = frozenset({"occupancy", "relativeHumidity"})

# Each line has a factor and the names of one unit: UCUM, UN/CEFACT, SenML. Factors are exact.
_Names = Mapping[float, tuple[str, ...]]
_COUNT: Final[_Names] = {
    1.0: ("1", "C62", "/", "count", "H87", "EA", "IE")
}  # one, piece, each, person
_PPM: Final = ("[ppm]", "59", "ppm")
_PPB: Final = ("[ppb]", "61", "ppb")
_RATIO: Final[_Names] = {
    1.0: ("1", "C62", "/"),
    1e-2: ("%", "P1", "/100"),
    1e-3: ("[ppth]", "NX", "/1000"),
    1e-6: _PPM,
    1e-9: _PPB,
}
_SPEED: Final[_Names] = {  # to km/h
    1.0: ("km/h", "KMH"),
    3.6: ("m/s", "MTS"),
    1e-3: ("m/h",),
    0.06: ("m/min", "2X"),
    0.036: ("cm/s", "2M"),
    1.609344: ("[mi_i]/h", "HM"),
    1.852: ("[kn_i]", "KNT"),
    1.09728: ("[ft_i]/s", "FS"),
    0.018288: ("[ft_i]/min", "FR"),
}
_TIME: Final[_Names] = {  # to s
    1.0: ("s", "SEC"),
    1e-3: ("ms", "C26"),
    1e-6: ("us", "B98"),
    60.0: ("min", "MIN"),
    3_600.0: ("h", "HUR"),
    86_400.0: ("d", "DAY"),
}
_CONCENTRATION: Final[_Names] = {  # to ug/m3
    1e-3: ("ng/m3",),
    1.0: ("ug/m3", "GQ", "ng/L", "ng/l"),
    1e3: ("mg/m3", "GP", "ug/L", "ug/l"),
    1e6: ("g/m3", "A93", "mg/L", "mg/l", "M1"),
    1e9: ("kg/m3", "KMQ", "g/L", "g/l", "GL"),
}
_UG_PER_MG: Final = 1_000.0
_SOUND: Final[_Names] = {1.0: ("dB", "2N", "dB[SPL]"), 10.0: ("B[SPL]", "M72", "Bspl")}
_OTHERS: Final[Mapping[str, _Names]] = {
    "km/h": _SPEED,
    "s": _TIME,
    "dB": _SOUND,
}
_TEMPERATURE: Final = {
    "Cel": Conversion(1.0),
    "CEL": Conversion(1.0),
    "K": Conversion(1.0, -273.15),
    "KEL": Conversion(1.0, -273.15),
    "[degF]": Conversion(5 / 9, -160 / 9),
    "FAH": Conversion(5 / 9, -160 / 9),
    "[degR]": Conversion(5 / 9, -273.15),
    "A48": Conversion(5 / 9, -273.15),
}


def conversion(unit: str, quantity: str) -> Conversion | None:
    """Return how values in `unit` become values of the table, or None where that makes no sense.

    Parameters
    ----------
    unit : str
        A UCUM code, a UN/CEFACT common code or a SenML unit, exact in case.
    quantity : str
        A name of `ingest.quantities.QUANTITIES`.
    """
    return _CONVERSIONS.get((unit, quantity))


def senml_conversion(unit: str, quantity: str) -> Conversion | None:
    """Return `conversion` for a unit out of a SenML pack, where `%` is another name of `/`."""
    return _CONVERSIONS.get(("/" if unit == "%" else unit, quantity))


def _units(quantity: str) -> Mapping[str, Conversion]:
    unit = QUANTITIES[quantity].unit
    if unit == "Cel":
        return _TEMPERATURE
    if unit == "1":
        factors = _by_name(_RATIO if quantity in _RATIOS else _COUNT)
        if quantity == "relativeHumidity":
            factors["%RH"] = 1e-2
    elif unit in ("ug/m3", "mg/m3"):
        factors = _by_name(_CONCENTRATION) | _fractions(_GASES.get(quantity))
        if unit == "mg/m3":
            factors = {name: factor / _UG_PER_MG for name, factor in factors.items()}
    else:
        factors = _by_name(_OTHERS[unit])
    return {name: Conversion(factor) for name, factor in factors.items()}


def _by_name(units: _Names) -> dict[str, float]:
    return {name: factor for factor, names in units.items() for name in names}


def _fractions(g_per_mol: float | None) -> dict[str, float]:
    """Return the ug/m3 in a ppm and in a ppb of a gas; particles have no molar mass."""
    if g_per_mol is None:
        return {}
    ppm = _MOL_PER_M3 * g_per_mol  # 1e-6 of the moles, 1e6 ug in a gram
    return dict.fromkeys(_PPM, ppm) | dict.fromkeys(_PPB, ppm / 1_000)


_CONVERSIONS: Final = {
    (unit, quantity): found for quantity in QUANTITIES for unit, found in _units(quantity).items()
}
