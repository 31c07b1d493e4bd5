"""Translate listeners and the pools that they use to a process of haproxy.

Octavia's objects are turned into flat values; the templates only write them down. What is
administratively down is not there, except members, which haproxy knows as disabled.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from amphora_agent.model.addressing import Address, format_endpoint, with_brackets
from amphora_agent.model.loadbalancer import (
    METRICS_BACKEND,
    Action,
    Algorithm,
    ClientAuthentication,
    CompareType,
    InsertHeader,
    L7Rule,
    Listener,
    ListenerProtocol,
    MonitorType,
    PersistenceType,
    Pool,
    PoolProtocol,
    RuleType,
    TlsVersion,
)
from amphora_agent.model.resolved import (
    HealthCheck,
    ResolvedListener,
    ResolvedMember,
    ResolvedPolicy,
    ResolvedPool,
)

#: The controller's default (`default_connection_limit`), and what it ever asks for.
_CONNECTIONS, MOST_CONNECTIONS = 50_000, 1_000_000


class Tls(NamedTuple):
    """What both ends of TLS can be told."""

    ciphers: str
    ciphersuites: str
    without: tuple[str, ...]
    alpn: str


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


class Acl(NamedTuple):
    """`match` is haproxy's method (`-m`); "" where there is a number to compare with."""

    name: str
    fetch: str
    ignores_case: bool
    match: str
    value: str


class Policy(NamedTuple):
    """One statement; `condition` is made of the names of `acls`. Several ACLs may have one name: it
    matches when one of them does."""

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


class Process(NamedTuple):
    """Everything that one haproxy has."""

    id: str
    frontends: tuple[Frontend, ...]
    backends: tuple[Backend, ...]
    connection_limit: int
    #: What makes room for descriptors at a reload (haproxy/config/preflight.py); None where
    #: nothing does.
    spare_pipes: int | None
    pings: bool
    serves_metrics: bool


def translate_process(
    name: str, vips: tuple[Address, ...], listeners: tuple[ResolvedListener, ...]
) -> Process:
    """Return one haproxy that serves these listeners, which are up, at all VIPs."""
    pools: dict[str, ResolvedPool] = {}
    names: dict[str, dict[Use, str]] = {}
    for listener in listeners:
        for pool in listener.used_pools:
            if pool.admin_state_up:
                pools[pool.pool_id] = pool
                backends = names.setdefault(pool.pool_id, {})
                other = f"{pool.pool_id}:{listener.listener_id}"
                backends.setdefault(find_use(listener, pool), other if backends else pool.pool_id)
    made = tuple(translate_listener(listener, vips, names) for listener in listeners)
    used = tuple(
        translate_pool(pools[pool_id], backend, use)
        for pool_id, backends in names.items()
        for use, backend in backends.items()
    )
    return Process(
        id=name,
        frontends=made,
        backends=used,
        connection_limit=min(sum(frontend.connection_limit for frontend in made), MOST_CONNECTIONS),
        spare_pipes=None,
        pings=any(backend.check and backend.check.type is MonitorType.PING for backend in used),
        serves_metrics=any(
            listener.protocol is ListenerProtocol.PROMETHEUS for listener in listeners
        ),
    )


_VERIFY = {
    ClientAuthentication.NONE: "",
    ClientAuthentication.MANDATORY: "required",
    ClientAuthentication.OPTIONAL: "optional",
}


def translate_listener(
    listener: ResolvedListener, vips: tuple[Address, ...], names: Mapping[str, Mapping[Use, str]]
) -> Frontend:
    """Return the frontend of a listener. `names` are those of the backends that pools which are up
    have for each use, by the ids of the pools."""

    def leads_to(pool: ResolvedPool | None) -> str:
        if pool is None or not pool.admin_state_up:
            return ""
        return names[pool.pool_id][find_use(listener, pool)]

    prometheus = listener.protocol is ListenerProtocol.PROMETHEUS
    cidrs = listener.allowed_cidrs
    return Frontend(
        id=listener.listener_id,
        mode="http" if listener.reads_http else "tcp",
        binds=tuple(format_endpoint(vip, listener.protocol_port) for vip in vips),
        connection_limit=min(listener.connection_limit or _CONNECTIONS, MOST_CONNECTIONS),
        client_timeout=listener.timeout_client_data,
        inspect_delay=listener.timeout_tcp_inspect or 0,
        allowed=tuple(map(str, cidrs)) if cidrs else None,
        keeps_source_port=any(
            pool.admin_state_up and pool.lb_algorithm is Algorithm.SOURCE_IP_PORT
            for pool in listener.used_pools
        ),
        tls=translate_tls(listener) if listener.terminates_tls else None,
        client_verify=_VERIFY[listener.client_authentication],
        has_crl=listener.has_client_crl,
        hsts=_translate_hsts(listener),
        policies=tuple(
            _translate_policy(policy, leads_to(policy.pool))
            for policy in listener.policies
            if policy.action is not Action.REDIRECT_TO_POOL or leads_to(policy.pool)
        ),
        default_backend=METRICS_BACKEND if prometheus else leads_to(listener.default_pool),
    )


def _translate_hsts(listener: ResolvedListener) -> str:
    if listener.hsts_max_age is None or listener.protocol is not ListenerProtocol.TERMINATED_HTTPS:
        return ""
    return (
        f"max-age={listener.hsts_max_age};"
        + (" includeSubDomains;" if listener.hsts_include_subdomains else "")
        + (" preload;" if listener.hsts_preload else "")
    )


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
    RuleType.HOST_NAME: "req.fhdr(host),host_only,rtrim(.)",
    RuleType.PATH: "path",
    RuleType.SSL_CONN_HAS_CERT: "ssl_c_used",
    RuleType.SSL_DN_FIELD: "ssl_c_s_dn({})",
    RuleType.SSL_VERIFY_RESULT: "ssl_c_verify",
}

