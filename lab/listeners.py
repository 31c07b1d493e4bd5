"""haproxy configurations of the shape that Octavia's controller sends to API 1.0.

One configuration holds one load balancer: a frontend named by the listener's id, a backend named
``<pool id>:<listener id>``, a server named by the member's id. These are pure functions; what they
leave out (L7 policies, persistence, TLS to members) is tested with the controller's own renderer.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ListenerKind = Literal["HTTP", "TERMINATED_HTTPS", "TCP"]

_NAMES = uuid.UUID("5b0c4d1e-6f0c-4b57-9d3a-2f2f1f1d7a10")

# The controller's defaults (haproxy_amphora.timeout_*, and the cipher and version defaults of
# api_settings).
TIMEOUT_CLIENT = _TIMEOUT_SERVER = 50000
_TIMEOUT_CONNECT = 5000
# Not the controller's 50000: haproxy wants two file descriptors for each, and does not start where
# a container allows it only 20000.
CONNECTION_LIMIT = 2000
_MAXCONN_LIMIT = 1000000
_CIPHERS = ":".join(
    f"{exchange}-{cipher}"
    for exchange in ("DHE-RSA", "ECDHE-ECDSA", "ECDHE-RSA")
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
)
_CIPHERSUITES = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
_LOG_FIELDS = "%f %ci %cp %t %{+Q}r %ST %B %U %[ssl_c_verify] %{+Q}[ssl_c_s_dn] %b %s %Tt %tsc"
_PEER_PORT = 1025


@dataclass(frozen=True)
class HealthMonitor:
    """Times in seconds. ``program`` is what checks a member of type PING, ``port`` another one than
    where members serve."""

    type: Literal["HTTP", "HTTPS", "TCP", "TLS-HELLO", "PING"] = "HTTP"
    delay: int = 1
    timeout: int = 1
    fall: int = 2
    rise: int = 2
    path: str = "/health"
    expected: str = "200"
    program: str = "/var/lib/octavia/ping-wrapper.sh"
    port: int | None = None


@dataclass(frozen=True)
class Member:
    id: str
    address: str
    port: int
    weight: int = 1
    backup: bool = False
    enabled: bool = True


@dataclass(frozen=True)
class Pool:
    id: str
    members: tuple[Member, ...]
    monitor: HealthMonitor | None = None
    algorithm: Literal["roundrobin", "leastconn", "source"] = "roundrobin"
    proxy_protocol: Literal["", "send-proxy", "send-proxy-v2"] = ""


@dataclass(frozen=True)
class Listener:
    """``crt_list`` is the absolute path of the crt-list file, for TERMINATED_HTTPS."""

    id: str
    port: int
    pool: Pool | None = None
    kind: ListenerKind = "HTTP"
    crt_list: str = ""
    connection_limit: int = CONNECTION_LIMIT
    client_ca: str = ""
    client_crl: str = ""
    insert_forwarded: bool = False

    @property
    def mode(self) -> str:
        return "tcp" if self.kind == "TCP" else "http"


@dataclass(frozen=True)
class Peer:
    """One amphora of an ACTIVE_STANDBY pair."""

    amphora_id: str
    address: str


def stable_id(name: str) -> str:
    """The same UUID for the same name, always: ids that can be told apart in a log."""
    return str(uuid.uuid5(_NAMES, name))


def peer_name(amphora_id: str) -> str:
    """What haproxy is started with (``-L``), and the ``peers`` section calls this amphora."""
    digest = hashlib.sha1(amphora_id.encode(), usedforsecurity=False).digest()
    name = base64.b64encode(digest, altchars=b"_-").decode().rstrip("=")
    return f"x{name[1:]}" if name.startswith("-") else name


def crt_list(certificate_paths: Sequence[str]) -> str:
    """The file that a TERMINATED_HTTPS listener's bind line names."""
    return "".join(f"{path}\n" for path in certificate_paths)


def loadbalancer(
    lb_id: str,
    *,
    vip: str,
    listeners: Sequence[Listener],
    base_path: str = "/var/lib/octavia",
    additional_vips: Sequence[str] = (),
    peers: Sequence[Peer] = (),
    project_id: str = "demo-project",
    ssl_cache: int | None = None,
    timeout_client: int = TIMEOUT_CLIENT,
) -> str:
    """Return the whole configuration.

    ``ssl_cache`` is ``tune.ssl.cachesize``, in blocks of 250 bytes; ``timeout_client`` is in
    milliseconds, and another one takes a reload.
    """
    limits = sum(listener.connection_limit for listener in listeners)
    lines = [f"# Configuration for loadbalancer {lb_id}"]
    lines += _section(
        "global",
        "daemon",
        "user nobody",
        "log /run/rsyslog/octavia/log local0",
        "log /run/rsyslog/octavia/log local1 notice",
        f"stats socket {base_path}/{lb_id}.sock mode 0666 level user",
        f"server-state-file {base_path}/{lb_id}/servers-state",
        f"maxconn {limits if 0 < limits < _MAXCONN_LIMIT else _MAXCONN_LIMIT}",
        f"tune.ssl.cachesize {ssl_cache}" if ssl_cache else "",
        *(("external-check", "insecure-fork-wanted") if _pings(listeners) else ()),
    )
    lines += _section(
        "defaults",
        "log global",
        "retries 3",
        "option redispatch",
        "option splice-request",
        "option splice-response",
        "option http-keep-alive",
    )
    if peers:
        lines += _section(
            f"peers {lb_id.replace('-', '')}_peers",
            *(f"peer {peer_name(peer.amphora_id)} {peer.address}:{_PEER_PORT}" for peer in peers),
        )
    log_format = f"{project_id} {lb_id} {_LOG_FIELDS}"
    for listener in listeners:
        lines += _frontend(listener, [vip, *additional_vips], log_format, timeout_client)
        if listener.pool is not None:
            lines += _backend(listener, listener.pool)
    return "\n".join(lines)


