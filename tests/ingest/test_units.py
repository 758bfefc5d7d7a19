"""Units to the table's units, checked against pint's definitions."""

from math import isclose

import pint
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import units
from ingest.quantities import QUANTITIES
from ingest.units import Conversion, conversion, senml_conversion

PINT = pint.UnitRegistry()
# What pint calls the units of each line: UCUM, UN/CEFACT and SenML names of one unit.
MEANINGS = {
    "dimensionless": "1 C62 / count H87 EA IE",
    "percent": "% P1 /100 %RH",
    "permille": "[ppth] NX /1000",
    "ppm": "[ppm] 59 ppm",
    "1e-3 ppm": "[ppb] 61 ppb",
    "kilometer / hour": "km/h KMH",
    "meter / second": "m/s MTS",
    "meter / hour": "m/h",
    "meter / minute": "m/min 2X",
    "centimeter / second": "cm/s 2M",
    "mile / hour": "[mi_i]/h HM",
    "nautical_mile / hour": "[kn_i] KNT",
    "foot / second": "[ft_i]/s FS",
    "foot / minute": "[ft_i]/min FR",
    "second": "s SEC",
    "millisecond": "ms C26",
    "microsecond": "us B98",
    "minute": "min MIN",
    "hour": "h HUR",
    "day": "d DAY",
    "nanogram / meter**3": "ng/m3",
    "microgram / meter**3": "ug/m3 GQ",
    "milligram / meter**3": "mg/m3 GP",
    "gram / meter**3": "g/m3 A93",
    "kilogram / meter**3": "kg/m3 KMQ",
    "nanogram / liter": "ng/L ng/l",
    "microgram / liter": "ug/L ug/l",
    "milligram / liter": "mg/L mg/l M1",
    "gram / liter": "g/L g/l GL",
    "degC": "Cel CEL",
    "kelvin": "K KEL",
    "degF": "[degF] FAH",
    "degR": "[degR] A48",
    "decibel": "dB 2N dB[SPL]",
    "bel": "B[SPL] M72 Bspl",
}
MEANING = {name: meaning for meaning, names in MEANINGS.items() for name in names.split()}
TABLE_UNITS = {
    "1": "dimensionless",
    "km/h": "kilometer / hour",
    "s": "second",
    "ug/m3": "microgram / meter**3",
    "mg/m3": "milligram / meter**3",
    "Cel": "degC",
    "dB": "decibel",
}
KNOWN = sorted(units._CONVERSIONS)
GASES = {"no2": "NO2", "o3": "O3", "so2": "SO2", "co": "CO"}
# Standard atomic weights, IUPAC 2021.
WEIGHTS = {"C": 12.011, "N": 14.007, "O": 15.999, "S": 32.06}


def by_pint(value: float, unit: str, quantity: str) -> float:
    meaning = MEANING[unit]
    target = TABLE_UNITS[QUANTITIES[quantity].unit]
    if meaning == "bel":  # pint has no bel: ten to its power is the ratio of powers
        return PINT.Quantity(10.0**value, "dimensionless").to("decibel").magnitude
    amount = PINT.Quantity(value, meaning) if " " not in meaning else value * PINT(meaning)
    if quantity in GASES and meaning.endswith("ppm"):
        weight = sum(map(weight_of, formula(GASES[quantity])))
        air = PINT("101325 Pa") / (PINT("molar_gas_constant") * PINT("293.15 K"))
        amount = amount * air * PINT.Quantity(weight, "g/mol")
    return amount.to(target).magnitude


def formula(text: str) -> list[tuple[str, int]]:
    """Return atoms and how many: of NO2, (N, 1) and (O, 2)."""
    counts = [int(after) if after.isdigit() else 1 for after in text[1:] + " "]
    return [(atom, n) for atom, n in zip(text, counts, strict=True) if atom.isalpha()]


def weight_of(atoms: tuple[str, int]) -> float:
    return WEIGHTS[atoms[0]] * atoms[1]


