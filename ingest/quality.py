"""QARTOD primary flags, as stored with every reading.

Source: IOOS QARTOD, *Manual for Real-Time Quality Control*, flag scheme of IOC 54:V3.
"""

from typing import Final

GOOD: Final = 1
UNKNOWN: Final = 2
SUSPECT: Final = 3
FAIL: Final = 4
MISSING: Final = 9
