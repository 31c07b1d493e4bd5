"""What the agent's unit closes, and that the agent does not need any of it.

All other tests in here run the same unit: what they do, it can do.
"""

import re
from collections.abc import Iterator

import pytest

from amphora_agent.client.v2 import AmphoraClient
from lab.heartbeats import HeartbeatReceiver
from lab.http import Tls, get
from lab.listeners import loadbalancer
from lab.network import Namespace
from lab.nspawn import Machine
from lab.pki import AmphoraPki
from tests.systemd.conftest import AMPHORA, CONTROLLER, HTTP, VIP, LoadBalancer

AGENT = "amphora-agent.service"
OTHER_KEY, OTHER_PORT = "another key", 5556


@pytest.fixture
def configuration(machine: Machine, api: AmphoraClient) -> Iterator[str]:
    """The agent's; put back after the test."""
    text = machine.path("/etc/octavia/amphora-agent.conf").read_text()
    yield text
    api.upload_config(text)


@pytest.mark.parametrize(
    "place", ["/etc/hostname", "/usr/bin/x", "/boot/x", "/root/x", "/proc/sys/kernel/panic"]
)
def test_it_cannot_write_elsewhere(machine: Machine, place: str) -> None:
    tried = _in_its_view(machine, "sh", "-c", f"echo 1 >{place}")
    assert re.search("Read-only file system|Permission denied", tried)


@pytest.mark.parametrize("place", ["/etc/octavia", "/var/lib/octavia", "/run/amphora-agent"])
def test_it_can_write_its_own(machine: Machine, place: str) -> None:
    assert _in_its_view(machine, "sh", "-c", f"touch {place}/x && rm {place}/x") == ""


def test_a_namespace_that_is_made_later_is_seen(machine: Machine) -> None:
    machine.run(["ip", "netns", "add", "later"])
    seen = _in_its_view(machine, "stat", "--file-system", "--format=%T", "/run/netns/later")
    machine.run(["ip", "netns", "delete", "later"])
    assert seen == "nsfs"


def test_regular_expressions_pass_the_check(
    balancer: LoadBalancer, api: AmphoraClient, client: Namespace
) -> None:
    """haproxy compiles them to machine code, which a process can be forbidden to make."""
    policy = "    http-request deny if { path -m reg ^/den(y|ied)[0-9]+$ }\n    default_backend"
    text = loadbalancer(balancer.id, vip=VIP, listeners=[HTTP])
    api.upload_haproxy(balancer.id, text.replace("    default_backend", policy))
    balancer.reload()
    assert get(client, VIP, 80, "/deny1").status == 403
    assert get(client, VIP, 80, "/denya").status == 200


def test_certificates_of_a_load_balancer_are_kept_and_removed(
    balancer: LoadBalancer, api: AmphoraClient, pki: AmphoraPki
) -> None:
    api.upload_certificate(balancer.id, "some.pem", pki.server.pem)
    assert len(api.certificate_md5(balancer.id, "some.pem")) == 32
    api.delete_certificate(balancer.id, "some.pem")


def test_its_own_certificate_is_replaced(
    api: AmphoraClient, controller: Namespace, pki: AmphoraPki
) -> None:
    renewed = pki.server_authority.issue(pki.amphora_id, dns=[pki.amphora_id], key="ec")
    api.upload_agent_certificate(renewed.pem)
    tls = Tls(credentials=pki.controller)
    peer = get(controller, AMPHORA, 9443, tls=tls).peer
    assert peer is not None
    assert peer.serial == renewed.serial


def test_its_settings_are_replaced(
    configuration: str, api: AmphoraClient, controller: Namespace
) -> None:
    def listen() -> HeartbeatReceiver:
        return HeartbeatReceiver(OTHER_KEY, address=CONTROLLER, port=OTHER_PORT)

    changed = re.sub(r"(?m)^heartbeat_key = .*", f"heartbeat_key = {OTHER_KEY}", configuration)
    with controller.inside(listen) as other:
        api.upload_config(changed.replace(":5555", f":{OTHER_PORT}"))
        other.wait_for(lambda heartbeat: heartbeat.sequence > 0)


def test_what_is_asked_of_the_machine_is_answered(api: AmphoraClient) -> None:
    details = api.details()
    assert details["memory"]["total"] > 0
    assert details["cpu"]["total"] > 0
    assert details["networks"].keys() >= {"eth1", "eth2"}
    assert details["disk"]["available"] > 0


def test_nothing_was_refused_to_it(machine: Machine) -> None:
    """In all that it has done until now, and not found worth an error."""
    said = machine.output("journalctl", "--boot", f"--unit={AGENT}", "--output=cat")
    refused = (
        "Operation not permitted|Permission denied|Read-only file system|"
        "Address family not supported"
    )
    assert [line for line in said.splitlines() if re.search(refused, line)] == []


def _in_its_view(machine: Machine, *command: str) -> str:
    """What a command says that sees the files that the agent sees, writable or not as they are."""
    agent = machine.properties(AGENT)["MainPID"]
    done = machine.run(["nsenter", f"--target={agent}", "--mount", *command], check=False)
    return (done.stdout + done.stderr).strip()
