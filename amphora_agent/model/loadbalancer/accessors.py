"""What a load balancer means where its fields may say it in more than one way, or leave it out."""

import re
from collections.abc import Iterator, Mapping

from amphora_agent.model.addressing import Address
from amphora_agent.model.loadbalancer import pool_merge
from amphora_agent.model.loadbalancer.types import (
    CompareType,
    HealthMonitor,
    L7Policy,
    L7Rule,
    Listener,
    ListenerProtocol,
    LoadBalancer,
    Member,
    Pool,
    Truth,
)

#: The backend that asks the agent for metrics; no listener or pool may have its name.
METRICS = "prometheus-exporter-internal"

LAYER4 = frozenset({ListenerProtocol.UDP, ListenerProtocol.SCTP})


def is_up(
    thing: LoadBalancer | Listener | Pool | Member | L7Policy | L7Rule | HealthMonitor,
) -> bool:
    """Administratively; up is the default."""
    return thing.admin_state_up is not False


def vips(balancer: LoadBalancer) -> tuple[Address, ...]:
    """Each once."""
    additional = (vip.ip_address for vip in balancer.additional_vips or ())
    return tuple(dict.fromkeys((balancer.vip_address, *additional)))


def pools(balancer: LoadBalancer) -> Mapping[str, Pool]:
    """Every pool by its id, wherever the load balancer has it; as much of it as all its forms say
    together."""
    return pool_merge.together(
        (pool for _, pool in all_pools(balancer)), balancer.pools or ()
    ).pools


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


def is_layer4(listener: Listener) -> bool:
    """Whether it is keepalived's, and not haproxy's."""
    return listener.protocol in LAYER4


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


def weight(member: Member) -> int:
    return 1 if member.weight is None else member.weight


def prefix_length(mask: Address) -> int | None:
    """Of a network with this mask. None when its ones are not all in front, or there are none."""
    bits = f"{int(mask):0{mask.max_prefixlen}b}"
    return len(bits.rstrip("0")) if re.fullmatch("1+0*", bits) else None
