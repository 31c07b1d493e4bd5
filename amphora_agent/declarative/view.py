"""A load balancer in haproxy's terms: which frontends and backends it is, and what each says.

Octavia's objects are turned into flat values; the templates only write them down. What is
administratively down is not there, except members, which haproxy knows as disabled.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from amphora_agent.model import consistency
from amphora_agent.model.addressing import Address
from amphora_agent.model.loadbalancer import (
    Action,
    Algorithm,
    ClientAuthentication,
    CompareType,
    HealthMonitor,
    HttpMethod,
    InsertHeader,
    L7Policy,
    L7Rule,
    Listener,
    ListenerProtocol,
    LoadBalancer,
    Member,
    MonitorType,
    PersistenceType,
    Pool,
    PoolProtocol,
    RuleType,
    TlsVersion,
)

#: The controller's defaults (`[haproxy_amphora] timeout_*`), in milliseconds.
_CLIENT_TIMEOUT = _SERVER_TIMEOUT = 50_000
_CONNECT_TIMEOUT = 5_000
#: The controller's default (`default_connection_limit`), and what it ever asks for.
_CONNECTIONS, _MOST_CONNECTIONS = 50_000, 1_000_000
#: Octavia's default (`max_retries_down`).
_FALL = 3
_TLS13 = "TLS_"

_HTTP = frozenset(
    {ListenerProtocol.HTTP, ListenerProtocol.PROMETHEUS, ListenerProtocol.TERMINATED_HTTPS}
)

_BALANCE = {
    Algorithm.LEAST_CONNECTIONS: "leastconn",
    Algorithm.ROUND_ROBIN: "roundrobin",
    Algorithm.SOURCE_IP: "source",
    Algorithm.SOURCE_IP_PORT: "hash src,concat(:,sess.source_port)",
}
_MATCH = {
    CompareType.CONTAINS: "sub",
    CompareType.ENDS_WITH: "end",
    CompareType.EQUAL_TO: "str",
    CompareType.REGEX: "reg",
    CompareType.STARTS_WITH: "beg",
}
_FETCH = {
    RuleType.COOKIE: "req.cook({})",
    RuleType.FILE_TYPE: "path",
    RuleType.HEADER: "req.hdr({})",
    RuleType.HOST_NAME: "req.hdr(host)",
    RuleType.PATH: "path",
    RuleType.SSL_CONN_HAS_CERT: "ssl_c_used",
    RuleType.SSL_DN_FIELD: "ssl_c_s_dn({})",
    RuleType.SSL_VERIFY_RESULT: "ssl_c_verify",
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
_VERIFY = {ClientAuthentication.MANDATORY: "required", ClientAuthentication.OPTIONAL: "optional"}
#: The order in which haproxy decides, whatever the order in which it is told.
_PRECEDENCE = {
    Action.REJECT: 0,
    Action.REDIRECT_PREFIX: 1,
    Action.REDIRECT_TO_URL: 1,
    Action.REDIRECT_TO_POOL: 2,
}
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


class Acl(NamedTuple):
    """`match` is haproxy's method (`-m`); "" where there is a number to compare with."""

    name: str
    fetch: str
    ignores_case: bool
    match: str
    value: str


class Policy(NamedTuple):
    """One statement; `condition` is made of the names of `acls`."""

    action: Action
    acls: tuple[Acl, ...]
    condition: str
    target: str
    code: int | None


class Frontend(NamedTuple):
    """A listener. `client_verify` is haproxy's word for it, "" when clients are not asked."""

    id: str
    mode: str
    binds: tuple[str, ...]
    connection_limit: int
    client_timeout: int
    inspect_delay: int
    allowed: tuple[str, ...] | None
    keeps_source_port: bool
    tls: Tls | None
    client_verify: str
    has_crl: bool
    hsts: str
    policies: tuple[Policy, ...]
    default_backend: str


class Check(NamedTuple):
    """A health monitor; times in seconds."""

    type: MonitorType
    timeout: int
    delay: int
    rise: int
    fall: int
    method: str
    path: str
    version: str
    host: str
    expected: str


class Server(NamedTuple):
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
    check: Check | None
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
    servers: tuple[Server, ...]


class Process(NamedTuple):
    """Everything that one haproxy has."""

    id: str
    frontends: tuple[Frontend, ...]
    backends: tuple[Backend, ...]
    connection_limit: int
    pings: bool
    serves_metrics: bool


class _Use(NamedTuple):
    """What a listener brings to a backend that it uses; where this differs, backends do.

    Headers are among it: in a frontend they would be added before its policies look at requests.
    """

    mode: str
    tells_tls: bool
    insert_headers: tuple[InsertHeader, ...]
    connect_timeout: int
    server_timeout: int


def is_up(
    thing: LoadBalancer | Listener | Pool | Member | L7Policy | L7Rule | HealthMonitor,
) -> bool:
    """Administratively; up is the default."""
    return thing.admin_state_up is not False


def whole(balancer: LoadBalancer) -> Process:
    """One process for all listeners."""
    listeners = balancer.listeners or () if is_up(balancer) else ()
    return _process(balancer, balancer.loadbalancer_id, listeners)


