"""A load balancer with its references resolved, its defaults filled in and its pools merged.

A body may say a thing in more than one place, or leave it out. `resolve` decides once what it
means; whatever works on a load balancer after it was decoded takes the result.

A load balancer has its pools in `pools`, a listener has its default pool once more in itself, and
so has a policy. Of a pool that is in `pools` that form counts alone: who changes it there need not
change it elsewhere. Of others one form may say less than another; what several say must be the
same. `normalize` keeps each pool once, and a patch changes all forms of one.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import asdict, replace

from amphora_agent.errors import InvalidRequest, NotFound
from amphora_agent.model.addressing import Address, Claim, claim
from amphora_agent.model.loadbalancer import (
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
        return tuple(
            listener for listener in self.listeners if self.is_up and listener.admin_state_up
        )

    @property
    def haproxy_listeners(self) -> tuple[ResolvedListener, ...]:
        return tuple(listener for listener in self.active_listeners if not listener.is_layer4)

    @property
    def lvs_listeners(self) -> tuple[ResolvedListener, ...]:
        return tuple(listener for listener in self.active_listeners if listener.is_layer4)

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


#: What is told of an object for people, or follows from the place where it is told.
_ASIDE = frozenset(
    {
        "description", "id", "listener_id", "loadbalancer_id", "name", "pool_id", "primary_cn",
        "project_id", "subnet_id", "vnic_type",
    }
)  # fmt: skip


class MergedPools(NamedTuple):
    """Pools by their ids. `differing` has the paths of those forms that contradict what was said
    before, each with the field."""

    pools: Mapping[str, Pool]
    differing: Mapping[str, str]


class _DifferentError(ValueError):
    """The message is the path of the field."""


def find_pools(balancer: LoadBalancer) -> Iterator[tuple[str, Pool]]:
    """Yield all forms of all pools, each with its path."""
    for index, pool in enumerate(balancer.pools or ()):
        yield f"pools[{index}]", pool
    for index, listener in enumerate(balancer.listeners or ()):
        path = f"listeners[{index}]"
        if listener.default_pool:
            yield f"{path}.default_pool", listener.default_pool
        for number, policy in enumerate(listener.l7policies or ()):
            if policy.redirect_pool:
                yield f"{path}.l7policies[{number}].redirect_pool", policy.redirect_pool


def merge_pools(balancer: LoadBalancer) -> MergedPools:
    """Return what all forms of each pool say. A form that contradicts does not count, and of a pool
    in `balancer.pools` no other form does."""
    pools = {pool.pool_id: pool for pool in balancer.pools or ()}
    complete = frozenset(pools)
    differing: dict[str, str] = {}
    for path, pool in find_pools(balancer):
        if pool.pool_id in complete:
            continue
        before = pools.get(pool.pool_id)
        if before is None:
            pools[pool.pool_id] = pool
        elif before != pool:
            try:
                pools[pool.pool_id] = _merge(before, pool, "")
            except _DifferentError as error:
                differing[path] = str(error)
    return MergedPools(pools, differing)


def _merge(first: Any, other: Any, path: str) -> Any:
    """Return what two values of a field say together. Raises _DifferentError."""
    if other is None or first == other:
        return first
    if first is None:
        return other
    if isinstance(first, msgspec.Struct) and type(first) is type(other):
        return replace(first, **_merge_fields(first, other, path))
    if isinstance(first, tuple) and isinstance(other, tuple) and len(first) == len(other):
        in_order = _sort_as(first, other)
        pairs = zip(first, in_order, strict=True)
        return tuple(_merge(*pair, f"{path}[{i}]") for i, pair in enumerate(pairs))
    raise _DifferentError(path)


def _merge_fields(first: msgspec.Struct, other: msgspec.Struct, path: str) -> dict[str, object]:
    fields = {}
    for name in first.__struct_fields__:
        a, b = getattr(first, name), getattr(other, name)
        if a is None or (b is not None and a != b and name not in _ASIDE):
            fields[name] = _merge(a, b, f"{path}.{name}" if path else name)
    return fields


def _sort_as(first: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return members of `other` in the order of `first`, if they are the same members."""
    if not all(isinstance(element, Member) for element in (*first, *other)):
        return other
    by_id = {member.member_id: member for member in other}
    in_order = tuple(by_id.get(member.member_id) for member in first)
    return other if None in in_order else in_order


#: What tells an id that is null in a body from one that is not there.
_Json = Mapping[str, Any]


def normalize(balancer: LoadBalancer, body: bytes) -> LoadBalancer:
    """Return the normal form of a load balancer that was decoded from `body`."""
    pools = tuple(merge_pools(balancer).pools.values())
    listeners = balancer.listeners or ()
    if any(not path.startswith("pools[") for path, _ in find_pools(balancer)):
        raw: list[_Json] = msgspec.json.decode(body)["listeners"]
        listeners = tuple(map(_normalize_listener, listeners, raw))
    return replace(
        balancer, listeners=listeners or balancer.listeners, pools=pools or balancer.pools
    )


def _normalize_listener(listener: Listener, raw: _Json) -> Listener:
    is_told = "default_pool_id" in raw
    policies = listener.l7policies
    return replace(
        listener,
        default_pool=None,
        default_pool_id=listener.default_pool_id if is_told else listener.target_pool_id,
        l7policies=policies and tuple(map(_normalize_policy, policies, raw["l7policies"])),
    )


def _normalize_policy(policy: L7Policy, raw: _Json) -> L7Policy:
    is_told = "redirect_pool_id" in raw
    pool_id = policy.redirect_pool_id if is_told else policy.target_pool_id
    return replace(policy, redirect_pool=None, redirect_pool_id=pool_id)


def apply_patch(target: object, patch: object) -> object:
    """Apply a JSON merge patch (RFC 7396): null removes, an object is merged, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = apply_patch(result.get(name), value)
    return result


def patch_pool(
    content: bytes, pool_id: str, member_id: str | None, patch: Mapping[str, object]
) -> bytes:
    """Return a load balancer in JSON with a patch of one member in each form of its pool; without
    `member_id` the patch is of the pool.

    Raises:
        NotFound
        InvalidRequest: the patch is of another pool or member.
    """
    field, name = ("member_id", member_id) if member_id else ("pool_id", pool_id)
    if patch.get(field, name) != name:
        raise InvalidRequest.from_problems([(field, f"cannot change; it is {name}")])
    balancer = msgspec.json.decode(content)
    places = [(own, key) for own, key in _find_places(balancer) if own[key]["pool_id"] == pool_id]
    if not places:
        raise NotFound("Pool Not Found", f"no pool {pool_id}")
    if member_id is not None:
        lists = [own[key].get("members") or [] for own, key in places]
        places = [
            (members, index)
            for members in lists
            for index, member in enumerate(members)
            if member["member_id"] == member_id
        ]
        if len(places) < len(lists):
            raise NotFound("Member Not Found", f"pool {pool_id} has no member {member_id}")
    for own, key in places:
        own[key] = apply_patch(own[key], patch)
    return msgspec.json.encode(balancer)


def _find_places(balancer: _Json) -> Iterator[tuple[Any, Any]]:
    """Yield where the forms of pools are: an object and a key, or an array and an index."""
    pools = balancer.get("pools") or []
    yield from ((pools, index) for index in range(len(pools)))
    for listener in balancer.get("listeners") or ():
        if listener.get("default_pool"):
            yield listener, "default_pool"
        for policy in listener.get("l7policies") or ():
            if policy.get("redirect_pool"):
                yield policy, "redirect_pool"
