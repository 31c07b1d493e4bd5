"""An operator's commands for an amphora elsewhere, and their client of API 2.0."""

import copy
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from amphora_agent.client.v2 import AmphoraError, DeclarativeClient, ProblemError
from lab.agent import agent_executable
from lab.backend import Backend
from lab.http import Tls
from lab.pki import Authority, Credentials
from lab.waiting import until
from tests.integration.amphora import Amphora, differences
from tests.integration.declared import DeclaredBalancer, member, monitor, pool

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def balancer(amphora: Amphora, webs: dict[str, Backend]) -> Iterator[DeclaredBalancer]:
    """One that is not there yet."""
    made = DeclaredBalancer(amphora)
    yield made
    made.delete()


@pytest.fixture
def pushed(balancer: DeclaredBalancer) -> DeclaredBalancer:
    balancer.push()
    return balancer


@pytest.fixture
def client(amphora: Amphora) -> Iterator[DeclarativeClient]:
    agent = amphora.agent
    made = DeclarativeClient(
        agent.url, agent.amphora_id, agent.pki.controller_pem, agent.pki.server_ca
    )
    with closing(made):
        yield made


def run(amphora: Amphora, *words: str, text: str = "", **changed: str) -> Done:
    """A command as a controller gives it, somewhere else than on the amphora."""
    agent = amphora.agent
    options = {
        "url": agent.url,
        "amphora-id": agent.amphora_id,
        "cert": str(agent.pki.controller_pem),
        "ca": str(agent.pki.server_ca),
    }
    given = [f"--{name}={value}" for name, value in (options | changed).items()]
    return subprocess.run(
        [*agent_executable(), *words, *given],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def push(balancer: DeclaredBalancer, *options: str, body: Any = None) -> Done:
    text = json.dumps(balancer.body if body is None else body)
    return run(balancer.amphora, "push", "-", *options, text=text)


def lines(done: Done) -> list[str]:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


# push


def test_a_pushed_file_serves(balancer: DeclaredBalancer, tmp_path: Path) -> None:
    file = tmp_path / "lb.json"
    file.write_text(json.dumps(balancer.body))
    first, *_ = lines(run(balancer.amphora, "push", str(file)))
    assert first.startswith(f"{balancer.id}: created by a start; generation 1, ETag ")
    assert balancer.served_by() == {"web1", "web2"}


def test_what_was_done_is_told(pushed: DeclaredBalancer) -> None:
    worker = pushed.worker()
    pushed.body["pools"][0]["members"][0]["weight"] = 7
    first, process, *words = lines(push(pushed))
    assert first.startswith(f"{pushed.id}: changed at runtime, no reload; generation 2, ETag ")
    assert process == f"  {pushed.id}: runtime"
    assert words == ["    pool pool: member member-8001: weight 1 -> 7"]
    assert pushed.worker() == worker

    (only,) = lines(push(pushed))
    assert only.startswith(f"{pushed.id}: nothing to do; generation 2, ETag ")

    pushed.body["listeners"][0]["insert_headers"] = {"X-Forwarded-For": "true"}
    first, process, because, *_ = lines(push(pushed))
    assert first.startswith(f"{pushed.id}: changed by a reload; generation 3, ETag ")
    assert (process, because[:12]) == (f"  {pushed.id}: reload", "    because ")


def test_a_dry_run_tells_the_plan_and_does_nothing(pushed: DeclaredBalancer) -> None:
    before, worker = pushed.amphora.files(), pushed.worker()
    pushed.body["pools"][0]["members"][0]["weight"] = 7
    first, _, words = lines(push(pushed, "--dry-run"))
    assert first == f"{pushed.id}: would be done: at runtime, no reload"
    assert words == "    pool pool: member member-8001: weight 1 -> 7"
    assert differences(before, pushed.amphora.files()) == set()
    assert pushed.worker() == worker


def test_everything_that_is_wrong_is_told_with_its_place(pushed: DeclaredBalancer) -> None:
    before = pushed.amphora.files()
    pushed.body["listeners"][0]["default_pool_id"] = "another"
    pushed.body["pools"][0]["members"][1]["address"] = "224.0.0.1"
    done = push(pushed)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "amphora-agent: 400 Bad Request",
        "  listeners[0].default_pool_id: there is no pool another",
        "  pools[0].members[1].address: 224.0.0.1 is not the address of a host",
    ]
    assert differences(before, pushed.amphora.files()) == set()