def each(balancer: LoadBalancer) -> Iterator[Process]:
    """One process for each listener, with pools of its own."""
    for listener in balancer.listeners or () if is_up(balancer) else ():
        if not consistency.is_layer4(listener):
            yield _process(balancer, listener.listener_id, (listener,))


def _process(balancer: LoadBalancer, name: str, listeners: tuple[Listener, ...]) -> Process:
    pools = {key: pool for key, pool in consistency.pools(balancer).items() if is_up(pool)}
    listeners = tuple(each for each in listeners if is_up(each) and not consistency.is_layer4(each))
    uses: dict[str, list[_Use]] = {}
    names: dict[tuple[str, _Use], str] = {}
    for listener in listeners:
        for pool_id in _pools_used(listener):
            if pool_id not in pools:
                continue
            use = _use(listener, pools[pool_id])
            if use not in uses.setdefault(pool_id, []):
                names[pool_id, use] = (
                    f"{pool_id}:{listener.listener_id}" if uses[pool_id] else pool_id
                )
                uses[pool_id].append(use)
    backends = tuple(
        _backend(pools[pool_id], names[pool_id, use], use, first=number == 0)
        for pool_id in uses
        for number, use in enumerate(uses[pool_id])
    )
    frontends = tuple(_frontend(each, vips(balancer), pools, names) for each in listeners)
    return Process(
        id=name,
        frontends=frontends,
        backends=backends,
        connection_limit=min(sum(each.connection_limit for each in frontends), _MOST_CONNECTIONS),
        pings=any(each.check and each.check.type is MonitorType.PING for each in backends),
        serves_metrics=any(each.protocol is ListenerProtocol.PROMETHEUS for each in listeners),
    )


def vips(balancer: LoadBalancer) -> tuple[Address, ...]:
    """Each once."""
    additional = (vip.ip_address for vip in balancer.additional_vips or ())
    return tuple(dict.fromkeys((balancer.vip_address, *additional)))


def _pools_used(listener: Listener) -> Iterator[str]:
    default = consistency.default_pool_id(listener)
    if default is not None:
        yield default
    for policy in _policies_in_order(listener):
        pool_id = consistency.redirect_pool_id(policy)
        if pool_id is not None:
            yield pool_id


def _policies_in_order(listener: Listener) -> list[L7Policy]:
    """Those that decide anything: up, with a rule that is up. In the order of their effect."""
    effective = [
        policy
        for policy in listener.l7policies or ()
        if is_up(policy) and any(is_up(rule) for rule in policy.rules or ())
    ]
    return sorted(effective, key=lambda each: (_PRECEDENCE[each.action], each.position or 0))


def _use(listener: Listener, pool: Pool) -> _Use:
    by_proxy = pool.protocol in (PoolProtocol.PROXY, PoolProtocol.PROXYV2)
    http = listener.protocol in _HTTP if by_proxy else pool.protocol is PoolProtocol.HTTP
    terminates = listener.protocol is ListenerProtocol.TERMINATED_HTTPS
    return _Use(
        mode="http" if http else "tcp",
        tells_tls=terminates and pool.protocol is PoolProtocol.PROXYV2,
        insert_headers=_insert_headers(listener),
        connect_timeout=listener.timeout_member_connect or _CONNECT_TIMEOUT,
        server_timeout=listener.timeout_member_data or _SERVER_TIMEOUT,
    )


def _frontend(
    listener: Listener,
    vips: tuple[Address, ...],
    pools: Mapping[str, Pool],
    names: Mapping[tuple[str, _Use], str],
) -> Frontend:
    def backend(pool_id: str | None) -> str:
        pool = pools.get(pool_id or "")
        return names[pool.pool_id, _use(listener, pool)] if pool else ""

    policies = []
    for policy in _policies_in_order(listener):
        target = backend(consistency.redirect_pool_id(policy))
        if policy.action is not Action.REDIRECT_TO_POOL or target:
            policies.append(_policy(policy, target))
    limit = listener.connection_limit or -1
    default = backend(consistency.default_pool_id(listener))
    if listener.protocol is ListenerProtocol.PROMETHEUS:
        default = consistency.METRICS
    cidrs = listener.allowed_cidrs
    used = [pools[each] for each in _pools_used(listener) if each in pools]
    return Frontend(
        id=listener.listener_id,
        mode="http" if listener.protocol in _HTTP else "tcp",
        binds=tuple(_endpoint(vip, listener.protocol_port) for vip in vips),
        connection_limit=min(limit, _MOST_CONNECTIONS) if limit > 0 else _CONNECTIONS,
        client_timeout=listener.timeout_client_data or _CLIENT_TIMEOUT,
        inspect_delay=listener.timeout_tcp_inspect or 0,
        allowed=tuple(map(str, cidrs)) if cidrs else None,
        keeps_source_port=any(pool.lb_algorithm is Algorithm.SOURCE_IP_PORT for pool in used),
        tls=_tls(listener) if consistency.terminates_tls(listener) else None,
        client_verify=_client_verify(listener),
        has_crl=bool(listener.client_crl_container_data or listener.client_crl_container_ref),
        hsts=_hsts(listener),
        policies=tuple(policies),
        default_backend=default,
    )


