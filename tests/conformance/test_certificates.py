"""Certificates are replaced under traffic, and uploaded only when they have changed."""

import pytest
from controller import loadbalancers, secrets
from controller.amphora import VIP, WEB1, Amphora
from controller.release import ONLY_LISTENERS
from controller.worker import Call

from lab.backend import Backend
from lab.http import FAILURES, Client, Tls, get
from lab.load import Load
from lab.network import Namespace
from lab.pki import Authority, Credentials


def uploads(calls: list[Call]) -> int:
    return sum(call.method == "PUT" and "/certificates/" in call.path for call in calls)


def presented(client: Namespace, name: str) -> int:
    """Serial number of the certificate that a client asking for `name` gets."""
    peer = get(client, VIP, 443, tls=Tls(server_name=name)).peer
    assert peer is not None
    return peer.serial


def test_a_rotated_certificate_is_presented_and_the_unchanged_one_not_sent_again(
    amphora: Amphora, client: Namespace, webs: dict[str, Backend], tenant_ca: Authority
) -> None:
    def issue(name: str) -> Credentials:
        return tenant_ca.issue(name, dns=[name])

    balancer = amphora.serve()
    old, new, other = (issue(f"{name}.test") for name in ("www", "www", "other"))
    listener = loadbalancers.listener(
        balancer,
        "TERMINATED_HTTPS",
        443,
        tls_certificate_id=secrets.store(old),
        sni=[secrets.store(other)],
    )
    loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])

    # Two certificates and the list of them; old releases send no list.
    lists = 0 if ONLY_LISTENERS else 1
    assert uploads(amphora.worker.deploy(balancer)) == 2 + lists
    assert presented(client, "www.test") == old.serial
    assert uploads(amphora.worker.deploy(balancer)) == 0

    tls = Tls(server_name="www.test", ca=tenant_ca.certificate)
    with Load(lambda: Client(client, VIP, 443, tls=tls), clients=2) as load:
        load.wait_for(20)
        listener.tls_certificate_id = secrets.store(new)
        # The new certificate, and the list that names it.
        assert uploads(amphora.worker.deploy(balancer)) == 1 + lists
        load.wait_for(20)

    assert load.result.failed == 0, load.result
    assert presented(client, "www.test") == new.serial
    assert presented(client, "other.test") == other.serial
    assert uploads(amphora.worker.deploy(balancer)) == 0


def test_sni_certificates_come_and_go(
    amphora: Amphora, client: Namespace, webs: dict[str, Backend], tenant_ca: Authority
) -> None:
    balancer = amphora.serve()
    default, extra = (tenant_ca.issue(name, dns=[name]) for name in ("www.test", "extra.test"))
    references = [secrets.store(default), secrets.store(extra)]
    listener = loadbalancers.listener(
        balancer, "TERMINATED_HTTPS", 443, tls_certificate_id=references[0]
    )
    loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    amphora.worker.deploy(balancer)
    assert presented(client, "extra.test") == default.serial

    listener.sni_containers = loadbalancers.sni_containers(listener.id, references[1:])
    amphora.worker.deploy(balancer)
    assert presented(client, "extra.test") == extra.serial

    listener.sni_containers = []
    amphora.worker.deploy(balancer)
    assert presented(client, "extra.test") == default.serial


def test_a_client_ca_and_its_revocations_are_replaced(
    amphora: Amphora, client: Namespace, webs: dict[str, Backend], tenant_ca: Authority
) -> None:
    clients = Authority.create("client CA")
    user = clients.issue("user", server=False)
    listener = loadbalancers.listener(
        amphora.serve(),
        "TERMINATED_HTTPS",
        443,
        tls_certificate_id=secrets.store(tenant_ca.issue("www.test", dns=["www.test"])),
        client_authentication="OPTIONAL",
        client_ca_tls_certificate_id=secrets.store_text(clients.certificate),
        client_crl_container_id=secrets.store_text(clients.revocation_list()),
    )
    loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    amphora.worker.deploy(listener.load_balancer)
    tls = Tls(server_name="www.test", ca=tenant_ca.certificate, credentials=user)
    assert get(client, VIP, 443, tls=tls).status == 200

    listener.client_crl_container_id = secrets.store_text(clients.revocation_list([user]))
    assert uploads(amphora.worker.deploy(listener.load_balancer)) == 1

    with pytest.raises(FAILURES):
        get(client, VIP, 443, tls=tls)
