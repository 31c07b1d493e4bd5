"""Render a load balancer as files: one a listener, one a pool, one for what they share; and one
for each of keepalived's listeners.

A file depends on nothing but the value that it is made of and on the places: who keeps both need
not have it made again.
"""

from collections.abc import Sequence
from typing import NamedTuple

from amphora_agent import templates
from amphora_agent.loadbalancer.translate import names
from amphora_agent.loadbalancer.translate.backends import Backend
from amphora_agent.loadbalancer.translate.frontends import Frontend
from amphora_agent.loadbalancer.translate.to_haproxy import Process
from amphora_agent.loadbalancer.translate.to_lvs import VirtualServer
from amphora_agent.model.loadbalancer import METRICS_BACKEND

_FOLDER = "haproxy_templates"

#: What Octavia logs of a connection (`[haproxy_amphora] user_log_format`).
_LOG_FORMAT = (
    "{project} {lb} %f %ci %cp %t %{{+Q}}r %ST %B %U %[ssl_c_verify] %{{+Q}}[ssl_c_s_dn]"
    " %b %s %Tt %tsc"
)


class Places(NamedTuple):
    """Where the files of one process are, and what it runs as. Directories end without a slash.

    `namespace` and `udp_check` are for keepalived: where it works, and its check of UDP members.
    """

    loadbalancer_id: str
    project_id: str
    configuration: str
    certificates: str
    stats_socket: str
    state_file: str
    ping_wrapper: str
    log: str
    user: str
    group: str
    hard_stop_after: str
    max_reloads: int
    #: Milliseconds until new members are checked for the first time.
    first_check: int
    namespace: str
    udp_check: str

    def certificate(self, name: str, purpose: str = "") -> str:
        """Return the certificate file of an object; without a purpose a listener's crt-list."""
        return f"{self.certificates}/{names.certificate(name, purpose)}"

    def allowed(self, listener_id: str) -> str:
        """Return the file of the networks that may connect to a listener."""
        return f"{self.configuration}/{names.allowed(listener_id)}"

    def log_format(self, listener: Frontend) -> str:
        text = _LOG_FORMAT.format(project=self.project_id or "-", lb=self.loadbalancer_id)
        if listener.mode == "tcp":
            # There is no request in it.
            text = text.replace("%{+Q}r", "-").replace("%ST", "-")
        return text


def render_process(process: Process, places: Places) -> str:
    """Render what the listeners of one haproxy share."""
    return _text("process.cfg.j2", process=process, places=places, metrics=METRICS_BACKEND)


def render_listener(listener: Frontend, places: Places) -> str:
    return _text("listener.cfg.j2", listener=listener, places=places)


def render_allowed(networks: Sequence[str]) -> str:
    """Render the list of networks that may connect to a listener."""
    return "".join(f"{network}\n" for network in networks)


def render_pool(backends: Sequence[Backend], places: Places) -> str:
    """Render all backends of one pool."""
    return _text("pool.cfg.j2", pools=backends, places=places)


def render_layer4(listener: VirtualServer, places: Places) -> str:
    """Render what keepalived is told of a UDP or SCTP listener."""
    return _text("keepalivedlvs.conf.j2", listener=listener, places=places)


def _text(template: str, **values: object) -> str:
    return templates.render(_FOLDER, template, filters=_FILTERS, **values)


_FILTERS = {"word": names.word, "literal": names.literal}
