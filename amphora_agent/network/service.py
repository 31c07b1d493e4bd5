"""The service: ports plugged, guarded, announced, restored, looked up and counted."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from amphora_agent import files
from amphora_agent.errors import AgentError, InvalidRequest, NotFound, OperationFailed
from amphora_agent.model.addressing import Address, Mac, parse_address
from amphora_agent.model.decode import decode
from amphora_agent.model.plugging import InterfaceRules, NetworkPlug, PluggedVip, VipPlug
from amphora_agent.namespace import Namespace
from amphora_agent.network.plan.interface import VIP_INTERFACE
from amphora_agent.network.port_record import Record
from amphora_agent.network.port_service import INTERFACE, Patience, Ports, Settled

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Tells the neighbours of an interface that addresses are there; returns at once.
Announce = Callable[[str, Iterable[Address]], None]


class Network:
    """The amphora's network. Its methods may be called by many threads at once.

    Args:
        namespace: the amphora's.
        make_namespace: makes it, unless it is there; True when it was made.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        namespace: Namespace,
        ports: Ports,
        *,
        make_namespace: Callable[[], bool],
        announce: Announce,
        patience: Patience,
        clock: Callable[[], float],
    ) -> None:
        self._namespace = namespace
        self._ports = ports
        self._make_namespace = make_namespace
        self._announce = announce
        self._patience = patience
        self._clock = clock

    # For the controller

    def plug_vip(self, vip: str, body: bytes, *, single: bool) -> str:
        """Plug the port of `body` as the VIP interface, and return what was done.

        Raises:
            InvalidRequest: `vip` or `body` is wrong.
            NotFound: there is no port with that MAC address, not even after a wait.
            Conflict: another port is the VIP interface.
            OperationFailed: the kernel or the disk refuses, or no address came; repeating may help.
        """
        address = _parse("Invalid VIP", vip)
        sent = decode(body, VipPlug)
        try:
            plugged = PluggedVip(vip=address, **msgspec.structs.asdict(sent))
        except ValueError as error:
            raise InvalidRequest("Invalid VIP", str(error)) from None

        def change(earlier: Record | None) -> Record:
            record = earlier or Record(mac=sent.mac_address, name=VIP_INTERFACE)
            return msgspec.structs.replace(record, name=VIP_INTERFACE, vip=plugged)

        self._make_namespace()
        self._announce_fixed(self._ports.settle(sent.mac_address, change, single=single))
        addresses = ", ".join(each.ip_address.exploded for each in plugged.vips)
        return f"VIPs plugged on interface {VIP_INTERFACE}: {addresses}"

    def plug_network(self, body: bytes, *, single: bool) -> str:
        """Plug the port of `body` as an interface of members, and return what was done.

        Raises: as `plug_vip`.
        """
        sent = decode(body, NetworkPlug)

        def change(earlier: Record | None) -> Record:
            record = earlier or Record(mac=sent.mac_address, name="")
            vip = _merged(record.vip, sent.vip_net_info)
            return msgspec.structs.replace(
                record,
                name=VIP_INTERFACE if vip else record.name,
                vip=vip,
                network=msgspec.structs.replace(sent, vip_net_info=None),
            )

        self._make_namespace()
        settled = self._ports.settle(sent.mac_address, change, single=single)
        self._announce_fixed(settled)
        done = "Plugged on" if settled.moved else "Updated existing"
        return f"{done} interface {settled.record.name}"

    def set_rules(self, address: str, body: bytes) -> None:
        """Let only what the rules of `body` allow into the interface of `address`, from now on.

        Raises:
            InvalidRequest: `address` or `body` is wrong.
            NotFound: no plugged interface has the address.
            OperationFailed: they cannot be applied; the earlier ones stay.
        """
        wanted = _parse("Invalid IP address", address)
        rules = decode(body, InterfaceRules)
        self._ports.set_rules(self._port_of(wanted), rules)

    def described(self) -> dict[str, str]:
        """The addresses and the rules of each plugged interface, in words."""
        found = {}
        for record in self._ports.records.all():
            addresses = [*map(str, _vips(record)), *map(str, record.owned)]
            found[f"{record.name} addresses"] = ", ".join(addresses)
            if record.rules is not None:
                rules = (f"{r.protocol} {r.port} from {r.cidr or 'any'}" for r in record.rules)
                found[f"{record.name} rules"] = "; ".join(rules)
        return found

    def interface_of(self, address: str) -> str:
        """The name of the interface in the namespace that has `address`, in any textual form.

        Raises:
            InvalidRequest: it is not an address.
            NotFound: no interface has it.
        """
        wanted = _parse("Invalid IP address", address)
        name = self._ports.kernel.holder_of(wanted) if self._namespace.exists() else None
        if name is None:
            raise _no_interface(wanted)
        return name

    def counters(self) -> dict[str, dict[str, int]]:
        """Bytes sent and received by each `eth*` in the namespace, since it was made.

        `{"eth1": {"network_tx": 1, "network_rx": 2}}`; empty while there is no namespace.
        """
        if not self._namespace.exists():
            return {}
        text = self._namespace.run(Path("/proc/thread-self/net/dev").read_text)
        counted = {}
        for line in text.splitlines()[2:]:
            name, _, numbers = line.strip().partition(":")
            if INTERFACE.fullmatch(name):
                fields = numbers.split()
                counted[name] = {"network_tx": int(fields[8]), "network_rx": int(fields[0])}
        return counted

    def announce_vips(self, *, single: bool) -> None:
        """Tell the neighbours that the VIPs are here. keepalived does it where it holds them."""
        if single:
            for record in self._ports.records.all():
                self._announce(record.name, _vips(record))

    # For the machine and its operator

    def restore(self, *, single: bool) -> list[str]:
        """Make the namespace and every remembered interface what they were, as at a boot.

        Nothing is changed that is as it should be. What is missing or cannot be configured is
        logged, and the rest is seen to. Returns what could not be restored, a line each.

        Raises:
            OperationFailed: there is no namespace and none can be made.
        """
        booting = self._make_namespace()
        files.sweep(self._ports.records.directory)
        records = self._ports.records.all()
        failures: list[str] = []

        def fail(what: str, error: Exception) -> None:
            unexpected = None if isinstance(error, AgentError | OSError) else error
            logger.error("%s is not restored: %s", what, error, exc_info=unexpected)
            failures.append(f"{what}: {error}")

        firewall = _Background(lambda: self._ports.guard(fresh=booting))
        # After a boot devices may still be appearing; later on, what is missing is gone. All share
        # one deadline.
        deadline = self._clock() + (self._patience.port if booting else 0.0)

        def restore(record: Record) -> None:
            def before_up() -> None:
                if (error := firewall.wait()) and record.guarded:
                    raise OperationFailed("It stays down", f"nothing would filter for it: {error}")

            try:
                # One that is missing has been waited for.
                until = self._clock() if record.missing else deadline
                self._bring_back(record.mac, single=single, deadline=until, before_up=before_up)
            except Exception as error:  # whatever is wrong with one, the others must work
                fail(f"{record.name} ({record.mac})", error)

        _at_once(restore, records)
        if error := firewall.wait():
            fail("the firewall", error)
        return failures

    def follow_lease(self, mac: Mac, *, single: bool) -> None:
        """Make an interface agree with the lease that its port has now.

        Raises: as `plug_vip`; NotFound, too, when the port is not remembered.
        """
        self._bring_back(mac, single=single)

    def up(self, name: str, *, single: bool) -> None:
        """Bring an interface back, as `restore` does.

        Raises:
            NotFound: no port is remembered by this name, or it is not there.
            OperationFailed: the kernel or the disk refuses.
        """
        self._make_namespace()
        self._bring_back(self._named(name).mac, single=single)

    def down(self, name: str, *, single: bool) -> None:
        """Take the interface down, until it is brought back, plugged, or all are restored.

        Raises: as `up`.
        """
        self._ports.take_down(self._named(name).mac, single=single)

    def names(self) -> list[str]:
        """The names of the interfaces of all remembered ports."""
        return [record.name for record in self._ports.records.all()]

    def plan(self, *, single: bool) -> Iterator[str]:
        """What `restore` would do, a line each; nothing is done."""
        if not self._namespace.exists():
            yield f"make the namespace {self._namespace.name}"
            yield from (f"{name}: everything" for name in self.names())
            return
        records = self._ports.records.all()
        for shared_op in self._ports.shared_ops():
            yield f"{self._namespace.name}: {shared_op}"
        for record in records:
            spec = self._ports.spec(record, single=single)
            try:
                ops = self._ports.kernel.plan(spec)
            except NotFound as error:
                yield f"{record.name} ({record.mac}): nothing: {error}"
                continue
            for op in ops:
                yield f"{record.name} ({record.mac}): {op}"

    def _bring_back(
        self,
        mac: Mac,
        *,
        single: bool,
        deadline: float | None = None,
        before_up: Callable[[], None] | None = None,
    ) -> None:
        settled = self._ports.settle(
            mac, _as_it_is, single=single, deadline=deadline, before_up=before_up
        )
        if settled.done:
            self._announce(settled.record.name, settled.addresses)

    def _announce_fixed(self, settled: Settled) -> None:
        """The VIPs are announced when something serves them: another amphora may until then."""
        vips = _vips(settled.record)
        fixed = [address for address in settled.addresses if address not in vips]
        self._announce(settled.record.name, fixed)

    def _port_of(self, address: Address) -> Mac:
        """The port that has the address, or would have it: of a VIP, also where another is master.

        Raises:
            NotFound: none has.
        """
        for record in self._ports.records.all():
            if address in (*_vips(record), *(interface.ip for interface in record.owned)):
                return record.mac
        raise _no_interface(address)

    def _named(self, name: str) -> Record:
        for record in self._ports.records.all():
            if record.name == name:
                return record
        raise NotFound("Port Not Found", f"no port is plugged as {name}")


