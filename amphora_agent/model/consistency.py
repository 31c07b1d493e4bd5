"""What the fields of a load balancer must be together, beside what each may be alone.

The rules are those of Octavia's API (API reference, and what its amphora provider can do). Fields
that an object of its kind does not use are passed over where Octavia fills them in by itself, and
refused where somebody must have meant something by them.
"""

import functools
import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from amphora_agent.model import forms
from amphora_agent.model.addressing import Address
from amphora_agent.model.loadbalancer import (
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
    MonitorType,
    PersistenceType,
    Pool,
    PoolProtocol,
    RuleType,
    TlsVersion,
    Truth,
)


class Problem(NamedTuple):
    """`path` as a person writes it: `listeners[2].l7policies[0].rules[1].value`."""

    path: str
    words: str

    def __str__(self) -> str:
        return f"{self.path}: {self.words}"


_L4 = frozenset({ListenerProtocol.UDP, ListenerProtocol.SCTP})
_HTTP = frozenset({ListenerProtocol.HTTP, ListenerProtocol.TERMINATED_HTTPS})
_PROXY = frozenset({PoolProtocol.PROXY, PoolProtocol.PROXYV2})

#: Which pools a listener can use.
POOLS_OF: Mapping[ListenerProtocol, frozenset[PoolProtocol]] = MappingProxyType(
    {
        ListenerProtocol.HTTP: _PROXY | {PoolProtocol.HTTP},
        ListenerProtocol.HTTPS: _PROXY | {PoolProtocol.HTTPS, PoolProtocol.TCP},
        ListenerProtocol.PROMETHEUS: frozenset(),
        ListenerProtocol.SCTP: frozenset({PoolProtocol.SCTP}),
        ListenerProtocol.TCP: _PROXY | {PoolProtocol.HTTP, PoolProtocol.HTTPS, PoolProtocol.TCP},
        ListenerProtocol.TERMINATED_HTTPS: _PROXY | {PoolProtocol.HTTP},
        ListenerProtocol.UDP: frozenset({PoolProtocol.UDP}),
    }
)

#: The backend that asks the agent for metrics; no listener or pool may have its name.
METRICS = "prometheus-exporter-internal"

_LAYER4_POOLS = frozenset({PoolProtocol.UDP, PoolProtocol.SCTP})
_LAYER4_MONITORS = frozenset(
    {MonitorType.HTTP, MonitorType.SCTP, MonitorType.TCP, MonitorType.UDP_CONNECT}
)
_TCP_MONITORS = frozenset(
    {
        MonitorType.HTTP,
        MonitorType.HTTPS,
        MonitorType.PING,
        MonitorType.TCP,
        MonitorType.TLS_HELLO,
    }
)
_HTTP_MONITORS = frozenset({MonitorType.HTTP, MonitorType.HTTPS})
#: What haproxy does not speak any more: to members, and to clients, unless one that is newer is
#: among them.
_DEAD_VERSIONS = frozenset({TlsVersion.SSLV3})
_DEAD_TO_CLIENTS = _DEAD_VERSIONS | {TlsVersion.TLSV1, TlsVersion.TLSV1_1}

#: Of one policy: Octavia's own limit, and what a line of haproxy's has room for.
MOST_RULES = 50

_REDIRECT_CODES = (301, 302, 303, 307, 308)
#: What each action needs, and what belongs to others.
_TARGETS = MappingProxyType(
    {
        Action.REJECT: (),
        Action.REDIRECT_PREFIX: ("redirect_prefix",),
        Action.REDIRECT_TO_POOL: ("redirect_pool_id",),
        Action.REDIRECT_TO_URL: ("redirect_url",),
    }
)

_ALL_COMPARISONS = frozenset(CompareType)
_EQUAL = frozenset({CompareType.EQUAL_TO})
_COMPARISONS = MappingProxyType(
    {
        RuleType.COOKIE: _ALL_COMPARISONS,
        RuleType.FILE_TYPE: frozenset({CompareType.EQUAL_TO, CompareType.REGEX}),
        RuleType.HEADER: _ALL_COMPARISONS,
        RuleType.HOST_NAME: _ALL_COMPARISONS,
        RuleType.PATH: _ALL_COMPARISONS,
        RuleType.SSL_CONN_HAS_CERT: _EQUAL,
        RuleType.SSL_DN_FIELD: _ALL_COMPARISONS,
        RuleType.SSL_VERIFY_RESULT: _EQUAL,
    }
)
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
_CONTAINERS = (
    "client_ca_tls_container_data",
    "client_ca_tls_container_ref",
    "client_crl_container_data",
    "client_crl_container_ref",
    "default_tls_container_data",
    "default_tls_container_ref",
    "sni_container_data",
    "sni_container_refs",
)
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


