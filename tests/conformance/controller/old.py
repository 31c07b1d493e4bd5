"""The controller's side in releases before 4.1, which know one haproxy for each listener.

Their driver takes listeners instead of load balancers, their health manager hands heartbeats to
drivers of its own, and statistics go to a repository.
"""

import inspect
from collections.abc import Sequence
from typing import Any

from octavia.certificates.common import local
from octavia.certificates.manager.local import LocalCertManager
from octavia.common import data_models
from octavia.network import data_models as network_models

from controller.database import Database
from controller.worker import Call, Vip, Worker


class ListenerWorker(Worker):
    """The unmodified driver, called as the flows of these releases call it."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.driver.cert_manager = _InBytes()

    def clients(self) -> list[Any]:
        return [self.driver.client]

    def client_of(self, host: data_models.Amphora) -> Any:
        return self.driver.client

    def deploy(self, balancer: data_models.LoadBalancer) -> list[Call]:
        if balancer not in self.database.load_balancers:
            self.database.load_balancers.append(balancer)
        first = len(self.calls)
        for listener in balancer.listeners:
            self.driver.update(listener, balancer.vip)
        return self.calls[first:]

    def delete(self, listener: data_models.Listener) -> list[Call]:
        first = len(self.calls)
        self.driver.delete(listener, listener.load_balancer.vip)
        listener.load_balancer.listeners.remove(listener)
        return self.calls[first:]

    def update_one(self, balancer: data_models.LoadBalancer, host: data_models.Amphora) -> None:
        place = balancer.amphorae.index(host)
        self.driver.update_amphora_listeners(balancer.listeners, place, balancer.amphorae)

    def plug_vip(
        self,
        balancer: data_models.LoadBalancer,
        port: network_models.Port,
        subnet: network_models.Subnet,
        additional: Sequence[Vip] = (),
    ) -> list[Call]:
        (host,) = balancer.amphorae
        host.vrrp_port_id = port.id
        first = len(self.calls)
        config = network_models.AmphoraNetworkConfig(
            amphora=host, vip_subnet=subnet, vrrp_port=port
        )
        self.driver.post_vip_plug(host, balancer, {host.id: config})
        return self.calls[first:]

    def plug_network(
        self,
        host: data_models.Amphora,
        port: network_models.Port,
        vip_subnet: network_models.Subnet | None = None,
    ) -> list[Call]:
        first = len(self.calls)
        self.driver.post_network_plug(host, port)
        return self.calls[first:]

    def interface_of(self, host: data_models.Amphora, address: str) -> str | None:
        return self.driver.client.get_interface(host, address)["interface"]


class _InBytes:
    """The local certificate manager of these releases hands out text on Python 3, which their
    driver cannot digest; barbican's hands out bytes."""

    def get_cert(self, *args: Any, **kwargs: Any) -> local.LocalCert:
        found = LocalCertManager.get_cert(*args, **kwargs)
        chain = found.get_intermediates()
        return local.LocalCert(
            certificate=found.get_certificate().encode(),
            private_key=found.get_private_key().encode(),
            intermediates=[chain.encode()] if chain else None,
        )


def take(message: dict[str, Any], source: str) -> None:
    """What the health manager's drivers make of a heartbeat."""
    from octavia.controller.healthmanager.health_drivers import update_db

    # The methods without the underscore are these, with every exception swallowed.
    for conclude in (
        update_db.UpdateHealthDb()._update_health,
        update_db.UpdateStatsDb()._update_stats,
    ):
        # Before 2.0 they do not want to know whom it came from.
        wanted = len(inspect.signature(conclude).parameters)
        conclude(*(message, source)[:wanted])