def _as_it_is(record: Record | None) -> Record:
    if record is None:
        raise NotFound("Port Not Found", "it is not remembered")
    return record


class _Background:
    """A call under way in a thread of its own."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._error: Exception | None = None

        def work() -> None:
            try:
                function()
            except Exception as error:  # handed to whoever waits
                self._error = error

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def wait(self) -> Exception | None:
        """Returns when it is over; what it has raised."""
        self._thread.join()
        return self._error


def _at_once(function: Callable[[T], None], values: Sequence[T]) -> None:
    """Call it for each, side by side: IPv6 addresses take a second to be usable."""
    threads = [threading.Thread(target=function, args=(value,)) for value in values[1:]]
    for thread in threads:
        thread.start()
    for value in values[:1]:
        function(value)
    for thread in threads:
        thread.join()


def _vips(record: Record) -> list[Address]:
    return [each.ip_address for each in record.vip.vips] if record.vip else []


def _no_interface(address: Address) -> NotFound:
    return NotFound("Error interface not found for IP address", str(address))


def _parse(message: str, text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise InvalidRequest(message, str(error)) from None


def _merged(earlier: PluggedVip | None, sent: PluggedVip | None) -> PluggedVip | None:
    """The VIP of a port on which a member network is plugged.

    The controller sends the VIP again with it, and always without the additional ones.
    """
    if earlier is None or sent is None:
        return sent or earlier
    return msgspec.structs.replace(
        sent,
        additional_vips=sent.additional_vips or earlier.additional_vips,
        is_sriov=sent.is_sriov or earlier.is_sriov,
    )
