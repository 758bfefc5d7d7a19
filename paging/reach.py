"""Sets of alerts, compared exactly: what of one match is left when others have taken theirs.

Values of a label that fit the same of all patterns are one class; there are few, however many
values there can be. A match is a box then: for each label the classes that it takes, a bit each.
What the earlier of two boxes leaves of the later is at most one smaller box a label.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from paging.matching import PAGING_VALUES, Match, Term, globbed

Box = Mapping[str, int]
Place = tuple[int, int]
Places = frozenset[Place]
# Routes that list some thousand sensors by name take some hundred thousand, a second's work; globs
# can be made up that take millions. Of one match, which a caller waits for, less is enough.
_MOST_STEPS: Final = 1_000_000
_MOST_STEPS_OF_ONE: Final = 100_000
_MOST_BOXES: Final = 2_000
# Stands for the letters that are in no pattern at this place.
_ANOTHER: Final = ""


class TooManyError(Exception):
    """Patterns that cannot be compared with reasonable effort."""


def boxes_of(matches: Sequence[Match]) -> list[Box]:
    """Return what each of some matches takes of the alerts that can page.

    Raises
    ------
    TooManyError
        If globs of one label overlap in too many ways.
    """
    terms: dict[str, dict[Term, None]] = {}
    for term in (term for match in matches for term in match.terms):
        terms.setdefault(term.label, {})[term] = None
    classes = {label: list(_classes(label, found)) for label, found in terms.items()}

    def taken(term: Term) -> int:
        found = enumerate(classes[term.label])
        return sum(1 << number for number, fitting in found if _takes(term, fitting))

    everything = {label: (1 << len(found)) - 1 for label, found in classes.items()}
    return [everything | {term.label: taken(term) for term in match.terms} for match in matches]


def is_everything(match: Match) -> bool:
    """Say whether a match takes every alert that can page, or cannot be shown not to."""
    return all(_is_all(term, _MOST_STEPS_OF_ONE // len(match.terms)) for term in match.terms)


def _is_all(term: Term, most_steps: int) -> bool:
    try:
        return all(_takes(term, one) for one in _classes(term.label, (term,), most_steps))
    except TooManyError:
        return True


def is_empty(box: Box) -> bool:
    """Say whether no alert is in a box."""
    return not all(box.values())


def overlap(one: Box, other: Box) -> bool:
    """Say whether some alert is in both of two boxes."""
    return all(classes & other[label] for label, classes in one.items())


def is_left(box: Box, takers: Sequence[Box]) -> bool:
    """Say whether something of a box is in none of others.

    Raises
    ------
    TooManyError
        If they leave too many pieces of it.
    """
    left = [] if is_empty(box) else [box]
    for taker in takers:
        left = [piece for one in left for piece in _without(one, taker)]
        if len(left) > _MOST_BOXES:
            raise TooManyError
    return bool(left)


def _without(box: Box, taker: Box) -> Iterator[Box]:
    if not overlap(box, taker):
        yield box
        return
    inside = dict(box)
    for label, classes in taker.items():
        if outside := inside[label] & ~classes:
            yield inside | {label: outside}
        inside[label] &= classes


def _takes(term: Term, fitting: frozenset[str]) -> bool:
    """Say whether a term takes the values that fit these of the patterns."""
    is_wanted = not term.wanted or not fitting.isdisjoint(term.wanted)
    return is_wanted and fitting.isdisjoint(term.unwanted)


def _classes(
    label: str, terms: Iterable[Term], most_steps: int = _MOST_STEPS
) -> Iterator[frozenset[str]]:
    """Yield each set of patterns that some value fits, and no other pattern."""
    patterns = sorted({one for term in terms for one in (*term.wanted, *term.unwanted)})
    if values := PAGING_VALUES.get(label):
        fitting = {one: globbed((one,)) for one in patterns}
        found = [[one for one in patterns if fitting[one].fullmatch(value)] for value in values]
        yield from map(frozenset, dict.fromkeys(map(tuple, found)))
        return
    # All values at once, letter by letter: where in which pattern one can be that began so.
    start = _opened(patterns, ((number, 0) for number in range(len(patterns))))
    classes: set[frozenset[str]] = set()
    seen, waiting, steps = {start}, [start], 0
    while waiting:
        places = waiting.pop()
        letters = {patterns[number][at : at + 1] for number, at in places} - {"*", "?", ""}
        for letter in (_ANOTHER, *sorted(letters)):
            steps += len(places)
            if steps > most_steps:
                raise TooManyError
            after = _opened(patterns, _after(patterns, places, letter))
            # No value is empty, so the start counts where a letter leads back to it.
            ends = frozenset(
                patterns[number] for number, at in after if at == len(patterns[number])
            )
            if ends not in classes:
                classes.add(ends)
                yield ends
            if after not in seen:
                seen.add(after)
                waiting.append(after)


def _after(patterns: Sequence[str], places: Places, letter: str) -> Iterator[Place]:
    for number, at in places:
        expected = patterns[number][at : at + 1]
        if expected == "*":
            yield number, at
        elif expected and expected in ("?", letter):
            yield number, at + 1


def _opened(patterns: Sequence[str], places: Iterable[Place]) -> Places:
    """Return the places, and those behind a `*` that may as well be nothing."""
    found = set()
    for number, place in places:
        at = place
        found.add((number, at))
        while patterns[number][at : at + 1] == "*":
            at += 1
            found.add((number, at))
    return frozenset(found)
