"""What goes in and comes out, typed: the OpenAPI document is made of these.

What does not fit a form is answered with 422, and what fits and still cannot be, with 400.

One long module of declarations: read together they are the document.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.json_schema import SkipJsonSchema

from paging.notices import Cause, Event, State
from paging.schedule import Turn
from storage.pages import Category, Severity

MAX_PAGE: Final = 200
DEFAULT_PAGE: Final = 50
_MAX_PATTERNS: Final = 100
_MOMENT: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
# PostgreSQL and Python agree on what lies between, whatever the zone.
_FIRST: Final = datetime(2, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9998, 1, 1, tzinfo=UTC)
# One line: it is shown in terminals and on lock screens.
_LINE: Final = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$"
# In a query or a header there is no null: what is not asked for is not there.
Absent = SkipJsonSchema[None]
ItemT = TypeVar("ItemT")


def _moment(value: Any) -> Any:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or _MOMENT.fullmatch(value) is None:
        raise ValueError("a time with its zone is expected, as 2026-03-01T14:00:00Z")
    moment = datetime.fromisoformat(value.upper())
    return min(max(moment, _FIRST), _LAST).astimezone(UTC)


Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Name = Annotated[str, StringConstraints(pattern=_LINE, max_length=100)]
Comment = Annotated[str, StringConstraints(pattern=_LINE, max_length=500)]
Cursor = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=120)]
Pattern = Annotated[str, StringConstraints(pattern=_LINE, max_length=200)]
Patterns = Annotated[list[Pattern], Field(min_length=1, max_length=_MAX_PATTERNS)]
Count = Annotated[int, Field(ge=0)]


class Form(BaseModel):
    """What a client sends: nothing that is not known, so that no misspelt bound is passed over."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(BaseModel):
    """What is answered."""

    model_config = ConfigDict(frozen=True)


class Listing(Answer, Generic[ItemT]):
    """One page of a list, and the cursor of the next; null where this is the last."""

    items: list[ItemT]
    next: str | None


