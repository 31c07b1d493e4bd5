"""Validation of the fields of a load balancer against each other. What each may be is in
loadbalancer.py.

The rules are those of Octavia's API (API reference, and what its amphora provider can do). Fields
that an object of its kind does not use are passed over where Octavia fills them in by itself, and
refused where somebody must have meant something by them. resolved.py decides what a
load balancer means by its fields.
"""

import functools
import re
import ssl
from collections.abc import Iterable, Iterator, Mapping

from amphora_agent.model.addressing import Address, prefix_length
from amphora_agent.model.decode import Problem, either
from amphora_agent.model.loadbalancer import (
    METRICS_BACKEND,
    Action,
    ClientAuthentication,
    CompareType,
    HealthMonitor,
    HttpMethod,
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
from amphora_agent.model.resolved import MergedPools, find_pools, merge_pools

_HTTP = frozenset({ListenerProtocol.HTTP, ListenerProtocol.TERMINATED_HTTPS})
_PROXY = frozenset({PoolProtocol.PROXY, PoolProtocol.PROXYV2})

#: Which pools a listener can use.
POOLS_OF = {
    ListenerProtocol.HTTP: _PROXY | {PoolProtocol.HTTP},
    ListenerProtocol.HTTPS: _PROXY | {PoolProtocol.HTTPS, PoolProtocol.TCP},
    ListenerProtocol.PROMETHEUS: frozenset[PoolProtocol](),
    ListenerProtocol.SCTP: frozenset({PoolProtocol.SCTP}),
    ListenerProtocol.TCP: _PROXY | {PoolProtocol.HTTP, PoolProtocol.HTTPS, PoolProtocol.TCP},
    ListenerProtocol.TERMINATED_HTTPS: _PROXY | {PoolProtocol.HTTP},
    ListenerProtocol.UDP: frozenset({PoolProtocol.UDP}),
}

_LAYER4_POOLS = frozenset({PoolProtocol.UDP, PoolProtocol.SCTP})
_LAYER4_MONITORS = frozenset(
    {MonitorType.HTTP, MonitorType.SCTP, MonitorType.TCP, MonitorType.UDP_CONNECT}
)
_TCP_MONITORS = frozenset(MonitorType) - {MonitorType.SCTP, MonitorType.UDP_CONNECT}
_HTTP_MONITORS = frozenset({MonitorType.HTTP, MonitorType.HTTPS})
#: By which keepalived itself connects to members of UDP and SCTP pools. It would have to be told an
#: interface for an address that is valid on its link only.
_CONNECTING_MONITORS = frozenset({MonitorType.HTTP, MonitorType.TCP})
#: What haproxy does not speak any more: to members, and to clients, unless one that is newer is
#: among them.
_DEAD_VERSIONS = frozenset({TlsVersion.SSLV3})
_DEAD_TO_CLIENTS = _DEAD_VERSIONS | {TlsVersion.TLSV1, TlsVersion.TLSV1_1}
#: The suites of TLS 1.3, which OpenSSL names apart from all others.
_TLS13_SUITES = frozenset(
    {
        "TLS_AES_128_CCM_8_SHA256",
        "TLS_AES_128_CCM_SHA256",
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
    }
)
_CONTAINERS = tuple(name for name in Listener.__struct_fields__ if "_container_" in name)


def find_problems(balancer: LoadBalancer) -> Iterator[Problem]:
    """Yield everything that is wrong; nothing if the load balancer can be made."""
    merged = merge_pools(balancer)
    known = merged.pools
    yield from _check_host("vip_address", balancer.vip_address)
    for index, vip in enumerate(balancer.additional_vips or ()):
        yield from _check_host(f"additional_vips[{index}].ip_address", vip.ip_address)
    yield from _check_names(balancer, merged)
    yield from _check_ports(balancer)
    for index, listener in enumerate(balancer.listeners or ()):
        yield from _check_listener(f"listeners[{index}]", listener, known)
    seen: set[str] = set()
    for path, pool in find_pools(balancer):
        if pool.pool_id not in seen:
            yield from _check_pool(path, known[pool.pool_id])
        seen.add(pool.pool_id)


def _check_host(path: str, address: Address | None) -> Iterator[Problem]:
    """Yield a problem unless an address, if there is one, can be that of a host."""
    if address is None:
        return
    plain = (address.version == 6 and address.ipv4_mapped) or address
    if plain.is_multicast or plain.is_unspecified:
        yield Problem(path, f"{address} is not the address of a host")


def _check_names(balancer: LoadBalancer, merged: MergedPools) -> Iterator[Problem]:
    listeners = [*enumerate(balancer.listeners or ())]
    policies = [
        (f"listeners[{index}].l7policies[{number}]", policy)
        for index, listener in listeners
        for number, policy in enumerate(listener.l7policies or ())
    ]
    pools = enumerate(balancer.pools or ())
    names = [
        (f"listeners[{index}].listener_id", listener.listener_id) for index, listener in listeners
    ]
    yield from _check_unique(names)
    yield from _check_unique(
        (f"{path}.l7policy_id", policy.l7policy_id) for path, policy in policies
    )
    yield from _check_unique(
        (f"{path}.rules[{index}].l7rule_id", rule.l7rule_id)
        for path, policy in policies
        for index, rule in enumerate(policy.rules or ())
    )
    yield from _check_unique((f"pools[{index}].pool_id", pool.pool_id) for index, pool in pools)
    for path, pool in find_pools(balancer):
        names.append((f"{path}.pool_id", pool.pool_id))
        if field := merged.differing.get(path):
            message = f"pool {pool.pool_id} is described differently elsewhere"
            yield Problem(f"{path}.{field}", message)
        yield from _check_unique(
            (f"{path}.members[{index}].member_id", member.member_id)
            for index, member in enumerate(pool.members or ())
        )
    for path, name in names:
        if name.startswith(METRICS_BACKEND):
            yield Problem(path, f"names that begin with {METRICS_BACKEND} are the agent's own")


def _check_unique(names: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    """Yield the paths of names that another path has before."""
    seen: set[str] = set()
    for path, name in names:
        if name in seen:
            yield Problem(path, f"{name} is there twice")
        seen.add(name)


def _check_ports(balancer: LoadBalancer) -> Iterator[Problem]:
    taken: dict[tuple[str, int], str] = {}
    for index, listener in enumerate(balancer.listeners or ()):
        transport = listener.transport
        place = (transport, listener.protocol_port)
        path = f"listeners[{index}].protocol_port"
        if place in taken:
            message = f"{listener.protocol_port} is the {transport} port of {taken[place]} already"
            yield Problem(path, message)
        taken.setdefault(place, f"listener {listener.listener_id}")


def _check_listener(path: str, listener: Listener, known: Mapping[str, Pool]) -> Iterator[Problem]:
    protocol = listener.protocol
    yield from _check_pool_use(f"{path}.default_pool_id", listener.target_pool_id, listener, known)
    if listener.l7policies and protocol not in _HTTP:
        yield Problem(f"{path}.l7policies", f"a {protocol} listener has none; {either(_HTTP)} has")
    elif listener.l7policies:
        for index, policy in enumerate(listener.l7policies):
            inner = f"{path}.l7policies[{index}]"
            yield from _check_policy(inner, policy)
            pool_path = f"{inner}.redirect_pool_id"
            yield from _check_pool_use(pool_path, policy.target_pool_id, listener, known)
    if listener.added_headers and protocol not in _HTTP:
        message = f"a {protocol} listener adds none; {either(_HTTP)} does"
        yield Problem(f"{path}.insert_headers", message)
    for header in listener.added_headers:
        if header.startswith("X-SSL-") and protocol is ListenerProtocol.HTTP:
            message = "only a TERMINATED_HTTPS listener can add it"
            yield Problem(f"{path}.insert_headers.{header}", message)
    yield from _check_listener_tls(path, listener)


def _check_pool_use(
    path: str, pool_id: str | None, listener: Listener, known: Mapping[str, Pool]
) -> Iterator[Problem]:
    if pool_id is None:
        return
    pool = known.get(pool_id)
    allowed = POOLS_OF[listener.protocol]
    if pool is None:
        yield Problem(path, f"there is no pool {pool_id}")
    elif pool.protocol not in allowed:
        message = f"a {listener.protocol} listener cannot use a {pool.protocol} pool"
        yield Problem(path, f"{message}; allowed: {either(allowed) or 'none'}")


def _check_pool(path: str, pool: Pool) -> Iterator[Problem]:
    if pool.healthmonitor:
        yield from _check_monitor(f"{path}.healthmonitor", pool.healthmonitor, pool)
    yield from _check_persistence(f"{path}.session_persistence", pool)
    if pool.protocol in _LAYER4_POOLS and pool.tls_enabled:
        yield Problem(f"{path}.tls_enabled", f"a {pool.protocol} pool speaks no TLS")
    if pool.tls_enabled:
        yield from _check_tls_options(path, pool)
    if pool.has_crl and not pool.has_ca:
        yield Problem(f"{path}.crl_container_data", "a CRL needs a CA")
    for index, member in enumerate(pool.members or ()):
        yield from _check_member(f"{path}.members[{index}]", member, pool)


def _check_member(path: str, member: Member, pool: Pool) -> Iterator[Problem]:
    yield from _check_host(f"{path}.address", member.address)
    yield from _check_host(f"{path}.monitor_address", member.monitor_address)
    monitor = pool.healthmonitor
    if pool.protocol in _LAYER4_POOLS and monitor and monitor.type in _CONNECTING_MONITORS:
        name = "monitor_address" if member.monitor_address else "address"
        checked = member.monitor_address or member.address
        if checked.version == 6 and checked.is_link_local:
            message = (
                f"{monitor.type} of a {pool.protocol} pool cannot check {checked}, a link's own"
            )
            yield Problem(f"{path}.{name}", message)


def _check_monitor(path: str, monitor: HealthMonitor, pool: Pool) -> Iterator[Problem]:
    layer4 = pool.protocol in _LAYER4_POOLS
    allowed = _LAYER4_MONITORS if layer4 else _TCP_MONITORS
    if monitor.type not in allowed:
        message = f"a {pool.protocol} pool cannot have {monitor.type}; allowed: {either(allowed)}"
        yield Problem(f"{path}.type", message)
    if monitor.type not in _HTTP_MONITORS:
        return
    if monitor.http_version not in (None, 1.0, 1.1):
        yield Problem(f"{path}.http_version", f"{monitor.http_version} is not one of 1.0, 1.1")
    if layer4 and monitor.http_method not in (None, HttpMethod.GET):
        message = f"{monitor.http_method} is not GET, the only one of a {pool.protocol} pool"
        yield Problem(f"{path}.http_method", message)
    if layer4 and "$" in (monitor.url_path or ""):
        yield Problem(f"{path}.url_path", f"a {pool.protocol} pool's cannot have $ in it")


def _check_persistence(path: str, pool: Pool) -> Iterator[Problem]:
    persistence = pool.session_persistence
    if persistence is None:
        return
    layer4 = pool.protocol in _LAYER4_POOLS
    if layer4 and persistence.type is not PersistenceType.SOURCE_IP:
        message = f"a {pool.protocol} pool cannot have {persistence.type}; allowed: SOURCE_IP"
        yield Problem(f"{path}.type", message)
    if persistence.type is PersistenceType.APP_COOKIE and persistence.cookie_name is None:
        yield Problem(f"{path}.cookie_name", "APP_COOKIE needs it")
    if persistence.type is not PersistenceType.APP_COOKIE and persistence.cookie_name is not None:
        yield Problem(f"{path}.cookie_name", f"{persistence.type} does not use it")
    for name in ("persistence_timeout", "persistence_granularity"):
        if getattr(persistence, name) is not None and not layer4:
            message = f"a {pool.protocol} pool does not use it; UDP and SCTP do"
            yield Problem(f"{path}.{name}", message)
    granularity = persistence.persistence_granularity
    if granularity is not None and prefix_length(granularity) is None:
        message = f"{granularity} is no mask: its ones are not all in front"
        yield Problem(f"{path}.persistence_granularity", message)


def _check_listener_tls(path: str, listener: Listener) -> Iterator[Problem]:
    """Yield what is wrong with the TLS of a listener, or with TLS options of one without TLS."""
    if not listener.terminates_tls:
        for name in _CONTAINERS:
            if getattr(listener, name):
                message = f"a {listener.protocol} listener does not use it; TERMINATED_HTTPS does"
                yield Problem(f"{path}.{name}", message)
        return
    if not listener.has_certificate:
        message = "TERMINATED_HTTPS needs it, or a certificate in sni_container_data"
        yield Problem(f"{path}.default_tls_container_data", message)
    yield from _check_tls_options(path, listener)
    asks = listener.client_authentication not in (None, ClientAuthentication.NONE)
    if asks and not listener.has_client_ca:
        message = f"{listener.client_authentication} client_authentication needs it"
        yield Problem(f"{path}.client_ca_tls_container_data", message)
    if listener.has_client_crl and not listener.has_client_ca:
        yield Problem(f"{path}.client_crl_container_data", "a CRL needs a client CA")


def _check_tls_options(path: str, thing: Listener | Pool) -> Iterator[Problem]:
    """Yield what is wrong with the options that listeners and pools share."""
    dead = _DEAD_TO_CLIENTS if isinstance(thing, Listener) else _DEAD_VERSIONS
    if thing.tls_versions == ():
        yield Problem(f"{path}.tls_versions", "is empty; leave it out for the default")
    elif thing.tls_versions and dead.issuperset(thing.tls_versions):
        message = f"nothing but {either(thing.tls_versions)}, which haproxy does not speak"
        yield Problem(f"{path}.tls_versions", message)
    if thing.alpn_protocols == ():
        yield Problem(f"{path}.alpn_protocols", "is empty; leave it out for the default")
    yield from _check_ciphers(f"{path}.tls_ciphers", thing.tls_ciphers)


def _check_ciphers(path: str, ciphers: str | None) -> Iterator[Problem]:
    names = ciphers.split(":") if ciphers else []
    suites = [name for name in names if name.startswith("TLS_")]
    for name in suites:
        if name not in _TLS13_SUITES:
            allowed = ", ".join(sorted(_TLS13_SUITES))
            yield Problem(path, f"{name} is no suite of TLS 1.3; allowed: {allowed}")
    if len(suites) < len(names):
        rest = ":".join(name for name in names if name not in suites)
        if not _is_known_to_openssl(rest):
            yield Problem(path, "OpenSSL knows none of these")


@functools.lru_cache(maxsize=256)  # most listeners have the same
def _is_known_to_openssl(ciphers: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(ciphers)
    except ssl.SSLError:
        return False
    return True


#: Of one policy: Octavia's own limit, and what a line of haproxy's has room for.
MOST_RULES = 50

_REDIRECT_CODES = (301, 302, 303, 307, 308)
#: What each action needs; the others do not use it.
_TARGETS = {
    Action.REJECT: "",
    Action.REDIRECT_PREFIX: "redirect_prefix",
    Action.REDIRECT_TO_POOL: "redirect_pool_id",
    Action.REDIRECT_TO_URL: "redirect_url",
}

_ALL_COMPARISONS = frozenset(CompareType)
_EQUAL = frozenset({CompareType.EQUAL_TO})
_COMPARISONS = {
    RuleType.COOKIE: _ALL_COMPARISONS,
    RuleType.FILE_TYPE: frozenset({CompareType.EQUAL_TO, CompareType.REGEX}),
    RuleType.HEADER: _ALL_COMPARISONS,
    RuleType.HOST_NAME: _ALL_COMPARISONS,
    RuleType.PATH: _ALL_COMPARISONS,
    RuleType.SSL_CONN_HAS_CERT: _EQUAL,
    RuleType.SSL_DN_FIELD: _ALL_COMPARISONS,
    RuleType.SSL_VERIFY_RESULT: _EQUAL,
}
_KEYED = frozenset({RuleType.COOKIE, RuleType.HEADER, RuleType.SSL_DN_FIELD})
_DN_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9-]*")

#: Regular expressions that mean the same to everyone: no look-behind, no named groups, no
#: back-references, no possessive quantifiers, and of the escapes the common ones.
_REGEX = re.compile(
    r"""(?:\(\?i\))?                      # without regard to case
        (?: [^\\(]                       # most characters are themselves
          | \\[dDsSwWbBtnrf.^$*+?()\[\]{}|/\\"'%&#~,:;=!<>@_ -]
          | \\x[0-9A-Fa-f]{2}
          | \((?!\?)                     # a group
          | \(\?[:=!]                    # one that is not remembered, or only looks ahead
        )*""",
    re.VERBOSE,
)
#: What one engine takes for something else than another, or refuses.
_PECULIAR = re.compile(
    r"""(?<!\\)[*+?}]\+                   # a possessive quantifier
      | \{,                             # a repeat without a lower bound
      | \(\?[=!]\)                      # a look ahead at nothing
      | \{[^}]*[0-9]{4}                 # one of 1000 and more
      | \[\^?\] | \[[\[:.=]             # a bracket or a class's name in brackets
      | \[(?:\\.|[^\]\\])*(?:\[[:.=]|--|&&|~~|\|\|)
    """,
    re.VERBOSE,
)
_REPEATED_GROUP = re.compile(r"\)\{([0-9]+)(?:,([0-9]*))?\}")
#: Length times repeats of groups: how much room a compiled expression takes is bounded.
_BIG_REGEX = 4_000


def _check_policy(path: str, policy: L7Policy) -> Iterator[Problem]:
    """Yield what is wrong with a policy, whatever pools there are."""
    targets = {
        "redirect_pool_id": policy.target_pool_id,
        "redirect_prefix": policy.redirect_prefix,
        "redirect_url": policy.redirect_url,
    }
    for name, value in targets.items():
        is_needed = name == _TARGETS[policy.action]
        if (value is not None) != is_needed:
            message = "needs it" if is_needed else "does not use it"
            yield Problem(f"{path}.{name}", f"{policy.action} {message}")
    if policy.redirect_http_code not in (None, *_REDIRECT_CODES):
        allowed = ", ".join(map(str, _REDIRECT_CODES))
        message = f"{policy.redirect_http_code} is not one of {allowed}"
        yield Problem(f"{path}.redirect_http_code", message)
    if len(policy.rules or ()) > MOST_RULES:
        yield Problem(f"{path}.rules", f"are more than {MOST_RULES}")
    for index, rule in enumerate(policy.rules or ()):
        yield from _check_rule(f"{path}.rules[{index}]", rule)


def _check_rule(path: str, rule: L7Rule) -> Iterator[Problem]:
    if rule.compare_type not in _COMPARISONS[rule.type]:
        message = f"{rule.type} cannot be compared by {rule.compare_type}"
        allowed = either(_COMPARISONS[rule.type])
        yield Problem(f"{path}.compare_type", f"{message}; allowed: {allowed}")
    if (rule.key is None) == (rule.type in _KEYED):
        message = "needs it" if rule.type in _KEYED else "does not use it"
        yield Problem(f"{path}.key", f"{rule.type} {message}")
    if rule.type is RuleType.SSL_DN_FIELD and rule.key and not _DN_FIELD.fullmatch(rule.key):
        yield Problem(f"{path}.key", f"{rule.key!r} is no field of a distinguished name")
    if rule.type is RuleType.SSL_CONN_HAS_CERT and rule.value.lower() != "true":
        yield Problem(f"{path}.value", f"{rule.value!r} is not True, the only value of this type")
    if rule.type is RuleType.SSL_VERIFY_RESULT and not re.fullmatch("[0-9]{1,3}", rule.value):
        yield Problem(f"{path}.value", f"{rule.value!r} is not a result, 0 to 999")
    if rule.compare_type is CompareType.REGEX and (wrong := _judge_regex(rule.value)):
        yield Problem(f"{path}.value", wrong)
    if not rule.compared_value:
        yield Problem(f"{path}.value", "there is nothing in the quotes")


def _judge_regex(value: str) -> str | None:
    if not _REGEX.fullmatch(value):
        return (
            "only groups, (?:…), (?=…), (?!…), (?i) at the beginning, and the escapes that every"
            " engine has are allowed in it"
        )
    if _PECULIAR.search(value):
        return (
            "possessive quantifiers, {,n}, repeats of 1000 and more, (?=) and (?!), and brackets,"
            " names of classes and doubled operators in brackets are not allowed in it"
        )
    size = len(value)
    for repeat in _REPEATED_GROUP.finditer(value):
        size *= max(1, int(repeat[1]), int(repeat[2] or 0))
    if size > _BIG_REGEX:
        return "its groups are repeated too often"
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        return f"not a regular expression: {error}"
    return None
