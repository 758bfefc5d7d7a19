"""Headers: what a bridge writes is read back, and what nobody wrote is a HeaderError."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest import ledger
from ingest.ledger import SensorCard, Tally
from ingest.records import DeadLetter, HeaderError, Provenance

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=100
)
COUNTS = st.integers(0, 2**40)
MINUTES = st.integers(0, 253_402_300_799)
LONGITUDES = st.none() | st.floats(-180, 180)
LATITUDES = st.none() | st.floats(-90, 90)
TALLIES = st.builds(Tally, NAMES, MINUTES, COUNTS, COUNTS, COUNTS, COUNTS)
CARDS = st.builds(SensorCard, NAMES, NAMES, NAMES, LONGITUDES, LATITUDES)
PROVENANCES = st.builds(Provenance, TEXT, st.lists(TALLIES), st.lists(CARDS))


@given(PROVENANCES)
@settings(deadline=None)
def test_provenance_comes_back(provenance: Provenance) -> None:
    headers = provenance.headers("live")
    assert Provenance.read(dict(headers), "live") == provenance
    assert len(dict(headers)) == len(headers)


@given(st.lists(TALLIES), st.lists(CARDS))
@settings(deadline=None)
def test_ledger_and_cards_come_back(tallies: list[Tally], cards: list[SensorCard]) -> None:
    assert ledger.decode_tallies(ledger.encode(tallies)) == tallies
    assert ledger.decode_cards(ledger.encode(cards)) == cards


@pytest.mark.parametrize("control", ["rules", ""])
def test_what_is_no_reading_accounts_for_nothing(control: str) -> None:
    provenance = Provenance("rules", [], control=control)
    headers = dict(provenance.headers("live"))
    assert headers == {
        "schema": b"1",
        "namespace": b"live",
        "bridge": b"rules",
        "citywatch-control": control.encode(),
    }
    assert Provenance.read(headers, "live") == provenance
    for wrong in ({"namespace": b"replay-x"}, {"schema": b"2"}, {"citywatch-control": b"x" * 41}):
        with pytest.raises(HeaderError):
            Provenance.read(headers | wrong, "live")


def test_what_an_older_bridge_wrote_is_read() -> None:
    found = Provenance.read(
        {
            "schema": b"1",
            "namespace": b"live",
            "bridge": b"b1",
            "ledger": b'[["traffic",60,3,2,1,0]]',
            "sensors": b'[["s1","traffic","centre",13.4,52.5]]',
        },
        "live",
    )
    assert found.tallies == [Tally("traffic", 60, messages=3, readings=2, rejected=1)]
    assert found.cards == [SensorCard("s1", "traffic", "centre", 13.4, 52.5)]


def test_the_form_on_kafka() -> None:
    counts = {"messages": 3, "readings": 2, "rejected": 1, "passed": 2}
    tallies = [Tally("traffic", 60, **counts, reasons={"topic": 1}, kinds={"face": 4}, withheld=4)]
    cards = [SensorCard("s1", "traffic", "centre", 13.4, 52.5)]
    assert dict(Provenance("b1", tallies, cards).headers("live")) == {
        "schema": b"1",
        "namespace": b"live",
        "bridge": b"b1",
        "ledger": b'[["traffic",60,3,2,1,4,2,0,0,{"topic":1},{"face":4}]]',
        "sensors": b'[["s1","traffic","centre",13.4,52.5,null]]',
    }
    assert "sensors" not in dict(Provenance("b1", tallies).headers("live"))


SOUND = dict(Provenance("b1", [Tally("traffic", 60)]).headers("live"))


@pytest.mark.parametrize(
    "change",
    [
        {"schema": None},
        {"schema": b"2"},
        {"namespace": None},
        {"namespace": b"replay-1"},
        {"ledger": b'[["traffic",1000000000000000000]]'},
        {"ledger": b'[["traffic",60,-1]]'},
        {"ledger": b'[["traffic",60,0,1e30]]'},
        {"ledger": b'[["a\\u0000b",60]]'},
        {"sensors": b'[["s1","traffic","centre",999.0,0.0]]'},
        {"sensors": b'[["s1","traffic","",1.0,0.0]]'},
        {"bridge": None},
        {"bridge": b"\xff"},
        {"ledger": None},
        {"ledger": b""},
        {"ledger": b"{}"},
        {"ledger": b'[["traffic"]]'},
        {"ledger": b'[["traffic","60"]]'},
        {"ledger": b"\xff"},
        {"ledger": b"[" * 100_000},
        {"ledger": b'[["traffic",60,0,0,0,0,' + b"[" * 100_000},
        {"sensors": b"nothing"},
        {"sensors": b'[["s1"]]'},
    ],
    ids=str,
)
@pytest.mark.parametrize("absence", ["missing", "null"])
def test_provenance_nobody_writes(change: dict[str, bytes | None], absence: str) -> None:
    headers = {
        name: value
        for name, value in (SOUND | change).items()
        if value is not None or absence == "null"
    }
    assert Provenance.read(SOUND, "live").bridge == "b1"
    with pytest.raises(HeaderError):
        Provenance.read(headers, "live")  # type: ignore[arg-type]


@given(st.dictionaries(st.sampled_from([*SOUND, "sensors"]), st.binary(max_size=40) | st.none()))
@settings(deadline=None)
def test_any_headers_are_provenance_or_a_header_error(headers: dict[str, bytes]) -> None:
    try:
        found = Provenance.read(SOUND | headers, "live")
    except HeaderError:
        return
    assert all(isinstance(tally, Tally) for tally in found.tallies)


LETTERS = st.builds(
    DeadLetter,
    TEXT,
    TEXT,
    TEXT,
    st.integers(0, 2**63 - 1),
    st.binary() | st.none(),
    st.integers(0, 2**31),
)


@given(LETTERS)
@settings(deadline=None)
def test_a_dead_letter_comes_back(letter: DeadLetter) -> None:
    assert DeadLetter.read(dict(letter.headers()), letter.payload or b"") == letter


def test_an_empty_payload_is_not_a_withheld_one() -> None:
    empty, withheld = (
        DeadLetter("t", "malformed-json", "$", 1, payload) for payload in (b"", None)
    )
    assert DeadLetter.read(dict(empty.headers()), b"").payload == b""
    assert DeadLetter.read(dict(withheld.headers()), b"").payload is None


def test_headers_of_letter_and_provenance_do_not_collide() -> None:
    letter = DeadLetter("t", "r", "$", 1, None)
    assert not set(dict(letter.headers())) & {*SOUND, "sensors"}


WRITTEN = dict(DeadLetter("t", "r", "$", 1, b"x").headers())


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("value", ["missing", None, b"\xff"])
def test_a_dead_letter_nobody_writes(name: str, value: bytes | str | None) -> None:
    headers = WRITTEN | {name: value}
    if value == "missing":
        del headers[name]
    if name == "records" and value == "missing":
        # An older bridge took or rejected messages whole.
        assert DeadLetter.read(headers, b"x").records == 0  # type: ignore[arg-type]
        return
    if name == "kept" and value != "missing":
        # Anything but "1" keeps nothing.
        assert DeadLetter.read(headers, b"x").payload is None  # type: ignore[arg-type]
        return
    with pytest.raises(HeaderError):
        DeadLetter.read(headers, b"x")  # type: ignore[arg-type]


def test_a_received_time_of_endless_digits_is_a_header_error() -> None:
    with pytest.raises(HeaderError):
        DeadLetter.read(WRITTEN | {"received_ns": b"9" * 10_000}, b"x")


def test_ledger_faults_are_those_the_docstring_names() -> None:
    with pytest.raises(msgspec.MsgspecError):
        ledger.decode_tallies(b"{}")
    with pytest.raises(msgspec.MsgspecError):
        ledger.decode_cards(b"[1]")
