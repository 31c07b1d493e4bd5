"""An amphora under test: our agent as its own process, and the cables Nova would plug."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from octavia.common import data_models
from octavia.network import data_models as network_models

from controller import loadbalancers, networks
from controller.worker import Vip, Worker
from lab.agent import AgentProcess
from lab.network import Bridge, Cable, Lab, Namespace

_PLUGS = count(1)

#: The segments that the amphora is plugged into, and who is on them.
VIP_SUBNET = networks.subnet("10.1.0.0/24", gateway="10.1.0.1")
VIP_SUBNET_V6 = networks.subnet("2001:db8:1::/64", gateway="2001:db8:1::1")
SECOND_VIP_SUBNET = networks.subnet("10.3.0.0/24", gateway="10.3.0.1")
MEMBER_SUBNET = networks.subnet("10.2.0.0/24", gateway="10.2.0.1")
MEMBER_SUBNET_V6 = networks.subnet("2001:db8:2::/64", gateway="2001:db8:2::1")

VIP, VIP_V6, SECOND_VIP = "10.1.0.5", "2001:db8:1::5", "10.3.0.5"
#: Where members may listen; the first has an IPv6 address as well.
WEB1, WEB2, WEB3, WEB1_V6 = "10.2.0.11", "10.2.0.12", "10.2.0.13", "2001:db8:2::11"

_VRRP_ADDRESS = {VIP_SUBNET.id: "10.1.0.4", VIP_SUBNET_V6.id: "2001:db8:1::4"}


@dataclass
class Amphora:
    """A booted amphora. `model` is what the controller's database says of it."""

    lab: Lab
    agent: AgentProcess
    worker: Worker
    model: data_models.Amphora
    vip_segment: Bridge
    member_segment: Bridge
    cables: list[Cable] = field(default_factory=list)

    @property
    def namespace(self) -> Namespace:
        """Where its haproxies run."""
        return Namespace(self.agent.namespace)

    def attach(self, segment: Bridge) -> str:
        """Hot-plug a network card, as Nova does; answers with its MAC address."""
        number = next(_PLUGS)
        mac = f"fa:16:3e:00:{number // 256:02x}:{number % 256:02x}"
        self.cables.append(segment.port(self.lab.host, f"{self.lab.prefix}p{number}", mac=mac))
        return mac

    def serve(
        self,
        vip: str = VIP,
        subnet: network_models.Subnet = VIP_SUBNET,
        *,
        also: Sequence[Vip] = (),
        ipv6_members: bool = False,
    ) -> data_models.LoadBalancer:
        """Make it the amphora of a new load balancer, with the VIP and the members' network
        plugged; `also` are additional VIPs.

        The members' network has no IPv6 unless asked for: duplicate-address detection takes more
        than a second.
        """
        balancer = loadbalancers.load_balancer(
            self.model, vip, additional_vips=[address for address, _ in also]
        )
        self.model.vrrp_ip = _VRRP_ADDRESS[subnet.id]
        port = networks.port(self.attach(self.vip_segment), [(self.model.vrrp_ip, subnet)])
        self.worker.plug_vip(balancer, port, subnet, also)
        addresses = [("10.2.0.4", MEMBER_SUBNET)]
        if ipv6_members:
            addresses.append(("2001:db8:2::4", MEMBER_SUBNET_V6))
        member_port = networks.port(self.attach(self.member_segment), addresses)
        self.worker.plug_network(self.model, member_port)
        return balancer

    def unplug(self) -> None:
        for cable in self.cables:
            cable.unplug()
