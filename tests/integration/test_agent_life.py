"""The agent comes and goes; traffic does not notice, and what runs is taken over."""

import json
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable

import pytest

from amphora_agent.client.v2 import AmphoraError
from lab.processes import Process
from lab.waiting import until
from tests.integration.amphora import (
    Amphora,
    LoadBalancer,
    read_answer,
    request_bytes,
)
from tests.integration.history import run


@pytest.fixture
def served(own_amphora: Amphora) -> LoadBalancer:
    made = own_amphora.new_balancer()
    made.push()
    return made


class Download:
    """A long answer through haproxy, under way when it is made."""

    def __init__(self, balancer: LoadBalancer) -> None:
        self._connection = balancer.amphora.namespace.connect("127.0.0.1", balancer.port)
        self._connection.sendall(b"GET /stream?seconds=2 HTTP/1.1\r\nHost: site\r\n\r\n")
        self._received = self._connection.recv(4096)

    def finish(self) -> bytes:
        """All of it; raises ConnectionError when it breaks off."""
        with self._connection:
            while not self._received.endswith(b"0\r\n\r\n"):
                piece = self._connection.recv(4096)
                if not piece:
                    raise ConnectionError("the download broke off")
                self._received += piece
        return self._received


def stop(amphora: Amphora) -> None:
    amphora.agent.stop()


def kill(amphora: Amphora) -> None:
    amphora.agent.kill()


@pytest.mark.parametrize("end", [stop, kill])
def test_the_end_and_the_start_of_the_agent_disturb_no_connection(
    served: LoadBalancer, end: Callable[[Amphora], None]
) -> None:
    amphora, before = served.amphora, served.processes()
    download = Download(served)
    with served.load() as load, served.load(keep_alive=True) as kept:
        load.wait_for(10)
        end(amphora)
        load.wait_for(10)
        kept.wait_for(10)
        amphora.agent.start()
        load.wait_for(10)
        kept.wait_for(10)
    assert load.result.failed == 0, load.result
    assert not kept.result.total.troubles, kept.result
    assert len(re.findall(rb"web\d \d+\n", download.finish())) == 20
    assert served.processes() == before


@pytest.mark.parametrize("end", [stop, kill])
def test_what_runs_is_adopted_and_does_all_it_did(
    served: LoadBalancer, end: Callable[[Amphora], None]
) -> None:
    amphora, master = served.amphora, served.master
    end(amphora)
    amphora.agent.start()

    assert f"adopted, pid {master.pid}" in amphora.agent.log
    assert [row["status"] for row in amphora.api.listeners()] == ["ACTIVE"]
    served.push()
    assert served.master == master
    assert served.workers().reloads == 1
    amphora.api.stop(served.id)
    assert not master.alive
    amphora.api.start(served.id)
    assert served.get() in ("web1", "web2")


def test_one_that_is_adopted_comes_back_when_it_dies(served: LoadBalancer) -> None:
    served.amphora.agent.kill()
    served.amphora.agent.start()
    before = served.processes()
    served.master.send(signal.SIGKILL)
    # The worker of a master that is dead accepts until it notices.
    until(lambda: not any(each.alive for each in before), "the worker has ended, too")
    until(served.accepts, "it has come back")
    assert served.get() in ("web1", "web2")


def test_one_that_died_while_there_was_no_agent_is_started(served: LoadBalancer) -> None:
    amphora, before = served.amphora, served.processes()
    amphora.agent.kill()
    for process in before:
        process.send(signal.SIGKILL)
    until(lambda: not served.accepts(), "it is gone")
    amphora.agent.start()
    until(served.accepts, "it has been started")
    assert served.get() in ("web1", "web2")


def test_one_that_was_stopped_is_not_started_by_a_new_agent(served: LoadBalancer) -> None:
    amphora = served.amphora
    other = amphora.new_balancer()
    other.push()
    amphora.api.stop(served.id)
    amphora.agent.kill()
    for process in other.processes():
        process.send(signal.SIGKILL)
    amphora.agent.start()
    until(other.accepts, "what should run has been started")
    assert served.processes() == []
    statuses = {row["uuid"]: row["status"] for row in amphora.api.listeners()}
    assert statuses == {served.listener.id: "OFFLINE", other.listener.id: "ACTIVE"}


def test_after_a_reboot_everything_comes_back_without_the_controller(
    served: LoadBalancer,
) -> None:
    """Everything has ended, and what is not meant to outlive a reboot is gone."""
    amphora = served.amphora
    other = amphora.new_balancer()
    other.push()
    amphora.agent.kill()
    for process in amphora.haproxies():
        process.send(signal.SIGKILL)
    shutil.rmtree(amphora.agent.run_path)
    amphora.agent.start()
    for balancer in (served, other):
        until(balancer.accepts, "it has been started")
        assert balancer.get() in ("web1", "web2")
        balancer.push()


def test_a_broken_configuration_by_hand_keeps_only_itself_from_coming_back(
    served: LoadBalancer,
) -> None:
    amphora = served.amphora
    other = amphora.new_balancer()
    other.push()
    amphora.agent.kill()
    for process in amphora.haproxies():
        process.send(signal.SIGKILL)
    served.configuration.write_text("nonsense\n")
    amphora.agent.start()
    until(other.accepts, "the other has been started")
    assert amphora.api.info()
    served.push()
    assert served.get() in ("web1", "web2")


# One of the agent's processes alone


def deaths(amphora: Amphora) -> dict[tuple[str, str], int]:
    """How often the record has the death of each of the agent's workers, by how it died."""
    found: Counter[tuple[str, str]] = Counter()
    for line in run(amphora, "history", "--json").stdout.splitlines():
        entry = json.loads(line)
        if entry["operation"] == "death" and entry["subject"].endswith("-worker"):
            how = entry["words"][0].split(";")[0]
            found[entry["subject"], "hung for" if how.startswith("hung for") else how] += 1
    return dict(found)


