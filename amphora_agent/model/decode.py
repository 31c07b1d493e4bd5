"""Decode untrusted JSON, here and nowhere else, and say in words what is wrong with it.

msgspec says ``Invalid enum value 'HTPP' - at `$.listeners[2].protocol` ``; a person wants
``listeners[2].protocol: 'HTPP' is not one of HTTP, HTTPS, …``.

A body is decoded into a typed value in one step: what comes out is what the type says, or there
is an `InvalidRequest` that names the place in the body. Keys that the type does not know are
ignored: a newer controller may say more than an older agent understands.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterable
from ipaddress import ip_interface
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
from msgspec import inspect

from amphora_agent.errors import InvalidRequest
from amphora_agent.model import addressing


class Problem(NamedTuple):
    """`path` as a person writes it: `listeners[2].l7policies[0].rules[1].value`."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def either(names: Iterable[str]) -> str:
    """Return a list of alternatives in words."""
    return ", ".join(sorted(names))


_PLACE = re.compile(r" - at (?P<key>`key` in )?`\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.(?P<field>[^.\[]+)|\[(?P<element>[^\]]*)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`")
_ENUM = re.compile(r"Invalid enum value (?P<value>.*)", re.DOTALL)
_PATTERN = re.compile(r"Expected `str` matching regex .*", re.DOTALL)


def _explain(error: msgspec.ValidationError, as_type: Any) -> Problem:
    """Say in words what `error` means, which came from decoding into `as_type`."""
    message = str(error)
    path = ""
    place_type = None
    if place := _PLACE.search(message):
        path, message = place["path"], message[: place.start()]
    with contextlib.suppress(LookupError):
        place_type = _find_type(inspect.type_info(as_type), path)
    if place and place["key"] and isinstance(place_type, inspect.DictType):
        place_type = place_type.key_type
    if unknown := _UNKNOWN.fullmatch(message):
        fields = place_type.fields if isinstance(place_type, inspect.StructType) else ()
        known = either(field.encode_name for field in fields)
        path, message = f"{path}.{unknown['field']}", f"unknown; known: {known}"
    elif missing := _MISSING.fullmatch(message):
        path, message = f"{path}.{missing['field']}", "is missing"
    elif (wrong := _ENUM.fullmatch(message)) and isinstance(place_type, inspect.EnumType):
        allowed = ", ".join(str(member.value) for member in place_type.cls)
        message = f"{wrong['value']} is not one of {allowed}"
    elif _PATTERN.fullmatch(message) and isinstance(place_type, inspect.Metadata):
        schema = place_type.extra_json_schema or {}
        if meant := schema.get("description"):
            message = f"not allowed there: {meant}"
    return Problem(path.lstrip(".") or "body", message)


def _find_type(kind: inspect.Type, path: str) -> inspect.Type:
    """Return the type of what is at a path. Raises LookupError."""
    for step in _STEP.finditer(path):
        kind = _without_null(kind)
        if step["field"] is not None and isinstance(kind, inspect.StructType):
            kind = {field.encode_name: field.type for field in kind.fields}[step["field"]]
        elif isinstance(kind, inspect.VarTupleType | inspect.ListType):
            kind = kind.item_type
        elif isinstance(kind, inspect.DictType):
            kind = kind.value_type
        else:
            raise LookupError(path)
    return _without_null(kind)


def _without_null(kind: inspect.Type) -> inspect.Type:
    """Return what a value may be beside null."""
    if isinstance(kind, inspect.UnionType):
        others = [type_ for type_ in kind.types if not isinstance(type_, inspect.NoneType)]
        if len(others) == 1:
            return _without_null(others[0])
    if isinstance(kind, inspect.Metadata) and not kind.extra_json_schema:
        return _without_null(kind.type)
    return kind


T = TypeVar("T")

_PARSERS: dict[Any, Callable[[str], object]] = {
    addressing.Address: addressing.parse_address,
    addressing.Network: addressing.parse_network,
    addressing.Interface: ip_interface,
    addressing.Mac: addressing.parse_mac,
}


def decode(body: bytes, as_type: type[T]) -> T:
    """Return the value that the JSON `body` describes.

    Raises:
        InvalidRequest: not JSON, a key is missing, a value is of the wrong type or range. The
            details name the place: "fixed_ips[0].mtu: Expected `int`, got `str`".
    """
    try:
        value: T = _make_decoder(cast(Any, as_type)).decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest.from_problems([_explain(error, as_type)]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest.from_problems([("not JSON", str(error))]) from None
    return value


def encode(value: object) -> bytes:
    """Return JSON that `decode` turns into an equal value."""
    return msgspec.json.encode(value, enc_hook=_encode_own)


@functools.cache  # making a decoder costs much more than using it
def _make_decoder(as_type: Any) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(as_type, dec_hook=_decode_own)


def _decode_own(as_type: Any, value: object) -> object:
    parse = _PARSERS.get(as_type)
    if parse is None:
        raise NotImplementedError(f"no JSON form of {as_type}")
    if not isinstance(value, str):
        # ipaddress would take a number for an address.
        raise ValueError(f"Expected `str`, got `{type(value).__name__}`")
    return parse(value)


def _encode_own(value: object) -> str:
    if not isinstance(value, tuple(_PARSERS)):
        raise NotImplementedError(f"no JSON form of {type(value)}")
    return str(value)