@pytest.mark.parametrize(("unit", "quantity"), KNOWN)
def test_every_conversion_is_that_of_pint(unit: str, quantity: str) -> None:
    found = conversion(unit, quantity)
    assert found is not None
    for value in (0.5, 20.0, 3.0):
        expected = by_pint(value, unit, quantity)
        assert value * found.factor + found.offset == pytest.approx(expected, rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_a_value_in_the_unit_of_the_table_stays_as_it_is(quantity: str) -> None:
    assert conversion(QUANTITIES[quantity].unit, quantity) == (1.0, 0.0)


@given(st.sampled_from(KNOWN), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_a_conversion_is_a_rising_line(known: tuple[str, str], one: float, other: float) -> None:
    found = conversion(*known)
    assert isinstance(found, Conversion)
    assert found.factor > 0

    def line(value: float) -> float:
        return value * found.factor + found.offset

    low, high = sorted((one, other))
    assert line(low) <= line(high)
    size = max(abs(line(low)), abs(line(high)), abs(found.offset))
    middle = line(low) / 2 + line(high) / 2
    assert isclose(line(low / 2 + high / 2), middle, rel_tol=1e-9, abs_tol=size * 1e-9)


@pytest.mark.parametrize(
    ("quantity", "ug_per_ppb"),
    # As the networks of Europe use them, to two decimals; 40 ppb of ozone are the 80 ug/m3 of
    # Directive 2008/50/EC, Annex VII.
    [("no2", 1.91), ("o3", 2.00), ("so2", 2.66), ("co", 1.16)],
)
def test_gases_weigh_what_is_reported_in_europe(quantity: str, ug_per_ppb: float) -> None:
    ppb, ppm = conversion("61", quantity), conversion("59", quantity)
    assert ppb is not None
    assert ppm is not None
    found = ppb.factor * (1_000 if quantity == "co" else 1)
    assert found == pytest.approx(ug_per_ppb, abs=0.005)
    assert ppm.factor == pytest.approx(1_000 * ppb.factor)


@pytest.mark.parametrize(
    ("unit", "quantity"),
    [
        ("59", "pm10"),
        ("61", "pm25"),
        ("ppm", "pm25"),
        ("[ppb]", "pm10"),
        ("m/s", "LAeq"),
        ("KMH", "averageHeadwayTime"),
        ("Cel", "no2"),
        ("GQ", "temperature"),
        ("2N", "averageVehicleSpeed"),
        ("P1", "intensity"),
        ("%", "peopleCount"),
        ("count", "occupancy"),
        ("H87", "relativeHumidity"),
        ("%RH", "occupancy"),
        ("s", "intensity"),
        ("1", "no2"),
        ("B", "LAeq"),  # a byte in SenML, a bel in UCUM
        ("kmh", "averageVehicleSpeed"),
        ("KM/H", "averageVehicleSpeed"),
        ("", "intensity"),
        ("GQ ", "no2"),
        ("ug/m3", "nox"),
        ("", ""),
    ],
)
def test_a_unit_that_does_not_fit_is_none(unit: str, quantity: str) -> None:
    assert conversion(unit, quantity) is None


def test_every_name_has_a_meaning_and_every_meaning_a_use() -> None:
    assert {unit for unit, _ in KNOWN} == set(MEANING)


def test_a_percent_sign_is_a_hundredth_but_in_senml() -> None:
    assert conversion("%", "occupancy") == (0.01, 0.0)
    assert senml_conversion("%", "occupancy") == (1.0, 0.0)
    for unit in ("/100", "%RH", "P1"):
        assert senml_conversion(unit, "relativeHumidity") == (0.01, 0.0)
    assert senml_conversion("%", "intensity") == conversion("/", "intensity")


@given(st.sampled_from([known for known in KNOWN if known[0] != "%"]))
def test_senml_differs_in_nothing_else(known: tuple[str, str]) -> None:
    assert senml_conversion(*known) == conversion(*known)
