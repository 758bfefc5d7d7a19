"""The JSON Schema of a notice, for whoever takes one by webhook.

`python -m paging.hooks.schema FILE` writes it; docs/notice.schema.json is such a file.
"""

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from paging.notices import Notice

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
# Parameters of numpydoc: lines of `name, name : type`, and what is said of them, indented.
_PARAMETERS: Final = re.compile(
    r"(?P<heads>(?:^\w+(?:, \w+)* : .*\n)+)(?P<said>(?:^    .*\n?)+)", re.MULTILINE
)


def notice_schema() -> dict[str, Any]:
    """Return the schema of what a webhook is sent (JSON Schema 2020-12)."""
    schema = msgspec.json.schema(Notice)
    for one in schema["$defs"].values():
        _describe(one)
    return {"$schema": _DIALECT, "title": "A notice of Citywatch", **schema}


def schema_text() -> str:
    """Return the schema as it stands in a file."""
    return json.dumps(notice_schema(), indent=2, ensure_ascii=False) + "\n"


def _describe(record: dict[str, Any]) -> None:
    """Put what a record's docstring says of its parameters where readers of a schema look."""
    # Python 3.13 takes the indentation away by itself.
    text = inspect.cleandoc(record["description"])
    record["description"] = text.partition("\n")[0]
    for found in _PARAMETERS.finditer(text.partition("Parameters\n")[2].partition("Raises\n")[0]):
        for head in found["heads"].splitlines():
            for name in head.partition(" : ")[0].split(", "):
                record["properties"][name]["description"] = " ".join(found["said"].split())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(schema_text(), encoding="utf-8")
