"""The server state file: how member states come through a reload.

haproxy believes this file more than its configuration: the port, and what a runtime change has
done to weight and maintenance. So only what agrees with the configuration to be loaded goes into
it, and a member that is new to a pool that ran before gets a row that keeps requests away from it
until its first check has passed.
"""

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from amphora_agent.haproxy import replies
from amphora_agent.haproxy.config.diff import compare_configs
from amphora_agent.haproxy.config.parser import Config, Section, parse_config
from amphora_agent.model.addressing import split_endpoint

#: What of a configuration must be parsed to know what is carried over.
KEYWORDS = frozenset({"cookie", "default-server", "server", "stick"})

#: The file without any server; haproxy warns when there is none at all.
NOTHING = "1\n"

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
        return self.value("weight", "1")

    @property
    def rise(self) -> str:
        return self.value("rise", "2")

    def value(self, keyword: str, default: str) -> str:
        """Return the value of the keyword that stands last, and counts."""
        options = (*self.defaults, *self.words[3:])
        places = [place for place, word in enumerate(options[:-1]) if word == keyword]
        return options[places[-1] + 1] if places else default

    def last(self, *words: str) -> str:
        """Return which of the words stands last, and counts; empty for none."""
        options = (*self.defaults, *self.words[3:])
        return next((option for option in reversed(options) if option in words), "")


_Key = tuple[str, str]


class Told(NamedTuple):
    """What a worker replied to `show servers state`, and the configuration that it has loaded."""

    state: str
    configuration: str


#: The backends that are to be otherwise, by name, as they are now; None for one that is new.
Backends = Mapping[str, Section | None]
_NONE: Backends = MappingProxyType({})


def may_be_read(wanted: str) -> bool:
    """Return whether haproxy may read the file when it loads this configuration: controllers let it
    for pools with a health monitor."""
    return "server-state-file" in wanted and "load-server-state-from-file" in wanted


def find_differing_backends(running: str, wanted: str) -> Backends:
    """Return the backends in which two configurations differ, as the running one has them."""
    change = compare_configs({"": running}, {"": wanted})
    changed = (*change.added, *change.removed, *(before for before, _ in change.changed))
    if change.reordered or any(block.kind == "defaults" for block in changed):
        before = {
            backend.name: backend for backend in parse_config(running, KEYWORDS).of_kind("backend")
        }
        names = {backend.name for backend in parse_config(wanted, KEYWORDS).of_kind("backend")}
        return {name: before.get(name) for name in names}
    return {
        **{block.name: None for block in change.added if block.kind == "backend"},
        **{old.name: old.section() for old, _ in change.changed if old.kind == "backend"},
    }


def carry_over(
    state: str, wanted: Config, before: Backends = _NONE, touched: Collection[str] = ()
) -> str:
    """Write the file for a reload to `wanted`, with the final newline that haproxy needs.

    `state` is the worker's reply to `show servers state`, `before` what it has loaded otherwise.
    `touched` are the servers, as `<backend>/<server>`, of a change at run time that may be half
    done.
    """
    rows, kept = _read_rows(state)
    general = tuple(
        word for section in wanted.of_kind("defaults") for word in _read_defaults(section)
    )
    ran = {backend for backend, _ in rows}
    ran.update(name for name, section in before.items() if section is not None)
    for backend in wanted.of_kind("backend"):
        differs = backend.name in before
        was_there = _read_servers(before.get(backend.name), general)
        for name, server in _read_servers(backend, general).items():
            key = backend.name, name
            was = was_there.get(name) if differs else server
            row = rows[key].split(" ") if key in rows else None
            if row is None or was is None:
                kept += (
                    [_write_new_row(key, server)]
                    if backend.name in ran and _must_wait(server)
                    else []
                )
            elif not _is_same_place(server.address, row):
                continue
            elif "/".join(key) in touched or (was.disabled and not server.disabled):
                kept += [] if server.disabled else [_enable_row(key, server, row)]
            else:
                kept.append(rows[key] if was == server else " ".join(_set_weight(server, row)))
    return "\n".join(kept).rstrip("\n") + "\n"


