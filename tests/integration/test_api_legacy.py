"""API 0.5: the routes of 1.0 under the ids of listeners, and what the heartbeats become."""

import hashlib
import json
import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from lab.heartbeats import Heartbeat
from lab.pki import Authority
from tests.integration.amphora import Amphora, Answer, LoadBalancer


@pytest.fixture
def listener(amphora: Amphora) -> Iterator[LoadBalancer]:
    """An instance that is one listener; to the agent there is no difference."""
    made = amphora.new_balancer()
    yield made
    made.delete()


def upload(amphora: Amphora, listener: LoadBalancer, text: str) -> Answer:
    path = f"/0.5/listeners/{amphora.agent.amphora_id}/{listener.id}/haproxy"
    return amphora.request("PUT", path, text.encode())


def act(amphora: Amphora, listener: LoadBalancer, action: str) -> Answer:
    return amphora.request("PUT", f"/0.5/listeners/{listener.id}/{action}")


def test_the_life_of_a_listener(amphora: Amphora, listener: LoadBalancer) -> None:
    text = listener.text()
    digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    path = f"/0.5/listeners/{listener.id}"

    answer = upload(amphora, listener, text)
    assert (answer.status, answer.headers["etag"]) == (202, digest)
    answer = amphora.request("GET", f"{path}/haproxy")
    assert (answer.status, answer.body) == (200, text.encode())
    assert act(amphora, listener, "reload").status == 202
    assert listener.get() in {"web1", "web2"}

    answer = amphora.request("GET", path)
    found = answer.json()
    assert answer.status == 200
    assert (found["status"], found["type"]) == ("ACTIVE", "HTTP")
    (pool,) = found["pools"]
    assert pool["status"] == "UP"
    assert [list(member.values()) for member in pool["members"]] == [["no check"], ["no check"]]

    assert act(amphora, listener, "stop").status == 202
    stopped = amphora.request("GET", path).json()
    assert stopped["status"] == "OFFLINE"
    assert "pools" not in stopped
    assert not listener.accepts()
    assert act(amphora, listener, "start").status == 202
    assert listener.accepts()
    assert act(amphora, listener, "explode").status == 400

    assert amphora.request("DELETE", path).status == 200
    assert not listener.directory.exists()
    assert amphora.request("DELETE", path).status == 200
    assert amphora.request("GET", path).status == 404
    assert amphora.request("GET", f"{path}/haproxy").status == 404
    assert act(amphora, listener, "reload").status == 404


def test_b3_a_listener_whose_text_names_no_user_is_not_root(
    amphora: Amphora, listener: LoadBalancer
) -> None:
    text = listener.text().replace("    user nobody\n", "")
    assert upload(amphora, listener, text).status == 202
    assert act(amphora, listener, "start").status == 202
    worker = listener.processes()[1]
    assert pwd.getpwuid(os.stat(f"/proc/{worker.pid}").st_uid).pw_name == "nobody"


def test_certificates_of_a_listener(
    amphora: Amphora, listener: LoadBalancer, authorities: tuple[Authority, Authority]
) -> None:
    path = f"/0.5/listeners/{listener.id}/certificates/c.pem"
    data = b"\n".join(authority.certificate for authority in authorities)
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()

    assert amphora.request("GET", path).status == 404
    assert amphora.request("PUT", path, data).status == 200
    assert amphora.request("GET", path).json() == {"md5sum": digest}
    assert amphora.request("DELETE", path).status == 200
    assert amphora.request("GET", path).status == 404
    assert amphora.request("PUT", path.replace("c.pem", "c.pem.sh"), data).status == 400


@pytest.mark.parametrize("path", ["info", "details"])
def test_the_agent_tells_the_version_it_is_asked_in(amphora: Amphora, path: str) -> None:
    told = {
        version: amphora.request("GET", f"/{version}/{path}").json()["api_version"]
        for version in ("0.5", "1.0")
    }
    assert told == {"0.5": "0.5", "1.0": "1.0"}


def test_every_route_of_1_0_is_there(amphora: Amphora) -> None:
    """Whatever they answer to nonsense: it is not that they are unknown."""
    for method, path in [
        ("GET", "listeners"),
        ("POST", "plug/vip/nonsense"),
        ("POST", "plug/network"),
        ("PUT", "certificate"),
        ("PUT", "config"),
        ("PUT", "vrrp/nonsense"),
        ("GET", "interface/nonsense"),
        ("PUT", "interface/nonsense/rules"),
        ("PUT", "listeners/a/b/udp_listener"),
        ("GET", "listeners/nobody/udp_listener"),
    ]:
        answers = [amphora.request(method, f"/{version}/{path}") for version in ("1.0", "0.5")]
        assert answers[0].status == answers[1].status, path
        assert "error" not in json.loads(answers[1].body) or path == "listeners", answers[1].body


def test_an_unknown_path_is_unknown_in_both(amphora: Amphora) -> None:
    for path in ("/0.5/loadbalancer/x/haproxy", "/0.5/nothing", "/0.4/info"):
        answer = amphora.request("GET", path)
        assert answer.status == 404
        assert answer.json()["http_code"] == 404


def test_heartbeats_follow_the_version_that_the_controller_speaks(own_amphora: Amphora) -> None:
    """One is thrown away: it may have been under way before the change."""
    beats, balancer = own_amphora.heartbeats, own_amphora.new_balancer()

    def version() -> int:
        beats.drain()
        beats.next()
        return beats.next().version

    balancer.push()
    assert version() == 3
    upload(own_amphora, balancer, balancer.text())
    assert version() == 1
    own_amphora.agent.restart()
    assert version() == 1
    own_amphora.request("GET", "/1.0/info")
    own_amphora.request("PUT", f"/1.0/loadbalancer/{balancer.id}/explode")
    assert version() == 1  # nothing was changed by these
    balancer.push()
    assert version() == 3
    balancer.delete()


def test_the_version_of_heartbeats_can_be_set(boot: Callable[..., Amphora]) -> None:
    with ExitStack() as ending:
        amphora = boot(ending, options=("--memory-limit", "1024", "--heartbeat-version", "2"))
        balancer = amphora.new_balancer()
        balancer.push()
        assert balancer.get()
        beat = amphora.heartbeats.wait_for(lambda beat: _connections(beat) == 1)
        assert beat.version == 2
        # Counted since the beginning: the next one tells it again.
        assert _connections(amphora.heartbeats.next()) == 1
        balancer.delete()


def _connections(beat: Heartbeat) -> int:
    return sum(listener["stats"]["totconns"] for listener in beat.listeners.values())
