"""Announcements of any addresses, read as a neighbour reads them."""

from __future__ import annotations

from ipaddress import IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from amphora_agent.model.addressing import parse_mac
from amphora_agent.network.announcer import build_advertisement


@given(st.binary(min_size=5, max_size=5), st.ip_addresses(v=6))
def test_the_checksum_of_an_advertisement_holds(rest: bytes, address: IPv6Address) -> None:
    mac = parse_mac((b"\xfa" + rest).hex(":"))
    frame = build_advertisement(mac, address)
    message = frame[54:]
    pseudo = frame[22:54] + len(message).to_bytes(4, "big") + b"\x00\x00\x00\x3a"
    summed = pseudo + message
    total = sum(int.from_bytes(summed[at : at + 2], "big") for at in range(0, len(summed), 2))
    # In one's complement arithmetic, the sum with the right checksum is all ones: minus zero.
    assert total % 0xFFFF == 0
    assert total > 0
