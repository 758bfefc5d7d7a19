"""What a worker keeps of one partition: its series, their detectors, and how far it has come.

One long module, because all of it is saved and loaded as one.
"""

from collections.abc import Sequence
from math import inf
from typing import Final

import msgspec
import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from detectors import NEVER, StateError, Suite, SuiteConfig
from ingest.batch import ReadingBatch
from ingest.ledger import SensorCard
from ingest.quantities import QUANTITIES
from ingest.topics import SeriesKey, is_level
from storage.sink import Resumption
from streams.facts import CityFacts
from streams.levels import Levels
from streams.minutes import MinuteStage
from streams.rules import Rules, RulesError, decode_rules, encode_rules
from streams.ruling import Ruling
from streams.watermark import Watermark, WatermarkState

STATE_VERSION: Final = 3
# Version 1 had no watermark, version 2 neither minutes nor rules.
_READ_VERSIONS: Final = (1, 2, STATE_VERSION)
UNREGISTERED: Final = -1
# Sensors of one partition of which it is remembered where they stand.
_MAX_CARDS: Final = 500_000


class _SavedRules(msgspec.Struct, array_like=True):
    """Rules that the log has brought, and the state of their shadows by name."""

    rules: bytes
    shadows: dict[str, bytes]
    minutes: dict[str, bytes] = {}
    levels: dict[str, bytes] = {}


class _Saved(msgspec.Struct, array_like=True):
    keys: list[str]
    suite: bytes
    watermark: WatermarkState = msgspec.field(default_factory=WatermarkState)
    cards: list[SensorCard] = []
    minutes: bytes = b""
    rules: _SavedRules | None = None
    # What the city had said of itself, canonical; empty in states from before it was noted.
    city: bytes = b""
    levels: bytes = b""


