"""Translate a pool to haproxy's terms: a backend for each use of it; and TLS of both sides."""

from typing import NamedTuple

from amphora_agent.model.addressing import format_endpoint, with_brackets
from amphora_agent.model.loadbalancer import (
    Algorithm,
    InsertHeader,
    Listener,
    ListenerProtocol,
    PersistenceType,
    Pool,
    PoolProtocol,
    TlsVersion,
)
from amphora_agent.model.resolved import (
    HealthCheck,
    ResolvedListener,
    ResolvedMember,
    ResolvedPool,
)

_BALANCE = {
    Algorithm.LEAST_CONNECTIONS: "leastconn",
    Algorithm.ROUND_ROBIN: "roundrobin",
    Algorithm.SOURCE_IP: "source",
    Algorithm.SOURCE_IP_PORT: "hash src,concat(:,sess.source_port)",
}
#: What each header is set to, as a log-format; None: haproxy has an option for it.
_HEADER_VALUES = {
    InsertHeader.CLIENT_IP: "%[src]",
    InsertHeader.FORWARDED_FOR: None,
    InsertHeader.FORWARDED_IP: "%[src]",
    InsertHeader.FORWARDED_PORT: "%[dst_port]",
    InsertHeader.FORWARDED_PROTO: "%[ssl_fc,iif(https,http)]",
    InsertHeader.REAL_IP: "%[src]",
    InsertHeader.SSL_CLIENT_CN: "%{+Q}[ssl_c_s_dn(cn)]",
    InsertHeader.SSL_CLIENT_DN: "%{+Q}[ssl_c_s_dn]",
    InsertHeader.SSL_CLIENT_HAS_CERT: "%[ssl_c_used]",
    InsertHeader.SSL_CLIENT_NOT_AFTER: "%{+Q}[ssl_c_notafter]",
    InsertHeader.SSL_CLIENT_NOT_BEFORE: "%{+Q}[ssl_c_notbefore]",
    InsertHeader.SSL_CLIENT_SHA1: "%{+Q}[ssl_c_sha1,hex]",
    InsertHeader.SSL_CLIENT_VERIFY: "%[ssl_c_verify]",
    InsertHeader.SSL_ISSUER: "%{+Q}[ssl_c_i_dn]",
}
_TLS13 = "TLS_"
_VERSION_OPTIONS = {
    TlsVersion.SSLV3: "no-sslv3",
    TlsVersion.TLSV1: "no-tlsv10",
    TlsVersion.TLSV1_1: "no-tlsv11",
    TlsVersion.TLSV1_2: "no-tlsv12",
    TlsVersion.TLSV1_3: "no-tlsv13",
}


class Tls(NamedTuple):
    """What both ends of TLS can be told."""

    ciphers: str
    ciphersuites: str
    without: tuple[str, ...]
    alpn: str


def translate_tls(thing: Listener | Pool) -> Tls:
    """Return what a listener says to clients, a pool to members."""
    suites = (thing.tls_ciphers or "").split(":")
    versions = thing.tls_versions
    without = (
        ()
        if versions is None
        else tuple(
            option for version, option in _VERSION_OPTIONS.items() if version not in versions
        )
    )
    return Tls(
        ciphers=":".join(name for name in suites if not name.startswith(_TLS13)),
        ciphersuites=":".join(name for name in suites if name.startswith(_TLS13)),
        without=without,
        alpn=",".join(thing.alpn_protocols or ()),
    )


class BackendServer(NamedTuple):
    id: str
    address: str
    weight: int
    backup: bool
    disabled: bool
    check_address: str
    check_port: int | None


class Backend(NamedTuple):
    """A pool, as some listeners use it. `tracked` is the backend whose checks decide for this one's
    servers; "" for its own. `headers` are added to requests; their values are log-formats."""

    id: str
    pool_id: str
    mode: str
    balance: str
    persistence: PersistenceType | None
    cookie: str
    check: HealthCheck | None
    tracked: str
    send_proxy: str
    forwards_for: bool
    headers: tuple[tuple[str, str], ...]
    tls: Tls | None
    has_client_certificate: bool
    has_ca: bool
    has_crl: bool
    connect_timeout: int
    server_timeout: int
    servers: tuple[BackendServer, ...]


class Use(NamedTuple):
    """What a listener brings to a backend that it uses; where this differs, backends do.

    Headers are among it: in a frontend they would be added before its policies look at requests.
    """

    mode: str
    tells_tls: bool
    insert_headers: tuple[InsertHeader, ...]
    connect_timeout: int
    server_timeout: int


def find_use(listener: ResolvedListener, pool: ResolvedPool) -> Use:
    """Return how this listener uses this pool."""
    by_proxy = pool.protocol in (PoolProtocol.PROXY, PoolProtocol.PROXYV2)
    http = listener.reads_http if by_proxy else pool.protocol is PoolProtocol.HTTP
    terminates = listener.protocol is ListenerProtocol.TERMINATED_HTTPS
    return Use(
        mode="http" if http else "tcp",
        tells_tls=terminates and pool.protocol is PoolProtocol.PROXYV2,
        insert_headers=tuple(sorted(listener.added_headers)),
        connect_timeout=listener.timeout_member_connect,
        server_timeout=listener.timeout_member_data,
    )


def translate_pool(pool: ResolvedPool, name: str, use: Use, *, first: bool) -> Backend:
    """Return the backend that a pool is in one use; the first one's checks decide for all."""
    persistence = pool.session_persistence
    if persistence and persistence.type is not PersistenceType.SOURCE_IP and use.mode == "tcp":
        persistence = None
    return Backend(
        id=name,
        pool_id=pool.pool_id,
        mode=use.mode,
        balance=_BALANCE[pool.lb_algorithm],
        persistence=persistence.type if persistence else None,
        cookie=(persistence.cookie_name or "") if persistence else "",
        check=pool.check,
        tracked="" if first or not pool.check else pool.pool_id,
        send_proxy=_send_proxy(pool, use),
        forwards_for=InsertHeader.FORWARDED_FOR in use.insert_headers,
        headers=tuple(
            (str(header), value)
            for header in use.insert_headers
            if (value := _HEADER_VALUES[header]) is not None
        ),
        tls=translate_tls(pool) if pool.tls_enabled else None,
        has_client_certificate=bool(pool.tls_container_data or pool.tls_container_ref),
        has_ca=pool.has_ca,
        has_crl=pool.has_crl,
        connect_timeout=use.connect_timeout,
        server_timeout=use.server_timeout,
        servers=tuple(map(_server, pool.members)),
    )


def _send_proxy(pool: ResolvedPool, use: Use) -> str:
    if pool.protocol is PoolProtocol.PROXY:
        return "send-proxy"
    if pool.protocol is PoolProtocol.PROXYV2:
        return "send-proxy-v2-ssl-cn" if use.tells_tls else "send-proxy-v2"
    return ""


def _server(member: ResolvedMember) -> BackendServer:
    return BackendServer(
        id=member.member_id,
        address=format_endpoint(member.address, member.protocol_port),
        weight=member.weight,
        backup=bool(member.backup),
        disabled=not member.admin_state_up,
        check_address=with_brackets(member.monitor_address) if member.monitor_address else "",
        check_port=member.monitor_port,
    )
