"""A load balancer with its references resolved, its defaults filled in and its pools merged.

A body may say a thing in more than one place, or leave it out. `resolve` decides once what it
means; whatever works on a load balancer after it was decoded takes the result.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from msgspec.structs import asdict

from amphora_agent.model.addressing import Address, Claim, claim
from amphora_agent.model.loadbalancer.pool_forms import find_pools, merge_pools
from amphora_agent.model.loadbalancer.types import (
    Action,
    ClientAuthentication,
    HealthMonitor,
    HttpMethod,
    L7Policy,
    L7Rule,
    Listener,
    LoadBalancer,
    Member,
    MonitorType,
    Pool,
)

#: Defaults of Octavia: failed checks until a member is down (`max_retries_down`), and milliseconds
#: (`[haproxy_amphora] timeout_*`).
_FALL = 3
_CLIENT_TIMEOUT, _CONNECT_TIMEOUT, _SERVER_TIMEOUT = 50_000, 5_000, 50_000

#: The order in which policies decide, before their positions (Octavia's API reference).
_PRECEDENCE = {
    Action.REJECT: 0,
    Action.REDIRECT_PREFIX: 1,
    Action.REDIRECT_TO_URL: 1,
    Action.REDIRECT_TO_POOL: 2,
}


class HealthCheck(NamedTuple):
    """A health monitor that is up. Times are in seconds, `rise` and `fall` in checks. `method`,
    `path` and `expected` are "" for what is not of HTTP."""

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


class ResolvedMember(Member, frozen=True, kw_only=True):
    weight: int
    admin_state_up: bool


class ResolvedPool(Pool, frozen=True, kw_only=True):
    """`path` is where the body has the pool first. `check` is None if nobody checks the members."""

    path: str
    members: tuple[ResolvedMember, ...]
    admin_state_up: bool
    check: HealthCheck | None


class ResolvedPolicy(NamedTuple):
    """A policy that decides something: it is up, and so is each of its `rules`. `target` is a URL
    or a prefix, "" for none."""

    action: Action
    rules: tuple[L7Rule, ...]
    pool: ResolvedPool | None
    target: str
    code: int | None


class ResolvedListener(Listener, frozen=True, kw_only=True):
    """`path` is where the body has the listener. `policies` are in the order of their effect. A
    `connection_limit` of 0 is none."""

    path: str
    admin_state_up: bool
    default_pool: ResolvedPool | None
    policies: tuple[ResolvedPolicy, ...]
    connection_limit: int
    client_authentication: ClientAuthentication
    timeout_client_data: int
    timeout_member_connect: int
    timeout_member_data: int

    @property
    def used_pools(self) -> tuple[ResolvedPool, ...]:
        """The pools that the listener leads to, in whatever state they are."""
        policy_pools = (policy.pool for policy in self.policies)
        return tuple(pool for pool in (self.default_pool, *policy_pools) if pool)


class ResolvedLoadBalancer(NamedTuple):
    """`model` is what was resolved. `pools` are by id. `vips` has each address once."""

    id: str
    project_id: str
    is_up: bool
    vips: tuple[Address, ...]
    listeners: tuple[ResolvedListener, ...]
    pools: Mapping[str, ResolvedPool]
    model: LoadBalancer

    @property
    def active_listeners(self) -> tuple[ResolvedListener, ...]:
        """The listeners that are up, if the load balancer is."""
        return tuple(each for each in self.listeners if self.is_up and each.admin_state_up)

    @property
    def haproxy_listeners(self) -> tuple[ResolvedListener, ...]:
        return tuple(each for each in self.active_listeners if not each.is_layer4)

    @property
    def lvs_listeners(self) -> tuple[ResolvedListener, ...]:
        return tuple(each for each in self.active_listeners if each.is_layer4)

    def claims(self) -> frozenset[Claim]:
        """Return where the listeners listen."""
        return frozenset(
            claim(listener.transport, vip, listener.protocol_port)
            for listener in self.active_listeners
            for vip in self.vips
        )


def resolve(balancer: LoadBalancer) -> ResolvedLoadBalancer:
    """Decide what a load balancer means, whose validation has found nothing wrong."""
    paths = {pool.pool_id: path for path, pool in reversed([*find_pools(balancer)])}
    pools = {
        pool_id: _resolve_pool(pool, paths[pool_id])
        for pool_id, pool in merge_pools(balancer).pools.items()
    }
    vips = (balancer.vip_address, *(vip.ip_address for vip in balancer.additional_vips or ()))
    return ResolvedLoadBalancer(
        id=balancer.loadbalancer_id,
        project_id=balancer.project_id or "",
        is_up=balancer.admin_state_up is not False,
        vips=tuple(dict.fromkeys(vips)),
        listeners=tuple(
            _resolve_listener(listener, f"listeners[{index}]", pools)
            for index, listener in enumerate(balancer.listeners or ())
        ),
        pools=pools,
        model=balancer,
    )


def _resolve_pool(pool: Pool, path: str) -> ResolvedPool:
    members = tuple(
        ResolvedMember(
            **asdict(member)
            | {
                "weight": 1 if member.weight is None else member.weight,
                "admin_state_up": member.admin_state_up is not False,
            }
        )
        for member in pool.members or ()
    )
    return ResolvedPool(
        **asdict(pool) | {"members": members, "admin_state_up": pool.admin_state_up is not False},
        path=path,
        check=_resolve_monitor(pool.healthmonitor),
    )


def _resolve_monitor(monitor: HealthMonitor | None) -> HealthCheck | None:
    if monitor is None or monitor.admin_state_up is False:
        return None
    http = monitor.type in (MonitorType.HTTP, MonitorType.HTTPS)
    return HealthCheck(
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


def _resolve_listener(
    listener: Listener, path: str, pools: Mapping[str, ResolvedPool]
) -> ResolvedListener:
    asks = listener.client_authentication if listener.has_client_ca else None
    return ResolvedListener(
        **asdict(listener)
        | {
            "admin_state_up": listener.admin_state_up is not False,
            "default_pool": pools.get(listener.target_pool_id or ""),
            "connection_limit": max(listener.connection_limit or 0, 0),
            "client_authentication": asks or ClientAuthentication.NONE,
            "timeout_client_data": listener.timeout_client_data or _CLIENT_TIMEOUT,
            "timeout_member_connect": listener.timeout_member_connect or _CONNECT_TIMEOUT,
            "timeout_member_data": listener.timeout_member_data or _SERVER_TIMEOUT,
        },
        path=path,
        policies=tuple(_resolve_policies(listener, pools)),
    )


def _resolve_policies(
    listener: Listener, pools: Mapping[str, ResolvedPool]
) -> Iterator[ResolvedPolicy]:
    def place(policy: L7Policy) -> tuple[int, int]:
        return _PRECEDENCE[policy.action], policy.position or 0

    for policy in sorted(listener.l7policies or (), key=place):
        rules = tuple(rule for rule in policy.rules or () if rule.admin_state_up is not False)
        if policy.admin_state_up is not False and rules:
            yield ResolvedPolicy(
                policy.action,
                rules,
                pools.get(policy.target_pool_id or ""),
                policy.redirect_url or policy.redirect_prefix or "",
                policy.redirect_http_code,
            )