class Partition:
    """Series and detector state of one partition of the readings topic.

    Parameters
    ----------
    resumption : Resumption
        Where the database says it goes on.
    config : SuiteConfig
        Thresholds of the detectors, where no rules say otherwise.
    facts : CityFacts
        What the kernels of the minute stage must know of the city, where the log does not say.

    Attributes
    ----------
    seen : int
        First offset the detectors have not seen.
    stored : int
        First offset whose rows are not in the database.
    saved : int
        First offset the saved state has not seen; Kafka may forget what lies before it.
    series_id : (series,) int32
        Database id of each series; `UNREGISTERED` until it has one.
    claimed : (series,) bool
        Whether the database has been told that this partition reads the series.
    sensor : (series,) int32
        Number of each series' sensor within the partition.
    slot_of, domain_of : (texts,) int32
        Slot of every text of a key that was seen, and index of its domain in `domains`.
    cards : dict of str to SensorCard
        What was told of sensors, by their names.
    watermark : Watermark
        Up to which event time readings have come; belongs to the offset `seen`.
    minutes : MinuteStage
    facts : CityFacts
        By which it judges at `seen`.
    was_of_others : bool
        Whether the saved state was judged by other facts, and not because the log said so.
    ruling : Ruling
        The rules that hold at `seen`.
    shadows : dict of str to Suite
        What runs beside `suite` over the same series, by the names of the rules' shadows.
    shadow_minutes : dict of str to MinuteStage
        What runs beside `minutes`, of those shadows that switch something of it.
    levels, shadow_levels : Levels, dict of str to Levels
        What `suite` and each of `shadows` open level alerts by.

    Raises
    ------
    StateError
        If the saved state is of an unknown version or damaged.
    """

    def __init__(
        self,
        resumption: Resumption,
        config: SuiteConfig,
        facts: CityFacts = CityFacts(),  # noqa: B008 - frozen
    ) -> None:
        self.stored = resumption.stored
        self.seen = self.saved = resumption.state_offset
        self.keys: list[SeriesKey] = []
        self.series_id = np.empty(0, np.int32)
        self.claimed = np.empty(0, np.bool_)
        self.sensor = np.empty(0, np.int32)
        self.watermark = Watermark()
        self._sensors: dict[str, int] = {}
        self.slot_of = np.empty(0, np.int32)
        self.domain_of = np.empty(0, np.int32)
        self.cards: dict[str, SensorCard] = {}
        self._text_of = np.empty(0, np.int32)
        self._texts: list[SeriesKey] = []
        self._numbers: dict[str, int] = {}
        self._domains: dict[str, int] = {}
        self._by_identity: dict[tuple[str, str], int] = {}
        self._settings = facts
        self.facts = facts
        self.was_of_others = False
        self.minutes = MinuteStage(facts)
        self._config = config
        self.ruling = Ruling(Rules(), config)
        self.shadows: dict[str, Suite] = {}
        self.shadow_minutes: dict[str, MinuteStage] = {}
        self.levels = Levels(self.ruling)
        self.shadow_levels: dict[str, Levels] = {}
        if resumption.state is None:
            self.suite = Suite(config)
        else:
            self._load(resumption, config)

    def slots(self, texts: Sequence[str]) -> NDArray[np.int32]:
        """Return the slot of each dictionary entry of a batch, making those that are new.

        Parameters
        ----------
        texts : sequence of str, length n
            Text of a `SeriesKey` each.

        Returns
        -------
        (n,) int32

        Raises
        ------
        ValueError
            If an entry is not a series key or names an unknown quantity; nothing is made then.
        """
        numbers = self.numbers(texts)
        return self.slot_of[numbers]

    def numbers(self, texts: Sequence[str]) -> NDArray[np.int32]:
        """Return the number of each dictionary entry, an index into `slot_of` and `domain_of`.

        A sensor that moves has several texts and one slot. Raises what `slots` raises.
        """
        known = self._numbers
        try:
            # Nearly always nothing is new: one pass that Python does not interpret.
            return np.fromiter(map(known.__getitem__, texts), np.int32, len(texts))
        except KeyError:
            new = [SeriesKey.parse(text) for text in dict.fromkeys(texts) if text not in known]
        for key in new:
            if key.quantity not in QUANTITIES:
                raise ValueError(f"unknown quantity: {key.quantity!r}")
            if not all(map(is_level, key)):
                raise ValueError(f"not a series key of a topic's levels: {str(key)!r}")
        self._add(new)
        return np.fromiter((known[text] for text in texts), np.int32, len(texts))

    def is_told(self, numbers: NDArray[np.int32], cards: Sequence[SensorCard]) -> bool:
        """Say whether a message says nothing new of who the series seen so far are.

        Parameters
        ----------
        numbers : (n,) int32
            Of its texts.
        cards : sequence of SensorCard
            That it brings.
        """
        return bool((self._text_of[self.slot_of[numbers]] == numbers).all()) and all(
            card.sensor not in self._sensors or self.cards.get(card.sensor) == card
            for card in cards
        )

    def tell(
        self, numbers: NDArray[np.int32], cards: Sequence[SensorCard], batch: ReadingBatch
    ) -> None:
        """Note what a message says of who its series are, where it says it of a newer reading.

        Everything before the message must have been judged, unless it `is_told`.
        """
        slots = self.slot_of[numbers]
        others = slots[self._text_of[slots] != numbers]
        if len(others):
            newest_ns = np.full(len(numbers), NEVER)
            np.maximum.at(newest_ns, batch.series, batch.time_ns)
            for slot in np.unique(others).tolist():
                entries = np.flatnonzero(slots == slot)
                last = entries[newest_ns[entries].argmax()]
                if newest_ns[last] > self.suite.newest_ns(np.array([slot]))[0]:
                    self._text_of[slot] = numbers[last]
                    self.keys[slot] = self._texts[numbers[last]]
        for card in cards:
            known = self.cards.get(card.sensor)
            if known is None and len(self.cards) >= _MAX_CARDS:
                continue
            if known is not None and card.longitude is None:
                # One that does not say where it stands has not moved.
                card = structs.replace(  # noqa: PLW2901 - the same card, completed
                    card, longitude=known.longitude, latitude=known.latitude
                )
            self.cards[card.sensor] = card

    @property
    def domains(self) -> list[str]:
        """Domains of the texts that were seen, in the order of `domain_of`."""
        return list(self._domains)

    def ruled(self, rules: Rules) -> Ruling:
        """Return what rules mean here; nothing changes yet.

        Raises
        ------
        RulesError
            If they contradict themselves over this worker's defaults.
        """
        return Ruling(rules, self._config)

    def obey(self, ruling: Ruling) -> None:
        """Judge by other rules from now on; everything before must have been judged.

        What was learned stays. A shadow that is new knows of every series, and has learned nothing
        but what the minute stage has.
        """
        self.ruling = ruling
        ruling.rule(self.suite, self.keys, limits=True)
        self._settle(ruling.rules.city or self._settings)
        self.minutes.judge_by(ruling)
        self.levels.obey(ruling, self.suite)
        before, self.shadows = self.shadows, {}
        levels, self.shadow_levels = self.shadow_levels, {}
        for name, shadow in ruling.shadows.items():
            suite = before.get(name)
            if suite is None:
                suite = Suite(shadow.suite)
                suite.add(shadow.limits(self.keys))
            shadow.rule(suite, self.keys, limits=True)
            self.shadows[name] = suite
            own = levels.get(name)
            self.shadow_levels[name] = self._new_levels(shadow) if own is None else own
            self.shadow_levels[name].obey(shadow, suite)
        self._shadow_minutes(self.shadow_minutes)

    @property
    def is_of_settings(self) -> bool:
        """Whether it judges by what the worker's own settings say of the city."""
        return self.facts == self._settings

    def check_levels(self, check_ns: int) -> None:
        """Let the suites have the limits that a check of the watermark calls for."""
        self.levels.check(check_ns, self.suite)
        for name, levels in self.shadow_levels.items():
            levels.check(check_ns, self.shadows[name])

    def unregistered(self) -> NDArray[np.int64]:
        """Return the slots that have no database id yet."""
        return np.flatnonzero(self.series_id == UNREGISTERED)

    def snapshot(self) -> bytes:
        """Return the state as bytes; it belongs to the offset `seen`."""
        keys = [str(key) for key in self.keys]
        cards = list(self.cards.values())
        suite, minutes = self.suite.save(), self.minutes.save()
        rules = None
        if self.ruling.rules != Rules():
            shadows = {name: shadow.save() for name, shadow in self.shadows.items()}
            stages = {name: stage.save() for name, stage in self.shadow_minutes.items()}
            levels = {name: one.save() for name, one in self.shadow_levels.items()}
            rules = _SavedRules(encode_rules(self.ruling.rules), shadows, stages, levels)
        return msgspec.msgpack.encode(
            _Saved(
                keys,
                suite,
                self.watermark.state,
                cards,
                minutes,
                rules,
                _canonical(self.facts),
                self.levels.save(),
            )
        )

    def _add(self, keys: Sequence[SeriesKey]) -> None:
        added = self._enter(keys)
        if added:
            self.minutes.add(added)
            self.suite.add(self.ruling.limits(added), self.ruling.columns(added))
            self.levels.add(added)
            for name, suite in self.shadows.items():
                shadow = self.ruling.shadows[name]
                suite.add(shadow.limits(added), shadow.columns(added))
                self.shadow_levels[name].add(added)
            for stage in self.shadow_minutes.values():
                stage.add(added)

    def _settle(self, facts: CityFacts) -> None:
        """Judge minutes by other facts from now on, with all that was learned."""
        if facts == self.facts:
            return
        self.facts = facts
        self.minutes = self._stage(self.minutes.save())
        self.shadow_minutes = {
            name: self._stage(stage.save()) for name, stage in self.shadow_minutes.items()
        }

    def _stage(self, saved: bytes) -> MinuteStage:
        """Return a minute stage of all series that goes on from a saved one."""
        stage = MinuteStage(self.facts)
        stage.add(self.keys)
        stage.load(saved)
        return stage

    def _new_levels(self, ruling: Ruling) -> Levels:
        levels = Levels(ruling)
        levels.add(self.keys)
        return levels

    def _shadow_minutes(self, before: dict[str, MinuteStage]) -> None:
        """Give every shadow that switches something of the minutes a stage: its own, or a new one.

        A new one begins with what the present stage has learned: a profile of the hours takes
        weeks, and does not depend on what is told of it.
        """
        self.shadow_minutes = {}
        for name in sorted(self.ruling.with_minutes):
            stage = before.get(name)
            if stage is None:
                stage = self._stage(self.minutes.save())
                stage.forget_alerts()
            stage.judge_by(self.ruling.shadows[name])
            self.shadow_minutes[name] = stage

    def _enter(self, keys: Sequence[SeriesKey]) -> list[SeriesKey]:
        """Give every text a number, and every series a slot; return the keys of new series.

        A sensor that moved to another zone keeps its series; `tell` says where it is.
        """
        added = []
        slots: list[int] = []
        domains: list[int] = []
        origins: list[int] = []
        for key in keys:
            identity = (key.sensor, key.quantity)
            slot = self._by_identity.get(identity)
            if slot is None:
                slot = self._by_identity[identity] = len(self.keys)
                self.keys.append(key)
                added.append(key)
                origins.append(len(self._texts))
            self._numbers[str(key)] = len(self._texts)
            self._texts.append(key)
            slots.append(slot)
            domains.append(self._domains.setdefault(key.domain, len(self._domains)))
        fresh_ids = np.full(len(added), UNREGISTERED, np.int32)
        self.series_id = np.concatenate([self.series_id, fresh_ids])
        self.claimed = np.concatenate([self.claimed, np.zeros(len(added), np.bool_)])
        self.slot_of = np.concatenate([self.slot_of, np.array(slots, np.int32)])
        self.domain_of = np.concatenate([self.domain_of, np.array(domains, np.int32)])
        self._text_of = np.concatenate([self._text_of, np.array(origins, np.int32)])
        numbers = [self._sensors.setdefault(key.sensor, len(self._sensors)) for key in added]
        self.sensor = np.concatenate([self.sensor, np.array(numbers, np.int32)])
        return added

    def _load(self, resumption: Resumption, config: SuiteConfig) -> None:
        if resumption.version not in _READ_VERSIONS or resumption.state is None:
            raise StateError(
                f"saved state of version {resumption.version}, this worker reads versions up to"
                f" {STATE_VERSION}"
            )
        try:
            saved = msgspec.msgpack.decode(resumption.state, type=_Saved)
            keys = [SeriesKey.parse(text) for text in saved.keys]
            # What a later version knows of the city is compared, not understood.
            msgspec.json.decode(saved.city or b"{}")
        except (msgspec.MsgspecError, ValueError) as error:
            raise StateError(f"saved state is damaged: {error}") from error
        self.suite = Suite.load(saved.suite, config)
        self._enter(keys)
        if len(self.suite) != len(self.keys):
            raise StateError(f"saved state holds {len(self.suite)} series, {len(self.keys)} keys")
        self.watermark = Watermark(saved.watermark)
        self.cards = {card.sensor: card for card in saved.cards}
        told = self._told(saved.rules)
        self.facts = told.city or self._settings
        self.was_of_others = bool(saved.city) and saved.city != _canonical(self.facts)
        self.minutes = MinuteStage(self.facts)
        self.minutes.add(keys)
        if saved.minutes:
            self.minutes.load(saved.minutes)
        if saved.rules is not None:
            self._load_rules(saved.rules, told)
        self.levels = self._new_levels(self.ruling)
        if saved.levels:
            self.levels.load(saved.levels, self.suite)
        period_s = np.array([_period_s(key.quantity) for key in self.keys])
        for suite in (self.suite, *self.shadows.values()):
            suite.expect(period_s)

    @staticmethod
    def _told(saved: _SavedRules | None) -> Rules:
        try:
            return Rules() if saved is None else decode_rules(saved.rules)
        except RulesError as error:
            raise StateError(f"saved rules cannot be used: {error}") from error

    def _load_rules(self, saved: _SavedRules, told: Rules) -> None:
        try:
            self.ruling = self.ruled(told)
        except RulesError as error:
            raise StateError(f"saved rules cannot be used: {error}") from error
        if saved.shadows.keys() != self.ruling.shadows.keys():
            raise StateError("saved shadows are not those of the saved rules")
        # Ranges and rates are part of a suite's state.
        self.ruling.rule(self.suite, self.keys, limits=False)
        self.minutes.judge_by(self.ruling)
        for name, shadow in self.ruling.shadows.items():
            suite = Suite.load(saved.shadows[name], shadow.suite)
            if len(suite) != len(self.keys):
                raise StateError(f"shadow {name} holds {len(suite)} series, {len(self.keys)} keys")
            shadow.rule(suite, self.keys, limits=False)
            self.shadows[name] = suite
            levels = self.shadow_levels[name] = self._new_levels(shadow)
            if name in saved.levels:
                levels.load(saved.levels[name], suite)
        if not saved.levels.keys() <= self.ruling.shadows.keys():
            raise StateError("saved levels of shadows are not those of the saved rules")
        if not saved.minutes.keys() <= self.ruling.with_minutes:
            raise StateError("saved minutes of shadows are not those of the saved rules")
        self._shadow_minutes({name: self._stage(data) for name, data in saved.minutes.items()})


def _canonical(facts: CityFacts) -> bytes:
    return msgspec.json.encode(facts.said(), order="sorted")


def _period_s(quantity: str) -> float:
    """Return the usual period of a quantity; of one that is not known any more, none."""
    known = QUANTITIES.get(quantity)
    return known.period_s if known is not None else inf