class Paging(Form):
    """Which part of a list."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    after: Annotated[Cursor | Absent, Field(description="`next` of the page before.")] = None


class AlertQuery(Paging):
    """Which alerts; of several values of one name any, of several names all."""

    state: Annotated[list[State], Field(max_length=4)] = []
    severity: Annotated[list[Severity], Field(max_length=4)] = []
    category: Annotated[list[Category], Field(max_length=2)] = []
    kind: Annotated[list[Name], Field(max_length=20)] = []
    zone: Annotated[list[Name], Field(max_length=20)] = []
    sensor: Annotated[list[Name], Field(max_length=20)] = []
    since: Annotated[Moment | Absent, Field(description="Opened then or later.")] = None
    until: Annotated[Moment | Absent, Field(description="Opened before.")] = None


class PageQuery(Paging):
    """Which pages."""

    open: Annotated[bool | Absent, Field(description="Only those that are not over, or are.")] = (
        None
    )


class OrderQuery(Paging):
    """Which silences or windows."""

    all: Annotated[bool, Field(description="Also those that are over.")] = False


class Alert(Answer):
    """An alert, as it is now."""

    alert_id: UUID
    state: State
    severity: Severity
    category: Category
    kind: str
    domain: str
    zone: str
    sensor: str
    quantity: str
    unit: str
    opened_at: Moment
    resolved_at: Moment | None
    recorded_at: Moment
    seen: float | None
    expected: float | None
    band: float | None
    score: float | None
    sentence: str


class Transition(Answer):
    """What became of an alert, when, why and by whom."""

    at: Moment
    state: State
    cause: str
    actor: str
    recorded_at: Moment


class Page(Answer):
    """Alerts of one cause, of which people are told as one."""

    page_id: UUID
    cause: Cause
    cause_name: str
    route: str
    policy: str
    labels: dict[str, str]
    severity: Severity | None
    alerts: Count
    opened_at: Moment
    told_at: Moment | None
    acknowledged_at: Moment | None
    acknowledged_by: str | None
    closed_at: Moment | None


class AlertInFull(Alert):
    """An alert with its history, oldest first, and the pages that it belongs to."""

    history: list[Transition]
    pages: list[Page]


class Word(Answer):
    """What was told of a page."""

    revision: Annotated[int, Field(ge=1)]
    event: Event
    at: Moment
    title: str


class Delivery(Answer):
    """To whom one word goes by one hook, and whether it has got there."""

    revision: Annotated[int, Field(ge=1)]
    event: Event
    step: Annotated[int, Field(ge=1)]
    hook: str
    person: str | None
    attempts: Count
    created_at: Moment
    delivered_at: Moment | None
    abandoned_at: Moment | None


class Mark(Answer):
    """What somebody thought of a page."""

    author: str
    is_false: bool
    comment: str
    created_at: Moment


class PageInFull(Page):
    """A page with its alerts (the newest 200), words, deliveries and marks."""

    members: list[Alert]
    words: list[Word]
    deliveries: list[Delivery]
    marks: list[Mark]


class Reason(Answer):
    """A stage that let pass, and why."""

    stage: str
    reason: str


class Decision(Answer):
    """What the stages said at one time: those that let pass, and the one that had the last word."""

    at: Moment
    page_id: UUID | None
    passed: list[Reason]
    stage: str
    outcome: str
    reason: str
    until: Moment | None


class Remark(Form):
    """Why, if one wants to say it."""

    comment: Comment | None = None


class Acknowledged(Answer):
    """What became of an acknowledgement: how many alerts nobody had before."""

    changed: Count
    state: State | None = None


class Judgement(Form):
    """Whether a page was false: nothing was wrong, or nothing that anybody need be told."""

    is_false: StrictBool = True
    comment: Comment | None = None


class Marked(Answer):
    """The pages that were marked."""

    pages: list[UUID]


class Labels(Form):
    """What an alert must be like: for each label a value, a glob or several; `!` in front: not."""

    severity: Patterns | Pattern | None = None
    category: Patterns | Pattern | None = None
    kind: Patterns | Pattern | None = None
    zone: Patterns | Pattern | None = None
    domain: Patterns | Pattern | None = None
    sensor: Patterns | Pattern | None = None
    quantity: Patterns | Pattern | None = None

    def given(self) -> dict[str, list[str]]:
        """Return the labels that are asked for."""
        asked = self.model_dump(exclude_none=True)
        return {name: [one] if isinstance(one, str) else one for name, one in asked.items()}


class NewOrder(Form):
    """A silence or a maintenance window to be."""

    match: Labels
    begins_at: Annotated[Moment | None, Field(description="Now, if it is not given.")] = None
    ends_at: Moment
    comment: Comment


class Order(Answer):
    """A silence or a maintenance window."""

    id: UUID
    match: dict[str, list[str] | str]
    begins_at: Moment
    ends_at: Moment
    comment: str
    author: str
    created_at: Moment
    lifted_at: Moment | None
    lifted_by: str | None


class NewOverride(Form):
    """Somebody who is to stand in."""

    rotation: Name
    person: Name
    begins_at: Annotated[Moment | None, Field(description="Now, if it is not given.")] = None
    ends_at: Moment


class Override(Answer):
    """Somebody who stands in for whoever's turn it is."""

    id: UUID
    rotation: str
    person: str
    begins_at: Moment
    ends_at: Moment
    author: str
    created_at: Moment
    lifted_at: Moment | None
    lifted_by: str | None


class OnCall(Answer):
    """Who is on call in one rotation."""

    rotation: str
    person: str
    until: Moment
    is_override: bool

    @classmethod
    def of(cls, rotation: str, turn: Turn) -> "OnCall":
        """Return a turn of a rotation."""
        return cls(
            rotation=rotation,
            person=turn.person,
            until=turn.ends,
            is_override=turn.is_override,
        )


class ScheduledTurn(OnCall):
    """Who is on call, from when to when."""

    begins_at: Moment


class NewTest(Form):
    """A page that is to show whether it comes."""

    policy: Name


class Test(Answer):
    """A page that shows whether it comes, and to whom it went."""

    id: UUID
    policy: str
    author: str
    created_at: Moment
    decided_at: Moment | None
    deliveries: list[Delivery]


class Span(Form):
    """From when to when."""

    since: Moment
    until: Moment


class AtQuery(Form):
    """When; now, if it is not given."""

    at: Moment | Absent = None


class Times(Answer):
    """How long it took, in seconds; null where there is none yet."""

    median_s: float | None
    p95_s: float | None


class PagesOf(Answer):
    """Figures of the pages of one cause, or of all (`all`)."""

    cause: Literal["all"] | Cause
    pages: Count
    to_page: Times
    to_acknowledge: Times
    to_resolve: Times
    marked: Count
    false: Count
    false_share: float | None


class ShiftPages(Answer):
    """Pages of one shift."""

    began: Moment
    pages: Count


class Figures(Answer):
    """How the duty goes."""

    since: Moment
    until: Moment
    causes: list[PagesOf]
    shifts: list[ShiftPages]


class Health(Answer):
    """Whether the API can do its work."""

    status: Literal["ok", "away"]
