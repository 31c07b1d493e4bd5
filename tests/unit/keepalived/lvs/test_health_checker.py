"""The packets of the check of SCTP members."""

import struct

import pytest

from amphora_agent.keepalived.lvs.health_checker import build_init, crc32c, find_answer

_INIT_ACK, _ABORT, _SHUTDOWN = 2, 6, 7


def packet(source: int, destination: int, tag: int, kind: int) -> bytes:
    return struct.pack("!HHLLBBH", source, destination, tag, 0, kind, 0, 4)


@pytest.mark.parametrize(
    ("data", "checksum"),
    [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)],
)
def test_the_checksum_is_the_one_of_the_standard(data: bytes, checksum: int) -> None:
    assert crc32c(data) == checksum


def test_the_packet_begins_an_association() -> None:
    made = build_init(50000, 5400, 7)
    source, destination, tag = struct.unpack_from("!HHL", made)
    kind, _, length, initiate_tag = struct.unpack_from("!BBHL", made, 12)
    assert (source, destination, tag) == (50000, 5400, 0)
    assert (kind, length, initiate_tag) == (1, len(made) - 12, 7)
    [checksum] = struct.unpack_from("<L", made, 8)
    assert checksum == crc32c(made[:8] + bytes(4) + made[12:])


@pytest.mark.parametrize("kind", [_INIT_ACK, _ABORT])
def test_an_answer_is_from_the_port_that_was_asked_and_has_our_tag(kind: int) -> None:
    assert find_answer(packet(5400, 50000, 7, kind), 5400, 50000, 7) == kind
    assert find_answer(packet(5401, 50000, 7, kind), 5400, 50000, 7) is None
    assert find_answer(packet(5400, 50001, 7, kind), 5400, 50000, 7) is None
    assert find_answer(packet(5400, 50000, 8, kind), 5400, 50000, 7) is None


def test_passes_over_packets_that_are_no_answer() -> None:
    assert find_answer(packet(5400, 50000, 7, _SHUTDOWN), 5400, 50000, 7) is None
    assert find_answer(b"", 5400, 50000, 7) is None
