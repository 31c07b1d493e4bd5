"""A change of a running haproxy as a value, and how a worker carries it out.

A change has commands, questions that verify them, and a description. Each command is judged by its
reply, then all of them are verified. A change that haproxy refuses, or that does not hold, stays as
it is: only a reload helps then.
"""

import contextlib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy import replies
from amphora_agent.haproxy.config.parser import SectionText
from amphora_agent.haproxy.config.server_line import ServerLine

#: Characters of a name, and sentences of a list.
_NAME, _SENTENCES = 100, 50
#: Octavia's names of haproxy's sections.
_NOUNS = {"frontend": "listener", "backend": "pool", "": "what is before all sections"}


def show_name(text: str) -> str:
    """Return a name from a configuration as a printable word of a sentence."""
    printable = "".join(
        character
        if character.isascii() and character.isprintable()
        else character.encode("unicode_escape").decode()
        for character in text[: _NAME + 1]
    )
    return printable if len(printable) <= _NAME else printable[: _NAME - 1] + "…"


def show_section(block: SectionText) -> str:
    """Return what Octavia calls a section, with its name."""
    return f"{_NOUNS.get(block.kind, block.kind)} {show_name(block.name)}".strip()


def shorten_list(sentences: Sequence[str]) -> tuple[str, ...]:
    """Return the sentences, or the first fifty and how many more there are."""
    if len(sentences) <= _SENTENCES:
        return tuple(sentences)
    return *sentences[:_SENTENCES], f"and {len(sentences) - _SENTENCES} more"


class Command(NamedTuple):
    """One command for a worker.

    `text` is one line. `payload` (several lines, none of them blank, the last one with its end)
    follows it after `<<`, and one blank line ends it: haproxy 2.6 takes another for a command.
    Replies are compared without the blanks around them. A reply that matches one of `success`
    (regular expressions) means that the command was carried out. One that matches `moot` means that
    there is nothing to change: the rest of the change, and its proof, are left out. Any other reply
    is a refusal.
    `server` is the server, as `<backend>/<server>`, that the command changes.
    """

    text: str
    payload: str = ""
    success: tuple[str, ...] = ("",)
    moot: tuple[str, ...] = ()
    server: str = ""


def server_command(
    verb: str, server: str, arguments: str = "", success: tuple[str, ...] = ("",)
) -> Command:
    """Return the command `<verb> <server> <arguments>`, which changes a server."""
    return Command(f"{verb} {server} {arguments}".rstrip(), success=success, server=server)


class Verification(NamedTuple):
    """A command that only reads. `wrong` returns what is wrong with its reply, or None."""

    text: str
    wrong: Callable[[str], str | None]


class RuntimeChange(NamedTuple):
    """A change: a description without secrets, commands, and how to verify that they had effect.

    `undo` closes what a refused command may have left open.
    """

    words: str
    commands: tuple[Command, ...]
    proof: tuple[Verification, ...]
    undo: tuple[Command, ...] = ()


class Finding(NamedTuple):
    """A difference, in words, and what it takes: a change, or a reload for a reason. It has neither
    when the difference has no effect."""

    words: str
    change: RuntimeChange | None = None
    reason: str = ""


def require_reload(words: str, because: str = "") -> Finding:
    """Return a difference that takes a reload. `because` says why, unless that is plain."""
    return Finding(words, reason=f"{words}: {because}" if because else words)


#: Bits of the administrative state: in maintenance by command, by a tracked server, by DNS.
_MAINTENANCE, _ANY_MAINTENANCE = 0x01, 0x01 | 0x02 | 0x20
#: And draining, by command or by a tracked server.
_DRAINING = 0x08 | 0x10
#: Bit of the check's state: checks are enabled.
_CHECK_ENABLED = 0x04

#: Sends a command and its payload to the worker, and returns the reply. Raises OperationFailed when
#: there is no answer.
Ask = Callable[[str, str], str]


class ChangeRefused(OperationFailed):
    """haproxy refused a change, or it does not hold. What was done before stays done."""


class _Moot(Exception):
    """There is nothing left to change."""


