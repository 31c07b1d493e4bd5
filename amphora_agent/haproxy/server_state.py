"""The server state file: how member states come through a reload.

haproxy believes this file more than its configuration: the port, and what a runtime change has
done to weight and maintenance. So only what agrees with the configuration to be loaded goes into
it, and a member that is new to a pool that ran before gets a row that keeps requests away from it
until its first check has passed.
"""

import ipaddress
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from amphora_agent.haproxy.difference import difference
from amphora_agent.haproxy.text import Config, Section, parse

#: What of a configuration must be parsed to know what is carried over.
KEYWORDS = frozenset({"cookie", "default-server", "server", "stick"})

#: The file without any server; haproxy warns when there is none at all.
NOTHING = "1\n"

#: Columns of version 1 (management manual, "show servers state"), counted from 0.
_BACKEND, _SERVER, _ADDRESS, _ADMIN, _WEIGHT, _INITIAL_WEIGHT, _PORT = 1, 3, 4, 6, 7, 8, 18
#: Bits of the administrative state: in maintenance by command, and by configuration.
_FORCED_MAINTENANCE, _CONFIGURED_MAINTENANCE = 0x01, 0x04

#: Operational states. A server that is "stopping" gets no request but of a client that it is known
#: to by persistence, and its next check decides: one that passes brings it up. From "stopped" it
#: takes as many as `rise`. (`fall 1` makes one of the other.)
_STOPPED, _STOPPING = 0, 3
#: Of a check that has not been made yet. With 0 haproxy would never make one.
_CHECK_INITIAL = 1
#: Of a check: it is configured and enabled.
_CHECK_STATE = 6


class _Server(NamedTuple):
    """A `server` line; `defaults` are the words that stand for it elsewhere."""

    words: tuple[str, ...]
    defaults: tuple[str, ...]
    persistent: bool

    @property
    def address(self) -> str:
        return self.words[2]

    @property
    def disabled(self) -> bool:
        return self.last("disabled", "enabled") == "disabled"

    @property
    def checked(self) -> bool:
        return self.last("check", "no-check") == "check"

    @property
    def weight(self) -> str:
        options = (*self.defaults, *self.words[3:])
        places = [place for place, word in enumerate(options[:-1]) if word == "weight"]
        return options[places[-1] + 1] if places else "1"

    def last(self, *words: str) -> str:
        """Which of the words stands last, and counts; empty for none."""
        options = (*self.defaults, *self.words[3:])
        return next((option for option in reversed(options) if option in words), "")


_Key = tuple[str, str]

#: The backends that are to be otherwise, by name, as they are now; None for one that is new.
Backends = Mapping[str, Section | None]
_NONE: Backends = MappingProxyType({})


def may_be_read(wanted: str) -> bool:
    """Whether haproxy may read the file when it loads this configuration: the controller lets it
    for pools with a health monitor."""
    return "server-state-file" in wanted and "load-server-state-from-file" in wanted


def differing(running: str, wanted: str) -> Backends:
    """The backends in which two configurations differ, as the one that runs has them."""
    found = difference({"": running}, {"": wanted})
    changed = (*found.added, *found.removed, *(before for before, _ in found.changed))
    if found.reordered or any(block.kind == "defaults" for block in changed):
        before = {backend.name: backend for backend in parse(running, KEYWORDS).of_kind("backend")}
        names = {backend.name for backend in parse(wanted, KEYWORDS).of_kind("backend")}
        return {name: before.get(name) for name in names}
    return {
        **{block.name: None for block in found.added if block.kind == "backend"},
        **{old.name: old.section() for old, _ in found.changed if old.kind == "backend"},
    }


