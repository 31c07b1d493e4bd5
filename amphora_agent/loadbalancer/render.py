"""Render a load balancer as files: one a listener, one a pool, one for what they share; and one
for each of keepalived's listeners.

A file depends on nothing but the values that it is made of, the places among them: who keeps these
need not have it made again.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import groupby
from typing import NamedTuple

import msgspec

from amphora_agent import templates
from amphora_agent.loadbalancer.translate.certificate_files import name_file
from amphora_agent.loadbalancer.translate.to_haproxy import Backend, Frontend, Process
from amphora_agent.loadbalancer.translate.to_lvs import VirtualServer
from amphora_agent.model.loadbalancer import METRICS_BACKEND

#: JSON that is the same for the same value.
CANONICAL = msgspec.json.Encoder(enc_hook=str, order="deterministic")

#: What Octavia logs of a connection (`[haproxy_amphora] user_log_format`).
_LOG_FORMAT = (
    "{project} {lb} %f %ci %cp %t %{{+Q}}r %ST %B %U %[ssl_c_verify] %{{+Q}}[ssl_c_s_dn]"
    " %b %s %Tt %tsc"
)


class Text(NamedTuple):
    """A file; `made` makes it. `mark` is a digest of what it is made of."""

    mark: str
    made: Callable[[], str]


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
        return f"{self.certificates}/{name_file(name, purpose)}"

    def allowed(self, listener_id: str) -> str:
        """Return the file of the networks that may connect to a listener."""
        return f"{self.configuration}/{_name_allowed(listener_id)}"

    def log_format(self, listener: Frontend) -> str:
        text = _LOG_FORMAT.format(project=self.project_id or "-", lb=self.loadbalancer_id)
        if listener.mode == "tcp":
            # There is no request in it.
            text = text.replace("%{+Q}r", "-").replace("%ST", "-")
        return text


class WantedProcess(NamedTuple):
    """A process of haproxy. Its files are below `prefix` in those of the load balancer: "" or
    "<id>/". It is configured for `asked` connections; `process` has as many as there can be."""

    prefix: str
    places: Places
    process: Process
    asked: int


def render_process(process: Process, places: Places) -> Iterator[tuple[str, Text]]:
    """Yield the files of one haproxy, each with its name."""
    head = process._replace(frontends=(), backends=())
    yield "haproxy.cfg", _text("process.cfg.j2", places, process=head, metrics=METRICS_BACKEND)
    for listener in process.frontends:
        name = f"listener-{listener.id}.cfg"
        yield name, _text("listener.cfg.j2", places, listener=listener)
        if listener.allowed is not None:
            networks = "".join(f"{network}\n" for network in listener.allowed)
            yield _name_allowed(listener.id), Text(_make_mark(networks), partial(str, networks))
    for pool_id, backends in groupby(process.backends, key=lambda backend: backend.pool_id):
        yield f"pool-{pool_id}.cfg", render_pool(tuple(backends), places)


def render_pool(backends: Sequence[Backend], places: Places) -> Text:
    """Render all backends of one pool."""
    return _text("pool.cfg.j2", places, pools=backends)


def render_layer4(listener: VirtualServer, places: Places) -> Text:
    """Render what keepalived is told of a UDP or SCTP listener."""
    return _text("keepalivedlvs.conf.j2", places, listener=listener)


def join_texts(texts: Sequence[Text]) -> Text:
    """Return one file of several."""
    marks = [text.mark for text in texts]
    return Text(_make_mark(marks), lambda: "".join(text.made() for text in texts))


def _make_mark(*values: object) -> str:
    return hashlib.sha256(CANONICAL.encode(values)).hexdigest()[:32]


def _name_allowed(listener_id: str) -> str:
    """Name the file of the networks that may connect to a listener."""
    return f"{listener_id}.cidrs"


def _text(template: str, places: Places, **values: object) -> Text:
    @cache  # a file of several has it, too
    def render() -> str:
        return templates.render(
            "haproxy_templates", template, filters=_FILTERS, places=places, **values
        )

    return Text(_make_mark(places, values), render)


#: What stands for itself, as one word, wherever it stands.
_PLAIN = re.compile(r"[0-9A-Za-z_./:@+=,-]+")


def quote_word(value: object) -> str:
    """Quote a value as one word: haproxy reads exactly these characters.

    Inside single quotes nothing is special; a single quote itself is written between them.
    """
    text = str(value)
    if any(character < " " or character == "\x7f" for character in text):
        raise ValueError("a control character cannot be quoted")
    if _PLAIN.fullmatch(text):
        return text
    return "'" + text.replace("'", r"'\''") + "'"


def quote_literal(value: object) -> str:
    """Quote a value where haproxy expects a log-format: nothing in it is a variable."""
    return quote_word(str(value).replace("%", "%%"))


_FILTERS = {"word": quote_word, "literal": quote_literal}