def carry_out(
    changes: Iterable[RuntimeChange], ask: Ask, left_over: Iterable[str] = ()
) -> set[str]:
    """Carry the changes out, one after another, then verify all of them.

    Return the servers, as `<backend>/<server>`, that haproxy could not delete yet. Those of earlier
    changes, `left_over`, are tried again first.

    Raises:
        ChangeRefused: a change was not carried out or does not hold. It leaves no transaction open,
            unless the worker has stopped to answer.
    """
    still_there = {
        server for server in left_over if not _is_gone(_send(f"del server {server}", "", ask))
    }
    done: list[RuntimeChange] = []
    for change in changes:
        try:
            for command in change.commands:
                reply = _carry_out_command(command, ask)
                if command.text.startswith("del server ") and not _is_gone(reply):
                    still_there.add(command.server)
                if command.text.startswith("add server "):
                    still_there.discard(command.server)
        except _Moot:
            continue
        except ChangeRefused as refusal:
            # A worker that does not answer is replaced, with its transactions.
            with contextlib.suppress(ChangeRefused):
                for command in change.undo:
                    _send(command.text, command.payload, ask)
            raise ChangeRefused(change.words, str(refusal)) from refusal
        done.append(change)
    _verify(done, ask)
    return still_there


def list_servers(changes: Iterable[RuntimeChange]) -> tuple[str, ...]:
    """Return the servers, as `<backend>/<server>`, that changes touch."""
    touched = (command.server for change in changes for command in change.commands)
    return tuple(dict.fromkeys(server for server in touched if server))


def _is_gone(reply: str) -> bool:
    return reply.startswith(("Server deleted", "No such server"))


def _carry_out_command(command: Command, ask: Ask) -> str:
    reply = _send(command.text, command.payload, ask)
    if _matches(reply, command.moot):
        raise _Moot
    if not _matches(reply, command.success):
        raise ChangeRefused(
            f"haproxy refused {command.text!r}", _shorten(reply) or "an empty reply"
        )
    return reply


def _matches(reply: str, patterns: Sequence[str]) -> bool:
    return any(re.fullmatch(pattern, reply, re.DOTALL) for pattern in patterns)


def _verify(changes: Sequence[RuntimeChange], ask: Ask) -> None:
    """Verify changes; a question that several of them have is asked once."""
    replies: dict[str, str] = {}
    for change in changes:
        for question in change.proof:
            if question.text not in replies:
                replies[question.text] = _send(question.text, "", ask)
            if wrong := question.wrong(replies[question.text]):
                raise ChangeRefused(change.words, f"it does not hold: {_shorten(wrong)}")


def _send(text: str, payload: str, ask: Ask) -> str:
    try:
        return ask(text, payload).strip()
    except ValueError as error:
        raise ChangeRefused("cannot be said to haproxy", str(error)) from error
    except OperationFailed as error:
        raise ChangeRefused(f"no answer to {text!r}", str(error)) from error


def _shorten(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]}…"


# How to verify that a change holds


def verify_servers(backend: str, expected: Mapping[str, ServerLine | None]) -> Verification:
    """Check that servers match `expected`; None means removed or in maintenance."""

    def find_fault(reply: str) -> str | None:
        rows = replies.read_servers_state(reply).rows
        faults = (
            _find_server_fault(name, server, rows.get((backend, name)))
            for name, server in expected.items()
        )
        return next((fault for fault in faults if fault), None)

    return Verification(f"show servers state {backend}", find_fault)


def verify_roles(backend: str, expected: Mapping[str, bool]) -> Verification:
    """Check that servers are backups (True) or active (False)."""

    def find_fault(reply: str) -> str | None:
        roles = {row["svname"]: row.get("bck") for row in _read_statistics(reply, "bck")}
        for name, backup in expected.items():
            if roles.get(name) != str(int(backup)):
                return f"{name} is {'active' if backup else 'a backup'}"
        return None

    return Verification(f"show stat {backend} 4 -1", find_fault)


