"""Whatever the document of `/2.0` allows, and much that it does not, gets an answer of which the
document speaks: schemathesis makes requests of it for the running agent."""

import os
import warnings
from typing import Any

import pytest
import requests

from amphora_agent.client.v2 import AmphoraClient
from tests.integration.amphora import Amphora

with warnings.catch_warnings():
    # Of libraries that it uses, about themselves.
    warnings.simplefilter("ignore")
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

#: Requests for each operation.
EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "40"))

CHECKS = [
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
]

#: What an operation does is shown elsewhere: nothing must be started, and hundreds of certificates
#: would be checked by a process each.
DRY = {"put": {"dry_run": "1"}, "patch": {"dry_run": "1"}}


@schemathesis.serializer("application/x-pem-file")
def as_it_is(context: Any, value: Any) -> bytes:
    return str(value).encode(errors="replace")


@pytest.fixture(scope="module")
def schema(amphora: Amphora) -> Any:
    document = amphora.request("GET", "/2.0/openapi.json").json()
    return schemathesis.openapi.from_dict(document)


def operations() -> list[str]:
    from amphora_agent.api.openapi import OPERATIONS

    return [operation.name for operation in OPERATIONS]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", operations())
def test_every_answer_is_as_the_document_says(amphora: Amphora, schema: Any, name: str) -> None:
    operation = schema.find_operation_by_id(name)
    session = _session(amphora.api)

    @given(case=operation.as_strategy())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any) -> None:
        parameters = DRY.get(operation.method, {})
        if "dry_run" in {each.name for each in operation.query}:
            case.query = {**(case.query or {}), **parameters}
        response = case.call(base_url=amphora.agent.url, session=session, verify=session.verify)
        case.validate_response(response, checks=CHECKS)

    check()


def _session(api: AmphoraClient) -> requests.Session:
    return api._session
