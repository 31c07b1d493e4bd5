"""Heartbeats of a running agent: to whom they go, and that what they count is what happened."""

import signal
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from lab.heartbeats import Heartbeat, HeartbeatReceiver
from lab.listeners import HealthMonitor
from lab.waiting import until
from tests.integration.amphora import VIP, Amphora, LoadBalancer


def test_an_amphora_without_load_balancers_makes_itself_known(amphora: Amphora) -> None:
    amphora.heartbeats.drain()
    beat = amphora.heartbeats.next()
    assert beat.message == {
        "id": amphora.agent.amphora_id,
        "seq": beat.sequence,
        "ver": 3,
        "listeners": {},
        "pools": {},
    }


def test_beats_are_numbered(amphora: Amphora) -> None:
    first = amphora.heartbeats.next()
    assert amphora.heartbeats.next().sequence == first.sequence + 1


def test_listeners_pools_and_members_are_told_as_octavia_names_them(amphora: Amphora) -> None:
    made = amphora.new_balancer(monitor=HealthMonitor(rise=1))
    made.push()
    listener = made.listener
    pool = listener.pool
    assert pool is not None
    up = {member.id: "UP" for member in pool.members}
    beat = amphora.heartbeats.wait_for(lambda beat: beat.members == up)
    assert beat.message["listeners"] == {
        listener.id: {
            "status": "OPEN",
            "stats": {"tx": 0, "rx": 0, "conns": 0, "totconns": 0, "ereq": 0},
        }
    }
    assert beat.message["pools"] == {f"{pool.id}:{listener.id}": {"status": "UP", "members": up}}
    made.delete()


