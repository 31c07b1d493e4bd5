"""The agent itself under its controller: versions, its configuration, its certificate, actions."""

import http.server
import ssl
import threading
from pathlib import Path

import pytest
from controller import loadbalancers, settings
from controller.amphora import VIP, VIP_SUBNET_V6, VIP_V6, WEB1, WEB2, Amphora
from controller.database import Database
from controller.health_manager import HealthManager
from controller.release import needs_agent_configuration, needs_interface_look_up
from octavia.amphorae.driver_exceptions import exceptions as driver_exceptions
from octavia.amphorae.drivers.haproxy import exceptions
from octavia.common import constants

from amphora_agent.client.v2 import AmphoraClient
from lab.backend import Backend
from lab.http import get
from lab.network import Namespace
from lab.pki import Authority, write_private


@pytest.mark.api_1_0("asks for the version")
def test_the_api_version_is_found_out_and_the_agent_introduces_itself(amphora: Amphora) -> None:
    driver, model = amphora.worker.driver, amphora.model

    info = driver.get_info(model)

    assert model.api_version == "1.0"
    assert info["api_version"] == "1.0"
    major, minor = info["haproxy_version"].split(".")[:2]
    assert (int(major), int(minor)) >= (2, 6)
    assert {"hostname", "keepalived_version", "ipvsadm_version"} <= info.keys()
    driver.check(model)


def test_details_say_what_the_controller_sizes_load_balancers_by(
    amphora: Amphora, webs: dict[str, Backend]
) -> None:
    balancer = amphora.serve()
    listener = loadbalancers.listener(balancer, "HTTP", 80)
    loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    amphora.worker.deploy(balancer)
    api = amphora.worker.client_of(amphora.model)

    details = api.get_details(amphora.model)

    assert isinstance(details["active_tuned_profiles"], str)
    assert int(details["cpu_count"]) >= 1
    assert all(
        isinstance(details["memory"][kind], int) for kind in ("total", "free", "buffers", "cached")
    )
    assert details["listeners"] == [listener.id]
    assert details["haproxy_count"] == 1
    assert {"eth1", "eth2"} <= details["networks"].keys()
    assert api.get_all_listeners(amphora.model) == [
        {"status": "ACTIVE", "type": "HTTP", "uuid": listener.id}
    ]


def test_another_amphora_at_this_address_is_not_trusted(amphora: Amphora) -> None:
    """The controller checks the name in the certificate, which is the amphora's id."""
    other = loadbalancers.amphora(loadbalancers.new_id())
    with pytest.raises(driver_exceptions.TimeOutException):
        amphora.worker.driver.get_info(other)
    assert amphora.worker.driver.get_info(amphora.model)


@needs_agent_configuration
def test_a_new_configuration_moves_the_heartbeats_without_a_restart(
    amphora: Amphora, database: Database, health: HealthManager
) -> None:
    health.next()
    before = amphora.agent.pids()
    other = HealthManager(database, key="another key")
    try:
        amphora.worker.driver.update_amphora_agent_config(
            amphora.model,
            settings.agent_configuration(
                amphora.model.id, heartbeats_to=[other.address], heartbeat_key="another key"
            ),
        )
        assert other.next()["id"] == amphora.model.id
        # One may have been under way to the old address; after it, silence.
        health.forget()
        for _ in range(2):
            other.next()
        with pytest.raises(TimeoutError):
            health.next(timeout=0.1)
    finally:
        other.close()
    assert set(amphora.agent.pids()) <= set(before)  # which may have one that has ended


@needs_agent_configuration
def test_a_new_heartbeat_interval_is_kept(amphora: Amphora, health: HealthManager) -> None:
    health.next()
    amphora.worker.driver.update_amphora_agent_config(
        amphora.model,
        settings.agent_configuration(
            amphora.model.id, heartbeats_to=[health.address], heartbeat_interval=3
        ),
    )
    # The interval that runs when the configuration comes may still be the old one.
    health.next()
    health.next()
    first = health.next()
    second = health.next()
    assert second["seq"] == first["seq"] + 1
    assert 2.5 < second["recv_time"] - first["recv_time"] < 4


@needs_agent_configuration
def test_an_unusable_configuration_is_refused_and_the_old_one_stays(
    amphora: Amphora, health: HealthManager
) -> None:
    before = amphora.agent.config_file.read_bytes()
    good = settings.agent_configuration(amphora.model.id, heartbeats_to=[health.address])

    with pytest.raises((exceptions.InvalidRequest, exceptions.InternalServerError)):
        amphora.worker.driver.update_amphora_agent_config(
            amphora.model, good.replace("heartbeat_interval = 1", "heartbeat_interval = soon")
        )

    assert amphora.agent.config_file.read_bytes() == before
    assert health.fresh()["id"] == amphora.model.id


