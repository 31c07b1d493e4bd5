"""Changing a part of a load balancer: JSON merge patch (RFC 7396) of one pool or member."""

from collections.abc import Callable, Iterator
from typing import Any

from amphora_agent.errors import InvalidRequest, NotFound

Json = dict[str, Any]


def merged(target: object, patch: object) -> object:
    """`target` with `patch` applied: null removes, an object is merged, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def with_pool(balancer: Json, pool_id: str, patch: Json) -> Json:
    """A load balancer in which one pool, wherever it is described, has been patched.

    Raises:
        NotFound
        InvalidRequest: the patch is of another pool.
    """
    _require_same(patch, "pool_id", pool_id)
    return _each_pool(balancer, pool_id, lambda pool: _object(merged(pool, patch)))


def with_member(balancer: Json, pool_id: str, member_id: str, patch: Json) -> Json:
    """The same for one member of a pool. Raises as `with_pool`."""
    _require_same(patch, "member_id", member_id)

    def change(pool: Json) -> Json:
        members = pool.get("members") or []
        if not any(member["member_id"] == member_id for member in members):
            raise NotFound("Member Not Found", f"pool {pool_id} has no member {member_id}")
        return {
            **pool,
            "members": [
                merged(member, patch) if member["member_id"] == member_id else member
                for member in members
            ],
        }

    return _each_pool(balancer, pool_id, change)


def _each_pool(balancer: Json, pool_id: str, change: Callable[[Json], Json]) -> Json:
    found = False

    def changed(pool: Json) -> Json:
        nonlocal found
        if pool["pool_id"] != pool_id:
            return pool
        found = True
        return change(pool)

    result = dict(balancer)
    if balancer.get("pools"):
        result["pools"] = [changed(pool) for pool in balancer["pools"]]
    if balancer.get("listeners"):
        result["listeners"] = [_of_listener(each, changed) for each in balancer["listeners"]]
    if not found:
        raise NotFound("Pool Not Found", f"no pool {pool_id}")
    return result


def _of_listener(listener: Json, changed: Callable[[Json], Json]) -> Json:
    result = dict(listener)
    if listener.get("default_pool"):
        result["default_pool"] = changed(listener["default_pool"])
    if listener.get("l7policies"):
        result["l7policies"] = list(_policies(listener["l7policies"], changed))
    return result


def _policies(policies: list[Json], changed: Callable[[Json], Json]) -> Iterator[Json]:
    for policy in policies:
        pool = policy.get("redirect_pool")
        yield {**policy, "redirect_pool": changed(pool)} if pool else policy


def _object(value: object) -> Json:
    assert isinstance(value, dict)
    return value


def _require_same(patch: Json, field: str, wanted: str) -> None:
    if patch.get(field, wanted) != wanted:
        raise InvalidRequest.of([(field, f"cannot change; it is {wanted}")])
