"""The service of the network: plug, guard, announce, restore, look up and count ports."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from amphora_agent import files
from amphora_agent.errors import AgentError, InvalidRequest, NotFound, OperationFailed
from amphora_agent.model.addressing import Address, Mac, parse_address
from amphora_agent.model.decode import decode
from amphora_agent.model.plugging import InterfaceRules, NetworkPlug, PluggedVip, VipPlug
from amphora_agent.namespace import Namespace
from amphora_agent.network.plan.interface import VIP_INTERFACE
from amphora_agent.network.port_service import INTERFACE, Ports, Settled
from amphora_agent.network.records import PortRecord

logger = logging.getLogger(__name__)

#: Announces addresses to the neighbours of an interface; returns at once.
Announce = Callable[[str, Iterable[Address]], None]


class Network:
    """The amphora's network. Many threads may call its methods at once.

    Args:
        namespace: the amphora's.
        make_namespace: makes it unless it exists; returns whether it was made.
    """

    def __init__(
        self,
        namespace: Namespace,
        ports: Ports,
        *,
        make_namespace: Callable[[], bool],
        announce: Announce,
    ) -> None:
        self._namespace = namespace
        self._ports = ports
        self._make_namespace = make_namespace
        self._announce = announce

    # For the controller

    def plug_vip(self, vip: str, body: bytes, *, single: bool) -> str:
        """Plug the port of `body` as the VIP interface; return a sentence about it.

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
        self._plug(plugged, single=single)
        addresses = ", ".join(own.ip_address.exploded for own in plugged.vips)
        return f"VIPs plugged on interface {VIP_INTERFACE}: {addresses}"

    def plug_network(self, body: bytes, *, single: bool) -> str:
        """Plug the port of `body` as an interface for members; return a sentence about it.

        Raises: as `plug_vip`.
        """
        settled = self._plug(decode(body, NetworkPlug), single=single)
        done = "Plugged on" if settled.moved else "Updated existing"
        return f"{done} interface {settled.record.name}"

    def _plug(self, plug: PluggedVip | NetworkPlug, *, single: bool) -> Settled:
        """Plug a port, and announce its addresses. VIPs are announced only when something serves
        them: until then the other amphora may."""
        self._make_namespace()
        settled = self._ports.settle(plug.mac_address, plug, single=single)
        vips = settled.record.vips
        fixed = [address for address in settled.addresses if address not in vips]
        self._announce(settled.record.name, fixed)
        return settled

    def set_rules(self, address: str, body: bytes) -> None:
        """Let only what the rules of `body` allow into the interface of `address`.

        Raises:
            InvalidRequest: `address` or `body` is wrong.
            NotFound: no plugged interface has the address.
            OperationFailed: they cannot be applied; the earlier ones stay.
        """
        wanted = _parse("Invalid IP address", address)
        rules = decode(body, InterfaceRules)
        for record in self._ports.records.all():
            # That of a VIP has it also while the other amphora is master.
            if wanted in (*record.vips, *(interface.ip for interface in record.owned)):
                self._ports.set_rules(record.mac, rules)
                return
        raise _no_interface(wanted)

    def describe(self) -> dict[str, str]:
        """Return the addresses and the rules of each plugged interface, as text."""
        texts = {}
        for record in self._ports.records.all():
            addresses = [*map(str, record.vips), *map(str, record.owned)]
            texts[f"{record.name} addresses"] = ", ".join(addresses)
            if record.rules is not None:
                rules = (f"{r.protocol} {r.port} from {r.cidr or 'any'}" for r in record.rules)
                texts[f"{record.name} rules"] = "; ".join(rules)
        return texts

    def interface_of(self, address: str) -> str:
        """Return the name of the interface that has `address`, in any textual form.

        Raises:
            InvalidRequest: it is not an address.
            NotFound: no interface has it.
        """
        wanted = _parse("Invalid IP address", address)
        name = self._ports.reconciler.find_holder(wanted) if self._namespace.exists() else None
        if name is None:
            raise _no_interface(wanted)
        return name

    def counters(self) -> dict[str, dict[str, int]]:
        """Return the bytes that each `eth*` in the namespace has sent and received.

        `{"eth1": {"network_tx": 1, "network_rx": 2}}`; empty while there is no namespace.
        """
        if not self._namespace.exists():
            return {}
        text = self._namespace.run(Path("/proc/thread-self/net/dev").read_text)
        counters = {}
        for line in text.splitlines()[2:]:
            name, _, numbers = line.strip().partition(":")
            if INTERFACE.fullmatch(name):
                fields = numbers.split()
                counters[name] = {"network_tx": int(fields[8]), "network_rx": int(fields[0])}
        return counters

    def announce_vips(self, *, single: bool) -> None:
        """Announce the VIPs to the neighbours, unless keepalived holds and announces them."""
        if single:
            for record in self._ports.records.all():
                self._announce(record.name, record.vips)

    # For the boot and the operator

    def restore(self, *, single: bool) -> list[str]:
        """Make the namespace and reconcile all plugged ports, as at a boot.

        Return what could not be restored, a line each; it is logged, and the rest is restored.

        Raises:
            OperationFailed: the namespace cannot be made.
        """
        booting = self._make_namespace()
        files.sweep(self._ports.records.directory)
        records = self._ports.records.all()
        # Devices may appear late after a boot; later, a missing one is gone. All ports share one
        # deadline.
        deadline = time.monotonic() + (self._ports.patience.port if booting else 0.0)

        def restore(record: PortRecord) -> None:
            def before_up() -> None:
                if (error := firewall.exception()) and record.guarded:
                    raise OperationFailed("It stays down", f"no firewall would guard it: {error}")

            # A port that was missing before is not waited for again.
            until = time.monotonic() if record.missing else deadline
            self._settle_again(record.mac, single=single, deadline=until, before_up=before_up)

        # Side by side: IPv6 addresses take a second to be usable.
        with ThreadPoolExecutor(1 + len(records)) as pool:
            firewall = pool.submit(self._ports.guard, fresh=booting)
            calls = {
                f"{record.name} ({record.mac})": pool.submit(restore, record) for record in records
            }
        failures: list[str] = []
        for subject, call in (calls | {"the firewall": firewall}).items():
            if error := call.exception():
                unexpected = None if isinstance(error, AgentError | OSError) else error
                logger.error("%s is not restored: %s", subject, error, exc_info=unexpected)
                failures.append(f"{subject}: {error}")
        return failures

    def follow_lease(self, mac: Mac, *, single: bool) -> None:
        """Reconcile a port with the DHCP lease that it has now.

        Raises: as `plug_vip`; NotFound also if nothing is plugged on the port.
        """
        self._settle_again(mac, single=single)

    def up(self, name: str, *, single: bool) -> None:
        """Reconcile the port of an interface, as `restore` does.

        Raises:
            NotFound: no port is plugged by this name, or there is no such port.
            OperationFailed: the kernel or the disk refuses.
        """
        self._make_namespace()
        self._settle_again(self._find_record(name).mac, single=single)

    def down(self, name: str, *, single: bool) -> None:
        """Take the interface down, until it is set up, plugged, or all are restored.

        Raises: as `up`.
        """
        self._ports.take_down(self._find_record(name).mac, single=single)

    def names(self) -> list[str]:
        """Return the names of the interfaces of all plugged ports."""
        return [record.name for record in self._ports.records.all()]

    def plan(self, *, single: bool) -> Iterator[str]:
        """Yield what `restore` would do, a line each; change nothing."""
        if not self._namespace.exists():
            yield f"make the namespace {self._namespace.name}"
            yield from (f"{name}: everything" for name in self.names())
            return
        records = self._ports.records.all()
        for namespace_op in self._ports.plan_guard():
            yield f"{self._namespace.name}: {namespace_op}"
        for record in records:
            spec = self._ports.build_spec(record, single=single)
            try:
                ops = self._ports.reconciler.plan(spec)
            except NotFound as error:
                yield f"{record.name} ({record.mac}): nothing: {error}"
                continue
            for op in ops:
                yield f"{record.name} ({record.mac}): {op}"

    def _settle_again(
        self,
        mac: Mac,
        *,
        single: bool,
        deadline: float | None = None,
        before_up: Callable[[], None] | None = None,
    ) -> None:
        settled = self._ports.settle(mac, single=single, deadline=deadline, before_up=before_up)
        if settled.done:
            self._announce(settled.record.name, settled.addresses)

    def _find_record(self, name: str) -> PortRecord:
        for record in self._ports.records.all():
            if record.name == name:
                return record
        raise NotFound("Port Not Found", f"no port is plugged as {name}")


def _no_interface(address: Address) -> NotFound:
    return NotFound("Error interface not found for IP address", str(address))


def _parse(message: str, text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise InvalidRequest(message, str(error)) from None