def test_what_somebody_else_has_changed_is_not_overwritten(pushed: DeclaredBalancer) -> None:
    seen = run(pushed.amphora, "pull", pushed.id).stderr.split()[-1]
    pushed.patch("/pools/pool/members/member-8002", {"weight": 9})
    before = pushed.amphora.files()
    done = push(pushed, "--if-match", seen)
    assert done.returncode == 1
    assert done.stderr.startswith("amphora-agent: 412 Precondition Failed: ")
    assert differences(before, pushed.amphora.files()) == set()

    seen = run(pushed.amphora, "pull", pushed.id).stderr.split()[-1]
    assert push(pushed, "--if-match", seen).returncode == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "-: not JSON: "),
        ("[" * 100_000, "-: not JSON: "),
        ("[]", "-: loadbalancer_id: is missing"),
        ('{"loadbalancer_id": 7}', "-: loadbalancer_id: is missing"),
    ],
)
def test_what_is_no_load_balancer_is_not_sent(amphora: Amphora, text: str, words: str) -> None:
    done = run(amphora, "push", "-", text=text)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"amphora-agent: Cannot read the load balancer: {words}")


def test_a_file_that_is_not_there_is_said(amphora: Amphora, tmp_path: Path) -> None:
    done = run(amphora, "push", str(tmp_path / "lb.json"))
    assert done.returncode == 1
    assert "No such file" in done.stderr


# PEMs beside the file


def secured(balancer: DeclaredBalancer) -> dict[str, Any]:
    body = copy.deepcopy(balancer.body)
    body["name"] = "@home"
    body["listeners"][0] |= {
        "protocol": "TERMINATED_HTTPS",
        "default_tls_container_data": {"certificate": "@site.crt", "private_key": "@keys/site.key"},
    }
    return body


@pytest.fixture
def site(tmp_path: Path) -> tuple[Authority, Credentials]:
    authority = Authority.create("a tenant's CA", key="ec")
    credentials = authority.issue("www.example.org", dns=["www.example.org"], key="ec")
    (tmp_path / "keys").mkdir()
    (tmp_path / "site.crt").write_bytes(credentials.certificate)
    (tmp_path / "keys" / "site.key").write_bytes(credentials.key)
    return authority, credentials


def test_files_beside_it_stand_for_pems(
    balancer: DeclaredBalancer, tmp_path: Path, site: tuple[Authority, Credentials]
) -> None:
    authority, credentials = site
    file = tmp_path / "lb.json"
    file.write_text(json.dumps(secured(balancer)))
    assert lines(run(balancer.amphora, "push", str(file)))
    tls = Tls(server_name="www.example.org", ca=authority.certificate)
    with balancer.client(tls=tls) as visitor:
        assert visitor.get("/").status == 200
    stored = balancer.get().json()
    assert stored["name"] == "@home"  # no PEM is expected there
    container = stored["listeners"][0]["default_tls_container_data"]
    assert container["certificate"].encode() == credentials.certificate
    assert "private_key" not in container


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "No such file"), (b"root:*:1:0:99999:7:::\n", "is not a PEM file")],
    ids=["missing", "something else"],
)
def test_nothing_but_pem_is_sent(
    balancer: DeclaredBalancer,
    tmp_path: Path,
    site: tuple[Authority, Credentials],
    content: bytes | None,
    words: str,
) -> None:
    key = tmp_path / "keys" / "site.key"
    key.unlink()
    if content is not None:
        key.write_bytes(content)
    file = tmp_path / "lb.json"
    file.write_text(json.dumps(secured(balancer)))
    done = run(balancer.amphora, "push", str(file))
    assert done.returncode == 1
    assert "listeners[0].default_tls_container_data.private_key: " in done.stderr
    assert words in done.stderr
    assert balancer.get().status == 404


# pull, status


def test_what_is_pulled_can_be_pushed_again(
    balancer: DeclaredBalancer, tmp_path: Path, site: tuple[Authority, Credentials]
) -> None:
    file = tmp_path / "lb.json"
    file.write_text(json.dumps(secured(balancer)))
    assert lines(run(balancer.amphora, "push", str(file)))
    pulled = run(balancer.amphora, "pull", balancer.id)
    assert "PRIVATE KEY" not in pulled.stdout
    again = run(balancer.amphora, "push", "-", text=pulled.stdout)
    assert again.stdout.startswith(f"{balancer.id}: nothing to do; ")
    assert pulled.stderr.split() == ["ETag", again.stdout.split()[-1]]


