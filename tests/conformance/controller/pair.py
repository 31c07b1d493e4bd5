"""Two amphorae of one load balancer, as the controller's flows for ACTIVE_STANDBY treat them.

In a deployment both have the same paths, on machines of their own. Here they share a machine: what
the controller renders for one is rendered with that one's paths in force.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from octavia.common import constants, data_models
from octavia.common.config import cfg
from octavia.network import data_models as network_models

from controller import loadbalancers, networks
from controller.amphora import VIP, VIP_SUBNET, Amphora
from controller.database import Database

#: Of each: where VRRP speaks, its address in the members' network, role and priority.
_PARTS = (
    ("10.1.0.4", "10.2.0.4", constants.ROLE_MASTER, 100),
    ("10.1.0.3", "10.2.0.3", constants.ROLE_BACKUP, 90),
)


@dataclass
class Half:
    """One of the two; its worker renders with its paths."""

    amphora: Amphora

    @property
    def model(self) -> data_models.Amphora:
        return self.amphora.model

    def has_vip(self) -> bool:
        shown = self.amphora.namespace.ip("-oneline", "address", "show", "to", VIP, check=False)
        return bool(shown.strip())


@contextmanager
def paths_of(amphora: Amphora) -> Iterator[None]:
    agent = amphora.agent
    changed = {
        ("haproxy_amphora", "base_path"): agent.base_path,
        ("haproxy_amphora", "base_cert_dir"): agent.cert_path,
        ("amphora_agent", "agent_server_cert"): agent.pki.server_pem,
        ("amphora_agent", "agent_server_network_dir"): agent.network_path,
    }
    for (group, name), path in changed.items():
        cfg.CONF.set_override(name, str(path), group=group)
    try:
        yield
    finally:
        for group, name in changed:
            cfg.CONF.clear_override(name, group=group)


class Pair:
    """A load balancer without listeners, plugged in on both amphorae."""

    def __init__(
        self, halves: tuple[Half, Half], member_subnet: network_models.Subnet, database: Database
    ) -> None:
        self.halves = halves
        first = halves[0].model
        self.balancer = loadbalancers.load_balancer(
            first, VIP, topology=constants.TOPOLOGY_ACTIVE_STANDBY
        )
        self.balancer.amphorae = [half.model for half in halves]
        loadbalancers.add_vrrp_group(self.balancer)
        database.load_balancers.append(self.balancer)
        for half, part in zip(halves, _PARTS, strict=True):
            self._plug(half, part, member_subnet)

    def _plug(
        self,
        half: Half,
        part: tuple[str, str, str, int],
        member_subnet: network_models.Subnet,
    ) -> None:
        vrrp_ip, member_ip, role, priority = part
        model, amphora = half.model, half.amphora
        model.load_balancer, model.load_balancer_id = self.balancer, self.balancer.id
        model.vrrp_ip, model.role = vrrp_ip, role
        model.vrrp_priority, model.vrrp_id = priority, 1
        model.ha_ip, model.ha_port_id = VIP, self.balancer.vip.port_id
        port = networks.port(amphora.attach(amphora.vip_segment), [(vrrp_ip, VIP_SUBNET)])
        others = self.balancer.amphorae
        self.balancer.amphorae = [model]
        try:
            amphora.worker.plug_vip(self.balancer, port, VIP_SUBNET)
        finally:
            self.balancer.amphorae = others
        mac = amphora.attach(amphora.member_segment)
        amphora.worker.plug_network(model, networks.port(mac, [(member_ip, member_subnet)]))

    def deploy(self) -> None:
        """The listeners of the model on both, as an update of the load balancer does it."""
        for half in self.halves:
            with paths_of(half.amphora):
                half.amphora.worker.driver.update_amphora_listeners(self.balancer, half.model)

    def start_vrrp(self) -> None:
        """What the sub-flow for VRRP does to each, when there is a pair to be made of them."""
        network = {
            constants.VIP_SUBNET: {
                **VIP_SUBNET.to_dict(recurse=True),
                "host_routes": [{"destination": "10.9.0.0/24", "nexthop": "10.1.0.9"}],
            },
            "additional_vip_data": [],
        }
        for half in self.halves:
            driver = half.amphora.worker.driver
            half.model.vrrp_interface = driver.get_interface_from_ip(half.model, half.model.vrrp_ip)
            with paths_of(half.amphora):
                configs = {half.model.id: network}
                driver.update_vrrp_conf(self.balancer, configs, half.model)
            driver.start_vrrp_service(half.model)

    def holders(self) -> list[Half]:
        return [half for half in self.halves if half.has_vip()]
