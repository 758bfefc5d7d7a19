"""One service of PagerDuty, as strict as the documentation of its Events API v2 says."""

import json
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

import jsonschema
from aiohttp import web

from tests.paging.hooks.scaffold import SECRET

MAX_BYTES: Final = 512_000
_WORD: Final = {"type": "string", "minLength": 1}
# What the documentation says of an alert event.
_EVENT: Final = {
    "type": "object",
    "required": ["routing_key", "event_action"],
    "properties": {
        "routing_key": {"type": "string", "minLength": 32, "maxLength": 32},
        "event_action": {"enum": ["trigger", "acknowledge", "resolve"]},
        "dedup_key": {"type": "string", "minLength": 1, "maxLength": 255},
        "client": _WORD,
        "client_url": _WORD,
        "images": {"type": "array"},
        "links": {
            "type": "array",
            "items": {
                "required": ["href"],
                "properties": {"href": {"type": "string", "pattern": "^https?://"}, "text": _WORD},
                "additionalProperties": False,
            },
        },
        "payload": {
            "required": ["summary", "source", "severity"],
            "properties": {
                "summary": _WORD | {"maxLength": 1024},
                "source": _WORD,
                "severity": {"enum": ["critical", "error", "warning", "info"]},
                "timestamp": {
                    "type": "string",
                    "pattern": r"^\d{4}-\d\d-\d\dT.*(Z|[+-]\d\d:?\d\d)$",
                },
                "component": {"type": "string"},
                "group": {"type": "string"},
                "class": {"type": "string"},
                "custom_details": {"type": "object"},
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
    "if": {"properties": {"event_action": {"const": "trigger"}}},
    "then": {"required": ["payload"]},
    "else": {"required": ["dedup_key"]},
}
EVENTS: Final = jsonschema.Draft202012Validator(_EVENT)


class Service:
    """One service of PagerDuty with its integration key, as documented.

    Triggers of an open alert's key add to it and notify nobody, whether it is acknowledged or not;
    acknowledgements and resolutions of no open alert are dropped, and a key takes 120 events a
    minute.
    """

    def __init__(self, clock: Callable[[], float] = lambda: 0.0, limit: int = 120) -> None:
        self._clock = clock
        self._limit = limit
        self._calls: deque[float] = deque()
        self.taken: list[dict[str, Any]] = []
        self.states: dict[str, str] = {}
        # How often people were notified of each, and how many were open at once.
        self.opened: Counter[str] = Counter()
        self.most_open = 0
        self.statuses: list[int] = []

    async def handle(self, request: web.Request) -> web.Response:
        response = self.answer(request.path, await request.read())
        self.statuses.append(response.status)
        return response

    def answer(self, path: str, body: bytes) -> web.Response:
        status = self._status(path, body)
        if status != 202:
            return web.json_response({"status": "invalid event"}, status=status)
        event = json.loads(body)
        self._apply(event)
        said = {"status": "success", "message": "Event processed", "dedup_key": event["dedup_key"]}
        return web.json_response(said, status=status)

    def _status(self, path: str, body: bytes) -> int:
        if path != "/v2/enqueue":
            return 404
        now = self._clock()
        while self._calls and self._calls[0] <= now - 60:
            self._calls.popleft()
        if len(self._calls) >= self._limit:
            return 429
        self._calls.append(now)
        if len(body) > MAX_BYTES:
            return 413
        is_good = EVENTS.is_valid(event := json.loads(body)) and event["routing_key"] == SECRET
        return 202 if is_good else 400

    def _apply(self, event: dict[str, Any]) -> None:
        self.taken.append(event)
        key, state = event["dedup_key"], self.states.get(event["dedup_key"], "resolved")
        match event["event_action"], state:
            case "trigger", "resolved":
                self.states[key] = "triggered"
                self.opened[key] += 1
            case "acknowledge", "triggered":
                self.states[key] = "acknowledged"
            case "resolve", "triggered" | "acknowledged":
                self.states[key] = "resolved"
            case _:
                pass
        still_open = [one for one in self.states.values() if one != "resolved"]
        self.most_open = max(self.most_open, len(still_open))
