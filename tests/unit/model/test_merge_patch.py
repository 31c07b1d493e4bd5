"""JSON merge patch, by the table of RFC 7396, and where it is applied."""

from typing import Any

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
def test_a_patch(target: Any, patch: Any, result: Any) -> None:
    assert resolved.apply_patch(target, patch) == result


def test_every_form_of_a_pool_changes() -> None:
    shared = pool(members=[member()])
    body = balancer(
        listener(
            default_pool=shared, l7policies=[policy("REDIRECT_TO_POOL", redirect_pool=shared)]
        ),
        pools=(shared, pool(name="other")),
    )
    changed = resolved.patch_pool(body, "pool", {"name": "new"})
    new = {**shared, "name": "new"}
    front = changed["listeners"][0]
    assert changed["pools"] == [new, pool(name="other")]
    assert front["default_pool"] == front["l7policies"][0]["redirect_pool"] == new
    assert body["pools"][0] == shared


def test_a_member_changes_and_its_neighbours_do_not() -> None:
    body = balancer(pools=(pool(members=[member("a"), member("b")]),))
    changed = resolved.patch_member(body, "pool", "b", {"weight": 3})
    assert changed["pools"][0]["members"] == [member("a"), member("b", weight=3)]


def test_what_is_not_there_and_what_must_stay() -> None:
    body = balancer(pools=(pool(members=[member()]),))
    for pool_id, member_id in (("nowhere", "member"), ("pool", "nobody")):
        with pytest.raises(NotFound):
            resolved.patch_member(body, pool_id, member_id, {})
    with pytest.raises(InvalidRequest):
        resolved.patch_pool(body, "pool", {"pool_id": "renamed"})
