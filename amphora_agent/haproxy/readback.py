"""Seeing that a running haproxy is as it should be: questions, and what is right for an answer."""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from amphora_agent.haproxy.change import Inquiry
from amphora_agent.haproxy.server import Server

#: Columns of `show servers state` (management manual), counted from 0.
_NAME, _ADDRESS, _ADMINISTRATIVE, _WEIGHT, _CHECK, _PORT = 3, 4, 6, 7, 13, 18
#: Bits of the administrative state: in maintenance by command, by a tracked server, by DNS.
_MAINTENANCE, _ANY_MAINTENANCE = 0x01, 0x01 | 0x02 | 0x20
#: And draining, by command or by a tracked server.
_DRAINING = 0x08 | 0x10
#: Bit of the check's state: it is to be done.
_CHECK_ENABLED = 0x04


class _Row(NamedTuple):
    address: str
    administrative: int
    weight: int
    check: int
    port: int


def members(backend: str, expected: Mapping[str, Server | None]) -> Inquiry:
    """The members of a backend are as these; None is for one that must be gone, or get nothing."""
    return Inquiry(
        f"show servers state {backend}",
        lambda reply: _first(
            _wrong_member(name, server, rows.get(name))
            for rows in [_rows(reply)]
            for name, server in expected.items()
        ),
    )


def roles(backend: str, expected: Mapping[str, bool]) -> Inquiry:
    """The members of a backend are for backup, or not."""

    def wrong(reply: str) -> str | None:
        rows = {row["svname"]: row for row in _statistics(reply)}
        return _first(
            f"{name} is {'active' if backup else 'a backup'}"
            for name, backup in expected.items()
            if rows.get(name, {}).get("bck") != str(int(backup))
        )

    return Inquiry(f"show stat {backend} 4 -1", wrong)


def frontend(name: str, column: str, *expected: str) -> Inquiry:
    """A column of the statistics of a frontend is one of these."""

    def wrong(reply: str) -> str | None:
        for row in _statistics(reply):
            if row["pxname"] == name and row["svname"] == "FRONTEND":
                found = row.get(column, "")
                return None if found in expected else f"{column} of {name} is {found!r}"
        return f"{name} is not there"

    return Inquiry(f"show stat {name} 1 -1", wrong)


def information(key: str, expected: str) -> Inquiry:
    """A line of `show info` is this."""

    def wrong(reply: str) -> str | None:
        found = re.search(rf"^{re.escape(key)}: (.*)$", reply, re.MULTILINE)
        return None if found and found[1] == expected else f"{key} is {found and found[1]!r}"

    return Inquiry("show info", wrong)


def certificate(path: str, serial: int, fingerprint: str) -> Inquiry:
    """The certificate that a file stands for; its SHA-1 in hexadecimal."""

    def wrong(reply: str) -> str | None:
        shown = _fields(reply)
        if shown.get("Status") == "Empty" or "Serial" not in shown:
            return f"{path} is not there"
        if int(shown["Serial"], 16) != serial:
            return f"{path} has the serial number {shown['Serial']}"
        if shown.get("SHA1 FingerPrint", "").lower() != fingerprint.lower():
            return f"{path} is another certificate with the same serial number"
        return None

    return Inquiry(f"show ssl cert {path}", wrong)


def authorities(path: str, fingerprints: Iterable[str]) -> Inquiry:
    """The certificates that a CA file stands for, by their SHA-1 in hexadecimal."""
    expected = {fingerprint.lower() for fingerprint in fingerprints}

    def wrong(reply: str) -> str | None:
        found = re.findall(r"^SHA1 FingerPrint: (\w+)$", reply, re.MULTILINE)
        if {fingerprint.lower() for fingerprint in found} != expected:
            return f"{path} has other certificates"
        return None

    return Inquiry(f"show ssl ca-file {path}", wrong)


def revocations(path: str, expected: Iterable[tuple[str, frozenset[int]]]) -> Inquiry:
    """The revocation lists that a file stands for: when each was made, as OpenSSL prints it, and
    the serial numbers in it."""
    lists = sorted((made, sorted(serials)) for made, serials in expected)

    def wrong(reply: str) -> str | None:
        found = []
        for part in reply.split("Certificate Revocation List #")[1:]:
            made = re.search(r"Last Update: (.*)", part)
            numbers = re.findall(r"Serial Number: ([0-9A-Fa-f]+)", part)
            found.append((" ".join(made[1].split()) if made else "", _numbers(numbers)))
        return None if sorted(found) == lists else f"{path} has other revocations"

    return Inquiry(f"show ssl crl-file {path}", wrong)


def crt_list(path: str, expected: Iterable[str]) -> Inquiry:
    """The entries of a crt-list, in whatever order."""
    entries = sorted(expected)

    def wrong(reply: str) -> str | None:
        found = sorted(
            line.split()[0].rpartition(":")[0]
            for line in reply.splitlines()
            if line.strip() and not line.startswith("#")
        )
        return None if found == entries else f"{path} has other entries"

    return Inquiry(f"show ssl crt-list -n {path}", wrong)


def _rows(reply: str) -> dict[str, _Row]:
    rows = {}
    for line in reply.splitlines():
        columns = line.split(" ")
        if len(columns) > _PORT and not line.startswith("#"):
            rows[columns[_NAME]] = _Row(
                columns[_ADDRESS],
                int(columns[_ADMINISTRATIVE]),
                int(columns[_WEIGHT]),
                int(columns[_CHECK]),
                int(columns[_PORT]),
            )
    return rows


def _wrong_member(name: str, server: Server | None, row: _Row | None) -> str | None:
    if server is None:
        if row is not None and not row.administrative & _MAINTENANCE:
            return f"{name} may still get requests"
        return None
    if row is None:
        return f"{name} is not there"
    if not _same_address(row.address, server.address):
        return f"{name} is at {row.address}"
    if row.port != server.port:
        return f"{name} has port {row.port}"
    if row.weight != server.weight:
        return f"{name} has weight {row.weight}"
    if server.disabled:
        return None if row.administrative & _MAINTENANCE else f"{name} is enabled"
    if row.administrative & (_ANY_MAINTENANCE | _DRAINING):
        return f"{name} has the administrative state {row.administrative}"
    if server.check and not row.check & _CHECK_ENABLED:
        return f"{name} is not checked"
    return None


def _same_address(one: str, other: str) -> bool:
    try:
        return ipaddress.ip_address(one) == ipaddress.ip_address(other)
    except ValueError:
        return False


def _statistics(reply: str) -> list[dict[str, str]]:
    lines = [line for line in reply.splitlines() if line]
    if not lines or not lines[0].startswith("# "):
        return []
    header = lines[0][2:].split(",")
    # No column that matters is after one that may have a comma in it.
    return [dict(zip(header, line.split(","), strict=False)) for line in lines[1:]]


def _fields(reply: str) -> dict[str, str]:
    return {
        key: value.strip()
        for key, separator, value in (line.partition(":") for line in reply.splitlines())
        if separator
    }


def _numbers(hexadecimal: Iterable[str]) -> list[int]:
    return sorted(int(number, 16) for number in hexadecimal)


def _first(findings: Iterable[str | None]) -> str | None:
    return next((finding for finding in findings if finding is not None), None)