def pools(balancer: LoadBalancer) -> Mapping[str, Pool]:
    """Every pool by its id, wherever the load balancer has it; as much of it as all its forms say
    together."""
    return forms.together(pool for _, pool in all_pools(balancer)).pools


def is_layer4(listener: Listener) -> bool:
    """Whether it is keepalived's, and not haproxy's."""
    return listener.protocol in _L4


def terminates_tls(listener: Listener) -> bool:
    """A PROMETHEUS listener does so when it has a certificate."""
    if listener.protocol is ListenerProtocol.PROMETHEUS:
        return has_certificate(listener)
    return listener.protocol is ListenerProtocol.TERMINATED_HTTPS


def has_certificate(listener: Listener) -> bool:
    return bool(
        listener.default_tls_container_data
        or listener.default_tls_container_ref
        or listener.sni_container_data
        or listener.sni_container_refs
    )


def is_true(value: Truth | bool) -> bool:
    """As `insert_headers` says it."""
    return value in (True, Truth.TRUE, Truth.TRUE_CAPITAL)


def compared_with(rule: L7Rule) -> str:
    """What a request must have. RFC 9110 has a way to quote what is in a header: the quotes are
    not part of it."""
    value = rule.value
    if rule.compare_type is not CompareType.REGEX and re.fullmatch('".*"', value):
        return value[1:-1]
    return value


def default_pool_id(listener: Listener) -> str | None:
    """The id of the pool that a listener uses when no policy says otherwise."""
    if listener.default_pool_id is not None:
        return listener.default_pool_id
    return listener.default_pool.pool_id if listener.default_pool else None


def redirect_pool_id(policy: L7Policy) -> str | None:
    if policy.redirect_pool_id is not None:
        return policy.redirect_pool_id
    return policy.redirect_pool.pool_id if policy.redirect_pool else None


def problems(balancer: LoadBalancer) -> Iterator[Problem]:
    """Everything that is wrong; nothing when the load balancer can be made."""
    all_forms = forms.together(pool for _, pool in all_pools(balancer))
    known = all_forms.pools
    yield from _addresses(balancer)
    yield from _names(balancer, all_forms)
    yield from _ports(balancer)
    for index, listener in enumerate(balancer.listeners or ()):
        yield from _listener(f"listeners[{index}]", listener, known)
    seen: set[str] = set()
    for path, pool in all_pools(balancer):
        if pool.pool_id not in seen:
            yield from _pool(path, known[pool.pool_id])
        seen.add(pool.pool_id)


def _addresses(balancer: LoadBalancer) -> Iterator[Problem]:
    vips = {"vip_address": balancer.vip_address} | {
        f"additional_vips[{index}].ip_address": vip.ip_address
        for index, vip in enumerate(balancer.additional_vips or ())
    }
    for path, address in vips.items():
        if not _is_of_a_host(address):
            yield Problem(path, f"{address} is not the address of a host")


def _is_of_a_host(address: Address) -> bool:
    plain = (address.version == 6 and address.ipv4_mapped) or address
    return not (plain.is_multicast or plain.is_unspecified)


def all_pools(balancer: LoadBalancer) -> Iterator[tuple[str, Pool]]:
    """All forms of all pools, each with its path."""
    for index, pool in enumerate(balancer.pools or ()):
        yield f"pools[{index}]", pool
    for index, listener in enumerate(balancer.listeners or ()):
        path = f"listeners[{index}]"
        if listener.default_pool:
            yield f"{path}.default_pool", listener.default_pool
        for number, policy in enumerate(listener.l7policies or ()):
            if policy.redirect_pool:
                yield f"{path}.l7policies[{number}].redirect_pool", policy.redirect_pool


