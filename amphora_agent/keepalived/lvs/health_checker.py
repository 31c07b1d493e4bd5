"""The command that the controller's configurations name for checks of SCTP members:

    amphora-health-checker sctp [-t SECONDS] ADDRESS PORT

Exit status 0: the member listens; 1: it does not; 2: no answer in time.

The command sends an INIT and never completes the association (RFC 9260, 5.1): a member answers it
without use of memory. The packet is raw, so that the amphora's kernel needs no SCTP. The command
loads nothing but this file: keepalived runs it often.
"""

import argparse
import ipaddress
import os
import socket
import struct
import sys
import time

UP, REFUSED, SILENT = 0, 1, 2

_SCTP = 132
_INIT, _INIT_ACK, _ABORT = 1, 2, 6
#: Ports, verification tag, checksum.
_HEADER = struct.Struct("!HHLL")
#: Type, flags, length; initiate tag, receiver window, streams out and in, first number.
_INIT_CHUNK = struct.Struct("!BBHLLHHL")
_WINDOW = 65536
_EPHEMERAL = 49152

#: Seconds; keepalived waits for no check as long.
_MOST_SECONDS = 3600.0


def main(arguments: list[str] | None = None) -> int:
    """Run `amphora-health-checker`; return its exit status."""
    parser = argparse.ArgumentParser(prog="amphora-health-checker", description="Check a member.")
    parser.add_argument("protocol", choices=["sctp"])
    parser.add_argument("-t", dest="timeout", type=_seconds, default=3.0, metavar="SECONDS")
    parser.add_argument("address", type=_address)
    parser.add_argument("port", type=_port)
    given = parser.parse_args(arguments)
    try:
        return check_sctp(given.address, given.port, given.timeout)
    except OSError as error:
        print(f"{given.address} {given.port}: {error}", file=sys.stderr)
        return REFUSED


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < _MOST_SECONDS:
        raise ValueError(text)
    return seconds


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 1 << 16:
        raise ValueError(text)
    return port


def check_sctp(address: str, port: int, timeout: float) -> int:
    """Return UP, REFUSED or SILENT, after `timeout` seconds at most.

    Raises:
        OSError: the member cannot be reached.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    own_port = _EPHEMERAL + int.from_bytes(os.urandom(2), "big") % (65536 - _EPHEMERAL)
    tag = int.from_bytes(os.urandom(4), "big") | 1  # not zero
    deadline = time.monotonic() + timeout
    with socket.socket(family, socket.SOCK_RAW, _SCTP) as raw:
        raw.connect((address, port if family == socket.AF_INET else 0))
        raw.send(build_init(own_port, port, tag))
        while (left := deadline - time.monotonic()) > 0:
            raw.settimeout(left)
            try:
                packet = raw.recv(65535)
            except TimeoutError:
                break
            if family == socket.AF_INET:
                packet = packet[(packet[0] & 15) * 4 :]
            kind = find_answer(packet, port, own_port, tag)
            if kind is not None:
                return UP if kind == _INIT_ACK else REFUSED
    return SILENT


def build_init(source: int, destination: int, tag: int) -> bytes:
    """Return the packet that asks for an association."""
    chunk = _INIT_CHUNK.pack(_INIT, 0, _INIT_CHUNK.size, tag, _WINDOW, 1, 1, tag)
    bare = _HEADER.pack(source, destination, 0, 0) + chunk
    # The checksum is little-endian, unlike everything else.
    return bare[:8] + struct.pack("<L", crc32c(bare)) + bare[12:]


def find_answer(packet: bytes, source: int, destination: int, tag: int) -> int | None:
    """Return the type of the chunk that answers the INIT; None if the packet is another."""
    expected = source, destination, tag
    if len(packet) < _HEADER.size + 4 or struct.unpack_from("!HHL", packet) != expected:
        return None
    kind = packet[_HEADER.size]
    return kind if kind in (_INIT_ACK, _ABORT) else None


def crc32c(data: bytes) -> int:
    """Return the checksum of SCTP (RFC 9260, appendix A), bit by bit: the packets are short."""
    rest = 0xFFFFFFFF
    for byte in data:
        rest ^= byte
        for _ in range(8):
            rest = (rest >> 1) ^ (0x82F63B78 if rest & 1 else 0)
    return rest ^ 0xFFFFFFFF


if __name__ == "__main__":
    sys.exit(main())
