"""What docs/detectors.md says of the detectors is so."""

import re
from pathlib import Path

import detectors
from tests.detectors.kernels import KERNELS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "detectors.md").read_text(encoding="utf-8")
# Of the suite three cells behind the name, of the kernels five.
ROWS = {
    name: cells
    for name, *cells in (
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in PAGE.partition("## One scale")[0].splitlines()
        if line.startswith("| `")
    )
}


def modules() -> set[str]:
    """Return the modules whose step returns findings."""
    folder = Path(detectors.__file__).parent
    asked = re.compile(r"^def (\w+_)?step\([^:]+:[\s\S]+?\n\) -> Finding:", re.MULTILINE)
    return {path.stem for path in folder.glob("*.py") if asked.search(path.read_text())}


def test_every_kernel_has_a_row() -> None:
    assert len(modules()) > 13
    assert modules() <= set(ROWS)
    assert {"range", "rate", "flatline", "silence", "level"} <= set(ROWS)


def test_the_bytes_are_those_of_the_state() -> None:
    said = {name: int(cells[3]) for name, cells in ROWS.items() if len(cells) == 5}
    prefixes = {"air_quality": "European"}
    for name, size in said.items():
        prefix = prefixes.get(name, name.replace("_", " "))
        kernel = next(one for one in KERNELS if one.name.startswith(prefix))
        assert sum(column.nbytes for column in kernel.new_state(1)) == size, name
