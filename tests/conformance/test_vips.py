"""The addresses of a load balancer: IPv4, IPv6 and several at once."""

import pytest
from controller import loadbalancers, secrets
from controller.amphora import (
    SECOND_VIP,
    SECOND_VIP_SUBNET,
    VIP,
    VIP_SUBNET,
    VIP_SUBNET_V6,
    VIP_V6,
    WEB1,
    WEB1_V6,
    Amphora,
)
from controller.health_manager import HealthManager
from controller.release import needs_additional_vips
from octavia.common import constants

from lab.backend import Backend
from lab.http import Tls, get
from lab.network import Namespace
from lab.pki import Authority


def test_an_ipv6_vip_serves_ipv4_and_ipv6_members(
    amphora: Amphora, health: HealthManager, client: Namespace, webs: dict[str, Backend]
) -> None:
    balancer = amphora.serve(VIP_V6, VIP_SUBNET_V6, ipv6_members=True)
    for port, member in ((80, WEB1), (81, WEB1_V6)):
        listener = loadbalancers.listener(
            balancer, "HTTP", port, insert_headers={"X-Forwarded-For": "true"}
        )
        pool = loadbalancers.pool(listener, "HTTP", [(member, 80)])
        loadbalancers.monitor(pool, "HTTP", url_path="/health")
    amphora.worker.deploy(balancer)

    for port in (80, 81):
        seen = get(client, VIP_V6, port).json()
        assert (seen["name"], seen["headers"]["x-forwarded-for"]) == ("web1", "2001:db8:1::1")
    health.wait_for(lambda _: balancer.operating_status == constants.ONLINE)
    health.wait_for(
        lambda _: {pool.operating_status for pool in balancer.pools} == {constants.ONLINE}
    )


@needs_additional_vips
@pytest.mark.parametrize("first_family", [4, 6])
def test_every_vip_serves_every_listener(
    first_family: int,
    amphora: Amphora,
    health: HealthManager,
    client: Namespace,
    webs: dict[str, Backend],
    tenant_ca: Authority,
) -> None:
    four, six = (VIP, VIP_SUBNET), (VIP_V6, VIP_SUBNET_V6)
    first, other = (four, six) if first_family == 4 else (six, four)
    balancer = amphora.serve(*first, also=[other, (SECOND_VIP, SECOND_VIP_SUBNET)])
    reference = secrets.store(tenant_ca.issue("www.example.com", dns=["www.example.com"]))
    plain = loadbalancers.listener(balancer, "HTTP", 80)
    encrypted = loadbalancers.listener(
        balancer, "TERMINATED_HTTPS", 443, tls_certificate_id=reference
    )
    for listener in (plain, encrypted):
        loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    amphora.worker.deploy(balancer)

    tls = Tls(server_name="www.example.com", ca=tenant_ca.certificate)
    for vip in (VIP, VIP_V6, SECOND_VIP):
        assert get(client, vip, 80).json()["name"] == "web1"
        assert get(client, vip, 443, tls=tls).json()["name"] == "web1"
        assert amphora.worker.driver.get_interface_from_ip(amphora.model, vip) == "eth1"
    # Several binds, one listener each.
    assert set(health.fresh()["listeners"]) == {plain.id, encrypted.id}
