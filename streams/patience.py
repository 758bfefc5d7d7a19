"""What a worker makes of an error of the database: it waits, blames a message, or ends.

| the database | for instance | the worker |
| --- | --- | --- |
| is away, full, or not itself | stopped, 53100, 40P01, 25006 | waits, and tries again |
| refuses the data | class 22 or 23, 54000 | looks for the message |
| says anything else | a table is missing, no right to it | ends, and is started again |

A flush is one transaction, so one message that cannot be stored would hold up all others for ever.
`Quarantine` finds it: what a refused flush had drawn is offered again, each message alone, and the
one that is refused then becomes a dead letter. The detectors never saw it, so the state saved with
its dead letter makes sure that no replay shows it to them.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import psycopg
from psycopg import errors

# Not among psycopg's operational errors: a standby in the middle of a failover, and a transaction
# that was ended while its worker was frozen.
_PASSING: Final = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    errors.ReadOnlySqlTransaction,
    errors.IdleInTransactionSessionTimeout,
)
# Operational by name, but the same data will fail for ever.
_LIMITS: Final = (errors.ProgramLimitExceeded, errors.StatementTooComplex)
# The last two: what cannot even be sent.
REFUSALS: Final = (
    psycopg.DataError,
    psycopg.IntegrityError,
    errors.CardinalityViolation,
    *_LIMITS,
    UnicodeError,
    OverflowError,
)
# Messages refused one after the other: more, and it is not the messages.
_MAX_IN_A_ROW: Final = 20


def is_passing(error: BaseException) -> bool:
    """Say whether the same call may succeed later."""
    return isinstance(error, _PASSING) and not isinstance(error, _LIMITS)


class Origin(NamedTuple):
    """Where a message stands in Kafka."""

    topic: str
    partition: int
    offset: int


class Refusal(NamedTuple):
    """Why a message is not stored.

    Parameters
    ----------
    reason : str
        In the database's words.
    is_nameless : bool
        Even its dead letter was refused: what its headers say is not to be used either.
    """

    reason: str
    is_nameless: bool


@dataclass(slots=True)
class Quarantine:
    """Which messages of a refused flush may go on, and which were found to be the cause."""

    _drawn: set[Origin] = field(default_factory=set)
    _suspects: deque[Origin] = field(default_factory=deque)
    _refused: dict[Origin, Refusal] = field(default_factory=dict)
    _in_a_row: int = 0

    @property
    def buries(self) -> bool:
        """Whether a refused message is in the flush, whose state must then be saved."""
        return not self._drawn.isdisjoint(self._refused)

    def begin(self) -> None:
        """Begin a flush."""
        self._drawn.clear()

    def admits(self, origin: Origin) -> bool:
        """Say whether the next message of its partition may be drawn: a suspect goes alone."""
        if not self._suspects:
            return True
        turn = self._suspects[0]
        return origin[:2] == turn[:2] and origin.offset <= turn.offset

    def draw(self, origin: Origin) -> Refusal | None:
        """Note that the flush has a message; return why it must not be stored, if it must not."""
        self._drawn.add(origin)
        return self._refused.get(origin)

    def pass_(self) -> None:
        """Note that the flush is committed."""
        if not self._drawn <= self._refused.keys():
            self._in_a_row = 0
        for origin in self._drawn & self._refused.keys():
            del self._refused[origin]
        if self._suspects and self._suspects[0] in self._drawn:
            self._suspects.popleft()

    def blame(self, error: BaseException) -> Origin | None:
        """Say which message a refused flush is put down to; None while it can be several.

        Parameters
        ----------
        error : BaseException
            One of `REFUSALS`. It is raised again where no message can be the cause, or too many
            seem to be.
        """
        if not self._suspects:
            self._suspects.extend(sorted(self._drawn))
            if len(self._drawn) > 1:
                return None
        if not self._suspects or self._suspects[0] not in self._drawn:
            raise error
        origin = self._suspects[0]
        before = self._refused.get(origin)
        self._in_a_row += before is None
        if self._in_a_row > _MAX_IN_A_ROW or (before is not None and before.is_nameless):
            raise error
        self._refused[origin] = Refusal(
            before.reason if before else f"the database refuses it: {words(error)}", bool(before)
        )
        return origin

    def drop(self, topic: str, partition: int) -> None:
        """Forget a partition that is another worker's now."""
        place = (topic, partition)
        self._suspects = deque(one for one in self._suspects if one[:2] != place)
        self._refused = {one: why for one, why in self._refused.items() if one[:2] != place}


def words(error: BaseException) -> str:
    """Return what an error says in its first line, without the values it would quote after it.

    Those are what sensors and people wrote; they belong neither into a log nor into a reason.
    """
    told = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return told or (str(error).splitlines() or [""])[0]
