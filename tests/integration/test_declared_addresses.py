"""No two load balancers have one address and port: the second one is refused before anything
changes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from lab.backend import Backend
from lab.network import Namespace
from tests.integration.amphora import Amphora, Answer, differences
from tests.integration.declared import VIP, DeclaredBalancer, listener, new_id
from tests.integration.history import run

MAPPED = f"::ffff:{VIP}"
V6 = "2001:db8:9::10"


@pytest.fixture(scope="module")
def first(amphora: Amphora, webs: dict[str, Backend]) -> Iterator[DeclaredBalancer]:
    made = DeclaredBalancer(amphora)
    _have_v6(amphora.namespace)
    made.body["additional_vips"] = [{"ip_address": V6}]
    made.body["listeners"].append(listener(new_id(), made.port + 900, admin_state_up=False))
    made.push()
    yield made
    made.delete()


def _have_v6(namespace: Namespace) -> None:
    if V6 not in namespace.ip("address", "show", "dev", "lo"):
        namespace.address("lo", f"{V6}/128")


def second(first: DeclaredBalancer, **more: object) -> DeclaredBalancer:
    """Another one at the same port."""
    made = DeclaredBalancer(first.amphora)
    made.body["listeners"] = [listener(new_id(), first.port)]
    made.body |= more
    return made


def require_refused(first: DeclaredBalancer, answer: Answer) -> None:
    assert answer.status == 409, answer.json()
    assert first.id in json.dumps(answer.json())


@pytest.mark.parametrize("model", ["loadbalancer", "listener"])
@pytest.mark.parametrize("vip", [VIP, V6, MAPPED])
def test_d9_a_second_one_at_the_same_place_is_refused(
    first: DeclaredBalancer, vip: str, model: str
) -> None:
    other = second(first, vip_address=vip)
    before, worker = first.amphora.files(), first.worker()
    for query in ("?dry_run=1&", "?"):
        require_refused(first, other.put(f"{query}process_model={model}"))
    assert differences(before, first.amphora.files()) == set()
    assert first.worker() == worker
    assert first.served_by() == {"web1", "web2"}


def test_d9_an_additional_address_counts(first: DeclaredBalancer) -> None:
    other = second(first, vip_address="192.0.2.77", additional_vips=[{"ip_address": V6}])
    require_refused(first, other.put())


def test_d9_what_is_down_claims_nothing_until_it_comes_up(first: DeclaredBalancer) -> None:
    other = second(first)
    other.body["listeners"][0]["admin_state_up"] = False
    assert other.put().status == 201
    other.body["listeners"][0]["admin_state_up"] = True
    for query in ("?dry_run=1", ""):
        require_refused(first, other.put(query))
    other.body["listeners"][0]["protocol_port"] = first.port + 900
    other.push()
    first.body["listeners"][1]["admin_state_up"] = True
    require_refused(other, first.put())
    first.body["listeners"][1]["admin_state_up"] = False
    assert other.delete().status == 204


def test_d9_other_places_are_free(first: DeclaredBalancer) -> None:
    other = second(first)
    other.port = first.port + 901
    other.body["listeners"][0]["protocol_port"] = other.port
    other.push()
    assert other.served_by() == {"web1", "web2"}
    assert other.delete().status == 204


def test_d9_a_place_is_free_again_when_its_owner_is_gone(first: DeclaredBalancer) -> None:
    one, other = second(first), second(first)
    for each in (one, other):
        each.body["listeners"][0]["protocol_port"] = first.port + 902
    one.push()
    require_refused(one, other.put())
    assert one.delete().status == 204
    other.push()
    assert other.delete().status == 204


def test_d9_going_back_to_a_place_that_is_taken_is_refused(first: DeclaredBalancer) -> None:
    one, other = second(first), second(first)
    for port in (first.port + 903, first.port + 904):
        one.body["listeners"][0]["protocol_port"] = port
        one.push()
    other.body["listeners"][0]["protocol_port"] = first.port + 903
    other.push()
    done = run(first.amphora, "rollback", one.id, "1")
    assert done.returncode != 0
    assert other.id in done.stderr
    assert one.get().json()["listeners"][0]["protocol_port"] == first.port + 904
    for each in (one, other):
        assert each.delete().status == 204


def test_d9_of_two_at_once_one_is_refused(first: DeclaredBalancer) -> None:
    for _ in range(5):
        many = [second(first) for _ in range(4)]
        for each in many:
            each.body["listeners"][0]["protocol_port"] = first.port + 905
        answers: dict[str, int] = {}

        def put(each: DeclaredBalancer, answers: dict[str, int] = answers) -> None:
            answers[each.id] = each.put().status

        threads = [threading.Thread(target=put, args=(each,)) for each in many]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers.values()) == [201, 409, 409, 409]
        assert sorted(each.delete().status for each in many) == [204, 404, 404, 404]


@pytest.mark.parametrize("word", ["{vip}:{port}", "*:{port}", ":::{port}", "{vip}:{port}-{port}"])
def test_d9_a_text_and_a_declared_one_do_not_meet(
    amphora: Amphora, first: DeclaredBalancer, word: str
) -> None:
    text = new_id()
    path = f"/1.0/loadbalancer/{new_id()}/{text}/haproxy"
    answer = amphora.request("PUT", path, text_at(word.format(vip=VIP, port=first.port)))
    assert answer.status == 409
    assert first.id in json.dumps(answer.json())
    assert not (amphora.agent.base_path / text / "haproxy.cfg").exists()
    free = text_at(word.format(vip=VIP, port=first.port + 906))
    assert amphora.request("PUT", path, free).status == 202
    other = second(first)
    other.body["listeners"][0]["protocol_port"] = first.port + 906
    for query in ("?dry_run=1", ""):
        answer = other.put(query)
        assert answer.status == 409
        assert text in json.dumps(answer.json())
    amphora.request("DELETE", f"/1.0/listeners/{text}")


def text_at(address: str) -> bytes:
    return f"""
global
    daemon
    user nobody
defaults
    timeout client 5s
    timeout server 5s
    timeout connect 5s
frontend {new_id()}
    mode http
    bind {address}
""".encode()
