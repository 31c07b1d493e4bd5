"""Octavia's worker: its amphora driver, called as the worker's tasks call it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import requests
from octavia.amphorae.drivers.haproxy.rest_api_driver import HaproxyAmphoraLoadBalancerDriver
from octavia.common import constants, data_models
from octavia.network import data_models as network_models

from controller.database import Database
from controller.networks import additional_vip_data
from controller.release import HAS_ADDITIONAL_VIPS

Vip = tuple[str, network_models.Subnet]


@dataclass(frozen=True)
class Call:
    """One answered request, seen from the controller."""

    method: str
    path: str
    status: int

    def __str__(self) -> str:
        return f"{self.method} {self.path}: {self.status}"


class Worker:
    """The unmodified driver, and the way Octavia's flows use it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.driver = HaproxyAmphoraLoadBalancerDriver()
        self.calls: list[Call] = []
        for client in self.clients():
            # requests calls a hook with what came in; it cannot change what went out.
            client.session.hooks["response"].append(self._note)

    def close(self) -> None:
        for client in self.clients():
            client.session.close()

    def clients(self) -> list[Any]:
        """The driver's HTTP clients, one for each version of the API."""
        return list(self.driver.clients.values())

    def client_of(self, host: data_models.Amphora) -> Any:
        """The one that the driver uses for this amphora."""
        return self.driver.clients[host.api_version]

    def deploy(self, balancer: data_models.LoadBalancer) -> list[Call]:
        """Bring the amphora to what the data model says; answers with the calls that took.

        A listener that the driver cannot process it leaves out and marks in the database; that
        must not go unnoticed.
        """
        if balancer not in self.database.load_balancers:
            self.database.load_balancers.append(balancer)
        balancer.provisioning_status = constants.PENDING_UPDATE
        first = len(self.calls)
        self.driver.update(balancer)
        skipped = [
            listener.name
            for listener in balancer.listeners
            if listener.provisioning_status == constants.ERROR
        ]
        assert not skipped, f"the driver gave up on {skipped}; calls: {self.calls[first:]}"
        balancer.provisioning_status = constants.ACTIVE
        return self.calls[first:]

    def update_one(self, balancer: data_models.LoadBalancer, host: data_models.Amphora) -> None:
        """Bring one amphora of several to what the data model says."""
        self.driver.update_amphora_listeners(balancer, host)

    def delete(self, listener: data_models.Listener) -> list[Call]:
        """Delete a listener from the amphora, and then from the database."""
        balancer = listener.load_balancer
        balancer.provisioning_status = constants.PENDING_UPDATE
        first = len(self.calls)
        self.driver.delete(listener)
        listener.delete()
        balancer.provisioning_status = constants.ACTIVE
        return self.calls[first:]

    def plug_vip(
        self,
        balancer: data_models.LoadBalancer,
        port: network_models.Port,
        subnet: network_models.Subnet,
        additional: Sequence[Vip] = (),
    ) -> list[Call]:
        """Plug the port of the VIPs; `additional` are further VIPs and their subnets."""
        (host,) = balancer.amphorae
        host.vrrp_port_id = port.id
        first = len(self.calls)
        more = {"additional_vip_data": additional_vip_data(additional)}
        # Between tasks Octavia keeps dictionaries; the models are built of them anew.
        self.driver.post_vip_plug(
            host,
            balancer,
            {host.id: network_models.AmphoraNetworkConfig(amphora=host)},
            vrrp_port=network_models.Port(**port.to_dict(recurse=True)),
            vip_subnet=network_models.Subnet(**subnet.to_dict(recurse=True)),
            **(more if HAS_ADDITIONAL_VIPS else {}),
        )
        return self.calls[first:]

    def plug_network(
        self,
        host: data_models.Amphora,
        port: network_models.Port,
        vip_subnet: network_models.Subnet | None = None,
    ) -> list[Call]:
        """Plug a port for members. The VIP's subnet matters when it is the VIP's port as well."""
        first = len(self.calls)
        known = {"vip_subnet": vip_subnet.to_dict(recurse=True)} if vip_subnet else {}
        self.driver.post_network_plug(host, port, known)
        return self.calls[first:]

    def interface_of(self, host: data_models.Amphora, address: str) -> str | None:
        return self.driver.get_interface_from_ip(host, address)

    def _note(self, response: requests.Response, *args: object, **kwargs: object) -> None:
        sent = response.request
        self.calls.append(Call(sent.method or "", sent.path_url, response.status_code))