def metrics(amphora: Amphora) -> str:
    return amphora.request("GET", "/metrics").body.decode()


def test_the_api_process_comes_back_and_nothing_else_has_changed(served: LoadBalancer) -> None:
    amphora, haproxies = served.amphora, served.processes()
    before = amphora.agents()
    with served.load(clients=1) as load:
        load.wait_for(2)
        before["api"].send(signal.SIGKILL)
        until(lambda: _answers(amphora), "the API answers again")
        load.wait_for(2)
    assert load.result.failed == 0, load.result
    after = amphora.agents()
    assert after["api"] != before["api"]
    assert (after["main"], after["heartbeat"]) == (before["main"], before["heartbeat"])
    assert served.processes() == haproxies
    served.push()
    assert served.master == haproxies[0]
    died = {("api-worker", "was ended by signal 9"): 1}
    until(lambda: deaths(amphora) == died, "its death is recorded")
    assert 'worker_deaths_total{worker="api-worker",why="died"} 1' in metrics(amphora)


def test_the_heartbeat_process_comes_back_and_nothing_else_has_changed(
    served: LoadBalancer,
) -> None:
    amphora = served.amphora
    before = amphora.agents()
    amphora.heartbeats.next()
    amphora.heartbeats.drain()
    before["heartbeat"].send(signal.SIGKILL)
    # A new process counts from the start.
    amphora.heartbeats.wait_for(lambda beat: beat.sequence == 0)
    after = amphora.agents()
    assert after["heartbeat"] != before["heartbeat"]
    assert (after["main"], after["api"]) == (before["main"], before["api"])
    died = {("heartbeat-worker", "was ended by signal 9"): 1}
    until(lambda: deaths(amphora) == died, "its death is recorded")
    assert 'worker_deaths_total{worker="heartbeat-worker",why="died"} 1' in metrics(amphora)


def test_an_api_process_that_hangs_does_not_stop_the_heartbeats(served: LoadBalancer) -> None:
    amphora = served.amphora
    api = amphora.agents()["api"]
    api.send(signal.SIGSTOP)
    try:
        amphora.heartbeats.drain()
        for _ in range(2):
            beat = amphora.heartbeats.next()
        assert beat.listeners[served.listener.id]["status"] == "OPEN"
    finally:
        api.send(signal.SIGCONT)
    assert amphora.api.info()


def test_e5_a_heartbeat_process_that_hangs_is_replaced_before_the_controller_misses_it(
    served: LoadBalancer,
) -> None:
    """The controller waits for 60 s; heartbeats may be ten apart."""
    amphora = served.amphora
    before = amphora.agents()
    before["heartbeat"].send(signal.SIGSTOP)
    amphora.heartbeats.drain()
    beat = amphora.heartbeats.next(15)
    assert beat.sequence == 0
    assert beat.listeners[served.listener.id]["status"] == "OPEN"
    assert not before["heartbeat"].alive
    assert "HeartbeatWorker, pid" in amphora.agent.log
    hung = {("heartbeat-worker", "hung for"): 1}
    until(lambda: deaths(amphora) == hung, "its death is recorded")
    assert 'worker_deaths_total{worker="heartbeat-worker",why="hung"} 1' in metrics(amphora)


def test_e5_an_api_process_that_hangs_is_replaced(served: LoadBalancer) -> None:
    amphora = served.amphora
    before = amphora.agents()
    before["api"].send(signal.SIGSTOP)
    until(lambda: _answers(amphora), "another one answers", timeout=30)
    assert not before["api"].alive
    assert amphora.agents()["heartbeat"] == before["heartbeat"]
    hung = {("api-worker", "hung for"): 1}
    until(lambda: deaths(amphora) == hung, "its death is recorded")
    assert 'worker_deaths_total{worker="api-worker",why="hung"} 1' in metrics(amphora)
    amphora.agent.restart()
    assert deaths(amphora) == hung, "an end in order is no death"


def test_the_children_end_when_their_parent_is_killed(served: LoadBalancer) -> None:
    amphora = served.amphora
    processes = amphora.agents()
    processes["main"].send(signal.SIGKILL)
    for name in ("api", "heartbeat"):
        assert processes[name].wait(10), f"the {name} process lives on alone"
    amphora.agent.kill()
    amphora.agent.start()
    served.push()


def test_a_request_that_is_under_way_at_the_end_is_answered(served: LoadBalancer) -> None:
    amphora = served.amphora
    main = Process.of(amphora.agent.pid)
    assert main is not None
    body = amphora.agent.pki.client_authority.certificate + b"#" * 1000
    target = f"/1.0/loadbalancer/{served.id}/certificates/x.pem"
    request = request_bytes("PUT", target, body)
    with amphora.connect() as connection:
        connection.sendall(request[:-500])
        until(lambda: _reads(amphora), "the agent serves")
        main.send(signal.SIGTERM)
        until(lambda: not _connects(amphora), "no new connection is taken")
        connection.sendall(request[-500:])
        answer = read_answer(connection)
    assert answer.status == 200
    assert answer.headers["connection"].lower() == "close"
    assert main.wait(10)
    amphora.agent.kill()


def _reads(amphora: Amphora) -> bool:
    return amphora.request("GET", "/1.0/info").status == 200


def _connects(amphora: Amphora) -> bool:
    try:
        amphora.connect().close()
    except OSError:
        return False
    return True


def _answers(amphora: Amphora) -> bool:
    try:
        return bool(amphora.agent.get("/1.0/info", timeout=2).status == 200)
    except (OSError, AmphoraError):
        return False
