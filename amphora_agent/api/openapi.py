"""The operations of `/2.0`, and the OpenAPI 3.1 document made of them and of the types."""

import inspect
import re
import sys
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

from amphora_agent import __version__
from amphora_agent.api.http import DRY_RUN, PROBLEM
from amphora_agent.model.addressing import Address, Network
from amphora_agent.model.events import Changes
from amphora_agent.model.field_types import Id
from amphora_agent.model.loadbalancer import LoadBalancer, Member, Pool
from amphora_agent.model.responses import (
    About,
    CertificateList,
    LoadBalancerStatus,
    ProblemDetails,
    ProcessModel,
    Result,
    Summaries,
)
from amphora_agent.model.status import InstanceDetails, InstanceList


class Parameter(NamedTuple):
    """Beside those of the path. `schema` is JSON Schema."""

    name: str
    place: str
    schema: dict[str, Any]
    words: str


class ApiOperation(NamedTuple):
    """`rule` is the route's. `takes` is the media type of a body, and the type of what is in it;
    `gives` the type of the answer, None for none, by its status. `refuses` are the statuses of
    errors."""

    method: str
    rule: str
    name: str
    words: str
    gives: dict[int, Any]
    takes: tuple[str, type] | None = None
    parameters: tuple[Parameter, ...] = ()
    refuses: tuple[int, ...] = ()
    etag: bool = False


_ETAGS = {"type": "string", "examples": ['"4f1c…"', "*"]}
_IF_MATCH = Parameter(
    "If-Match", "header", _ETAGS, "Only if the load balancer has one of these ETags; *: if it is."
)
_IF_NONE_MATCH = Parameter(
    "If-None-Match", "header", {"type": "string", "const": "*"}, "Only if there is none yet."
)
_DRY_RUN = Parameter(
    "dry_run",
    "query",
    {"type": "string", "enum": list(DRY_RUN), "default": "0"},
    "1 or true: refuse what would be refused, say what would be done, and do nothing.",
)
_PROCESS_MODEL = Parameter(
    "process_model",
    "query",
    {"type": "string", "enum": [str(model) for model in ProcessModel]},
    "How the listeners share processes from now on; without it, as it is, or as it is set for the "
    "amphora.",
)
_LIMIT = Parameter(
    "limit",
    "query",
    {"type": "integer", "minimum": 1, "maximum": 999_999_999, "default": 100},
    "How many entries at most.",
)

#: The type of a JSON merge patch (RFC 7396) of an object: any of its fields, or null.
MERGE_PATCH = "application/merge-patch+json"
JSON = "application/json"
PEM = "application/x-pem-file"

_BALANCER = "/2.0/loadbalancers/<lb_id>"
_CERTIFICATE = f"{_BALANCER}/certificates/<name>"
_POOL = f"{_BALANCER}/pools/<pool_id>"
_CHANGED = (400, 404, 409, 412, 413, 500)

OPERATIONS = (
    ApiOperation("GET", "/2.0", "root", "What there is.", {200: dict[str, Any]}),
    ApiOperation(
        "GET", "/2.0/openapi.json", "openapi", "This document.", {200: dict[str, Any]}
    ),
    ApiOperation(
        "GET", "/2.0/loadbalancers", "listLoadBalancers", "All load balancers that were put.",
        {200: Summaries},
    ),
    ApiOperation(
        "PUT", _BALANCER, "putLoadBalancer",
        "Make a load balancer what the body says, with the least disturbance. What is so already "
        "is not touched. The keys of certificates that the amphora has need not come again.",
        {200: Result, 201: Result}, (JSON, LoadBalancer),
        (_IF_MATCH, _IF_NONE_MATCH, _DRY_RUN, _PROCESS_MODEL), (400, 409, 412, 413, 500), True,
    ),
    ApiOperation(
        "GET", _BALANCER, "getLoadBalancer", "A load balancer as it was put, without private keys.",
        {200: LoadBalancer}, refuses=(400, 404), etag=True,
    ),
    ApiOperation(
        "DELETE", _BALANCER, "deleteLoadBalancer",
        "Stop a load balancer and remove it, with its certificates and its history.",
        {200: Result, 204: None}, parameters=(_IF_MATCH, _DRY_RUN), refuses=(400, 404, 412, 500),
    ),
    ApiOperation(
        "GET", f"{_BALANCER}/status", "getStatus",
        "How a load balancer and all its parts are, and why.",
        {200: LoadBalancerStatus}, refuses=(400, 404),
    ),
    ApiOperation(
        "PATCH", _POOL, "patchPool", "Change a pool.",
        {200: Result}, (MERGE_PATCH, Pool), (_IF_MATCH, _DRY_RUN), _CHANGED, True,
    ),
    ApiOperation(
        "PATCH", f"{_POOL}/members/<member_id>", "patchMember", "Change a member of a pool.",
        {200: Result}, (MERGE_PATCH, Member), (_IF_MATCH, _DRY_RUN), _CHANGED, True,
    ),
    ApiOperation(
        "GET", f"{_BALANCER}/certificates", "listCertificates",
        "The certificates that a load balancer can refer to.",
        {200: CertificateList}, refuses=(400,),
    ),
    ApiOperation(
        "PUT", _CERTIFICATE, "putCertificate",
        "Store a certificate with its key and chain, certificates of authorities, or revocation "
        "lists, for load balancers whose references end in this name.",
        {200: About, 201: About}, (PEM, str), (_DRY_RUN,), refuses=(400, 413, 500),
    ),
    ApiOperation(
        "GET", _CERTIFICATE, "getCertificate", "What a certificate says; never its key.",
        {200: About}, refuses=(400, 404),
    ),
    ApiOperation(
        "DELETE", _CERTIFICATE, "deleteCertificate", "Forget a certificate.",
        {200: About, 204: None}, parameters=(_DRY_RUN,), refuses=(400, 404, 500),
    ),
    ApiOperation(
        "GET", "/2.0/instances", "listInstances", "All haproxies that are to run.",
        {200: InstanceList},
    ),
    ApiOperation(
        "GET", "/2.0/instances/<instance_id>", "getInstance", "One of them, with its processes.",
        {200: InstanceDetails}, refuses=(400, 404),
    ),
    ApiOperation(
        "GET", "/2.0/instances/<instance_id>/changes", "listChanges",
        "What was changed, when, by whom and how it went; the newest first.",
        {200: Changes}, parameters=(_LIMIT,), refuses=(400, 404),
    ),
)  # fmt: skip


