"""The one way in from untrusted JSON.

A body is decoded into a typed value in one step: what comes out is what the type says, or there
is an `InvalidRequest` that names the place in the body. Keys that the type does not know are
ignored: a newer controller may say more than an older agent understands.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import msgspec

from amphora_agent.errors import InvalidRequest
from amphora_agent.model import addressing, wording

T = TypeVar("T")

_PARSERS: dict[Any, Callable[[str], object]] = {
    addressing.Address: addressing.parse_address,
    addressing.Network: addressing.parse_network,
    addressing.Interface: addressing.parse_interface,
    addressing.Mac: addressing.parse_mac,
}


def decode(body: bytes, as_type: type[T]) -> T:
    """The value that the JSON `body` describes.

    Raises:
        InvalidRequest: not JSON, a key is missing, a value is of the wrong type or range. The
            details name the place: "fixed_ips[0].mtu: Expected `int`, got `str`".
    """
    try:
        value: T = _decoder(cast(Any, as_type)).decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest("Invalid request", wording.explain(error, as_type)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest("Invalid request", f"not JSON: {error}") from None
    return value


def encode(value: object) -> bytes:
    """JSON that `decode` turns into an equal value."""
    return msgspec.json.encode(value, enc_hook=_encode_own)


@functools.cache  # making a decoder costs much more than using it
def _decoder(as_type: Any) -> "msgspec.json.Decoder[Any]":
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
