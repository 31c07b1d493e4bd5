"""The same pool in several places of a load balancer: its forms, and what they say together.

A load balancer has its pools in `pools`, a listener has its default pool once more in itself, and
so has a policy. Of a pool that is in `pools` that form counts alone: who changes it there need not
change it elsewhere. Of others one form may say less than another; what several say must be the
same."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from amphora_agent.model.loadbalancer.types import L7Policy, Listener, LoadBalancer, Member, Pool

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
                pools[pool.pool_id] = _merged(before, pool, "")
            except _DifferentError as error:
                differing[path] = str(error)
    return MergedPools(pools, differing)


def _merged(one: Any, other: Any, path: str) -> Any:
    """Raises _DifferentError."""
    if other is None or one == other:
        return one
    if one is None:
        return other
    if isinstance(one, msgspec.Struct) and type(one) is type(other):
        return msgspec.structs.replace(one, **_fields(one, other, path))
    if isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        in_order = _in_order(one, other)
        pairs = zip(one, in_order, strict=True)
        return tuple(_merged(*pair, f"{path}[{i}]") for i, pair in enumerate(pairs))
    raise _DifferentError(path)


def _fields(one: msgspec.Struct, other: msgspec.Struct, path: str) -> dict[str, object]:
    fields = {}
    for name in one.__struct_fields__:
        a, b = getattr(one, name), getattr(other, name)
        if a is None or (b is not None and a != b and name not in _ASIDE):
            fields[name] = _merged(a, b, f"{path}.{name}" if path else name)
    return fields


def _in_order(one: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
    """Members of `other` in the order of `one`, where they are the same members."""
    if not all(isinstance(each, Member) for each in (*one, *other)):
        return other
    by_id = {member.member_id: member for member in other}
    if by_id.keys() != {member.member_id for member in one}:
        return other
    return tuple(by_id[member.member_id] for member in one)


#: As much of a body as tells an id that is null from one that is not there.
_Json = Mapping[str, Any]


def normal_form(balancer: LoadBalancer, body: bytes) -> LoadBalancer:
    """Return the normal form of a load balancer that was decoded from `body`."""
    pools = tuple(merge_pools(balancer).pools.values())
    listeners = balancer.listeners
    if any(each.default_pool or _embeds(each) for each in listeners or ()):
        raw: list[_Json] = msgspec.json.decode(body)["listeners"]
        pairs = zip(listeners or (), raw, strict=True)
        listeners = tuple(_listener(each, said) for each, said in pairs)
    return msgspec.structs.replace(
        balancer, listeners=listeners, pools=pools if pools else balancer.pools
    )


def _embeds(listener: Listener) -> bool:
    return any(policy.redirect_pool for policy in listener.l7policies or ())


def _listener(listener: Listener, said: _Json) -> Listener:
    pool_id = listener.default_pool_id
    if "default_pool_id" not in said:
        pool_id = listener.target_pool_id
    policies = listener.l7policies
    if policies:
        pairs = zip(policies, said["l7policies"], strict=True)
        policies = tuple(_policy(each, told) for each, told in pairs)
    return msgspec.structs.replace(
        listener, default_pool=None, default_pool_id=pool_id, l7policies=policies
    )


def _policy(policy: L7Policy, said: _Json) -> L7Policy:
    pool_id = policy.redirect_pool_id
    if "redirect_pool_id" not in said:
        pool_id = policy.target_pool_id
    return msgspec.structs.replace(policy, redirect_pool=None, redirect_pool_id=pool_id)
