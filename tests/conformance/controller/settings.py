"""The controller's `octavia.conf`, and the agent's file that the controller makes of it."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from octavia.amphorae.backends.agent.agent_jinja_cfg import AgentJinjaTemplater
from octavia.certificates.common import local  # noqa: F401  (registers storage_path)
from octavia.common.config import cfg
from oslo_log import log

from lab.agent import AgentProcess

#: haproxy refuses to start when a listener's limit needs more file descriptors than the machine
#: allows; Octavia's default of 50,000 for each listener is meant for a machine of its own.
CONNECTION_LIMIT = 200

HEARTBEAT_KEY = "conformance-heartbeat-key"

# `debug` and its kind, which every Octavia service registers when it starts.
log.register_options(cfg.CONF)


@contextmanager
def in_force(agent: AgentProcess) -> Iterator[None]:
    """Octavia's configuration, read from a file, for a deployment whose amphora is `agent`."""
    secrets = agent.directory / "secrets"
    secrets.mkdir(parents=True)
    file = agent.directory / "octavia.conf"
    file.write_text(
        f"""\
[haproxy_amphora]
client_cert = {agent.pki.controller_pem}
server_ca = {agent.pki.server_ca}
bind_host = 127.0.0.1
bind_port = {agent.port}
base_path = {agent.base_path}
base_cert_dir = {agent.cert_path}
haproxy_cmd = /usr/sbin/haproxy
connection_max_retries = 2
connection_retry_interval = 1
default_connection_limit = {CONNECTION_LIMIT}

[amphora_agent]
agent_server_ca = {agent.pki.client_ca}
agent_server_cert = {agent.pki.server_pem}
agent_server_network_dir = {agent.network_path}

[health_manager]
bind_ip = 127.0.0.1
bind_port = 0
heartbeat_key = {HEARTBEAT_KEY}
heartbeat_interval = 1

[certificates]
cert_manager = local_cert_manager
storage_path = {secrets}

[controller_worker]
loadbalancer_topology = SINGLE
""",
        encoding="utf-8",
    )
    cfg.CONF(args=["--config-file", str(file)], project="octavia", default_config_dirs=[])
    try:
        yield
    finally:
        cfg.CONF.reset()


@contextmanager
def heartbeats(to: Sequence[str], *, interval: int = 1, key: str = HEARTBEAT_KEY) -> Iterator[None]:
    """What the controller writes about heartbeats into an agent's file meanwhile."""
    changed = {
        "controller_ip_port_list": list(to),
        "heartbeat_interval": interval,
        "heartbeat_key": key,
    }
    for name, value in changed.items():
        cfg.CONF.set_override(name, value, group="health_manager")
    try:
        yield
    finally:
        for name in changed:
            cfg.CONF.clear_override(name, group="health_manager")


def agent_configuration(
    amphora_id: str,
    *,
    heartbeats_to: Sequence[str],
    heartbeat_interval: int = 1,
    heartbeat_key: str = HEARTBEAT_KEY,
) -> str:
    """The agent's INI file as the controller renders it for the config drive and for updates."""
    with heartbeats(heartbeats_to, interval=heartbeat_interval, key=heartbeat_key):
        build = AgentJinjaTemplater().build_agent_config
        topology = cfg.CONF.controller_worker.loadbalancer_topology
        # Old releases take the topology from the settings by themselves.
        taken = len(inspect.signature(build).parameters)
        return str(build(*(amphora_id, topology)[:taken]))
