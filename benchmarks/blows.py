"""What the chaos test does to the system, and when: a plan made from a seed, before it begins."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

# Seconds between blows: some fall into the recovery from the one before, some meet a system at
# rest.
_GAP_S: Final = 1.0, 11.0
# How long a group of workers needs at most to find itself again, seconds. The load outlasts the
# last blow by as much: whoever is told to end while it recovers does not end in good order.
_RECOVERY_S: Final = 17.0
# The first blow, when detectors have begun to judge.
_FIRST_S: Final = 8.0
# How long each lasts, seconds: until what was killed is started again, what was stopped is back,
# what was frozen goes on. The group gives a worker up after 6 s of silence, and the database a
# transaction after 15 s.
_KILL_S: Final = 0.2, 4.0
_AWAY_S: Final = 0.0, 8.0
_FREEZE_S: Final = 15.0, 30.0
_FREEZE_ALL_S: Final = 8.0, 15.0
# Of the freezes, those during which nothing else happens: the zombie then meets a living owner.
_UNDISTURBED_SHARE: Final = 0.5
_BLINK_S: Final = 1.0, 5.0

WORKERS: Final = "worker-1", "worker-2"


class Kind(NamedTuple):
    """A kind of blow.

    Parameters
    ----------
    targets : sequence of str
        Who is hit, together.
    deed : {"kill", "freeze", "stop"}
        SIGKILL, SIGSTOP and later SIGCONT, or an end in good order.
    lasts_s : (float, float)
    """

    targets: Sequence[str]
    deed: str
    lasts_s: tuple[float, float]


KINDS: Final[Mapping[str, Kind]] = {
    "kill bridge": Kind(["bridge"], "kill", _KILL_S),
    "kill worker-1": Kind(["worker-1"], "kill", _KILL_S),
    "kill worker-2": Kind(["worker-2"], "kill", _KILL_S),
    "kill workers": Kind(WORKERS, "kill", _KILL_S),
    "kill pager": Kind(["pager"], "kill", _KILL_S),
    "freeze worker-1": Kind(["worker-1"], "freeze", _FREEZE_S),
    "freeze worker-2": Kind(["worker-2"], "freeze", _FREEZE_S),
    "freeze workers": Kind(WORKERS, "freeze", _FREEZE_ALL_S),
    "blink worker-1": Kind(["worker-1"], "freeze", _BLINK_S),
    "stop worker-2": Kind(["worker-2"], "stop", _KILL_S),
    "restart database": Kind(["database"], "stop", _AWAY_S),
    "kill database": Kind(["database"], "kill", _KILL_S),
    "restart kafka": Kind(["kafka"], "stop", _AWAY_S),
    "kill kafka": Kind(["kafka"], "kill", _KILL_S),
}


class Blow(NamedTuple):
    """One blow of a plan.

    Parameters
    ----------
    at_s : float
        From the beginning of the load.
    name : str
        Of `KINDS`.
    lasts_s : float
    """

    at_s: float
    name: str
    lasts_s: float


def plan(seed: int, duration_s: float, names: Sequence[str]) -> list[Blow]:
    """Return blows in order of time; every kind comes once before any comes again.

    Parameters
    ----------
    seed : int
    duration_s : float
        Of the load; a blow ends, and is recovered from, within it.
    names : sequence of str
        Which of `KINDS`.
    """
    rng = np.random.default_rng([seed, 7])
    blows: list[Blow] = []
    deck: list[str] = []
    at_s = _FIRST_S
    while at_s < duration_s:
        deck = deck or rng.permutation(list(names)).tolist()
        name = deck.pop()
        blow = Blow(at_s, name, float(rng.uniform(*KINDS[name].lasts_s)))
        if at_s + blow.lasts_s + _RECOVERY_S > duration_s:
            break
        blows.append(blow)
        at_s += float(rng.uniform(*_GAP_S))
        if KINDS[name].deed == "freeze" and rng.random() < _UNDISTURBED_SHARE:
            at_s += blow.lasts_s
    return blows
