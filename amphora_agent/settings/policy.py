"""Decide what a pushed configuration may change, by a table, and what must be proven of it.

The controller may change what it calls mutable, and what is harmless. Everything else keeps its
value, or is shown to work at the moment of the push: an agent that cannot serve with its
configuration is lost, and root uses the program and the directories named in it. `docs/policy.md`
has this table for people.
"""

import enum
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import NamedTuple

import msgspec

from amphora_agent.model import status
from amphora_agent.model.events import SECRET, Difference
from amphora_agent.settings.reader import Settings, locate


class PushRule(enum.StrEnum):
    """What a push may do with a key. The value is the word of `docs/policy.md`."""

    MAY_CHANGE = "may change"
    MUST_STAY = "stays"
    MUST_BE_PROVEN = "stays, or is proven"


class AddressIsFree(msgspec.Struct, frozen=True):
    """The API can listen here."""

    host: str
    port: int


class CertificateServes(msgspec.Struct, frozen=True):
    """This file has a certificate with its key that the controller accepts from this amphora."""

    path: str
    amphora_id: str


class AuthorityKnowsCaller(msgspec.Struct, frozen=True):
    """This file has the authority that has signed the caller's certificate."""

    path: str


class DirectoryIsUsable(msgspec.Struct, frozen=True):
    """The agent can use this directory below `parent`, and nobody else does. The agent's own
    directories, `known`, need not be empty."""

    path: str
    parent: str
    known: tuple[str, ...]


class ProgramIsHaproxy(msgspec.Struct, frozen=True):
    """This program is haproxy, and only root can replace it."""

    path: str


class CallerSpeaks(msgspec.Struct, frozen=True):
    """The caller's connection has this version of TLS."""

    version: str


Proof = (
    AddressIsFree
    | CertificateServes
    | AuthorityKnowsCaller
    | DirectoryIsUsable
    | ProgramIsHaproxy
    | CallerSpeaks
)


class Decision(NamedTuple):
    """The judgement of a push: `refusals` are places in the file with reasons, `proofs` are what
    must be proven, with the place of each."""

    refusals: tuple[str, ...]
    proofs: Mapping[Proof, str]


def decide(
    in_force: Settings, wanted: Settings, *, parents: Sequence[str], known: Sequence[str]
) -> Decision:
    """Judge a push by the table.

    `parents` are the directories below which the agent's directories may be, `known` those that
    the agent uses, or has used.
    """
    push = _Push(in_force, wanted, tuple(parents), tuple(known))
    refusals: list[str] = []
    # One address is proven once, whichever half of it changes.
    proofs: dict[Proof, str] = {}
    for name, row in TABLE.items():
        if push.keeps(name):
            continue
        try:
            proof = row.check(push, name)
        except _Refused as refused:
            refusals.append(f"{locate(name)}: {refused}")
        else:
            if proof is not None:
                proofs.setdefault(proof, locate(name))
    return Decision(tuple(refusals), proofs)


def is_same(name: str, one: Settings, other: Settings) -> bool:
    """Return whether a setting means the same in both, however it is written."""
    return _normalize(name, one) == _normalize(name, other)


def differs_at_start(one: Settings, other: Settings) -> list[str]:
    """Return the settings that differ and are read only when the agent starts."""
    return [name for name in _READ_AT_START if not is_same(name, one, other)]


def with_start_settings(settings: Settings, started: Settings) -> Settings:
    """Return `settings`, with those that are read only at the start as in `started`."""
    return replace(settings, **{name: getattr(started, name) for name in _READ_AT_START})


class _Refused(Exception):
    """The push may not change this; the text is the reason, without the value."""


class _Push(NamedTuple):
    in_force: Settings
    wanted: Settings
    parents: tuple[str, ...]
    known: tuple[str, ...]

    def keeps(self, name: str) -> bool:
        return is_same(name, self.in_force, self.wanted)

    def value(self, name: str) -> str:
        return str(getattr(self.wanted, name))


def _normalize(name: str, settings: Settings) -> object:
    value = getattr(settings, name)
    if name == "bind_host":
        return ipaddress.ip_address(value)
    if name in _DIRECTORIES:
        return value.rstrip("/")
    return value


# Checks of a value that differs


_Check = Callable[[_Push, str], Proof | None]


def _accept(push: _Push, name: str) -> None:
    return None


def _stay(push: _Push, name: str) -> None:
    raise _Refused("cannot be changed by a push")


def _require_key(push: _Push, name: str) -> None:
    if not push.value(name):
        raise _Refused("is empty: no controller would believe a heartbeat")


def _require_controllers(push: _Push, name: str) -> None:
    bad = status.find_unusable(push.wanted.controller_ip_port_list)
    if bad:
        raise _Refused(f"entry {', '.join(map(str, bad))} is not ADDRESS:PORT")


#: Of syslog(3).
_FACILITIES = frozenset(
    {
        *("auth", "authpriv", "cron", "daemon", "ftp", "kern", "lpr", "mail", "news"),
        *("security", "syslog", "user", "uucp"),
        *(f"local{number}" for number in range(8)),
    }
)


def _require_facility(push: _Push, name: str) -> None:
    if push.value(name).lower().removeprefix("log_") not in _FACILITIES:
        raise _Refused("is no facility of syslog")


