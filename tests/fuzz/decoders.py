"""Coverage-guided fuzzing of the decoders: any bytes give readings or a reject, never an exception.

    make fuzz ARGS="-max_total_time=600"

The first byte chooses the topic, the rest is the payload. What comes out is held to its promises
as well, and then goes through the assembler, whose counts must add up. Findings are written as
`crash-*`; a finding becomes a test of its decoder.
"""

import sys
from math import isnan

import atheris

with atheris.instrument_imports(include=["ingest"]):
    from ingest.arrival import Arrival
    from ingest.assembly import Assembler, AssemblyConfig
    from ingest.decode import decode
    from ingest.message import Acceptance, Message
    from ingest.privacy import KINDS
    from ingest.quantities import QUANTITIES
    from ingest.records import Provenance
    from ingest.reject import Reject
    from ingest.topics import is_level, parse_topic

NOW_NS = 1_790_000_000 * 10**9
ACCEPTANCE = Acceptance(gateways=frozenset({"gw"}))
TOPICS = [
    "city/live/traffic/z/s",
    "city/live/environment/z/s",
    "city/live/environment/z/gw",
    "city/live/cameras/z/s",
    "city/live/cameras/z/s/onvif-ej/RuleEngine/LineDetector/Crossed/&/1",
    "city/live/cameras/z/s/onvif-ej/tns1:RuleEngine/FieldDetector/ObjectsInside",
    "city/live/cameras/z/s/onvif-ej/VideoSource/ImageTooDark/AnalyticsService",
    "city/live/cameras/z/s/onvif-ej/RuleEngine/CountAggregation/OccupancyCounter",
]


def check(message: Message, domain: str) -> None:
    """Hold a decoded message to what `Message` promises."""
    count = len(message.channels)
    assert len(message.time_ns) == len(message.value) == count
    assert all(0 <= index < count for index in message.doubtful)
    assert set(message.withheld) <= set(KINDS)
    groups = {(refused.fault.reason, refused.payload is None) for refused in message.refused}
    assert len(groups) == len(message.refused)
    for channel, time_ns, value in zip(
        message.channels, message.time_ns, message.value, strict=True
    ):
        assert is_level(channel.sensor)
        assert QUANTITIES[channel.quantity].domain == domain
        assert isinstance(value, float)
        assert isinstance(time_ns, int)
        assert time_ns % 1000 == 0
        assert NOW_NS - ACCEPTANCE.max_age_ns <= time_ns <= NOW_NS + ACCEPTANCE.max_ahead_ns
        assert isnan(value) or value == value + 0.0


def one_input(data: bytes) -> None:
    """Decode one input."""
    text, payload = TOPICS[data[0] % len(TOPICS) if data else 0], data[1:]
    topic = parse_topic(text)
    assert topic is not None
    found = decode(payload, topic, NOW_NS, ACCEPTANCE)
    if isinstance(found, Message):
        check(found, topic.domain)
    else:
        assert isinstance(found, Reject)
        assert len(found.place) < 200
    made = Assembler(AssemblyConfig("live", "fuzz", 2, 1 << 18, ACCEPTANCE))
    made.add(Arrival(text, payload, NOW_NS))
    tallies = [
        tally
        for record in made.take()
        for tally in Provenance.read(dict(record.headers), "live").tallies
    ]
    assert sum(tally.messages for tally in tallies) == 1
    assert sum(tally.passed + tally.rejected for tally in tallies) == 1
    assert (
        sum(sum(tally.reasons.values()) - tally.rejected - tally.refused for tally in tallies) == 0
    )


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
