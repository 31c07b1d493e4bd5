"""Keys of what is administratively down are kept while the model names them: it comes up again
without anybody sending them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from lab.backend import Backend
from lab.http import FAILURES, Tls
from lab.pki import Authority
from lab.waiting import until
from tests.builders.bodies import Body
from tests.integration.amphora import Amphora
from tests.integration.declared import DeclaredBalancer, listener, pool
from tests.integration.test_declared_certificates import container

ROOT = Authority.create("tenant", key="ec")
CLIENTS = Authority.create("clients", key="ec")
CLIENT = CLIENTS.issue("client", key="ec")
MEMBERS = Authority.create("members", key="ec")
SITES = {name: ROOT.issue(name, dns=[name], key="ec") for name in ("a.example", "b.example")}
STORED = ROOT.issue("stored.example", dns=["stored.example"], key="ec")


def tls_listener(name: str, port: int) -> Body:
    return listener(
        name,
        port,
        protocol="TERMINATED_HTTPS",
        default_tls_container_data=container(SITES["a.example"]),
        sni_container_data=[container(SITES["b.example"], id="b")],
        client_authentication="OPTIONAL",
        client_ca_tls_container_data=CLIENTS.certificate.decode(),
        client_crl_container_data=CLIENTS.revocation_list().decode(),
    )


def tls_pool() -> Body:
    return pool(
        "tls-pool",
        tls_enabled=True,
        tls_container_data=container(CLIENT),
        ca_tls_container_data=MEMBERS.certificate.decode(),
        crl_container_data=MEMBERS.revocation_list().decode(),
    )


@pytest.fixture(params=["loadbalancer", "listener"])
def balancer(
    amphora: Amphora, webs: dict[str, Backend], request: pytest.FixtureRequest
) -> Iterator[DeclaredBalancer]:
    """One that uses certificates in every way, some of them by reference."""
    made = DeclaredBalancer(amphora)
    path = f"{made.url}/certificates/stored"
    assert amphora.request("PUT", path, STORED.pem).status == 201
    referring = listener(
        f"{made.id}-ref",
        made.port + 700,
        protocol="TERMINATED_HTTPS",
        default_tls_container_ref="https://keys/stored",
    )
    plain = listener(f"{made.id}-plain", made.port + 800, default_pool_id="tls-pool")
    made.body["listeners"] = [tls_listener(f"{made.id}-tls", made.port), referring, plain]
    made.body["pools"] += [tls_pool()]
    made.push(f"?process_model={request.param}")
    yield made
    made.delete()


def serves(balancer: DeclaredBalancer) -> bool:
    """Whether all names are served with their certificates."""
    names = {"a.example": 0, "b.example": 0, "stored.example": 700}
    for name, further in names.items():
        tls = Tls(server_name=name, ca=ROOT.certificate, credentials=CLIENT)
        try:
            with balancer.client(balancer.port + further, tls=tls) as client:
                if client.get("/").status != 200:
                    return False
        except FAILURES:
            return False
    return True


def listeners(model: Body) -> list[Body]:
    found: list[Body] = model["listeners"]
    return found


#: What is taken down.
DOWN: dict[str, Callable[[Body], list[Body]]] = {
    "a listener": lambda model: listeners(model)[:1],
    "another listener": lambda model: listeners(model)[1:2],
    "all listeners": listeners,
    "the pool": lambda model: [each for each in model["pools"] if each["pool_id"] == "tls-pool"],
    "the load balancer": lambda model: [model],
    "everything": lambda model: [model, *listeners(model), *model["pools"]],
}


def switch(balancer: DeclaredBalancer, down: Callable[[Body], list[Body]], *, up: bool) -> None:
    """Take it up or down in what GET says, and put that."""
    model = balancer.get().json()
    for each in down(model):
        each["admin_state_up"] = up
    answer = balancer.put(body=model)
    assert answer.status == 200, answer.json()
    assert balancer.put(body=balancer.get().json()).json()["step"] == "nothing"


@pytest.mark.parametrize("what", DOWN)
def test_d1_what_was_down_comes_up_with_its_keys(balancer: DeclaredBalancer, what: str) -> None:
    for _ in range(3):
        switch(balancer, DOWN[what], up=False)
    switch(balancer, DOWN[what], up=True)
    until(lambda: serves(balancer), f"{what} is up again")
    switch(balancer, DOWN[what], up=False)
    switch(balancer, DOWN[what], up=True)
    until(lambda: serves(balancer), f"{what} is up once more")


def test_d1_a_pool_finds_its_key_when_it_speaks_tls_again(balancer: DeclaredBalancer) -> None:
    for speaks in (False, False, True):
        model = balancer.get().json()
        (found,) = DOWN["the pool"](model)
        found["tls_enabled"] = speaks
        answer = balancer.put(body=model)
        assert answer.status == 200, answer.json()


def test_d1_keys_follow_from_one_process_model_to_the_other(balancer: DeclaredBalancer) -> None:
    switch(balancer, DOWN["everything"], up=False)
    for name in ("listener", "loadbalancer", "listener"):
        model = balancer.get().json()
        assert balancer.put(f"?process_model={name}", body=model).status == 200
    switch(balancer, DOWN["everything"], up=True)
    until(lambda: serves(balancer), "all is up")


def test_d1_what_the_model_names_no_more_is_forgotten(balancer: DeclaredBalancer) -> None:
    switch(balancer, DOWN["a listener"], up=False)
    model = balancer.get().json()
    for name in ("default_tls_container_data", "sni_container_data"):
        listeners(model)[0].pop(name)
    answer = balancer.put(body=model)
    assert answer.status == 400  # a TERMINATED_HTTPS listener needs one, whether it is up or not
    balancer.put(body=balancer.get().json() | {"listeners": listeners(model)[1:]})
    current = balancer.amphora.agent.base_path / balancer.id / "current"
    assert not [path for path in current.rglob("*.pem") if "-tls." in path.name]
    model = balancer.get().json()
    model["listeners"].append(tls_listener(f"{balancer.id}-tls", balancer.port))
    del model["listeners"][-1]["default_tls_container_data"]["private_key"]
    (error,) = balancer.put(body=model).json()["errors"]
    assert error["path"] == "listeners[2].default_tls_container_data.private_key"


def test_d1_what_is_down_needs_no_key_until_it_comes_up(balancer: DeclaredBalancer) -> None:
    new = tls_listener(f"{balancer.id}-new", balancer.port + 900) | {"admin_state_up": False}
    del new["default_tls_container_data"]["private_key"]
    model = balancer.get().json()
    model["listeners"].append(new)
    assert balancer.put(body=model).status == 200
    new["admin_state_up"] = True
    (error,) = balancer.put(body=model).json()["errors"]
    assert error["path"] == "listeners[3].default_tls_container_data.private_key"
