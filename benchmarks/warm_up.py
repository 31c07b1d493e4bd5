"""Everything that a controller asks of an agent, once: so all is loaded that ever will be."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from dataclasses import replace

from amphora_agent.client.v2 import AmphoraError
from benchmarks.testbed import Balancer, Testbed, deploy
from lab.listeners import Listener, crt_list, http_listener, loadbalancer
from lab.pki import Authority
from lab.plug_bodies import fixed_ip, network_plug, vip_plug

# Networks set aside for documentation (RFC 5737).
_VIP, _VIP_PORT, _GATEWAY, _VIP_CIDR = (
    "203.0.113.10",
    "203.0.113.11",
    "203.0.113.1",
    "203.0.113.0/24",
)
_MEMBER_PORT, _MEMBER_CIDR = "198.51.100.2", "198.51.100.0/24"
_SITE = "www.example.org"


def do_everything(bed: Testbed) -> None:
    """Plug, configure, ask, refuse, change, stop, start and delete."""
    controller = bed.controller
    controller.api_version()
    controller.info()
    _plug(bed)
    controller.interface(_VIP)
    balancer = Balancer.of(2, 2, monitored=True)
    deploy(bed, balancer)
    deploy(bed, balancer)
    with contextlib.suppress(AmphoraError):
        controller.upload_haproxy(balancer.id, "this is no configuration\n")
    _terminate_tls(bed)
    controller.details()
    controller.listeners()
    controller.haproxy(balancer.id)
    controller.upload_config(bed.agent.config())
    controller.upload_agent_certificate(bed.agent.pki.server.pem)
    controller.stop(balancer.id)
    controller.start(balancer.id)
    controller.delete(balancer.id)


def _plug(bed: Testbed) -> None:
    network = bed.lab.namespace("network")
    tag = uuid.uuid4().hex[:6]
    vip = bed.lab.cable(network, "vip", bed.lab.host, f"bench-v{tag}")
    member = bed.lab.cable(network, "member", bed.lab.host, f"bench-m{tag}")
    bed.controller.plug_vip(
        _VIP,
        vip_plug(vip.mac_b, subnet=_VIP_CIDR, gateway=_GATEWAY, vrrp_ip=_VIP_PORT),
    )
    address = fixed_ip(_MEMBER_PORT, _MEMBER_CIDR)
    bed.controller.plug_network(network_plug(member.mac_b, address))


def _terminate_tls(bed: Testbed) -> None:
    """A load balancer with a certificate; it stays, as the one that is there while memory is
    measured."""
    controller = bed.controller
    lb_id = str(uuid.uuid4())
    certificate = Authority.create("a tenant's CA").issue(_SITE, dns=[_SITE], client=False)
    name = f"{hashlib.sha1(certificate.certificate, usedforsecurity=False).hexdigest()}.pem"
    directory = bed.agent.cert_path / lb_id
    listener: Listener = http_listener("benchmark https", port=443, members=[(_MEMBER_PORT, 80)])
    listener = replace(
        listener, kind="TERMINATED_HTTPS", crt_list=str(directory / f"{listener.id}.pem")
    )
    controller.upload_certificate(lb_id, name, certificate.pem)
    controller.certificate_md5(lb_id, name)
    names = crt_list([str(directory / name)]).encode()
    controller.upload_certificate(lb_id, f"{listener.id}.pem", names)
    text = loadbalancer(lb_id, vip=_VIP, listeners=[listener], base_path=str(bed.agent.base_path))
    controller.upload_haproxy(lb_id, text)
    controller.reload(lb_id)