def inherit(told: Iterable[Told], wanted: str) -> str:
    """The file for a haproxy that begins in the place of others, whose pools may be backends of
    other names: a member is known by its pool (what is before a colon) and its name."""
    config = parse_config(wanted, KEYWORDS)
    ran: dict[str, Section] = {}
    rows: dict[_Key, list[str]] = {}
    head: list[str] = []
    for each in told:
        for backend in parse_config(each.configuration, KEYWORDS).of_kind("backend"):
            ran.setdefault(_name_pool(backend.name), backend)
        own_rows, head = _read_rows(each.state)
        for (name, member), row in own_rows.items():
            rows.setdefault((_name_pool(name), member), row.split(" "))
    state = list(head)
    before: dict[str, Section | None] = {}
    for backend in config.of_kind("backend"):
        before[backend.name] = ran.get(_name_pool(backend.name))
        for (pool, _), columns in rows.items():
            if pool == _name_pool(backend.name):
                renamed = [*columns]
                renamed[replies.BACKEND] = backend.name
                state.append(" ".join(renamed))
    return carry_over("\n".join(state), config, before)


def _name_pool(backend: str) -> str:
    return backend.partition(":")[0]


def _read_rows(state: str) -> tuple[dict[_Key, str], list[str]]:
    """Return the servers' rows by backend and name, and the lines before them."""
    reply = replies.read_servers_state(state)
    return reply.rows, reply.head or [NOTHING.strip()]


def _read_servers(backend: Section | None, general: tuple[str, ...]) -> dict[str, _Server]:
    """Return the servers of a backend by name; `general` are the defaults of all backends."""
    if backend is None:
        return {}
    defaults = (*general, *_read_defaults(backend))
    persistent = any(backend.first(keyword) is not None for keyword in ("cookie", "stick"))
    return {
        server.words[1]: _Server(server.words, defaults, persistent)
        for server in backend.all("server")
        if len(server.words) > 2
    }


def _read_defaults(section: Section) -> Iterator[str]:
    for directive in section.all("default-server"):
        yield from directive.words[1:]


def _must_wait(server: _Server) -> bool:
    """Return whether it has to pass a check first, and haproxy would take its row.

    Where one failure takes a member out and several checks have to pass, no row lets the first one
    that passes decide: such a member serves until its first check, as haproxy has it do.
    """
    several = server.value("fall", "3") == "1" and server.rise != "1"
    wanted = server.checked and not server.disabled and not several
    return wanted and _parse_place(server.address) is not None


def _write_new_row(key: _Key, server: _Server) -> str:
    """Write the row of a server that is to get no request before its first check has passed."""
    place = _parse_place(server.address)
    assert place is not None
    host, port = place
    state = _STOPPED if server.persistent and server.rise == "1" else _STOPPING
    tls = int(server.last("ssl", "no-ssl") == "ssl")
    return (
        f"1 {key[0]} 1 {key[1]} {host} {state} 0 {server.weight} {server.weight} 0"
        f" {_CHECK_INITIAL} 0 0 {_CHECK_STATE} 0 0 0 - {port} - {tls} 0 - - 0"
    )


def _enable_row(key: _Key, server: _Server, row: list[str]) -> str:
    """Write the row of a server that is not in maintenance any more."""
    maintenance = _FORCED_MAINTENANCE | _CONFIGURED_MAINTENANCE
    admin = int(row[replies.ADMINISTRATIVE])
    if admin & maintenance and _must_wait(server):
        return _write_new_row(key, server)  # nobody has checked it lately
    mended = _set_weight(server, row)
    mended[replies.ADMINISTRATIVE] = str(admin & ~maintenance)
    return " ".join(mended)


def _set_weight(server: _Server, row: list[str]) -> list[str]:
    mended = list(row)
    mended[replies.WEIGHT] = mended[replies.INITIAL_WEIGHT] = server.weight
    return mended


def _is_same_place(address: str, row: list[str]) -> bool:
    """Return whether a configuration's `address:port` is the row's."""
    host, port = row[replies.ADDRESS], row[replies.PORT]
    return address == f"{host}:{port}" or _parse_place(address) == (host, port)


def _parse_place(address: str) -> tuple[str, str] | None:
    """Host and port of a literal `address:port`, as haproxy shows them."""
    host, port = split_endpoint(address)
    try:
        return (str(ipaddress.ip_address(host)), port) if port.isdigit() else None
    except ValueError:
        return None
