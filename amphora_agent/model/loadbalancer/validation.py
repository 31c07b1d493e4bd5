"""What the fields of a load balancer must be together, beside what each may be alone.

The rules are those of Octavia's API (API reference, and what its amphora provider can do). Fields
that an object of its kind does not use are passed over where Octavia fills them in by itself, and
refused where somebody must have meant something by them. What a load balancer means by its fields
is in resolved.py.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from amphora_agent.model.addressing import Address, prefix_length
from amphora_agent.model.decode import Problem, either
from amphora_agent.model.loadbalancer import l7_validation, tls_validation
from amphora_agent.model.loadbalancer.pool_merge import MergedPools, find_pools, merge_pools
from amphora_agent.model.loadbalancer.types import (
    METRICS_BACKEND,
    HealthMonitor,
    HttpMethod,
    Listener,
    ListenerProtocol,
    LoadBalancer,
    Member,
    MonitorType,
    PersistenceType,
    Pool,
    PoolProtocol,
)

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
#: By which keepalived itself connects to members of UDP and SCTP pools. It would have to be told an
#: interface for an address that is valid on its link only.
_CONNECTING_MONITORS = frozenset({MonitorType.HTTP, MonitorType.TCP})


def problems(balancer: LoadBalancer) -> Iterator[Problem]:
    """Everything that is wrong; nothing when the load balancer can be made."""
    merged = merge_pools(balancer)
    known = merged.pools
    yield from _addresses(balancer)
    yield from _names(balancer, merged)
    yield from _ports(balancer)
    for index, listener in enumerate(balancer.listeners or ()):
        yield from _listener(f"listeners[{index}]", listener, known)
    seen: set[str] = set()
    for path, pool in find_pools(balancer):
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


def _names(balancer: LoadBalancer, merged: MergedPools) -> Iterator[Problem]:
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
    for path, pool in find_pools(balancer):
        yield from _not_ours(f"{path}.pool_id", pool.pool_id)
        if field := merged.differing.get(path):
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
    if name.startswith(METRICS_BACKEND):
        yield Problem(path, f"names that begin with {METRICS_BACKEND} are the agent's own")


def _ports(balancer: LoadBalancer) -> Iterator[Problem]:
    taken: dict[tuple[str, int], str] = {}
    for index, listener in enumerate(balancer.listeners or ()):
        transport = listener.transport
        place = (transport, listener.protocol_port)
        path = f"listeners[{index}].protocol_port"
        if place in taken:
            words = f"{listener.protocol_port} is the {transport} port of {taken[place]} already"
            yield Problem(path, words)
        taken.setdefault(place, f"listener {listener.listener_id}")


def _listener(path: str, listener: Listener, known: Mapping[str, Pool]) -> Iterator[Problem]:
    protocol = listener.protocol
    yield from _usable(f"{path}.default_pool_id", listener.target_pool_id, listener, known)
    if listener.l7policies and protocol not in _HTTP:
        yield Problem(f"{path}.l7policies", f"a {protocol} listener has none; {either(_HTTP)} has")
    elif listener.l7policies:
        for index, policy in enumerate(listener.l7policies):
            inner = f"{path}.l7policies[{index}]"
            yield from l7_validation.problems(inner, policy)
            pool_path = f"{inner}.redirect_pool_id"
            yield from _usable(pool_path, policy.target_pool_id, listener, known)
    yield from _headers(f"{path}.insert_headers", listener)
    yield from tls_validation.of_listener(path, listener)


def _usable(
    path: str, pool_id: str | None, listener: Listener, known: Mapping[str, Pool]
) -> Iterator[Problem]:
    if pool_id is None:
        return
    pool = known.get(pool_id)
    allowed = POOLS_OF[listener.protocol]
    if pool is None:
        yield Problem(path, f"there is no pool {pool_id}")
    elif pool.protocol not in allowed:
        words = f"a {listener.protocol} listener cannot use a {pool.protocol} pool"
        yield Problem(path, f"{words}; allowed: {either(allowed) or 'none'}")


def _headers(path: str, listener: Listener) -> Iterator[Problem]:
    headers = listener.added_headers
    if headers and listener.protocol not in _HTTP:
        words = f"a {listener.protocol} listener adds none; {either(_HTTP)} does"
        yield Problem(path, words)
    for header in headers:
        if header.startswith("X-SSL-") and listener.protocol is ListenerProtocol.HTTP:
            yield Problem(f"{path}.{header}", "only a TERMINATED_HTTPS listener can add it")


def _pool(path: str, pool: Pool) -> Iterator[Problem]:
    if pool.healthmonitor:
        yield from _monitor(f"{path}.healthmonitor", pool.healthmonitor, pool)
    yield from _persistence(f"{path}.session_persistence", pool)
    if pool.protocol in _LAYER4_POOLS and pool.tls_enabled:
        yield Problem(f"{path}.tls_enabled", f"a {pool.protocol} pool speaks no TLS")
    if pool.tls_enabled:
        yield from tls_validation.of_either(path, pool)
    if pool.has_crl and not pool.has_ca:
        yield Problem(f"{path}.crl_container_data", "a CRL needs a CA")
    for index, member in enumerate(pool.members or ()):
        yield from _member(f"{path}.members[{index}]", member, pool)


def _member(path: str, member: Member, pool: Pool) -> Iterator[Problem]:
    for name in ("address", "monitor_address"):
        address = getattr(member, name)
        if address and not _is_of_a_host(address):
            yield Problem(f"{path}.{name}", f"{address} is not the address of a host")
    monitor = pool.healthmonitor
    if pool.protocol in _LAYER4_POOLS and monitor and monitor.type in _CONNECTING_MONITORS:
        name = "monitor_address" if member.monitor_address else "address"
        checked = member.monitor_address or member.address
        if checked.version == 6 and checked.is_link_local:
            words = f"{monitor.type} of a {pool.protocol} pool cannot check {checked}, a link's own"
            yield Problem(f"{path}.{name}", words)


def _monitor(path: str, monitor: HealthMonitor, pool: Pool) -> Iterator[Problem]:
    layer4 = pool.protocol in _LAYER4_POOLS
    allowed = _LAYER4_MONITORS if layer4 else _TCP_MONITORS
    if monitor.type not in allowed:
        words = f"a {pool.protocol} pool cannot have {monitor.type}; allowed: {either(allowed)}"
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