def _endpoint(address: Address, port: int) -> str:
    return f"{_host(address)}:{port}"


def _host(address: Address) -> str:
    """In brackets haproxy does not take the end of an IPv6 address for a port."""
    return f"[{address}]" if address.version == 6 else str(address)


def _insert_headers(listener: Listener) -> tuple[InsertHeader, ...]:
    wanted = listener.insert_headers or {}
    return tuple(sorted(header for header, value in wanted.items() if consistency.is_true(value)))


def _hsts(listener: Listener) -> str:
    if listener.hsts_max_age is None or listener.protocol is not ListenerProtocol.TERMINATED_HTTPS:
        return ""
    return (
        f"max-age={listener.hsts_max_age};"
        + (" includeSubDomains;" if listener.hsts_include_subdomains else "")
        + (" preload;" if listener.hsts_preload else "")
    )


def _client_verify(listener: Listener) -> str:
    has_ca = listener.client_ca_tls_container_data or listener.client_ca_tls_container_ref
    wanted = listener.client_authentication
    return _VERIFY.get(wanted, "") if has_ca and wanted else ""


def _tls(thing: Listener | Pool) -> Tls:
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


def _policy(policy: L7Policy, pool: str) -> Policy:
    rules = [rule for rule in policy.rules or () if is_up(rule)]
    return Policy(
        action=policy.action,
        acls=tuple(_acl(rule) for rule in rules),
        condition=" ".join(f"{'!' if rule.invert else ''}{_acl_name(rule)}" for rule in rules),
        target=pool or policy.redirect_url or policy.redirect_prefix or "",
        code=policy.redirect_http_code,
    )


def _acl_name(rule: L7Rule) -> str:
    """No word of conditions (`or`), nor an ACL that haproxy has (`TRUE`), whatever the id."""
    return f"rule-{rule.l7rule_id}"


def _acl(rule: L7Rule) -> Acl:
    match = _MATCH[rule.compare_type]
    value = consistency.compared_with(rule)
    if rule.type is RuleType.FILE_TYPE and rule.compare_type is CompareType.EQUAL_TO:
        match = "end"
    if rule.type in (RuleType.SSL_CONN_HAS_CERT, RuleType.SSL_VERIFY_RESULT):
        match = ""
    return Acl(
        name=_acl_name(rule),
        fetch=_FETCH[rule.type].format(rule.key),
        ignores_case=rule.type is RuleType.HOST_NAME,
        match=match,
        value="" if rule.type is RuleType.SSL_CONN_HAS_CERT else value,
    )


def _backend(pool: Pool, name: str, use: _Use, *, first: bool) -> Backend:
    monitor = pool.healthmonitor if pool.healthmonitor and is_up(pool.healthmonitor) else None
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
        check=_check(monitor) if monitor else None,
        tracked="" if first or not monitor else pool.pool_id,
        send_proxy=_send_proxy(pool, use),
        forwards_for=InsertHeader.FORWARDED_FOR in use.insert_headers,
        headers=tuple(
            (str(header), value)
            for header in use.insert_headers
            if (value := _HEADER_VALUES[header]) is not None
        ),
        tls=_tls(pool) if pool.tls_enabled else None,
        has_client_certificate=bool(pool.tls_container_data or pool.tls_container_ref),
        has_ca=bool(pool.ca_tls_container_data or pool.ca_tls_container_ref),
        has_crl=bool(pool.crl_container_data or pool.crl_container_ref),
        connect_timeout=use.connect_timeout,
        server_timeout=use.server_timeout,
        servers=tuple(_server(member) for member in pool.members or ()),
    )


def _send_proxy(pool: Pool, use: _Use) -> str:
    if pool.protocol is PoolProtocol.PROXY:
        return "send-proxy"
    if pool.protocol is PoolProtocol.PROXYV2:
        return "send-proxy-v2-ssl-cn" if use.tells_tls else "send-proxy-v2"
    return ""


def _check(monitor: HealthMonitor) -> Check:
    http = monitor.type in (MonitorType.HTTP, MonitorType.HTTPS)
    return Check(
        type=monitor.type,
        timeout=monitor.timeout,
        delay=monitor.delay,
        rise=monitor.max_retries,
        fall=monitor.max_retries_down or _FALL,
        method=str(monitor.http_method or HttpMethod.GET) if http else "",
        path=(monitor.url_path or "/") if http else "",
        version=f"{monitor.http_version:.1f}" if monitor.http_version else "1.0",
        host=monitor.domain_name or "",
        expected=(monitor.expected_codes or "200") if http else "",
    )


def _server(member: Member) -> Server:
    return Server(
        id=member.member_id,
        address=_endpoint(member.address, member.protocol_port),
        weight=1 if member.weight is None else member.weight,
        backup=bool(member.backup),
        disabled=not is_up(member),
        check_address=_host(member.monitor_address) if member.monitor_address else "",
        check_port=member.monitor_port,
    )