def http_listener(
    name: str,
    *,
    port: int = 80,
    members: Sequence[tuple[str, int]],
    monitor: HealthMonitor | None = None,
    kind: ListenerKind = "HTTP",
    crt_list: str = "",
    connection_limit: int = CONNECTION_LIMIT,
) -> Listener:
    """A listener with one pool, whose ids all follow from a name; members are (address, port)."""
    pool = Pool(
        id=stable_id(f"{name} pool"),
        members=tuple(
            Member(stable_id(f"{name} member {address}:{member_port}"), address, member_port)
            for address, member_port in members
        ),
        monitor=monitor,
    )
    return Listener(
        id=stable_id(name),
        port=port,
        pool=pool,
        kind=kind,
        crt_list=crt_list,
        connection_limit=connection_limit,
    )


def many_listeners(
    count: int,
    *,
    members: Sequence[tuple[str, int]],
    first_port: int = 10000,
    monitor: HealthMonitor | None = None,
    connection_limit: int = 8,
) -> list[Listener]:
    """HTTP listeners on ports that follow each other, each with a pool of the same members.

    The connection limit is small because the process allows the sum of all.
    """
    return [
        http_listener(
            f"listener {number}",
            port=first_port + number,
            members=members,
            monitor=monitor,
            connection_limit=connection_limit,
        )
        for number in range(count)
    ]


def _pings(listeners: Sequence[Listener]) -> bool:
    monitors = [listener.pool.monitor for listener in listeners if listener.pool]
    return any(monitor and monitor.type == "PING" for monitor in monitors)


def _section(head: str, *directives: str) -> list[str]:
    return [head, *(f"    {directive}" for directive in directives if directive), ""]


def _frontend(
    listener: Listener, addresses: Sequence[str], log_format: str, timeout_client: int
) -> list[str]:
    limit = listener.connection_limit
    options = _bind_options(listener)
    terminated = listener.kind == "TERMINATED_HTTPS"
    if listener.mode == "tcp":
        log_format = log_format.replace("%{+Q}r", "-").replace("%ST", "-")
    return _section(
        f"frontend {listener.id}",
        f"maxconn {limit}",
        "redirect scheme https if !{ ssl_fc }" if terminated else "",
        *(f"bind {address}:{listener.port}{options}" for address in addresses),
        f"mode {listener.mode}",
        f"default_backend {listener.pool.id}:{listener.id}" if listener.pool else "",
        f"timeout client {timeout_client}",
        "log-format " + log_format.replace(" ", "\\ "),
    )


def _bind_options(listener: Listener) -> str:
    if listener.kind != "TERMINATED_HTTPS":
        return ""
    options = f" ssl crt-list {listener.crt_list}"
    if listener.client_ca:
        options += f" ca-file {listener.client_ca} verify required"
        if listener.client_crl:
            options += f" crl-file {listener.client_crl}"
    options += f" ciphers {_CIPHERS} ciphersuites {_CIPHERSUITES}"
    return options + " no-sslv3 no-tlsv10 no-tlsv11 alpn h2,http/1.1,http/1.0"


def _backend(listener: Listener, pool: Pool) -> list[str]:
    monitor = pool.monitor
    http = listener.mode == "http"
    forwarded_protocol = "https" if listener.kind == "TERMINATED_HTTPS" else "http"
    return _section(
        f"backend {pool.id}:{listener.id}",
        f"mode {listener.mode}",
        "http-reuse safe" if http else "",
        f"balance {pool.algorithm}",
        *(_monitor(monitor) if monitor else ()),
        *(
            (
                "option forwardfor",
                "http-request set-header X-Forwarded-Port %[dst_port]",
                f"http-request set-header X-Forwarded-Proto {forwarded_protocol}",
            )
            if http and listener.insert_forwarded
            else ()
        ),
        f"fullconn {listener.connection_limit}",
        "option allbackups",
        f"timeout connect {_TIMEOUT_CONNECT}",
        f"timeout server {_TIMEOUT_SERVER}",
        *(_server(pool, member) for member in pool.members),
    )


def _monitor(monitor: HealthMonitor) -> tuple[str, ...]:
    http = (
        f"option httpchk GET {monitor.path}",
        f"http-check expect rstatus {monitor.expected}",
    )
    ping = ("option external-check", f"external-check command {monitor.program}")
    return (
        "load-server-state-from-file global",
        f"timeout check {monitor.timeout}s",
        *(http if monitor.type in ("HTTP", "HTTPS") else ()),
        *(("option ssl-hello-chk",) if monitor.type == "TLS-HELLO" else ()),
        *(ping if monitor.type == "PING" else ()),
    )


def _server(pool: Pool, member: Member) -> str:
    monitor = pool.monitor
    words = [f"server {member.id} {member.address}:{member.port} weight {member.weight}"]
    if monitor:
        words.append("check check-ssl verify none" if monitor.type == "HTTPS" else "check")
        words.append(f"inter {monitor.delay}s fall {monitor.fall} rise {monitor.rise}")
        words += [f"port {monitor.port}"] if monitor.port else []
    words += [pool.proxy_protocol] if pool.proxy_protocol else []
    words += ["backup"] if member.backup else []
    words += [] if member.enabled else ["disabled"]
    return " ".join(words)
