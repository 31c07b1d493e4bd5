"""What the tasks of the controller's own flows send, not only what its driver can."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from controller import loadbalancers, settings
from controller.amphora import VIP, VIP_SUBNET, WEB1, Amphora
from controller.database import Database
from controller.health_manager import HealthManager
from octavia.common import constants, utils

from lab.backend import Backend
from lab.http import get
from lab.network import Namespace

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of libraries that are newer than the release
    tasks = pytest.importorskip(
        "octavia.controller.worker.v2.tasks.amphora_driver_tasks", exc_type=ImportError
    )
    database_tasks = pytest.importorskip(
        "octavia.controller.worker.v2.tasks.database_tasks", exc_type=ImportError
    )

PEER = "10.1.0.3"

needs_firewall_tasks = pytest.mark.skipif(
    not hasattr(database_tasks, "GetAmphoraFirewallRules"), reason="no tasks for interface rules"
)


@pytest.fixture
def task(amphora: Amphora) -> Callable[..., Any]:
    """Makes a task that drives the agent with this controller's driver."""

    def make(name: str) -> Any:
        made = getattr(tasks, name)()
        made.amphora_driver = amphora.worker.driver
        return made

    return make


def network_config(amphora: Amphora, topology: str) -> dict[str, Any]:
    """What the controller's flows pass between tasks, of an SR-IOV port."""
    model = amphora.model
    peer = {
        constants.ID: loadbalancers.new_id(),
        constants.STATUS: constants.AMPHORA_ALLOCATED,
        constants.VRRP_IP: PEER,
    }
    own = {constants.ID: model.id, constants.STATUS: constants.AMPHORA_ALLOCATED}
    balancer = {
        constants.VIP: {constants.VNIC_TYPE: constants.VNIC_TYPE_DIRECT},
        constants.TOPOLOGY: topology,
        constants.AMPHORAE: [{**own, constants.VRRP_IP: model.vrrp_ip}, peer],
    }
    told = {
        constants.LOAD_BALANCER_ID: model.load_balancer_id,
        "load_balancer": balancer,
    }
    return {model.id: {constants.AMPHORA: told}}


def ruleset(amphora: Amphora) -> str:
    return str(amphora.namespace.run(["nft", "list", "ruleset"]).stdout)


@needs_firewall_tasks
@pytest.mark.parametrize("topology", ["SINGLE", "ACTIVE_STANDBY"])
def test_a1_interface_rules_of_the_controllers_tasks_are_taken(
    amphora: Amphora,
    task: Callable[..., Any],
    client: Namespace,
    webs: dict[str, Backend],
    topology: str,
) -> None:
    listener = loadbalancers.listener(amphora.serve(), "HTTP", 80)
    loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    amphora.worker.deploy(listener.load_balancer)
    amphora.model.load_balancer_id = listener.load_balancer.id
    listener.load_balancer_id = listener.load_balancer.id
    amphorae = [{constants.ID: amphora.model.id, constants.VRRP_IP: amphora.model.vrrp_ip}]

    rules = database_tasks.GetAmphoraFirewallRules().execute(
        amphorae, 0, network_config(amphora, topology)
    )
    assert len(rules) == (2 if topology == "ACTIVE_STANDBY" else 1)
    task("SetAmphoraFirewallRules").execute(amphorae, 0, rules, {})

    assert get(client, VIP, 80).status == 200
    assert (PEER in ruleset(amphora)) == (topology == "ACTIVE_STANDBY")


@pytest.mark.api_1_0("has no configuration to send")
def test_the_task_that_updates_the_configuration_passes(
    amphora: Amphora, task: Callable[..., Any], health: HealthManager, database: Database
) -> None:
    amphora.serve()
    database.load_balancers.append(amphora.model.load_balancer)
    before = amphora.agent.config_file.read_bytes()
    with settings.heartbeats([health.address]):
        task("AmphoraConfigUpdate").execute({constants.ID: amphora.model.id}, {})
    after = amphora.agent.config_file.read_bytes()
    assert amphora.model.id.encode() in after
    assert before.partition(b"[health_manager]")[0] == after.partition(b"[health_manager]")[0]


def test_the_task_that_rotates_the_certificate_passes(
    amphora: Amphora, task: Callable[..., Any], database: Database
) -> None:
    amphora.serve()
    database.load_balancers.append(amphora.model.load_balancer)
    renewed = amphora.agent.pki.server_authority.issue(amphora.model.id, dns=[amphora.model.id])
    if hasattr(utils, "get_server_certs_key_passphrases_fernet"):
        fernet = utils.get_server_certs_key_passphrases_fernet()
    else:
        pytest.skip("this release encrypts certificates otherwise")
    encrypted = fernet.encrypt(renewed.pem).decode()
    task("AmphoraCertUpload").execute({constants.ID: amphora.model.id}, encrypted)
    peer = amphora.agent.get("/1.0/info").peer
    assert peer is not None
    assert peer.serial == renewed.serial


def test_the_tasks_for_vrrp_pass(
    amphora: Amphora, task: Callable[..., Any], database: Database
) -> None:
    balancer = amphora.serve()
    database.load_balancers.append(balancer)
    loadbalancers.add_vrrp_group(balancer)
    model = amphora.model
    model.role, model.vrrp_priority, model.vrrp_id = constants.ROLE_MASTER, 100, 1
    model.ha_ip, model.ha_port_id = VIP, balancer.vip.port_id
    told = {constants.ID: amphora.model.id}
    interface = task("AmphoraUpdateVRRPInterface").execute(told)
    assert interface == "eth1"
    network = {
        constants.VIP_SUBNET: {**VIP_SUBNET.to_dict(recurse=True), "host_routes": []},
        "additional_vip_data": [],
    }
    configs = {amphora.model.id: network}
    task("AmphoraVRRPUpdate").execute(balancer.id, configs, told, interface)
    assert amphora.model.status != constants.ERROR
    task("AmphoraVRRPStart").execute(told)
    assert amphora.agent.get("/1.0/details").status == 200
