"""Carrying out changes on a worker: each command judged by its reply, then all read back.

What is refused or does not hold is not mended here: only a reload gets there then.
"""

import contextlib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy.config.server_line import ServerLine
from amphora_agent.haproxy.replies import statistics
from amphora_agent.haproxy.update.runtime_change import Change, Command, Verification

#: Bits of the administrative state: in maintenance by command, by a tracked server, by DNS.
_MAINTENANCE, _ANY_MAINTENANCE = 0x01, 0x01 | 0x02 | 0x20
#: And draining, by command or by a tracked server.
_DRAINING = 0x08 | 0x10
#: Bit of the check's state: it is to be done.
_CHECK_ENABLED = 0x04


def verify_servers(backend: str, expected: Mapping[str, ServerLine | None]) -> Verification:
    """The members of a backend are as these; None is for one that must be gone, or get nothing."""
    return Verification(
        f"show servers state {backend}",
        lambda reply: _first(
            _wrong_member(name, server, rows.get((backend, name)))
            for rows in [statistics.read_servers_state(reply).rows]
            for name, server in expected.items()
        ),
    )


def verify_roles(backend: str, expected: Mapping[str, bool]) -> Verification:
    """The members of a backend are for backup, or not."""

    def wrong(reply: str) -> str | None:
        rows = {row["svname"]: row for row in _statistics(reply, "bck")}
        return _first(
            f"{name} is {'active' if backup else 'a backup'}"
            for name, backup in expected.items()
            if rows.get(name, {}).get("bck") != str(int(backup))
        )

    return Verification(f"show stat {backend} 4 -1", wrong)


def verify_frontend(name: str, column: str, *expected: str) -> Verification:
    """A column of the statistics of a frontend is one of these."""

    def wrong(reply: str) -> str | None:
        for row in _statistics(reply, column):
            if row["pxname"] == name and row["svname"] == "FRONTEND":
                found = row.get(column, "")
                return None if found in expected else f"{column} of {name} is {found!r}"
        return f"{name} is not there"

    return Verification(f"show stat {name} 1 -1", wrong)


def verify_information(key: str, expected: str) -> Verification:
    """A line of `show info` is this."""

    def wrong(reply: str) -> str | None:
        try:
            found = statistics.read_information(reply).get(key)
        except OperationFailed:
            found = None
        return None if found == expected else f"{key} is {found!r}"

    return Verification("show info", wrong)


def verify_certificate(path: str, serial: int, fingerprint: str) -> Verification:
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

    return Verification(f"show ssl cert {path}", wrong)


def verify_ca_file(path: str, fingerprints: Iterable[str]) -> Verification:
    """The certificates that a CA file stands for, by their SHA-1 in hexadecimal."""
    expected = {fingerprint.lower() for fingerprint in fingerprints}

    def wrong(reply: str) -> str | None:
        found = re.findall(r"^SHA1 FingerPrint: (\w+)$", reply, re.MULTILINE)
        if {fingerprint.lower() for fingerprint in found} != expected:
            return f"{path} has other certificates"
        return None

    return Verification(f"show ssl ca-file {path}", wrong)


def verify_crl_file(path: str, expected: Iterable[tuple[str, frozenset[int]]]) -> Verification:
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

    return Verification(f"show ssl crl-file {path}", wrong)


def verify_crt_list(path: str, expected: Iterable[str]) -> Verification:
    """The entries of a crt-list, in whatever order."""
    entries = sorted(expected)

    def wrong(reply: str) -> str | None:
        found = sorted(
            line.split()[0].rpartition(":")[0]
            for line in reply.splitlines()
            if line.strip() and not line.startswith("#")
        )
        return None if found == entries else f"{path} has other entries"

    return Verification(f"show ssl crt-list -n {path}", wrong)


def _wrong_member(name: str, server: ServerLine | None, line: str | None) -> str | None:
    row = statistics.read_server_row(line) if line else None
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


def _statistics(reply: str, column: str) -> list[dict[str, str]]:
    """Return the rows of a reply to `show stat`; none when it is something else."""
    try:
        return [*statistics.read_statistics(reply, (column,)).by_column()]
    except OperationFailed:
        return []


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


#: Asks the worker: a command, its payload; raises OperationFailed when there is no answer.
Ask = Callable[[str, str], str]


class ChangeRefused(OperationFailed):
    """haproxy did not do it, or it does not hold. What was done before that stays done."""


class _Moot(Exception):
    """There is nothing left to change."""


def carry_out(changes: Iterable[Change], ask: Ask, left_over: Iterable[str] = ()) -> set[str]:
    """Carry the changes out, one after another, then see that all of them hold. Returns the
    servers, as `<backend>/<server>`, that were to go and that haproxy could not delete yet; those
    of earlier changes, `left_over`, are tried again first.

    Raises:
        Refused: one was not done or does not hold. No transaction of it is left open, unless the
            worker does not answer any more.
    """
    still_there = {server for server in left_over if not _is_gone(_delete(server, ask))}
    done: list[Change] = []
    for change in changes:
        try:
            for command in change.commands:
                reply = _carry_out(command, ask)
                if command.text.startswith("del server ") and not _is_gone(reply):
                    still_there.add(command.server)
                if command.text.startswith("add server "):
                    still_there.discard(command.server)
        except _Moot:
            continue
        except ChangeRefused as refusal:
            _undo(change.undo, ask)
            raise ChangeRefused(change.words, str(refusal)) from refusal
        done.append(change)
    _prove(done, ask)
    return still_there


def list_servers(changes: Iterable[Change]) -> tuple[str, ...]:
    """Return the servers, as `<backend>/<server>`, that changes touch."""
    touched = (command.server for change in changes for command in change.commands)
    return tuple(dict.fromkeys(server for server in touched if server))


def _delete(server: str, ask: Ask) -> str:
    return _say(f"del server {server}", "", ask)


def _is_gone(reply: str) -> bool:
    return reply.startswith(("Server deleted", "No such server"))


def _carry_out(command: Command, ask: Ask) -> str:
    reply = _say(command.text, command.payload, ask)
    if _is_one_of(reply, command.moot):
        raise _Moot
    if not _is_one_of(reply, command.success):
        raise ChangeRefused(f"haproxy refused {command.text!r}", _short(reply) or "an empty reply")
    return reply


def _is_one_of(reply: str, patterns: Sequence[str]) -> bool:
    return any(re.fullmatch(pattern, reply, re.DOTALL) for pattern in patterns)


def _undo(commands: Sequence[Command], ask: Ask) -> None:
    # Whoever does not answer any more is to be replaced, transactions and all.
    with contextlib.suppress(ChangeRefused):
        for command in commands:
            _say(command.text, command.payload, ask)


def _prove(changes: Sequence[Change], ask: Ask) -> None:
    """Ask each question once, whoever has it."""
    replies: dict[str, str] = {}
    for change in changes:
        for inquiry in change.proof:
            if inquiry.text not in replies:
                replies[inquiry.text] = _say(inquiry.text, "", ask)
            if wrong := inquiry.wrong(replies[inquiry.text]):
                raise ChangeRefused(change.words, f"it does not hold: {_short(wrong)}")


def _say(text: str, payload: str, ask: Ask) -> str:
    try:
        return ask(text, payload).strip()
    except ValueError as error:
        raise ChangeRefused("cannot be said to haproxy", str(error)) from error
    except OperationFailed as error:
        raise ChangeRefused(f"no answer to {text!r}", str(error)) from error


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]}…"