def query_names(method: str, rule: str) -> frozenset[str]:
    """Return the names that the query of an operation may have."""
    asked = "GET" if method == "HEAD" else method
    return frozenset(
        parameter.name
        for operation in OPERATIONS
        if (operation.method, operation.rule) == (asked, rule)
        for parameter in operation.parameters
        if parameter.place == "query"
    )


_PARAMETER = re.compile(r"<([a-z_]+)>")

#: The schemas of types that msgspec does not know.
_SCHEMAS: dict[object, dict[str, Any]] = {
    Address: {"type": "string", "description": "An IP address.", "examples": ["192.0.2.10"]},
    Network: {"type": "string", "description": "An IP network.", "examples": ["192.0.2.0/24"]},
}


def describe_briefly() -> bytes:
    """Return the operations in JSON, each with one sentence."""
    operations = [
        {
            "method": operation.method,
            "path": _format_path(operation.rule),
            "description": operation.words,
        }
        for operation in OPERATIONS
    ]
    return msgspec.json.encode(
        {"version": __version__, "openapi": "/2.0/openapi.json", "operations": operations}
    )


def write_document() -> bytes:
    """Return the OpenAPI document, the same at each call."""
    answers = (kind for operation in OPERATIONS for kind in operation.gives.values() if kind)
    types = [*dict.fromkeys((*answers, LoadBalancer, ProblemDetails, Id))]
    schemas, components = msgspec.json.schema_components(
        types, schema_hook=_SCHEMAS.__getitem__, ref_template="#/components/schemas/{name}"
    )
    known = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        described = _describe(operation, known)
        paths.setdefault(_format_path(operation.rule), {})[operation.method.lower()] = described
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "amphora-agent",
            "version": __version__,
            "description": "Load balancers as Octavia's provider data model has them, for an "
            "amphora's agent to make so. Every connection is mutual TLS.",
        },
        "paths": paths,
        "components": {"schemas": dict(sorted(components.items()))},
    }
    return msgspec.json.format(msgspec.json.encode(_normalize(document)), indent=2) + b"\n"


def _normalize(schema: Any) -> Any:
    """Return a schema in the form that is the same under every release of msgspec.

    Releases clean docstrings differently, order alternatives differently, and only newer ones
    write `propertyNames`.
    """
    if isinstance(schema, list):
        return [_normalize(element) for element in schema]
    if not isinstance(schema, dict):
        return schema
    normal = {key: _normalize(value) for key, value in schema.items() if key != "propertyNames"}
    if isinstance(description := normal.get("description"), str):
        normal["description"] = _reflow(description)
    if "anyOf" in normal:
        normal["anyOf"].sort(key=lambda alternative: alternative == {"type": "null"})
    return normal


def _reflow(docstring: str) -> str:
    """Return a docstring without its indentation, each paragraph on one line."""
    paragraphs = inspect.cleandoc(docstring).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _describe(operation: ApiOperation, known: Mapping[Any, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": known[Id]}
        for name in _PARAMETER.findall(operation.rule)
    ]
    parameters += [
        {"name": name, "in": place, "description": words, "schema": schema}
        for name, place, schema, words in operation.parameters
    ]
    responses = {}
    for status, kind in operation.gives.items():
        content = {"content": _describe_content(JSON, known[kind])} if kind else {}
        headers = {"headers": {"ETag": {"schema": {"type": "string"}}}} if operation.etag else {}
        responses[str(status)] = {"description": HTTPStatus(status).phrase, **content, **headers}
    for status in operation.refuses:
        content = {"content": _describe_content(PROBLEM, known[ProblemDetails])}
        responses[str(status)] = {"description": HTTPStatus(status).phrase, **content}
    described = {
        "operationId": operation.name,
        "summary": operation.words,
        "parameters": parameters,
        "responses": responses,
    }
    if operation.takes is not None:
        media, kind = operation.takes
        words = f"A JSON merge patch (RFC 7396) of a {kind.__name__}: null removes a field."
        schemas = {
            JSON: known.get(kind),
            MERGE_PATCH: {"type": "object", "description": words},
            PEM: {"type": "string", "description": "PEM (RFC 7468)"},
        }
        described["requestBody"] = {
            "required": True,
            "content": _describe_content(media, schemas[media]),
        }
    return described


def _describe_content(media: str, schema: Any) -> dict[str, Any]:
    return {media: {"schema": schema}}


def _format_path(rule: str) -> str:
    return _PARAMETER.sub(r"{\1}", rule)


if __name__ == "__main__":
    sys.stdout.buffer.write(write_document())