def test_members_without_a_monitor_are_not_checked(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    amphora.heartbeats.drain()
    beat = amphora.heartbeats.next()
    assert set(beat.members.values()) == {"no check"}


def test_a_load_balancer_that_was_deleted_is_told_no_more(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    amphora.heartbeats.wait_for(lambda beat: set(beat.listeners) == {balancer.listener.id})
    balancer.delete()
    amphora.heartbeats.wait_for(lambda beat: not beat.listeners and not beat.pools)


def test_a_stopped_load_balancer_keeps_its_listeners(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    amphora.api.stop(balancer.id)
    beat = amphora.heartbeats.wait_for(
        lambda beat: beat.listeners.get(balancer.listener.id, {}).get("status") == "DOWN"
    )
    assert set(beat.listeners) == {balancer.listener.id}


PROMETHEUS = """
frontend prometheus-exporter-internal-endpoint
    bind 127.0.0.1:{internal}
    mode http
    timeout client 50000
    http-request use-service prometheus-exporter if {{ path /metrics }}
frontend {listener}
    bind {vip}:{port}
    mode http
    timeout client 50000
    default_backend prometheus-exporter-internal:{listener}
backend prometheus-exporter-internal:{listener}
    mode http
    timeout connect 5000
    timeout server 50000
    server prometheus-internal 127.0.0.1:9102
"""


def test_the_internal_proxies_of_a_prometheus_listener_are_absent(amphora: Amphora) -> None:
    made = amphora.new_balancer()
    ports = [amphora.new_balancer().port for _ in range(2)]
    added = PROMETHEUS.format(listener="prometheus", vip=VIP, port=ports[0], internal=ports[1])
    amphora.api.upload_haproxy(made.id, made.text() + added)
    made.reload()
    pool = made.listener.pool
    assert pool is not None
    listeners = {made.listener.id, "prometheus"}
    beat = amphora.heartbeats.wait_for(lambda beat: set(beat.listeners) == listeners)
    assert {row["status"] for row in beat.listeners.values()} == {"OPEN"}
    assert set(beat.pools) == {f"{pool.id}:{made.listener.id}"}
    assert set(amphora.api.details()["listeners"]) == listeners
    made.delete()


# To whom


def test_controllers_take_turns_and_entries_that_are_none_are_skipped(
    boot: Callable[..., Amphora],
) -> None:
    with ExitStack() as ending:
        receivers = [
            ending.enter_context(HeartbeatReceiver("insecure", address=address))
            for address in ("127.0.0.1", "::1", "127.0.0.1")
        ]
        first, second, third = (receiver.address for receiver in receivers)
        entries = [first, "not an address", second, "255.255.255.255:5555", "host:5555", third]
        boot(ending, controllers=entries)
        for number in range(6):
            assert receivers[number % 3].next().sequence == number
        assert all(receiver.drain() == [] for receiver in receivers)


# What is counted


class Tally:
    """The sum of what heartbeats say of one listener."""

    def __init__(self, balancer: LoadBalancer) -> None:
        self._heartbeats = balancer.amphora.heartbeats
        self._listener = balancer.listener.id
        self.stats = dict.fromkeys(("tx", "rx", "totconns", "ereq"), 0)

    def add(self, beat: Heartbeat) -> None:
        if self._listener in beat.listeners:
            said = beat.listeners[self._listener]["stats"]
            for name in self.stats:
                assert said[name] >= 0
                self.stats[name] += said[name]

    def await_connections(self, number: int) -> None:
        """Until so many have been told, and one beat longer: then none may be left."""

        def told(beat: Heartbeat) -> bool:
            self.add(beat)
            return self.stats["totconns"] >= number

        if self.stats["totconns"] < number:
            self._heartbeats.wait_for(told)
        self.add(self._heartbeats.next())
        assert self.stats["totconns"] == number


class Traffic:
    """Connections of one request each, all of the same length, as are the answers."""

    def __init__(self, balancer: LoadBalancer) -> None:
        self._balancer = balancer
        self.connections = 0

    def send(self, connections: int) -> None:
        request = b"GET / HTTP/1.1\r\nHost: site\r\nConnection: close\r\n\r\n"
        for _ in range(connections):
            with self._balancer.amphora.namespace.connect(VIP, self._balancer.port) as connection:
                connection.sendall(request)
                answer = b""
                while piece := connection.recv(65536):
                    answer += piece
            assert answer.startswith(b"HTTP/1.1 200")
            self.connections += 1


@pytest.fixture
def counted(own_amphora: Amphora) -> tuple[LoadBalancer, Traffic, Tally]:
    made = own_amphora.new_balancer()
    made.push()
    return made, Traffic(made), Tally(made)


def reload(balancer: LoadBalancer) -> None:
    balancer.push()


def restart_the_agent(balancer: LoadBalancer) -> None:
    balancer.amphora.agent.restart()


def kill_the_agent(balancer: LoadBalancer) -> None:
    balancer.amphora.agent.kill()
    balancer.amphora.agent.start()


def kill_the_sender(balancer: LoadBalancer) -> None:
    amphora = balancer.amphora
    amphora.heartbeats.drain()
    amphora.agents()["heartbeat"].send(signal.SIGKILL)


def kill_the_api(balancer: LoadBalancer) -> None:
    balancer.amphora.agents()["api"].send(signal.SIGKILL)
    until(lambda: len(balancer.amphora.agent.pids()) == 3, "the API is back")


def reload_and_kill_the_agent(balancer: LoadBalancer) -> None:
    balancer.push()
    balancer.amphora.agent.kill()
    balancer.amphora.agent.start()


def hang_for_a_while(balancer: LoadBalancer) -> None:
    """The beats of that time say nothing about traffic."""
    amphora = balancer.amphora
    haproxies = balancer.processes()
    for process in haproxies:
        process.send(signal.SIGSTOP)
    try:
        down = amphora.heartbeats.wait_for(
            lambda beat: beat.listeners[balancer.listener.id]["status"] == "DOWN"
        )
        assert down.listeners[balancer.listener.id]["stats"]["totconns"] == 0
    finally:
        for process in haproxies:
            process.send(signal.SIGCONT)


EVENTS = [
    reload,
    restart_the_agent,
    kill_the_agent,
    kill_the_sender,
    kill_the_api,
    reload_and_kill_the_agent,
    hang_for_a_while,
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_every_connection_and_byte_is_told_once(
    counted: tuple[LoadBalancer, Traffic, Tally], event: Callable[[LoadBalancer], None]
) -> None:
    balancer, traffic, tally = counted
    traffic.send(5)
    tally.await_connections(5)
    # haproxy's own idea of their length, which leaves out some of the syntax.
    received, sent = tally.stats["tx"] // 5, tally.stats["rx"] // 5
    assert received > 200
    assert sent > 20
    if event is not hang_for_a_while:
        # Not told yet when it happens, or only just.
        traffic.send(3)
    event(balancer)
    traffic.send(4)
    tally.await_connections(traffic.connections)
    assert tally.stats == {
        "tx": traffic.connections * received,
        "rx": traffic.connections * sent,
        "totconns": traffic.connections,
        "ereq": 0,
    }


def test_what_a_replaced_worker_still_does_is_told(
    counted: tuple[LoadBalancer, Traffic, Tally],
) -> None:
    """haproxy counts the bytes of a connection at its end; another keeps the worker there."""
    balancer, _, tally = counted
    with ExitStack() as ending:
        for seconds in (1, 60):
            connection = ending.enter_context(
                balancer.amphora.namespace.connect(VIP, balancer.port)
            )
            request = f"GET /stream?seconds={seconds} HTTP/1.1\r\nHost: site\r\n\r\n"
            connection.sendall(request.encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        balancer.push()
        assert balancer.workers().leaving

        def told(beat: Heartbeat) -> bool:
            tally.add(beat)
            return tally.stats["tx"] > 0

        balancer.amphora.heartbeats.wait_for(told)
        assert balancer.workers().leaving
    assert tally.stats["totconns"] == 2


def test_requests_that_are_none_are_counted_as_errors(
    counted: tuple[LoadBalancer, Traffic, Tally],
) -> None:
    balancer, _, tally = counted
    for _ in range(3):
        with balancer.amphora.namespace.connect(VIP, balancer.port) as connection:
            connection.sendall(b"this is not HTTP\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
    tally.await_connections(3)
    assert tally.stats["ereq"] == 3


def test_connections_that_are_open_are_counted_as_they_are(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    def open_now(beat: Heartbeat) -> int:
        said = beat.listeners.get(balancer.listener.id)
        return int(said["stats"]["conns"]) if said else 0

    with ExitStack() as ending:
        for _ in range(3):
            connection = ending.enter_context(amphora.namespace.connect(VIP, balancer.port))
            connection.sendall(b"GET / HTTP/1.1\r\nHost: site\r\n\r\n")
            assert connection.recv(100)
        amphora.heartbeats.wait_for(lambda beat: open_now(beat) == 3)
        # Not a difference: they are still three.
        assert open_now(amphora.heartbeats.next()) == 3
    amphora.heartbeats.wait_for(lambda beat: open_now(beat) == 0)
