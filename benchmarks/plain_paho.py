"""What receiving alone costs with paho as it comes: the yardstick of the bridge's own rate.

Takes over a persistent session, acknowledges each message by hand in the callback, does nothing
else, and prints how long the messages took and what CPU time. Run by `front_door.py`.
"""

import json
import sys
import threading
import time
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

HOST = "127.0.0.1"


def main() -> None:
    """Receive so many messages; none: subscribe only."""
    port, client_id, topic_filter, receive_maximum, wanted = (
        int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    )  # fmt: skip
    done = threading.Event()
    received = 0
    first: tuple[float, float] | None = None

    def on_connect(client: paho.Client, *_: Any) -> None:
        client.subscribe(topic_filter, qos=1)

    def on_subscribe(*_: Any) -> None:
        if not wanted:
            done.set()

    def on_message(client: paho.Client, _: Any, message: paho.MQTTMessage) -> None:
        nonlocal received, first
        if first is None:
            first = time.perf_counter(), time.process_time()
        client.ack(message.mid, message.qos)
        received += 1
        if received == wanted:
            done.set()

    client = paho.Client(
        CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5, manual_ack=True
    )
    client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
    properties = Properties(PacketTypes.CONNECT)
    properties.ReceiveMaximum = receive_maximum
    properties.SessionExpiryInterval = 3600
    client.connect(HOST, port, clean_start=False, properties=properties)
    client.loop_start()
    if not done.wait(300):
        raise SystemExit(f"only {received} of {wanted} messages came")
    wall_s = cpu_s = 0.0
    if first is not None:
        wall_s, cpu_s = time.perf_counter() - first[0], time.process_time() - first[1]
    client.disconnect()
    client.loop_stop()
    print(json.dumps({"messages": received, "wall_s": wall_s, "cpu_s": cpu_s}))


if __name__ == "__main__":
    main()