def _names(balancer: LoadBalancer, all_forms: forms.Together) -> Iterator[Problem]:
    listeners: set[str] = set()
    policies: set[str] = set()
    rules: set[str] = set()
    for index, listener in enumerate(balancer.listeners or ()):
        path = f"listeners[{index}]"
        yield from _once(f"{path}.listener_id", listener.listener_id, listeners)
        yield from _not_ours(f"{path}.listener_id", listener.listener_id)
        for number, policy in enumerate(listener.l7policies or ()):
            inner = f"{path}.l7policies[{number}]"
            yield from _once(f"{inner}.l7policy_id", policy.l7policy_id, policies)
            for place, rule in enumerate(policy.rules or ()):
                yield from _once(f"{inner}.rules[{place}].l7rule_id", rule.l7rule_id, rules)
    own: set[str] = set()
    for index, pool in enumerate(balancer.pools or ()):
        yield from _once(f"pools[{index}].pool_id", pool.pool_id, own)
    for number, (path, pool) in enumerate(all_pools(balancer)):
        yield from _not_ours(f"{path}.pool_id", pool.pool_id)
        if field := all_forms.differing.get(number):
            words = f"pool {pool.pool_id} is described differently elsewhere"
            yield Problem(f"{path}.{field}", words)
        members: set[str] = set()
        for index, member in enumerate(pool.members or ()):
            yield from _once(f"{path}.members[{index}].member_id", member.member_id, members)


def _once(path: str, name: str, seen: set[str]) -> Iterator[Problem]:
    if name in seen:
        yield Problem(path, f"{name} is there twice")
    seen.add(name)


def _not_ours(path: str, name: str) -> Iterator[Problem]:
    if name.startswith(METRICS):
        yield Problem(path, f"names that begin with {METRICS} are the agent's own")


def _ports(balancer: LoadBalancer) -> Iterator[Problem]:
    taken: dict[tuple[str, int], str] = {}
    for index, listener in enumerate(balancer.listeners or ()):
        transport = listener.protocol if listener.protocol in _L4 else ListenerProtocol.TCP
        place = (transport, listener.protocol_port)
        path = f"listeners[{index}].protocol_port"
        if place in taken:
            words = f"{listener.protocol_port} is the {transport} port of {taken[place]} already"
            yield Problem(path, words)
        taken.setdefault(place, f"listener {listener.listener_id}")


def _listener(path: str, listener: Listener, known: Mapping[str, Pool]) -> Iterator[Problem]:
    protocol = listener.protocol
    default = default_pool_id(listener)
    if listener.default_pool and default != listener.default_pool.pool_id:
        yield Problem(f"{path}.default_pool_id", "is another than that of default_pool")
    if default is not None:
        yield from _usable(f"{path}.default_pool_id", default, listener, known)
    if listener.l7policies and protocol not in _HTTP:
        yield Problem(f"{path}.l7policies", f"a {protocol} listener has none; {_either(_HTTP)} has")
    elif listener.l7policies:
        for index, policy in enumerate(listener.l7policies):
            yield from _policy(f"{path}.l7policies[{index}]", policy, listener, known)
    yield from _headers(f"{path}.insert_headers", listener)
    yield from _listener_tls(path, listener)


def _usable(
    path: str, pool_id: str, listener: Listener, known: Mapping[str, Pool]
) -> Iterator[Problem]:
    pool = known.get(pool_id)
    allowed = POOLS_OF[listener.protocol]
    if pool is None:
        yield Problem(path, f"there is no pool {pool_id}")
    elif pool.protocol not in allowed:
        words = f"a {listener.protocol} listener cannot use a {pool.protocol} pool"
        yield Problem(path, f"{words}; allowed: {_either(allowed) or 'none'}")