def test_status_is_told_of_every_part(pushed: DeclaredBalancer) -> None:
    nobody = member(7999, member_id="nobody")
    pushed.body["pools"] = [pool("pool", member(), nobody, healthmonitor=monitor())]
    assert lines(push(pushed))

    def told() -> list[list[str]]:
        return [line.split() for line in lines(run(pushed.amphora, "status", pushed.id))]

    until(lambda: "ONLINE" in told()[-2] and "refused," in told()[-1], "both are checked")
    balancer, listener, its_pool, web, none = told()
    assert balancer[:4] == ["load", "balancer", pushed.id, "DEGRADED"]
    assert listener[:3] == ["listener", f"{pushed.id}-a", "ONLINE"]
    assert " ".join(its_pool) == "pool pool DEGRADED 1 of 2 members do not work"
    assert web[:3] == ["member", "member-8001", "ONLINE"]
    assert none[:3] == ["member", "nobody", "ERROR"]


def test_status_without_an_id_tells_what_there_is(pushed: DeclaredBalancer) -> None:
    found = lines(run(pushed.amphora, "status"))
    (mine,) = (line for line in found if line.startswith(pushed.id))
    assert "generation 1, 1 listeners, 1 pools, ETag " in mine


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_who_has_read_enough_hears_no_complaint(pushed: DeclaredBalancer, unbuffered: str) -> None:
    agent = pushed.amphora.agent
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as output:
        done = subprocess.run(
            [
                *(*agent_executable(), "status", f"--url={agent.url}"),
                *(f"--amphora-id={agent.amphora_id}", f"--ca={agent.pki.server_ca}"),
                f"--cert={agent.pki.controller_pem}",
            ],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=output,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")


# Where the agent is


def test_an_agent_that_is_not_there_is_said(amphora: Amphora) -> None:
    done = run(amphora, "status", url="https://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("amphora-agent: No answer from https://127.0.0.1:1: ")


def test_another_amphora_gets_nothing(pushed: DeclaredBalancer) -> None:
    done = run(pushed.amphora, "pull", pushed.id, **{"amphora-id": "another"})
    assert (done.returncode, done.stdout) == (1, "")
    assert "another" in done.stderr


@pytest.mark.parametrize("option", ["cert", "ca"])
@pytest.mark.parametrize("content", [None, "nothing of the kind"], ids=["missing", "no PEM"])
def test_certificates_that_cannot_be_used_are_said(
    amphora: Amphora, tmp_path: Path, option: str, content: str | None
) -> None:
    file = tmp_path / "file.pem"
    if content is not None:
        file.write_text(content)
    done = run(amphora, "status", **{option: str(file)})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("amphora-agent: ")
    assert "Traceback" not in done.stderr


def test_options_come_from_the_environment_as_well(pushed: DeclaredBalancer) -> None:
    agent = pushed.amphora.agent
    environment = {
        "AMPHORA_URL": agent.url,
        "AMPHORA_ID": agent.amphora_id,
        "AMPHORA_CERT": str(agent.pki.controller_pem),
    }
    command = [*agent_executable(), "status", pushed.id]
    without = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert without.returncode == 2
    assert "the following arguments are required: --ca" in without.stderr
    environment["AMPHORA_CA"] = str(agent.pki.server_ca)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert lines(done)


# The client


class Model:
    """As `octavia_lib.api.drivers.data_models.LoadBalancer` gives what it is made of."""

    def __init__(self, body: dict[str, Any]) -> None:
        self._body = body

    def to_dict(
        self, calling_classes: Any = None, recurse: bool = False, render_unsets: bool = False
    ) -> dict[str, Any]:
        parts = () if recurse else ("listeners", "pools")
        return {name: value for name, value in self._body.items() if name not in parts}


def test_models_of_octavia_are_put_whole(
    client: DeclarativeClient, balancer: DeclaredBalancer
) -> None:
    assert client.put(Model(balancer.body), absent=True)["created"]
    assert balancer.served_by() == {"web1", "web2"}
    with pytest.raises(ProblemError) as refused:
        client.put(Model(balancer.body), absent=True)
    assert (refused.value.status, refused.value.errors) == (412, ())


def test_a_refusal_has_all_errors(client: DeclarativeClient, balancer: DeclaredBalancer) -> None:
    balancer.body["listeners"][0]["default_pool_id"] = "another"
    balancer.body["vip_address"] = "224.0.0.1"
    with pytest.raises(ProblemError) as refused:
        client.put(balancer.body)
    assert refused.value.status == 400
    assert {path for path, _ in refused.value.errors} == {
        "vip_address",
        "listeners[0].default_pool_id",
    }
    assert ("listeners[0].default_pool_id", "there is no pool another") in refused.value.errors


def test_an_edit_starts_again_when_somebody_else_was_faster(
    client: DeclarativeClient, pushed: DeclaredBalancer
) -> None:
    weights = []

    def change(balancer: dict[str, Any]) -> None:
        first, second = balancer["pools"][0]["members"]
        weights.append(first.get("weight"))
        second["weight"] = 3
        if len(weights) == 1:
            pushed.patch("/pools/pool/members/member-8001", {"weight": 5})

    done = client.edit(pushed.id, change)
    assert weights == [None, 5]
    members = client.get(pushed.id)[0]["pools"][0]["members"]
    assert [each["weight"] for each in members] == [5, 3]
    assert client.get(pushed.id)[1] == f'"{done["etag"]}"'


def test_an_edit_that_never_wins_gives_up(
    client: DeclarativeClient, pushed: DeclaredBalancer
) -> None:
    calls: list[int] = []

    def change(balancer: dict[str, Any]) -> None:
        calls.append(len(calls))
        pushed.patch("/pools/pool/members/member-8001", {"weight": 10 + len(calls)})
        balancer["name"] = "never"

    with pytest.raises(AmphoraError) as refused:
        client.edit(pushed.id, change, attempts=3)
    assert (refused.value.status, len(calls)) == (412, 3)
    assert "name" not in client.get(pushed.id)[0]


def test_parts_are_patched(client: DeclarativeClient, pushed: DeclaredBalancer) -> None:
    (_, etag) = client.get(pushed.id)
    plan = client.patch_member(pushed.id, "pool", "member-8001", {"weight": 4}, dry_run=True)
    assert (plan["step"], plan["dry_run"]) == ("runtime", True)
    assert client.get(pushed.id)[1] == etag
    client.patch_member(pushed.id, "pool", "member-8001", {"weight": 4}, if_match=etag)
    with pytest.raises(AmphoraError, match="412"):
        client.patch_pool(pushed.id, "pool", {"lb_algorithm": "SOURCE_IP"}, if_match=etag)
    client.patch_pool(pushed.id, "pool", {"lb_algorithm": "SOURCE_IP"})
    found = client.get(pushed.id)[0]["pools"][0]
    assert (found["lb_algorithm"], found["members"][0]["weight"]) == ("SOURCE_IP", 4)


def test_certificates_are_put_beforehand(
    client: DeclarativeClient,
    balancer: DeclaredBalancer,
    site: tuple[Authority, Credentials],
) -> None:
    authority, credentials = site
    about = client.put_certificate(balancer.id, "site", credentials.pem)
    assert about["names"] == ["www.example.org"]
    assert client.certificates(balancer.id) == {"site": about}
    assert client.certificate(balancer.id, "site") == about
    balancer.body["listeners"][0] |= {
        "protocol": "TERMINATED_HTTPS",
        "default_tls_container_ref": "https://keys.example.org/v1/containers/site",
    }
    client.put(balancer.body)
    tls = Tls(server_name="www.example.org", ca=authority.certificate)
    with balancer.client(tls=tls) as visitor:
        assert visitor.get("/").status == 200
    client.delete_certificate(balancer.id, "site")
    assert client.certificates(balancer.id) == {}


def test_what_is_deleted_is_gone(client: DeclarativeClient, pushed: DeclaredBalancer) -> None:
    assert pushed.id in [each["loadbalancer_id"] for each in client.loadbalancers()]
    assert client.status(pushed.id)["loadbalancer_id"] == pushed.id
    with pytest.raises(AmphoraError, match="412"):
        client.delete(pushed.id, if_match="another")
    client.delete(pushed.id, if_match=client.get(pushed.id)[1])
    assert pushed.id not in [each["loadbalancer_id"] for each in client.loadbalancers()]
    with pytest.raises(ProblemError, match="404"):
        client.status(pushed.id)
