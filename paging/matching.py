"""Which alerts a route, a silence, a window or a rule speaks of.

A match names labels of an alert and, for each, what it may be: a value, a glob, or a list of them;
with `!` in front, what it must not be. An alert is covered when every label named is as asked. No
label is covered by every alert, and a match without labels covers all.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

Label = Literal["severity", "category", "kind", "zone", "domain", "sensor", "quantity"]
LABELS: Final[tuple[str, ...]] = get_args(Label)
# What an alert that pages can be; all else is a city's own naming.
PAGING_VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "severity": ("minor", "major", "critical"),
    "category": ("city", "sensor-health"),
}
_VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "severity": ("informational", *PAGING_VALUES["severity"]),
    "category": PAGING_VALUES["category"],
}
_MAX_PATTERNS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Term:
    """What one label is asked to be.

    Parameters
    ----------
    label : str
    wanted : tuple of str
        One of these globs must fit; empty, any value does.
    unwanted : tuple of str
        None of these may.
    """

    label: str
    wanted: tuple[str, ...]
    unwanted: tuple[str, ...]
    _wanted: re.Pattern[str] = field(init=False, repr=False, compare=False)
    _unwanted: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compile each side into one pattern."""
        object.__setattr__(self, "_wanted", _compiled(self.wanted or ("*",)))
        unwanted = _compiled(self.unwanted) if self.unwanted else None
        object.__setattr__(self, "_unwanted", unwanted)

    def takes(self, value: str) -> bool:
        """Say whether the label may have this value."""
        if self._wanted.fullmatch(value) is None:
            return False
        return self._unwanted is None or self._unwanted.fullmatch(value) is None


@dataclass(frozen=True, slots=True)
class Match:
    """What an alert must be like."""

    terms: tuple[Term, ...] = ()

    def covers(self, labels: Mapping[str, str]) -> bool:
        """Say whether an alert with these labels is meant."""
        return all(term.takes(labels[term.label]) for term in self.terms)

    def __str__(self) -> str:
        """Return it as a person reads it."""
        said = [
            f"{term.label}={'|'.join((*term.wanted, *(f'!{one}' for one in term.unwanted)))}"
            for term in self.terms
        ]
        return " ".join(said) or "everything"


def read_match(values: Any, where: str, faults: list[str]) -> Match:
    """Return the match that a table of TOML or JSON describes; add what is wrong with it."""
    if not isinstance(values, Mapping):
        faults.append(f"{where}: a table of labels is expected")
        return Match()
    terms = []
    for label, given in values.items():
        if label not in LABELS:
            faults.append(f"{where}.{label}: no such label; there are {', '.join(LABELS)}")
            continue
        patterns = [given] if isinstance(given, str) else given
        if not _are_patterns(patterns):
            faults.append(f"{where}.{label}: a text or a list of texts is expected")
            continue
        wanted = tuple(one for one in patterns if not one.startswith("!"))
        unwanted = tuple(one[1:] for one in patterns if one.startswith("!"))
        for one in (*wanted, *unwanted):
            known = _VALUES.get(label)
            if known and not any(map(_compiled((one,)).fullmatch, known)):
                faults.append(f"{where}.{label}: {one!r} is none of {', '.join(known)}")
        terms.append(Term(label, wanted, unwanted))
    return Match(tuple(terms))


def written(match: Match) -> dict[str, list[str]]:
    """Return a match as `read_match` reads it."""
    return {
        term.label: [*term.wanted, *(f"!{one}" for one in term.unwanted)] for term in match.terms
    }


def globbed(patterns: Sequence[str]) -> re.Pattern[str]:
    """Return one pattern for several globs; of `*` and `?` alone, for ids hold brackets."""
    return _compiled(tuple(patterns))


def _are_patterns(given: Any) -> bool:
    return (
        isinstance(given, list | tuple)
        and 0 < len(given) <= _MAX_PATTERNS
        and all(isinstance(one, str) and one.strip("!") for one in given)
    )


def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(_expression, patterns)), re.DOTALL)


def _expression(pattern: str) -> str:
    """Return a glob as an expression that never goes back behind a part once found.

    Where a part between two `*` fits first, all that follows has the most room: so the first place
    is kept (`(?>`), and the time is that of length times length, whatever somebody wrote.
    """
    first, *others = (re.escape(part).replace(r"\?", ".") for part in pattern.split("*"))
    if not others:
        return first
    between = "".join(f"(?>.*?{part})" for part in others[:-1] if part)
    return f"{first}{between}.*{others[-1]}"
