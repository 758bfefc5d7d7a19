"""The API against its own document: whatever is generated from it finds nothing."""

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig

from paging.api.server import create_app
from paging.hooks.kinds import KINDS
from paging.routes import read_routes
from tests.paging.api.conftest import ROUTES, Api

pytestmark = [pytest.mark.integration, pytest.mark.slow]

DOCUMENT = create_app("", "live", read_routes(ROUTES, KINDS)).openapi()
# What fits a form and still cannot be is answered with 400: an end before its begin, or a cursor
# that no list has given.
CONFIG = SchemathesisConfig.from_dict(
    {"checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", 400, 404, 409, 429]}}}
)
generated = schemathesis.openapi.from_dict(DOCUMENT, config=CONFIG)


@generated.auth()
class Admin:
    """Whoever may do everything; which requests are to come without it, is generated too."""

    token = ""

    def get(self, _case: schemathesis.Case, _context: Any) -> str:
        return self.token

    def set(self, case: schemathesis.Case, data: str, _context: Any) -> None:
        case.headers["Authorization"] = f"Bearer {data}"


@generated.parametrize()
@settings(
    max_examples=int(os.environ.get("SCHEMATHESIS_EXAMPLES", "40")),
    # The same every time, for a run that guards; more, and others each time, where one searches.
    derandomize="SCHEMATHESIS_EXAMPLES" not in os.environ,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_nothing_generated_finds_a_fault(case: schemathesis.Case, api: Api) -> None:
    Admin.token = api.tokens["admin"]
    case.call_and_validate(base_url=api.url)


def test_the_document_is_what_is_served(api: Api) -> None:
    assert api.get("/openapi.json", None).json() == DOCUMENT