def carry_over(
    state: str, wanted: Config, before: Backends = _NONE, touched: Collection[str] = ()
) -> str:
    """The file for a reload to `wanted`, with the final newline that haproxy needs.

    `state` is the worker's reply to `show servers state`, `before` what it has loaded otherwise.
    `touched` are the servers, as `<backend>/<server>`, of a change at run time that may be half
    done.
    """
    rows, kept = _rows(state)
    general = tuple(word for section in wanted.of_kind("defaults") for word in _defaults(section))
    ran = {backend for backend, _ in rows}
    ran.update(name for name, section in before.items() if section is not None)
    for backend in wanted.of_kind("backend"):
        differs = backend.name in before
        was_there = _servers(before.get(backend.name), general)
        for name, server in _servers(backend, general).items():
            key = backend.name, name
            was = was_there.get(name) if differs else server
            row = rows[key].split(" ") if key in rows else None
            if row is None or was is None:
                kept += [_new_row(key, server)] if backend.name in ran and _waits(server) else []
            elif not _same_place(server.address, row):
                continue
            elif "/".join(key) in touched or (was.disabled and not server.disabled):
                kept += [] if server.disabled else [_enabled(key, server, row)]
            else:
                kept.append(rows[key] if was == server else " ".join(_with_weight(server, row)))
    return "\n".join(kept).rstrip("\n") + "\n"


def _rows(state: str) -> tuple[dict[_Key, str], list[str]]:
    """The servers' rows by backend and name, and the lines before them."""
    rows, head = {}, []
    for line in state.split("\n"):
        if line == "1" or line.startswith("#"):
            head.append(line)
        elif line.count(" ") >= _PORT:
            columns = line.split(" ", _SERVER + 1)
            rows[columns[_BACKEND], columns[_SERVER]] = line
    return rows, head or [NOTHING.strip()]


def _servers(backend: Section | None, general: tuple[str, ...]) -> dict[str, _Server]:
    """The servers of a backend by name; `general` is what those of all backends have by default."""
    if backend is None:
        return {}
    defaults = (*general, *_defaults(backend))
    persistent = any(backend.first(keyword) is not None for keyword in ("cookie", "stick"))
    return {
        server.words[1]: _Server(server.words, defaults, persistent)
        for server in backend.all("server")
        if len(server.words) > 2
    }


def _defaults(section: Section) -> Iterator[str]:
    for directive in section.all("default-server"):
        yield from directive.words[1:]


def _waits(server: _Server) -> bool:
    """Whether it has to pass a check first, and is one whose row haproxy would take."""
    return server.checked and not server.disabled and _place(server.address) is not None


def _new_row(key: _Key, server: _Server) -> str:
    """The row of a server that is to get no request before its first check has passed."""
    place = _place(server.address)
    assert place is not None
    host, port = place
    state = _STOPPED if server.persistent else _STOPPING
    tls = int(server.last("ssl", "no-ssl") == "ssl")
    return (
        f"1 {key[0]} 1 {key[1]} {host} {state} 0 {server.weight} {server.weight} 0"
        f" {_CHECK_INITIAL} 0 0 {_CHECK_STATE} 0 0 0 - {port} - {tls} 0 - - 0"
    )


def _enabled(key: _Key, server: _Server, row: list[str]) -> str:
    """The row of a server that is not in maintenance any more."""
    maintenance = _FORCED_MAINTENANCE | _CONFIGURED_MAINTENANCE
    admin = int(row[_ADMIN])
    if admin & maintenance and _waits(server):
        return _new_row(key, server)  # nobody has checked it lately
    mended = _with_weight(server, row)
    mended[_ADMIN] = str(admin & ~maintenance)
    return " ".join(mended)


def _with_weight(server: _Server, row: list[str]) -> list[str]:
    mended = list(row)
    mended[_WEIGHT] = mended[_INITIAL_WEIGHT] = server.weight
    return mended


def _same_place(address: str, row: list[str]) -> bool:
    """Whether a configuration's `address:port` is the row's."""
    host, port = row[_ADDRESS], row[_PORT]
    return address == f"{host}:{port}" or _place(address) == (host, port)


def _place(address: str) -> tuple[str, str] | None:
    """Host and port of a literal `address:port`, as haproxy shows them."""
    host, _, port = address.rpartition(":")
    try:
        return (str(ipaddress.ip_address(host.strip("[]"))), port) if port.isdigit() else None
    except ValueError:
        return None
