"""Which errors a worker waits out, and how it finds the one message that is to blame."""

from collections.abc import Iterable

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import errors

from detectors import StateError
from streams.patience import REFUSALS, Origin, Quarantine, is_passing


@pytest.mark.parametrize(
    "error",
    [
        errors.DiskFull,
        errors.TooManyConnections,
        errors.AdminShutdown,
        errors.CrashShutdown,
        errors.CannotConnectNow,
        errors.DeadlockDetected,
        errors.SerializationFailure,
        errors.LockNotAvailable,
        errors.QueryCanceled,
        errors.IoError,
        errors.OutOfMemory,
        errors.ReadOnlySqlTransaction,
        errors.IdleInTransactionSessionTimeout,
        errors.ConnectionFailure,
        psycopg.OperationalError,
        psycopg.InterfaceError,
    ],
)
def test_it_waits_for_a_database_that_is_away(error: type[psycopg.Error]) -> None:
    assert is_passing(error())
    assert not issubclass(error, REFUSALS)


@pytest.mark.parametrize(
    "error",
    [
        errors.NumericValueOutOfRange,
        errors.CharacterNotInRepertoire,
        errors.CheckViolation,
        errors.NotNullViolation,
        errors.ProgramLimitExceeded,
        UnicodeEncodeError,
        OverflowError,
    ],
)
def test_it_does_not_wait_where_the_data_is_refused(error: type[Exception]) -> None:
    assert issubclass(error, REFUSALS)
    if issubclass(error, psycopg.Error):
        assert not is_passing(error())


@pytest.mark.parametrize(
    "error", [errors.UndefinedTable, errors.InsufficientPrivilege, StateError, ValueError, KeyError]
)
def test_all_else_ends_the_worker(error: type[Exception]) -> None:
    assert not is_passing(error())
    assert not issubclass(error, REFUSALS)


def flushes(quarantine: Quarantine, log: list[Origin], poison: Iterable[Origin]) -> list[Origin]:
    """Write a log, as a worker with one flush for all of it would; return what was buried."""
    buried: list[Origin] = []
    queue = list(log)
    while queue:
        quarantine.begin()
        drawn = []
        held_back: set[tuple[str, int]] = set()
        for origin in queue:
            if origin[:2] not in held_back and quarantine.admits(origin):
                drawn.append((origin, quarantine.draw(origin)))
            else:
                held_back.add(origin[:2])
        assert drawn
        if any(origin in poison and refusal is None for origin, refusal in drawn):
            quarantine.blame(errors.CheckViolation("no"))
        else:
            buried += [origin for origin, refusal in drawn if refusal]
            assert quarantine.buries is bool([one for one in drawn if one[1]])
            quarantine.pass_()
            done = {origin for origin, _ in drawn}
            queue = [origin for origin in queue if origin not in done]
    return buried


@given(st.data())
def test_it_finds_every_poison_and_nothing_else(data: st.DataObject) -> None:
    log = [Origin("t", number % 3, number // 3) for number in range(30)]
    poison = set(data.draw(st.lists(st.sampled_from(log), max_size=8)))
    assert sorted(flushes(Quarantine(), log, poison)) == sorted(poison)


def test_one_alone_is_blamed_at_once_and_told_why() -> None:
    quarantine = Quarantine()
    one = Origin("t", 0, 7)
    quarantine.begin()
    assert quarantine.draw(one) is None
    assert quarantine.blame(errors.CheckViolation("told\nand the values")) == one
    refusal = quarantine.draw(one)
    assert refusal == ("the database refuses it: told", False)


def test_one_whose_dead_letter_is_refused_loses_its_name_and_then_ends_the_worker() -> None:
    quarantine = Quarantine()
    one = Origin("t", 0, 7)
    for is_nameless in (False, True):
        quarantine.begin()
        quarantine.draw(one)
        assert quarantine.blame(errors.CheckViolation("no")) == one
        assert quarantine.draw(one) == ("the database refuses it: no", is_nameless)
    with pytest.raises(errors.CheckViolation):
        quarantine.blame(errors.CheckViolation("no"))


def test_a_database_that_refuses_everything_is_not_the_messages_fault() -> None:
    log = [Origin("t", 0, number) for number in range(100)]
    with pytest.raises(errors.CheckViolation):
        flushes(Quarantine(), log, log)


def test_an_error_without_a_message_is_nobodys_fault() -> None:
    quarantine = Quarantine()
    quarantine.begin()
    with pytest.raises(errors.CheckViolation):
        quarantine.blame(errors.CheckViolation("no"))


def test_what_is_another_workers_is_forgotten() -> None:
    quarantine = Quarantine()
    quarantine.begin()
    for partition in (0, 1):
        quarantine.draw(Origin("t", partition, 0))
    assert quarantine.blame(errors.CheckViolation("no")) is None
    assert not quarantine.admits(Origin("t", 1, 0))
    quarantine.drop("t", 0)
    assert quarantine.admits(Origin("t", 1, 0))