def _policy(
    path: str, policy: L7Policy, listener: Listener, known: Mapping[str, Pool]
) -> Iterator[Problem]:
    targets = {
        "redirect_pool_id": redirect_pool_id(policy),
        "redirect_prefix": policy.redirect_prefix,
        "redirect_url": policy.redirect_url,
    }
    for name in _TARGETS[policy.action]:
        if targets[name] is None:
            yield Problem(f"{path}.{name}", f"{policy.action} needs it")
    for name, value in targets.items():
        if value is not None and name not in _TARGETS[policy.action]:
            yield Problem(f"{path}.{name}", f"{policy.action} does not use it")
    pool = redirect_pool_id(policy)
    if policy.redirect_pool and pool != policy.redirect_pool.pool_id:
        yield Problem(f"{path}.redirect_pool_id", "is another than that of redirect_pool")
    if pool is not None:
        yield from _usable(f"{path}.redirect_pool_id", pool, listener, known)
    if policy.redirect_http_code not in (None, *_REDIRECT_CODES):
        allowed = ", ".join(map(str, _REDIRECT_CODES))
        words = f"{policy.redirect_http_code} is not one of {allowed}"
        yield Problem(f"{path}.redirect_http_code", words)
    if len(policy.rules or ()) > MOST_RULES:
        yield Problem(f"{path}.rules", f"are more than {MOST_RULES}")
    for index, rule in enumerate(policy.rules or ()):
        yield from _rule(f"{path}.rules[{index}]", rule)


def _rule(path: str, rule: L7Rule) -> Iterator[Problem]:
    if rule.compare_type not in _COMPARISONS[rule.type]:
        words = f"{rule.type} cannot be compared by {rule.compare_type}"
        allowed = _either(_COMPARISONS[rule.type])
        yield Problem(f"{path}.compare_type", f"{words}; allowed: {allowed}")
    if (rule.key is None) == (rule.type in _KEYED):
        words = "needs it" if rule.type in _KEYED else "does not use it"
        yield Problem(f"{path}.key", f"{rule.type} {words}")
    if rule.type is RuleType.SSL_DN_FIELD and rule.key and not _DN_FIELD.fullmatch(rule.key):
        yield Problem(f"{path}.key", f"{rule.key!r} is no field of a distinguished name")
    if rule.type is RuleType.SSL_CONN_HAS_CERT and rule.value.lower() != "true":
        yield Problem(f"{path}.value", f"{rule.value!r} is not True, the only value of this type")
    if rule.type is RuleType.SSL_VERIFY_RESULT and not re.fullmatch("[0-9]{1,3}", rule.value):
        yield Problem(f"{path}.value", f"{rule.value!r} is not a result, 0 to 999")
    if rule.compare_type is CompareType.REGEX and (wrong := _wrong_regex(rule.value)):
        yield Problem(f"{path}.value", wrong)
    if not compared_with(rule):
        yield Problem(f"{path}.value", "there is nothing in the quotes")


def _wrong_regex(value: str) -> str | None:
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


def _headers(path: str, listener: Listener) -> Iterator[Problem]:
    headers = [name for name, value in (listener.insert_headers or {}).items() if is_true(value)]
    if headers and listener.protocol not in _HTTP:
        words = f"a {listener.protocol} listener adds none; {_either(_HTTP)} does"
        yield Problem(path, words)
    for header in headers:
        if header.startswith("X-SSL-") and listener.protocol is ListenerProtocol.HTTP:
            yield Problem(f"{path}.{header}", "only a TERMINATED_HTTPS listener can add it")


def _listener_tls(path: str, listener: Listener) -> Iterator[Problem]:
    if not terminates_tls(listener):
        for name in _CONTAINERS:
            if getattr(listener, name):
                words = f"a {listener.protocol} listener does not use it; TERMINATED_HTTPS does"
                yield Problem(f"{path}.{name}", words)
        return
    if not has_certificate(listener):
        words = "TERMINATED_HTTPS needs it, or a certificate in sni_container_data"
        yield Problem(f"{path}.default_tls_container_data", words)
    yield from _tls(path, listener)
    has_ca = listener.client_ca_tls_container_data or listener.client_ca_tls_container_ref
    has_crl = listener.client_crl_container_data or listener.client_crl_container_ref
    asks = listener.client_authentication not in (None, ClientAuthentication.NONE)
    if asks and not has_ca:
        words = f"{listener.client_authentication} client_authentication needs it"
        yield Problem(f"{path}.client_ca_tls_container_data", words)
    if has_crl and not has_ca:
        yield Problem(f"{path}.client_crl_container_data", "a CRL needs a client CA")


