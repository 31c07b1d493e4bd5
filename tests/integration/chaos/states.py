"""What there may be on disk and in haproxy, as values, and what calls make of it.

After a kill there may be one of several states; what is found afterwards says which it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from lab.listeners import HealthMonitor, Listener, Member, Pool, crt_list, loadbalancer, stable_id

#: A method of the service and its arguments.
Call = Sequence[Any]

VIP = "127.0.0.1"
#: A certificate that nobody can use.
RUBBISH = "-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n"


@dataclass(frozen=True)
class Wanted:
    """What a configuration says, as far as it varies."""

    members: tuple[Member, ...]
    checked: tuple[Member, ...]
    """Those of a pool with a monitor."""
    limit: int = 100
    more: int = 0
    """Listeners that do nothing."""
    busy: bool = False
    """Whether one has the port of somebody else, so that haproxy cannot load it."""
    refused: str = ""
    """A line that no configuration may have."""


class Disk(NamedTuple):
    """The configuration, empty when there is none; names and contents of certificates."""

    text: str
    files: frozenset[tuple[str, str]]

    def file(self, name: str) -> str | None:
        return dict(self.files).get(name)

    def with_file(self, name: str, content: str | None) -> Disk:
        files = dict(self.files)
        files.pop(name, None)
        if content is not None:
            files[name] = content
        return self._replace(files=frozenset(files.items()))


NOTHING = Disk("", frozenset())


class State(NamedTuple):
    disk: Disk = NOTHING
    running: Disk | None = None
    good: Disk | None = None
    """With what it last came up."""
    first: Disk | None = None
    """With what it came up first."""
    wanted: bool = False
    """Whether an interrupted start has made it one that is to run."""


class View(NamedTuple):
    """What a haproxy that runs tells of itself."""

    frontends: frozenset[tuple[str, int]]
    """Names and connection limits."""
    members: frozenset[tuple[str, str, str, int, bool, bool]]
    """Backend, name, address:port, weight, whether in use, whether a backup."""
    certificates: frozenset[tuple[str, str]]
    """File names and serials."""


@dataclass
class Place:
    """Where a load balancer lives."""

    id: str
    base: str
    certificates: str
    ports: range
    busy_port: int
    serials: Mapping[str, str]
    """Of certificates, by their content."""
    known: dict[str, Wanted] = field(default_factory=dict)

    @property
    def list_name(self) -> str:
        return f"{stable_id('tls')}.pem"

    def list_of(self, names: Sequence[str]) -> str:
        return crt_list([f"{self.certificates}/{name}" for name in names])

    def text(self, wanted: Wanted) -> str:
        monitor = HealthMonitor(type="TCP", delay=1)
        plain = Pool(stable_id("plain pool"), wanted.members)
        checked = Pool(stable_id("checked pool"), wanted.checked, monitor)
        ports = iter(self.ports)
        listeners = [
            Listener(stable_id("plain"), next(ports), plain, connection_limit=wanted.limit),
            Listener(
                stable_id("tls"),
                next(ports),
                checked,
                kind="TERMINATED_HTTPS",
                crt_list=f"{self.certificates}/{self.list_name}",
                connection_limit=50,
            ),
            *(
                Listener(stable_id(f"more {number}"), next(ports), connection_limit=10)
                for number in range(wanted.more)
            ),
            *(
                [Listener(stable_id("busy"), self.busy_port, connection_limit=10)]
                if wanted.busy
                else []
            ),
        ]
        text = loadbalancer(self.id, vip=VIP, listeners=listeners, base_path=self.base)
        text += wanted.refused
        self.known[text] = wanted
        return text

    # What haproxy makes of it

    def certificates_of(self, disk: Disk) -> dict[str, str | None]:
        """Serials, None for what is no certificate, by the names in the list."""
        listed = (disk.file(self.list_name) or "").split()
        names = [path.rpartition("/")[2] for path in listed]
        return {name: self.serials.get(disk.file(name) or "") for name in names}

    def loads(self, disk: Disk) -> bool:
        wanted = self.known[disk.text]
        serials = self.certificates_of(disk)
        return not wanted.busy and bool(serials) and None not in serials.values()

    def refuses_file(self, disk: Disk, name: str, content: str) -> bool:
        """Rubbish, and a list in use of certificates that are not there."""
        if content == RUBBISH:
            return True
        if name != self.list_name or not disk.text:
            return False
        paths = content.split()
        return any(disk.file(path.rpartition("/")[2]) is None for path in paths)

    def view(self, running: Disk) -> View:
        wanted = self.known[running.text]
        frontends = {(stable_id("plain"), wanted.limit), (stable_id("tls"), 50)}
        frontends |= {(stable_id(f"more {number}"), 10) for number in range(wanted.more)}
        pools = (("plain", wanted.members), ("checked", wanted.checked))
        listeners = {"plain": "plain", "checked": "tls"}
        members = {
            (
                f"{stable_id(f'{pool} pool')}:{stable_id(listeners[pool])}",
                member.id,
                f"{member.address}:{member.port}",
                member.weight,
                member.enabled,
                member.backup,
            )
            for pool, of_pool in pools
            for member in of_pool
        }
        serials = self.certificates_of(running)
        return View(
            frozenset(frontends),
            frozenset(members),
            frozenset((name, serial or "") for name, serial in serials.items()),
        )

    # What calls make of it

    def after(self, call: Call, state: State) -> State:
        """When nobody is killed."""
        disk = state.disk
        match call:
            case "upload", _, text:
                wanted = self.known[text]
                return state if wanted.refused else state._replace(disk=disk._replace(text=text))
            case "put_certificate", _, name, content:
                if self.refuses_file(disk, name, content):
                    return state
                return state._replace(disk=disk.with_file(name, content))
            case "delete_certificate", _, name:
                return state._replace(disk=disk.with_file(name, None))
            case "delete", _:
                return State()
            case "stop", _:
                return state if disk.text == "" else state._replace(running=None, wanted=False)
            case "start", _:
                return state if state.running else self._load(state)
            case "reload", _:
                return self._load(state)
            case "rollback", _, 1:
                if state.first is None or not state.disk.text:
                    return state
                back = state._replace(disk=state.first)
                return self._load(back) if state.running else back
            case "kill", _, _:
                return state._replace(running=state.running and disk)
        raise ValueError(call)

    def begun(self, state: State) -> State:
        """When an agent begins: it starts what is to run."""
        return self._load(state) if state.wanted and state.running is None else state

    def _load(self, state: State) -> State:
        if state.disk.text == "":
            return state
        if self.loads(state.disk):
            return State(state.disk, state.disk, state.disk, state.first or state.disk)
        if state.good is None:
            return state._replace(disk=state.disk._replace(text=""), wanted=False)
        # What is to run goes on with what it last came up with.
        running = state.good if state.wanted else state.running
        return state._replace(disk=state.good, running=running)

    def interrupted(self, call: Call, state: State, victim: str) -> set[State]:
        """Before or after it; and what was last good may be that of the other."""
        after = self.after(call, state)
        if call[0] == "delete":
            # It stops, then the configuration goes, then everything else.
            gone = state.disk._replace(text="")
            return {state, state._replace(running=None), State(gone), after}
        kept = list(itertools.product({state.good, after.good}, {state.first, after.first}))
        if victim != "agent":
            # The agent may have found nobody who loads what was wanted, and gone back.
            back = state.good or state.disk
            ends = [state, after, State(back, back)]
            runs = [replaced._replace(running=replaced.disk) for replaced in ends]
            ends += [end for end in runs if end.disk.text and self.loads(end.disk)]
        else:
            ends = [state, after]
            if call[0] in ("start", "reload") and state.running is None:
                ends.append(state._replace(wanted=True))
        if call[0] == "rollback":
            ends += [state._replace(disk=disk) for disk in _on_the_way(state.disk, after.disk)]
        return {end._replace(good=good, first=first) for end in ends for good, first in kept}

    def fits(self, seen: Disk, state: State) -> bool:
        """Without a configuration there may be files that wait for one, or have had one."""
        return seen == state.disk or (
            seen.text == state.disk.text == "" and seen.files <= state.disk.files
        )

    def matches(self, seen: View | None, state: State) -> bool:
        """Members that left, and cannot be removed before the next reload, are told as not in
        use."""
        if seen is None or state.running is None:
            return seen is None and state.running is None
        wanted = self.view(state.running)
        names = {member[:2] for member in wanted.members}
        counting = frozenset(member for member in seen.members if member[:2] in names or member[4])
        return wanted == seen._replace(members=counting)


def _on_the_way(old: Disk, new: Disk) -> Iterator[Disk]:
    """A rollback brings certificates, by their names; then the text; then it removes others. With
    what there is, haproxy can come up all the while."""
    now = old
    for name, content in sorted(new.files):
        now = now.with_file(name, content)
        yield now
    now = now._replace(text=new.text)
    others = sorted(dict(old.files).keys() - dict(new.files).keys())
    for number in range(len(others) + 1):
        for left in itertools.combinations(others, number):
            files = frozenset(file for file in now.files if file[0] not in left)
            yield now._replace(files=files)


def members(kind: str, numbers: Iterable[int]) -> tuple[Member, ...]:
    return tuple(
        Member(stable_id(f"{kind} {number}"), f"127.0.1.{number}", 8000 + number)
        for number in numbers
    )


def changed(wanted: Wanted, number: int, **changes: Any) -> Wanted:
    """With one member another."""
    left = list(wanted.members)
    left[number] = replace(left[number], **changes)
    return replace(wanted, members=tuple(left))
