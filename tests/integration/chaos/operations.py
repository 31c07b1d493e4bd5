"""What a controller, an operator and fate do to a load balancer, at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

from tests.integration.chaos.states import RUBBISH, Call, Place, Wanted, changed, members

#: What no configuration may have, and what haproxy does not understand.
REFUSED = (
    "\nglobal\n    lua-load /etc/hostname\n",
    "\nbackend one-more\n    no-such-word\n",
    "\nbackend one-more\n    server broken 10.0.0.1:99999\n",
)


class Operation(NamedTuple):
    """Calls that belong together, as those of one change by the controller."""

    kind: str
    calls: tuple[Call, ...]


@dataclass
class Operator:
    """Makes operations one after another; each takes what the ones before have left."""

    place: Place
    contents: Sequence[str]
    """Of certificates."""
    random: Random

    def __post_init__(self) -> None:
        self.wanted = Wanted(members("plain", (1, 2)), members("checked", (1,)))
        self.certificates = {"first.pem": self.contents[0], "second.pem": self.contents[1]}
        self.exists = self.stopped = False
        self._names = 0

    def first(self) -> Operation:
        """Everything, to an amphora that has nothing."""
        self.exists, self.stopped = True, False
        return Operation("first push", (*self._all_files(), *self._push()))

    def any(self) -> Operation:
        if not self.exists:
            return self.first()
        kinds = dict(KINDS)
        if self.stopped:
            del kinds["stop"], kinds["haproxy dies"]
        else:
            del kinds["start"]
        return self.one(self.random.choice([kind for kind in kinds for _ in range(kinds[kind])]))

    def one(self, kind: str) -> Operation:
        make: Callable[[], tuple[Call, ...]] = getattr(self, "_" + kind.replace(" ", "_"))
        return Operation(kind, make())

    # One kind each

    def _weight(self) -> tuple[Call, ...]:
        return self._change(weight=self.random.choice([2, 5, 100, 0]))

    def _address(self) -> tuple[Call, ...]:
        return self._change(port=self.random.randint(9000, 9100))

    def _state(self) -> tuple[Call, ...]:
        number = self.random.randrange(len(self.wanted.members))
        self.wanted = changed(self.wanted, number, enabled=not self.wanted.members[number].enabled)
        return self._push()

    def _member_added(self) -> tuple[Call, ...]:
        number = max(int(member.address.rpartition(".")[2]) for member in self.wanted.members) + 1
        self.wanted = replace(
            self.wanted, members=(*self.wanted.members, *members("plain", [number]))
        )
        return self._push()

    def _checked_member_added(self) -> tuple[Call, ...]:
        number = len(self.wanted.checked) + 1
        self.wanted = replace(self.wanted, checked=members("checked", range(1, number + 1)))
        return self._push()

    def _member_removed(self) -> tuple[Call, ...]:
        if len(self.wanted.members) == 1:
            return self._member_added()
        left = list(self.wanted.members)
        left.pop(self.random.randrange(len(left)))
        self.wanted = replace(self.wanted, members=tuple(left))
        return self._push()

    def _several_members(self) -> tuple[Call, ...]:
        self._weight()
        self._member_added()
        return self._address()

    def _limit(self) -> tuple[Call, ...]:
        self.wanted = replace(self.wanted, limit=self.random.randint(20, 90))
        return self._push()

    def _reload(self) -> tuple[Call, ...]:
        self.wanted = replace(self.wanted, more=(self.wanted.more + 1) % 3)
        return self._push()

    def _reload_and_member(self) -> tuple[Call, ...]:
        self._weight()
        return self._reload()

    def _certificate_replaced(self) -> tuple[Call, ...]:
        name = self.random.choice(sorted(self.certificates))
        others = [each for each in self.contents if each != self.certificates[name]]
        self.certificates[name] = self.random.choice(others)
        return (self._put(name), *self._push())

    def _certificate_added(self) -> tuple[Call, ...]:
        self._names += 1
        name = f"more{self._names}.pem"
        self.certificates[name] = self.random.choice(self.contents)
        return (self._put(name), self._put_list(), *self._push())

    def _certificate_removed(self) -> tuple[Call, ...]:
        if len(self.certificates) == 1:
            return self._certificate_added()
        name = sorted(self.certificates)[-1]
        del self.certificates[name]
        removal = ("delete_certificate", self.place.id, name)
        return (self._put_list(), *self._push(), removal)

    def _nothing(self) -> tuple[Call, ...]:
        return self._push()

    def _refused_text(self) -> tuple[Call, ...]:
        text = self.place.text(replace(self.wanted, refused=self.random.choice(REFUSED)))
        return (("upload", self.place.id, text),)

    def _refused_port(self) -> tuple[Call, ...]:
        text = self.place.text(replace(self.wanted, busy=True))
        return (("upload", self.place.id, text), ("reload", self.place.id))

    def _refused_certificate(self) -> tuple[Call, ...]:
        name = sorted(self.certificates)[0]
        return (
            ("put_certificate", self.place.id, name, RUBBISH),
            ("reload", self.place.id),
        )

    def _stop(self) -> tuple[Call, ...]:
        self.stopped = True
        return (("stop", self.place.id),)

    def _start(self) -> tuple[Call, ...]:
        self.stopped = False
        return (("start", self.place.id),)

    def _delete(self) -> tuple[Call, ...]:
        self.exists = False
        return (("delete", self.place.id),)

    def _rollback(self) -> tuple[Call, ...]:
        return (("rollback", self.place.id, 1),)

    def _haproxy_dies(self) -> tuple[Call, ...]:
        return (("kill", self.place.id, self.random.choice(["worker", "master"])),)

    # What they are made of

    def _change(self, **changes: int) -> tuple[Call, ...]:
        number = self.random.randrange(len(self.wanted.members))
        self.wanted = changed(self.wanted, number, **changes)
        return self._push()

    def _push(self) -> tuple[Call, ...]:
        self.stopped = False
        return (
            ("upload", self.place.id, self.place.text(self.wanted)),
            ("reload", self.place.id),
        )

    def _put(self, name: str) -> Call:
        return ("put_certificate", self.place.id, name, self.certificates[name])

    def _put_list(self) -> Call:
        return (
            "put_certificate",
            self.place.id,
            self.place.list_name,
            self.place.list_of(sorted(self.certificates)),
        )

    def _all_files(self) -> Iterator[Call]:
        yield from (self._put(name) for name in sorted(self.certificates))
        yield self._put_list()


#: How often each, of the operations on a load balancer that is there.
KINDS = {
    "weight": 3,
    "address": 2,
    "state": 2,
    "member added": 2,
    "checked member added": 2,
    "member removed": 3,
    "several members": 3,
    "limit": 1,
    "reload": 3,
    "reload and member": 2,
    "certificate replaced": 3,
    "certificate added": 2,
    "certificate removed": 2,
    "nothing": 1,
    "refused text": 2,
    "refused port": 2,
    "refused certificate": 2,
    "rollback": 3,
    "stop": 2,
    "start": 6,
    "delete": 2,
    "haproxy dies": 1,
}
