"""The OpenAPI 3.1 document of `/2.0`, made of the table of operations and of the types."""

import inspect
import re
import sys
from http import HTTPStatus
from typing import Any

import msgspec

from amphora_agent import __version__
from amphora_agent.api.v2.table import OPERATIONS, Operation, Parameter
from amphora_agent.model.addressing import Address, Network

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


def root() -> bytes:
    """What there is, briefly."""
    operations = [
        {"method": each.method, "path": _path(each.rule), "description": each.words}
        for each in OPERATIONS
    ]
    return msgspec.json.encode(
        {"version": __version__, "openapi": "/2.0/openapi.json", "operations": operations}
    )


def document() -> bytes:
    """The whole document, the same at each call."""
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
    whole = {
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
    return msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n"


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


def _types(operation: Operation) -> list[Any]:
    found = [kind for kind in operation.gives.values() if kind is not None]
    match operation.takes:
        case None | (_, None):
            pass
        case (_, kind):
            found.append(kind)
        case kind:
            found.append(kind)
    return found


def _operation(operation: Operation, known: dict[str, Any]) -> dict[str, Any]:
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


def _answer(operation: Operation, status: int, kind: Any, known: dict[str, Any]) -> dict[str, Any]:
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
    """Of the types that msgspec does not know."""
    if kind is Address:
        return {"type": "string", "description": "An IP address.", "examples": ["192.0.2.10"]}
    if kind is Network:
        return {"type": "string", "description": "An IP network.", "examples": ["192.0.2.0/24"]}
    raise NotImplementedError(f"no schema of {kind}")


if __name__ == "__main__":
    sys.stdout.buffer.write(document())
