"""The operations of `/2.0`, and the OpenAPI 3.1 document made of them and of the types."""

import inspect
import re
import sys
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

from amphora_agent import __version__
from amphora_agent.api.http import DRY_RUN
from amphora_agent.model.addressing import Address, Network
from amphora_agent.model.events import Changes
from amphora_agent.model.loadbalancer import LoadBalancer, Member, Pool
from amphora_agent.model.responses import (
    About,
    CertificateList,
    LoadBalancerStatus,
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
    """`rule` is the route's. `takes` is a type in JSON, or a media type; `gives` the type of the
    answer, None for none, by its status. `refuses` are the statuses of errors."""

    method: str
    rule: str
    name: str
    words: str
    gives: dict[int, Any]
    takes: Any = None
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
    {"type": "string", "enum": [str(each) for each in ProcessModel]},
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
        {200: Result, 201: Result}, LoadBalancer,
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
        {200: About, 201: About}, (PEM, None), (_DRY_RUN,), refuses=(400, 413, 500),
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
_REF = "#/components/schemas/{name}"

_ID = {
    "type": "string",
    "pattern": "^[0-9A-Za-z][0-9A-Za-z_-]{0,63}$",
}
_PROBLEM = {
    "type": "object",
    "description": "What is wrong (RFC 9457).",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "description": "Everything that is wrong with the request, each with its place.",
            "items": {
                "type": "object",
                "required": ["path", "message"],
                "properties": {
                    "path": {
                        "type": "string",
                        "examples": ["listeners[2].l7policies[0].rules[1].value"],
                    },
                    "message": {"type": "string"},
                },
            },
        },
    },
}


def describe_briefly() -> bytes:
    """Return the operations in JSON, each with one sentence."""
    operations = [
        {"method": each.method, "path": _path(each.rule), "description": each.words}
        for each in OPERATIONS
    ]
    return msgspec.json.encode(
        {"version": __version__, "openapi": "/2.0/openapi.json", "operations": operations}
    )


def write_document() -> bytes:
    """Return the OpenAPI document, the same at each call."""
    paths: dict[str, dict[str, Any]] = {}
    types = [kind for each in OPERATIONS for kind in _types(each)]
    schemas, components = msgspec.json.schema_components(
        types, schema_hook=_schema, ref_template=_REF
    )
    known = dict(zip(map(str, types), schemas, strict=True))
    for operation in OPERATIONS:
        paths.setdefault(_path(operation.rule), {})[operation.method.lower()] = _operation(
            operation, known
        )
    components = {name: _normalize(schema) for name, schema in sorted(components.items())}
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "amphora-agent",
            "version": __version__,
            "description": "Load balancers as Octavia's provider data model has them, for an "
            "amphora's agent to make so. Every connection is mutual TLS.",
        },
        "paths": paths,
        "components": {
            "schemas": {**components, "Problem": _PROBLEM},
        },
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _normalize(schema: Any) -> Any:
    """Return a schema in the form that is the same under every release of msgspec.

    Releases clean docstrings differently, order alternatives differently, and only newer ones
    write `propertyNames`.
    """
    if isinstance(schema, list):
        return [_normalize(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    normal = {key: _normalize(each) for key, each in schema.items() if key != "propertyNames"}
    if isinstance(description := normal.get("description"), str):
        normal["description"] = _reflow(description)
    if "anyOf" in normal:
        normal["anyOf"].sort(key=lambda alternative: alternative == {"type": "null"})
    return normal


def _reflow(docstring: str) -> str:
    """Return a docstring without its indentation, each paragraph on one line."""
    paragraphs = inspect.cleandoc(docstring).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _types(operation: ApiOperation) -> list[Any]:
    kinds = [kind for kind in operation.gives.values() if kind is not None]
    match operation.takes:
        case None | (_, None):
            pass
        case (_, kind):
            kinds.append(kind)
        case kind:
            kinds.append(kind)
    return kinds


def _operation(operation: ApiOperation, known: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.words,
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": _ID}
                for name in _PARAMETER.findall(operation.rule)
            ),
            *(_parameter(each) for each in operation.parameters),
        ],
        "responses": {
            str(status): _answer(operation, status, kind, known)
            for status, kind in operation.gives.items()
        }
        | {str(status): _error(status) for status in operation.refuses},
    }
    if operation.takes is not None:
        described["requestBody"] = {"required": True, "content": _content(operation.takes, known)}
    return described


def _content(takes: Any, known: dict[str, Any]) -> dict[str, Any]:
    match takes:
        case (media, None):
            return {media: {"schema": {"type": "string", "description": "PEM (RFC 7468)"}}}
        case (media, kind):
            words = f"A JSON merge patch (RFC 7396) of a {kind.__name__}: null removes a field."
            return {media: {"schema": {"type": "object", "description": words}}}
        case kind:
            return {"application/json": {"schema": known[str(kind)]}}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.words,
        "schema": parameter.schema,
    }


def _answer(
    operation: ApiOperation, status: int, kind: Any, known: dict[str, Any]
) -> dict[str, Any]:
    described: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if kind is not None:
        described["content"] = {"application/json": {"schema": known[str(kind)]}}
    if operation.etag:
        described["headers"] = {"ETag": {"schema": {"type": "string"}}}
    return described


def _error(status: int) -> dict[str, Any]:
    schema = {"$ref": _REF.format(name="Problem")}
    return {
        "description": HTTPStatus(status).phrase,
        "content": {"application/problem+json": {"schema": schema}},
    }


def _path(rule: str) -> str:
    return _PARAMETER.sub(r"{\1}", rule)


def _schema(kind: object) -> dict[str, Any]:
    """Return the schema of a type that msgspec does not know."""
    if kind is Address:
        return {"type": "string", "description": "An IP address.", "examples": ["192.0.2.10"]}
    if kind is Network:
        return {"type": "string", "description": "An IP network.", "examples": ["192.0.2.0/24"]}
    raise NotImplementedError(f"no schema of {kind}")


if __name__ == "__main__":
    sys.stdout.buffer.write(write_document())
