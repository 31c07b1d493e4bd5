"""What is wrong with a body, in words that name the place as its sender does.

msgspec says ``Invalid enum value 'HTPP' - at `$.listeners[2].protocol` ``; a person wants
``listeners[2].protocol: 'HTPP' is not one of HTTP, HTTPS, …``.
"""

import enum
import re
from typing import Any

import msgspec
from msgspec import inspect

_PLACE = re.compile(r" - at (`key` in )?`\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.(?P<field>[^.\[]+)|\[(?P<element>[^\]]*)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`")
_ENUM = re.compile(r"Invalid enum value (?P<value>.*)", re.DOTALL)
_PATTERN = re.compile(r"Expected `str` matching regex .*", re.DOTALL)


def explain(error: msgspec.ValidationError, as_type: Any) -> str:
    """The words of `error`, which came from decoding into `as_type`."""
    said = str(error)
    place = _PLACE.search(said)
    path = place["path"] if place else ""
    words = said[: place.start()] if place else said
    is_key = bool(place and place[1])
    try:
        found = _at(inspect.type_info(as_type), path)
    except LookupError:
        found = None
    if is_key and isinstance(found, inspect.DictType):
        found = found.key_type
    if unknown := _UNKNOWN.fullmatch(words):
        known = ", ".join(_fields(found))
        path, words = f"{path}.{unknown['field']}", f"unknown; known: {known}"
    elif missing := _MISSING.fullmatch(words):
        path, words = f"{path}.{missing['field']}", "is missing"
    elif (wrong := _ENUM.fullmatch(words)) and (allowed := _allowed(found)):
        words = f"{wrong['value']} is not one of {', '.join(allowed)}"
    elif _PATTERN.fullmatch(words) and (meant := _description(found)):
        words = f"not allowed there: {meant}"
    return f"{path.lstrip('.') or 'body'}: {words}"


def _at(kind: inspect.Type, path: str) -> inspect.Type:
    """The type of what is at a path. Raises LookupError."""
    for step in _STEP.finditer(path):
        kind = _only(kind)
        if step["field"] is not None and isinstance(kind, inspect.StructType):
            kind = {field.encode_name: field.type for field in kind.fields}[step["field"]]
        elif isinstance(kind, inspect.VarTupleType | inspect.ListType):
            kind = kind.item_type
        elif isinstance(kind, inspect.DictType):
            kind = kind.value_type
        else:
            raise LookupError(path)
    return _only(kind)


def _only(kind: inspect.Type) -> inspect.Type:
    """What a value may be beside null."""
    if isinstance(kind, inspect.UnionType):
        others = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
        if len(others) == 1:
            return _only(others[0])
    if isinstance(kind, inspect.Metadata) and not kind.extra_json_schema:
        return _only(kind.type)
    return kind


def _fields(kind: inspect.Type | None) -> list[str]:
    if isinstance(kind, inspect.StructType):
        return sorted(field.encode_name for field in kind.fields)
    return []


def _allowed(kind: inspect.Type | None) -> list[str]:
    if isinstance(kind, inspect.EnumType) and issubclass(kind.cls, enum.Enum):
        return [str(member.value) for member in kind.cls]
    return []


def _description(kind: inspect.Type | None) -> str:
    schema = kind.extra_json_schema if isinstance(kind, inspect.Metadata) else None
    return str((schema or {}).get("description", ""))