#: A header's value as it came; `req.hdr` splits it at commas and takes each part for a value.
_WHOLE_HEADER = "req.fhdr({})"

#: What opens a group in a regular expression, and names no port.
_GROUP = re.compile(r"\(\?[a-z]*[:=!]?")


def _translate_policy(policy: ResolvedPolicy, backend: str) -> Policy:
    names = (f"{'!' if rule.invert else ''}{_name_acl(rule)}" for rule in policy.rules)
    return Policy(
        action=policy.action,
        acls=tuple(acl for rule in policy.rules for acl in _translate_rule(rule)),
        condition=" ".join(names),
        target=backend or policy.target,
        code=policy.code,
    )


def _name_acl(rule: L7Rule) -> str:
    """Name the ACL of a rule: no word of conditions (`or`), no ACL that haproxy has (`TRUE`)."""
    return f"rule-{rule.l7rule_id}"


def _translate_rule(rule: L7Rule) -> Iterator[Acl]:
    """Yield the ACLs of a rule; it matches when one of them does."""
    value = rule.compared_value
    match rule.type:
        case RuleType.HEADER:
            for fetch in _choose_fetches(rule.compare_type, value):
                yield _make_acl(rule, fetch, value)
        case RuleType.HOST_NAME:
            yield _make_acl(rule, _FETCH[rule.type], _normalize_host(rule.compare_type, value))
            if _may_name_port(rule.compare_type, value):
                yield _make_acl(rule, _WHOLE_HEADER.format("host"), value)
        case _:
            yield _make_acl(rule, _FETCH[rule.type], value)


def _choose_fetches(compare: CompareType, value: str) -> tuple[str, ...]:
    """Return how the value of a header is read: whole, or in the parts that commas make of it.

    A part can equal, begin or end with what has no comma, as in the controller's text. What has a
    comma can match the whole value alone. What a regular expression matches may have one.
    """
    parts = _FETCH[RuleType.HEADER]
    if compare is CompareType.REGEX:
        return _WHOLE_HEADER, parts
    if compare is CompareType.CONTAINS or "," in value:
        return (_WHOLE_HEADER,)
    return (parts,)


def _normalize_host(compare: CompareType, value: str) -> str:
    """Return what a host is compared with, as haproxy reads hosts: without a dot at the end, and an
    IPv6 address in brackets."""
    if compare is CompareType.EQUAL_TO:
        try:
            return f"[{ipaddress.IPv6Address(value)}]"
        except ValueError:
            return value.rstrip(".") or value
    return (value.rstrip(".") or value) if compare is CompareType.ENDS_WITH else value


def _may_name_port(compare: CompareType, value: str) -> bool:
    """Return whether a rule about a host may mean its port: then it is read as it is, too."""
    return ":" in (_GROUP.sub("", value) if compare is CompareType.REGEX else value)


def _make_acl(rule: L7Rule, fetch: str, value: str) -> Acl:
    match = _MATCH[rule.compare_type]
    if rule.type is RuleType.FILE_TYPE and rule.compare_type is CompareType.EQUAL_TO:
        match = "end"
    if rule.type in (RuleType.SSL_CONN_HAS_CERT, RuleType.SSL_VERIFY_RESULT):
        match = ""
    return Acl(
        name=_name_acl(rule),
        fetch=fetch.format(rule.key),
        ignores_case=rule.type is RuleType.HOST_NAME,
        match=match,
        value="" if rule.type is RuleType.SSL_CONN_HAS_CERT else value,
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


def translate_pool(pool: ResolvedPool, name: str, use: Use) -> Backend:
    """Return the backend that a pool is in one use. The checks of the first one, which has the name
    of the pool, decide for all."""
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
        tracked=pool.pool_id if pool.check and name != pool.pool_id else "",
        send_proxy=_choose_proxy_protocol(pool, use),
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
        servers=tuple(map(_translate_member, pool.members)),
    )


def _choose_proxy_protocol(pool: ResolvedPool, use: Use) -> str:
    if pool.protocol is PoolProtocol.PROXY:
        return "send-proxy"
    if pool.protocol is PoolProtocol.PROXYV2:
        return "send-proxy-v2-ssl-cn" if use.tells_tls else "send-proxy-v2"
    return ""


def _translate_member(member: ResolvedMember) -> BackendServer:
    return BackendServer(
        id=member.member_id,
        address=format_endpoint(member.address, member.protocol_port),
        weight=member.weight,
        backup=bool(member.backup),
        disabled=not member.admin_state_up,
        check_address=with_brackets(member.monitor_address) if member.monitor_address else "",
        check_port=member.monitor_port,
    )


_VERSION_OPTIONS = {
    TlsVersion.SSLV3: "no-sslv3",
    TlsVersion.TLSV1: "no-tlsv10",
    TlsVersion.TLSV1_1: "no-tlsv11",
    TlsVersion.TLSV1_2: "no-tlsv12",
    TlsVersion.TLSV1_3: "no-tlsv13",
}


def translate_tls(thing: Listener | Pool) -> Tls:
    """Return what a listener says to clients, a pool to members."""
    suites = (thing.tls_ciphers or "").split(":")
    versions = _VERSION_OPTIONS if thing.tls_versions is None else thing.tls_versions
    return Tls(
        ciphers=":".join(name for name in suites if not name.startswith("TLS_")),
        ciphersuites=":".join(name for name in suites if name.startswith("TLS_")),
        without=tuple(
            word for version, word in _VERSION_OPTIONS.items() if version not in versions
        ),
        alpn=",".join(thing.alpn_protocols or ()),
    )
