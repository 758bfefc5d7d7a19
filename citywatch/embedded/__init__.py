"""The whole stack from wheels: MQTT broker, Kafka broker and database as child processes.

For a first look, the demo and the tests. Everything listens on 127.0.0.1 only.
"""

from citywatch.embedded.errors import EmbeddedError
from citywatch.embedded.stack import Addresses, EmbeddedStack

__all__ = ["Addresses", "EmbeddedError", "EmbeddedStack"]
