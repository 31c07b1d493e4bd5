"""JSON merge patch, by the table of RFC 7396, and where it is applied."""

from typing import Any

import msgspec
import pytest

from amphora_agent.errors import InvalidRequest, NotFound
from amphora_agent.model import resolved
from tests.builders.bodies import balancer, listener, member, policy, pool


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_patch_follows_the_rfc(target: Any, patch: Any, result: Any) -> None:
    assert resolved.apply_patch(target, patch) == result


def patched(body: Any, pool_id: str, member_id: str | None, patch: dict[str, Any]) -> Any:
    content = msgspec.json.encode(body)
    return msgspec.json.decode(resolved.patch_pool(content, pool_id, member_id, patch))


def test_patch_changes_every_form_of_a_pool() -> None:
    shared = pool(members=[member()])
    body = balancer(
        listener(
            default_pool=shared, l7policies=[policy("REDIRECT_TO_POOL", redirect_pool=shared)]
        ),
        pools=(shared, pool(name="other")),
    )
    changed = patched(body, "pool", None, {"name": "new"})
    new = {**shared, "name": "new"}
    front = changed["listeners"][0]
    assert changed["pools"] == [new, pool(name="other")]
    assert front["default_pool"] == front["l7policies"][0]["redirect_pool"] == new


def test_patch_of_a_member_leaves_the_others() -> None:
    body = balancer(pools=(pool(members=[member("a"), member("b")]),))
    changed = patched(body, "pool", "b", {"weight": 3})
    assert changed["pools"][0]["members"] == [member("a"), member("b", weight=3)]


def test_patch_needs_its_pool_and_member_and_changes_no_id() -> None:
    body = balancer(pools=(pool(members=[member()]),))
    for pool_id, member_id in (("nowhere", "member"), ("pool", "nobody")):
        with pytest.raises(NotFound):
            patched(body, pool_id, member_id, {})
    with pytest.raises(InvalidRequest):
        patched(body, "pool", None, {"pool_id": "renamed"})
    with pytest.raises(InvalidRequest):
        patched(body, "pool", "member", {"member_id": "renamed"})