def _require_driver(push: _Push, name: str) -> None:
    if push.value(name) != "keepalived_lvs":
        raise _Refused("is not keepalived_lvs, the only driver that there is")


def _prove_tls(push: _Push, name: str) -> Proof | None:
    version = push.value(name)
    if version == "TLSv1.3":
        return CallerSpeaks(version)
    if version != "TLSv1.2":
        raise _Refused("is older than any version that the agent speaks")
    return None  # with TLSv1.2, the agent speaks 1.3 as well


def _prove_address(push: _Push, name: str) -> Proof:
    return AddressIsFree(push.wanted.bind_host, push.wanted.bind_port)


def _prove_certificate(push: _Push, name: str) -> Proof:
    return CertificateServes(_require_plain(push.value(name)), push.in_force.amphora_id)


def _prove_authority(push: _Push, name: str) -> Proof:
    return AuthorityKnowsCaller(_require_plain(push.value(name)))


def _prove_program(push: _Push, name: str) -> Proof:
    return ProgramIsHaproxy(_require_plain(push.value(name)))


#: haproxy makes "<base_path>/<id>.sock" under a temporary name first: with a dot, a process id and
#: ".tmp" behind it. The path of a socket holds 107 bytes.
_LONGEST_BASE_PATH = 107 - len("/" + "x" * 36 + ".sock" + ".4194304.tmp")


def _prove_directory(push: _Push, name: str) -> Proof:
    path = _require_plain(push.value(name).rstrip("/"))
    if name == "base_path" and len(path.encode()) > _LONGEST_BASE_PATH:
        raise _Refused(f"is longer than {_LONGEST_BASE_PATH} bytes: haproxy needs room for sockets")
    for other in _DIRECTORIES:
        if other != name and _normalize(other, push.wanted) == path:
            raise _Refused(f"is the same directory as {locate(other)}")
    for parent in push.parents:
        # A default may be one of the parents itself.
        if path.startswith(f"{parent}/") or path == parent == _DIRECTORIES[name]:
            return DirectoryIsUsable(path, parent, push.known)
    raise _Refused("is not below a directory that the command line allows (--directories-below)")


def _require_plain(path: str) -> str:
    if {"", ".", ".."} & set(path.split("/")[1:]):
        raise _Refused("is not written in the plain way: no //, /./ or /../")
    return path


_DIRECTORIES = {
    "base_path": Settings.base_path,
    "base_cert_dir": Settings.base_cert_dir,
    "agent_server_network_dir": Settings.agent_server_network_dir.rstrip("/"),
}


class Row(NamedTuple):
    """A row of the table. `at_once`: the agent reads the key at each use, not only when it
    starts."""

    rule: PushRule
    check: _Check
    at_once: bool = False


_FREE_AT_ONCE = Row(PushRule.MAY_CHANGE, _accept, at_once=True)
_FREE = Row(PushRule.MAY_CHANGE, _accept)

#: Every setting.
TABLE: Mapping[str, Row] = {
    "debug": _FREE_AT_ONCE,
    "use_syslog": _FREE,
    "syslog_log_facility": Row(PushRule.MAY_CHANGE, _require_facility),
    "base_path": Row(PushRule.MUST_BE_PROVEN, _prove_directory),
    "base_cert_dir": Row(PushRule.MUST_BE_PROVEN, _prove_directory),
    "bind_host": Row(PushRule.MUST_BE_PROVEN, _prove_address),
    "bind_port": Row(PushRule.MUST_BE_PROVEN, _prove_address),
    "haproxy_cmd": Row(PushRule.MUST_BE_PROVEN, _prove_program),
    "user_log_facility": _FREE,
    "administrative_log_facility": _FREE,
    "controller_ip_port_list": Row(PushRule.MAY_CHANGE, _require_controllers, at_once=True),
    "heartbeat_interval": _FREE_AT_ONCE,
    "heartbeat_key": Row(PushRule.MAY_CHANGE, _require_key, at_once=True),
    "agent_server_ca": Row(PushRule.MUST_BE_PROVEN, _prove_authority, at_once=True),
    "agent_server_cert": Row(PushRule.MUST_BE_PROVEN, _prove_certificate, at_once=True),
    "agent_server_network_dir": Row(PushRule.MUST_BE_PROVEN, _prove_directory),
    "agent_request_read_timeout": _FREE_AT_ONCE,
    "agent_tls_protocol": Row(PushRule.MUST_BE_PROVEN, _prove_tls, at_once=True),
    "amphora_id": Row(PushRule.MUST_STAY, _stay),
    "amphora_udp_driver": Row(PushRule.MUST_BE_PROVEN, _require_driver),
    "loadbalancer_topology": _FREE_AT_ONCE,
}

_READ_AT_START = tuple(name for name, row in TABLE.items() if not row.at_once)


def list_differences(before: Settings, after: Settings) -> list[Difference]:
    """Return the settings that differ, with their values; those of a secret are hidden."""

    def show(settings: Settings, name: str, is_secret: bool) -> str | None:
        value = getattr(settings, name)
        if value in ("", ()):
            return None
        text = ", ".join(value) if isinstance(value, tuple) else str(value)
        return SECRET if is_secret else text

    return [
        Difference(f.name, show(before, f.name, not f.repr), show(after, f.name, not f.repr))
        for f in fields(Settings)
        if getattr(before, f.name) != getattr(after, f.name)
    ]
