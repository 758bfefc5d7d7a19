"""A payload to readings, whatever its format: told apart by its shape.

`decode` is total: any bytes give a `Message` or a `Reject` with reason and place, never an
exception.

| shape | format |
| --- | --- |
| topic `.../onvif-ej/<event>` | ONVIF event |
| an array | SenML pack |
| an object | NGSI entity, key-values or normalised |
"""

from ingest import reject
from ingest.message import Acceptance, Message
from ingest.ngsi import decode as decode_entity
from ingest.onvif import decode as decode_event
from ingest.reject import Reject
from ingest.senml import decode as decode_pack
from ingest.topics import MqttTopic

_ACCEPTANCE = Acceptance()
_BLANK = b" \t\r\n"


def decode(
    payload: bytes,
    topic: MqttTopic,
    received_ns: int,
    acceptance: Acceptance = _ACCEPTANCE,
) -> Message | Reject:
    """Read one message published on a sensor's topic.

    Parameters
    ----------
    payload : bytes
        The MQTT payload.
    topic : MqttTopic
        Where it was published; the payload must speak of the same sensor, or of one that the
        sensor may speak for.
    received_ns : int
        Arrival, UTC nanoseconds.
    acceptance : Acceptance
    """
    if topic.event:
        return decode_event(payload, topic, received_ns, acceptance)
    first = payload.lstrip(_BLANK)[:1]
    if first == b"[":
        return decode_pack(payload, topic, received_ns, acceptance)
    if first == b"{":
        return decode_entity(payload, topic, received_ns, acceptance)
    return Reject(reject.MALFORMED if not first or first.isalpha() else reject.SHAPE, "$")