def test_a_new_agent_certificate_is_presented_on_the_next_connection(amphora: Amphora) -> None:
    agent, driver = amphora.agent, amphora.worker.driver
    pids = agent.pids()
    renewed = agent.pki.server_authority.issue(amphora.model.id, dns=[amphora.model.id])

    driver.upload_cert_amp(amphora.model, renewed.pem)

    peer = agent.get("/1.0/info").peer
    assert peer is not None
    assert peer.serial == renewed.serial
    # On the session that is open, and on a new one.
    assert driver.get_info(amphora.model)
    assert type(driver)().get_info(amphora.model)
    assert agent.pids() == pids


def test_a_foreign_or_broken_agent_certificate_is_refused(amphora: Amphora) -> None:
    agent, driver = amphora.agent, amphora.worker.driver
    renewed = agent.pki.server_authority.issue(amphora.model.id, dns=[amphora.model.id])
    other = agent.pki.server_authority.issue(amphora.model.id, dns=[amphora.model.id])

    for unusable in (renewed.certificate, renewed.certificate + other.key, renewed.pem[:-300]):
        with pytest.raises((exceptions.InvalidRequest, exceptions.InternalServerError)):
            driver.upload_cert_amp(amphora.model, unusable)

    peer = agent.get("/1.0/info").peer
    assert peer is not None
    assert peer.serial == agent.pki.server.serial


@needs_interface_look_up
def test_the_interface_of_an_address_is_found(amphora: Amphora) -> None:
    driver = amphora.worker.driver
    amphora.serve(VIP_V6, VIP_SUBNET_V6)

    for address in (VIP_V6, "2001:0DB8:0001:0000:0000:0000:0000:0005", amphora.model.vrrp_ip):
        assert driver.get_interface_from_ip(amphora.model, address) == "eth1"
    assert driver.get_interface_from_ip(amphora.model, "10.2.0.4") == "eth2"
    for absent in ("192.0.2.1", "2001:db8::dead"):
        with pytest.raises(exceptions.NotFound):
            driver.get_interface_from_ip(amphora.model, absent)


@pytest.mark.api_1_0("acts on the load balancer")
def test_start_stop_and_reload(
    amphora: Amphora, client: Namespace, webs: dict[str, Backend]
) -> None:
    driver, model = amphora.worker.driver, amphora.model
    balancer = amphora.serve()
    listener = loadbalancers.listener(balancer, "HTTP", 80)
    loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    amphora.worker.deploy(balancer)

    driver.reload(balancer, model)
    assert get(client, VIP, 80).status == 200

    # The driver has no word for it, its client has.
    amphora.worker.client_of(model)._action("stop", model, balancer.id)
    with pytest.raises(ConnectionRefusedError):
        get(client, VIP, 80)
    driver.start(balancer, model)
    assert get(client, VIP, 80).status == 200

    amphora.worker.client_of(model)._action("stop", model, balancer.id)
    driver.reload(balancer)
    assert get(client, VIP, 80).status == 200
    driver.start(balancer)
    assert get(client, VIP, 80).status == 200


def test_actions_on_what_is_not_there_are_not_found(amphora: Amphora) -> None:
    amphora.worker.driver.get_info(amphora.model)
    api = amphora.worker.client_of(amphora.model)
    for action in ("start", "stop", "reload"):
        with pytest.raises(exceptions.NotFound):
            api._action(action, amphora.model, loadbalancers.new_id())
    with pytest.raises((exceptions.InvalidRequest, exceptions.NotFound)):
        api._action("explode", amphora.model, loadbalancers.new_id())


def test_a_restart_of_the_agent_is_not_noticed(
    amphora: Amphora, health: HealthManager, client: Namespace, webs: dict[str, Backend]
) -> None:
    balancer = amphora.serve()
    listener = loadbalancers.listener(balancer, "HTTP", 80)
    pool = loadbalancers.pool(listener, "HTTP", [(WEB1, 80)])
    amphora.worker.deploy(balancer)

    amphora.agent.kill()
    assert get(client, VIP, 80).status == 200
    amphora.agent.start()

    loadbalancers.member(pool, WEB2, 80)
    amphora.worker.deploy(balancer)
    assert {get(client, VIP, 80).json()["name"] for _ in range(4)} == {"web1", "web2"}
    health.wait_for(lambda _: listener.operating_status == constants.ONLINE)


class Introduction(http.server.BaseHTTPRequestHandler):
    """Answers as an agent of whatever age."""

    def do_GET(self) -> None:
        body = b'{"api_version": "1.0"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Be silent."""


def test_a4_our_client_takes_a_certificate_from_before_the_key_identifier(tmp_path: Path) -> None:
    """Controllers before 14.0.2 issued such ones, which Python 3.13 refuses if left to itself."""
    authority = Authority.create("old", key="ec")
    issued = authority.issue("amphora-1", dns=["amphora-1"], key="ec", key_identifier=False)
    server_pem, ca = tmp_path / "server.pem", tmp_path / "ca.pem"
    write_private(server_pem, issued.pem)
    ca.write_bytes(authority.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_pem)
    with http.server.HTTPServer(("127.0.0.1", 0), Introduction) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            url = f"https://127.0.0.1:{server.server_port}"
            client = AmphoraClient(url, "amphora-1", server_pem, ca, timeout=10)
            assert client.info()["api_version"] == "1.0"
        finally:
            server.shutdown()
            thread.join()
