"""Queries mean what they say, at every operation of API 2.0: a dry run changes nothing, and a name
that is misspelt is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from amphora_agent.api.openapi import OPERATIONS, ApiOperation
from lab.backend import Backend
from lab.pki import Authority
from tests.integration.amphora import Amphora, differences
from tests.integration.declared import DeclaredBalancer, member

STORED = Authority.create("stored", key="ec").issue("www.example.org").pem
OTHER = Authority.create("other", key="ec").issue("www.example.com").pem

DRY = [
    operation for operation in OPERATIONS if any(p.name == "dry_run" for p in operation.parameters)
]

QUESTIONABLE = (
    "dry_run=yes",
    "dry_run=",
    "dry_run",
    "dry_run=2",
    "dry_run=1&dry_run=0",
    "dry_run=TRUE",
    "dry_run=%201",
)


@pytest.fixture(scope="module")
def balancer(amphora: Amphora, webs: dict[str, Backend]) -> Iterator[DeclaredBalancer]:
    made = DeclaredBalancer(amphora)
    made.push()
    assert amphora.request("PUT", f"{made.url}/certificates/stored", STORED).status == 201
    yield made
    made.delete()


def path(operation: ApiOperation, balancer: DeclaredBalancer) -> str:
    values = {
        "lb_id": balancer.id,
        "instance_id": balancer.id,
        "pool_id": "pool",
        "member_id": member()["member_id"],
        "name": "stored",
    }
    found = operation.rule
    for name, value in values.items():
        found = found.replace(f"<{name}>", value)
    return found


def body(operation: ApiOperation, balancer: DeclaredBalancer) -> bytes:
    """What would change something."""
    bodies = {
        "putLoadBalancer": json.dumps(balancer.body | {"name": "other"}).encode(),
        "patchPool": b'{"lb_algorithm": "SOURCE_IP"}',
        "patchMember": b'{"weight": 7}',
        "putCertificate": OTHER,
    }
    return bodies.get(operation.name, b"")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.name)
@pytest.mark.parametrize("query", ["dryrun=1", "Dry_run=1", "a=", "=1", "limits", "dry-run=true"])
def test_d4_a_name_that_is_unknown_is_refused(
    balancer: DeclaredBalancer, operation: ApiOperation, query: str
) -> None:
    before = balancer.amphora.files()
    where = f"{path(operation, balancer)}?{query}"
    answer = balancer.amphora.request(operation.method, where, body(operation, balancer))
    assert answer.status == 400
    assert [each["path"] for each in answer.json()["errors"]] == [query.partition("=")[0]]
    assert "unknown" in answer.json()["errors"][0]["message"]
    assert differences(before, balancer.amphora.files()) == set()


@pytest.mark.parametrize("operation", DRY, ids=lambda each: each.name)
@pytest.mark.parametrize("value", ["1", "true"])
def test_d4_a_dry_run_changes_nothing(
    balancer: DeclaredBalancer, operation: ApiOperation, value: str
) -> None:
    before, worker = balancer.amphora.files(), balancer.worker()
    where = f"{path(operation, balancer)}?dry_run={value}"
    answer = balancer.amphora.request(operation.method, where, body(operation, balancer))
    assert answer.status == 200
    assert answer.json().get("dry_run", True) is True
    assert differences(before, balancer.amphora.files()) == set()
    assert balancer.worker() == worker


@pytest.mark.parametrize("operation", DRY, ids=lambda each: each.name)
@pytest.mark.parametrize("query", QUESTIONABLE)
def test_d4_a_dry_run_is_asked_for_by_yes_or_no(
    balancer: DeclaredBalancer, operation: ApiOperation, query: str
) -> None:
    before = balancer.amphora.files()
    where = f"{path(operation, balancer)}?{query}"
    answer = balancer.amphora.request(operation.method, where, body(operation, balancer))
    assert answer.status == 400
    assert answer.json()["errors"][0]["path"] == "dry_run"
    assert differences(before, balancer.amphora.files()) == set()


def test_d4_a_dry_run_of_a_deletion_says_what_would_end(balancer: DeclaredBalancer) -> None:
    done = balancer.amphora.request("DELETE", f"{balancer.url}?dry_run=1").json()
    assert done["step"] == "stop"
    assert [each["id"] for each in done["processes"]] == [balancer.id]
    assert balancer.served_by() == {"web1", "web2"}
    refused = balancer.amphora.request(
        "DELETE", f"{balancer.url}?dry_run=1", headers={"If-Match": '"other"'}
    )
    assert refused.status == 412


def test_d4_a_dry_run_refuses_what_would_be_refused(balancer: DeclaredBalancer) -> None:
    ask = balancer.amphora.request
    assert ask("PUT", f"{balancer.url}/certificates/a?dry_run=1", b"no PEM").status == 400
    assert ask("DELETE", f"{balancer.url}/certificates/none?dry_run=1").status == 404
    assert ask("DELETE", "/2.0/loadbalancers/none?dry_run=1").status == 404


@pytest.mark.parametrize("value", ["0", "false"])
def test_d4_no_dry_run_is_a_change(balancer: DeclaredBalancer, value: str) -> None:
    where = f"{balancer.url}/certificates/{value}?dry_run={value}"
    assert balancer.amphora.request("PUT", where, STORED).status == 201
    assert balancer.amphora.request("DELETE", where).status == 204


@pytest.mark.parametrize(
    "value",
    [
        {"valid_vip_networks": ["a", "b"], "nested": {"deep": [1, 2.5, None, {"x": []}]}},
        ["a", {"b": 1}],
        "zone",
        {},
        [],
        "",
        7,
        2.5,
        True,
        False,
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("field", ["availability_zone", "flavor"])
def test_d5_a_zone_or_flavor_is_kept_whatever_it_is(
    balancer: DeclaredBalancer, field: str, value: object
) -> None:
    changed = balancer.body | {field: value}
    answer = balancer.put(body=changed)
    assert answer.status == 200, answer.json()
    assert answer.json()["step"] == "nothing"
    kept = balancer.get().json()
    assert kept[field] == value
    assert type(kept[field]) is type(value)
    assert balancer.put(body=kept).json()["etag"] == answer.json()["etag"]