def _tls(path: str, thing: Listener | Pool) -> Iterator[Problem]:
    """What listeners and pools have alike."""
    dead = _DEAD_TO_CLIENTS if isinstance(thing, Listener) else _DEAD_VERSIONS
    if thing.tls_versions == ():
        yield Problem(f"{path}.tls_versions", "is empty; leave it out for the default")
    elif thing.tls_versions and dead.issuperset(thing.tls_versions):
        words = f"nothing but {_either(thing.tls_versions)}, which haproxy does not speak"
        yield Problem(f"{path}.tls_versions", words)
    if thing.alpn_protocols == ():
        yield Problem(f"{path}.alpn_protocols", "is empty; leave it out for the default")
    yield from _ciphers(f"{path}.tls_ciphers", thing.tls_ciphers)


def _ciphers(path: str, ciphers: str | None) -> Iterator[Problem]:
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


def _pool(path: str, pool: Pool) -> Iterator[Problem]:
    if pool.healthmonitor:
        yield from _monitor(f"{path}.healthmonitor", pool.healthmonitor, pool)
    yield from _persistence(f"{path}.session_persistence", pool)
    if pool.protocol in _LAYER4_POOLS and pool.tls_enabled:
        yield Problem(f"{path}.tls_enabled", f"a {pool.protocol} pool speaks no TLS")
    if pool.tls_enabled:
        yield from _tls(path, pool)
    ca = pool.ca_tls_container_data or pool.ca_tls_container_ref
    if (pool.crl_container_data or pool.crl_container_ref) and not ca:
        yield Problem(f"{path}.crl_container_data", "a CRL needs a CA")
    for index, member in enumerate(pool.members or ()):
        for name in ("address", "monitor_address"):
            address = getattr(member, name)
            if address and not _is_of_a_host(address):
                words = f"{address} is not the address of a host"
                yield Problem(f"{path}.members[{index}].{name}", words)


def _monitor(path: str, monitor: HealthMonitor, pool: Pool) -> Iterator[Problem]:
    layer4 = pool.protocol in _LAYER4_POOLS
    allowed = _LAYER4_MONITORS if layer4 else _TCP_MONITORS
    if monitor.type not in allowed:
        words = f"a {pool.protocol} pool cannot have {monitor.type}; allowed: {_either(allowed)}"
        yield Problem(f"{path}.type", words)
    if monitor.type not in _HTTP_MONITORS:
        return
    if monitor.http_version not in (None, 1.0, 1.1):
        yield Problem(f"{path}.http_version", f"{monitor.http_version} is not one of 1.0, 1.1")
    if layer4 and monitor.http_method not in (None, HttpMethod.GET):
        words = f"{monitor.http_method} is not GET, the only one of a {pool.protocol} pool"
        yield Problem(f"{path}.http_method", words)
    if layer4 and "$" in (monitor.url_path or ""):
        yield Problem(f"{path}.url_path", f"a {pool.protocol} pool's cannot have $ in it")


def _persistence(path: str, pool: Pool) -> Iterator[Problem]:
    persistence = pool.session_persistence
    if persistence is None:
        return
    layer4 = pool.protocol in _LAYER4_POOLS
    if layer4 and persistence.type is not PersistenceType.SOURCE_IP:
        words = f"a {pool.protocol} pool cannot have {persistence.type}; allowed: SOURCE_IP"
        yield Problem(f"{path}.type", words)
    if persistence.type is PersistenceType.APP_COOKIE and persistence.cookie_name is None:
        yield Problem(f"{path}.cookie_name", "APP_COOKIE needs it")
    if persistence.type is not PersistenceType.APP_COOKIE and persistence.cookie_name is not None:
        yield Problem(f"{path}.cookie_name", f"{persistence.type} does not use it")
    for name in ("persistence_timeout", "persistence_granularity"):
        if getattr(persistence, name) is not None and not layer4:
            words = f"a {pool.protocol} pool does not use it; UDP and SCTP do"
            yield Problem(f"{path}.{name}", words)
    granularity = persistence.persistence_granularity
    if granularity is not None and prefix_length(granularity) is None:
        words = f"{granularity} is no mask: its ones are not all in front"
        yield Problem(f"{path}.persistence_granularity", words)


def prefix_length(mask: Address) -> int | None:
    """Of a network with this mask. None when its ones are not all in front, or there are none."""
    bits = f"{int(mask):0{mask.max_prefixlen}b}"
    return len(bits.rstrip("0")) if re.fullmatch("1+0*", bits) else None


def _either(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