def verify_frontend(name: str, column: str, expected: str) -> Verification:
    """Check a column of a frontend's statistics."""

    def find_fault(reply: str) -> str | None:
        for row in _read_statistics(reply, column):
            if row["pxname"] == name and row["svname"] == "FRONTEND":
                value = row.get(column, "")
                return None if value == expected else f"{column} of {name} is {value!r}"
        return f"{name} is not there"

    return Verification(f"show stat {name} 1 -1", find_fault)


def verify_information(key: str, expected: str) -> Verification:
    """Check a line of `show info`."""

    def find_fault(reply: str) -> str | None:
        try:
            value = replies.read_information(reply).get(key)
        except OperationFailed:
            value = None
        return None if value == expected else f"{key} is {value!r}"

    return Verification("show info", find_fault)


def verify_certificate(path: str, serial: int, fingerprint: str) -> Verification:
    """Check the certificate of a file. `fingerprint` is its SHA-1 in hexadecimal."""

    def find_fault(reply: str) -> str | None:
        lines = (line.partition(":") for line in reply.splitlines())
        fields = {key: value.strip() for key, separator, value in lines if separator}
        if fields.get("Status") == "Empty" or "Serial" not in fields:
            return f"{path} is not there"
        if int(fields["Serial"], 16) != serial:
            return f"{path} has the serial number {fields['Serial']}"
        if fields.get("SHA1 FingerPrint", "").lower() != fingerprint.lower():
            return f"{path} is another certificate with the same serial number"
        return None

    return Verification(f"show ssl cert {path}", find_fault)


def verify_ca_file(path: str, fingerprints: Iterable[str]) -> Verification:
    """Check the certificates of a CA file, by their SHA-1 in hexadecimal."""
    expected = {fingerprint.lower() for fingerprint in fingerprints}

    def find_fault(reply: str) -> str | None:
        shown = re.findall(r"^SHA1 FingerPrint: (\w+)$", reply, re.MULTILINE)
        same = {fingerprint.lower() for fingerprint in shown} == expected
        return None if same else f"{path} has other certificates"

    return Verification(f"show ssl ca-file {path}", find_fault)


def verify_crl_file(path: str, expected: Iterable[tuple[str, frozenset[int]]]) -> Verification:
    """Check the revocation lists of a file: when each was made, as OpenSSL prints it, and its
    serial numbers."""
    lists = sorted((made, sorted(serials)) for made, serials in expected)

    def find_fault(reply: str) -> str | None:
        shown = []
        for part in reply.split("Certificate Revocation List #")[1:]:
            made = re.search(r"Last Update: (.*)", part)
            serials = re.findall(r"Serial Number: ([0-9A-Fa-f]+)", part)
            numbers = sorted(int(serial, 16) for serial in serials)
            shown.append((" ".join(made[1].split()) if made else "", numbers))
        return None if sorted(shown) == lists else f"{path} has other revocations"

    return Verification(f"show ssl crl-file {path}", find_fault)


def verify_crt_list(path: str, expected: Iterable[str]) -> Verification:
    """Check the entries of a crt-list, in whatever order."""
    entries = sorted(expected)

    def find_fault(reply: str) -> str | None:
        shown = sorted(
            line.split()[0].rpartition(":")[0]
            for line in reply.splitlines()
            if line.strip() and not line.startswith("#")
        )
        return None if shown == entries else f"{path} has other entries"

    return Verification(f"show ssl crt-list -n {path}", find_fault)


def _find_server_fault(name: str, server: ServerLine | None, line: str | None) -> str | None:
    row = replies.read_server_row(line) if line else None
    if server is None:
        if row is not None and not row.administrative & _MAINTENANCE:
            return f"{name} may still get requests"
        return None
    if row is None:
        return f"{name} is not there"
    if not _is_same_address(row.address, server.address):
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


def _is_same_address(one: str, other: str) -> bool:
    try:
        return ipaddress.ip_address(one) == ipaddress.ip_address(other)
    except ValueError:
        return False


def _read_statistics(reply: str, column: str) -> list[dict[str, str]]:
    """Return the rows of a reply to `show stat`; none when it is something else."""
    try:
        return [*replies.read_statistics(reply, (column,)).by_column()]
    except OperationFailed:
        return []
