"""The bytes of announcements, read as a neighbour reads them."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from amphora_agent.model.addressing import parse_mac
from amphora_agent.network.announcer import (
    build_advertisement,
    build_frames,
    build_gratuitous_arp,
)

MAC = parse_mac("fa:16:3e:aa:00:01")
HARDWARE = b"\xfa\x16\x3e\xaa\x00\x01"
VIP4 = IPv4Address("10.1.0.5")
VIP6 = IPv6Address("fd01::5")


def test_a_gratuitous_arp_request_names_the_address_as_sender_and_target() -> None:
    request, _ = build_gratuitous_arp(MAC, VIP4)
    assert (
        request
        == (
            b"\xff\xff\xff\xff\xff\xff" + HARDWARE + b"\x08\x06"  # to all, ARP
            b"\x00\x01\x08\x00\x06\x04\x00\x01"  # Ethernet, IPv4, lengths, request
             + HARDWARE + b"\x0a\x01\x00\x05" + b"\x00\x00\x00\x00\x00\x00" + b"\x0a\x01\x00\x05"
        )
    )


def test_a_gratuitous_arp_reply_names_the_hardware_twice_too() -> None:
    _, reply = build_gratuitous_arp(MAC, VIP4)
    assert (
        reply
        == (
            b"\xff\xff\xff\xff\xff\xff" + HARDWARE + b"\x08\x06"
            b"\x00\x01\x08\x00\x06\x04\x00\x02"  # reply
             + HARDWARE + b"\x0a\x01\x00\x05" + HARDWARE + b"\x0a\x01\x00\x05"
        )
    )


def test_an_unsolicited_advertisement_goes_from_the_address_to_all_nodes() -> None:
    frame = build_advertisement(MAC, VIP6)
    assert struct.unpack_from("!6s6sH", frame) == (b"\x33\x33\x00\x00\x00\x01", HARDWARE, 0x86DD)
    first, length, following, hops, source, target = struct.unpack_from("!IHBB16s16s", frame, 14)
    assert first == 0x60000000  # version 6, no traffic class, no flow
    assert length == len(frame) - 54
    assert (following, hops) == (58, 255)
    assert IPv6Address(source) == VIP6
    assert IPv6Address(target) == IPv6Address("ff02::1")


def test_an_unsolicited_advertisement_overrides_and_is_no_answer_and_of_no_router() -> None:
    kind, code, _, flags, target, option, units, hardware = struct.unpack(
        "!BBHI16sBB6s", build_advertisement(MAC, VIP6)[54:]
    )
    assert (kind, code) == (136, 0)
    router, solicited, override = flags >> 31, flags >> 30 & 1, flags >> 29 & 1
    assert (router, solicited, override) == (0, 0, 1)
    assert flags & 0x1FFFFFFF == 0
    assert IPv6Address(target) == VIP6
    assert (option, units, hardware) == (2, 1, HARDWARE)  # target link-layer address, 8 bytes


def test_each_family_has_its_frames() -> None:
    assert build_frames(MAC, VIP4) == build_gratuitous_arp(MAC, VIP4)
    assert build_frames(MAC, VIP6) == (build_advertisement(MAC, VIP6),)
