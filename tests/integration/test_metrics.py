"""Metrics of load balancers, at 127.0.0.1:9102 in the amphora's namespace, for whoever scrapes."""

import contextlib
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from prometheus_client import Metric

from amphora_agent.agent.settings_file import SettingsFile
from amphora_agent.haproxy.runtime.poller import Poller
from amphora_agent.metrics.translate.octavia import COLUMNS, METRICS, Machine, families
from amphora_agent.model.status import Scope
from amphora_agent.paths import Layout
from lab.http import Response, get
from lab.network import Lab, Namespace
from lab.waiting import until
from tests.builders.samples import parsed, values
from tests.integration.amphora import VIP, Amphora, LoadBalancer, stopped

NAMES = dict(
    line.split()
    for line in (Path(__file__).parents[1] / "unit/metrics/translate/names.txt")
    .read_text()
    .splitlines()
)
PORT = 9102
EXPORTER_PORT = 9101

#: As the controller's configurations have it (WIRE §3).
PROMETHEUS = """
frontend prometheus-exporter-internal-endpoint
    bind 127.0.0.1:9101
    mode http
    timeout client 5s
    http-request use-service prometheus-exporter if {{ path /metrics }}
    http-request reject
backend prometheus-exporter-internal
    mode http
    balance first
    timeout connect 5s
    timeout server 5s
    server prometheus-internal 127.0.0.1:9102
frontend metrics-listener
    bind {vip}:{port}
    mode http
    timeout client 50000
    default_backend prometheus-exporter-internal
"""

#: What is not the same at two moments.
MOVING = re.compile("rate|seconds|current|connections_total|requests_total|memory_pool|cpu|memory")


def scrape(namespace: Namespace, query: str = "", *, timeout: float = 5) -> Response:
    """What a PROMETHEUS listener would be answered; it waits for five seconds."""
    return get(namespace, "127.0.0.1", PORT, f"/metrics{query}", timeout=timeout)


def answers(namespace: Namespace) -> bool:
    try:
        return scrape(namespace).status == 200
    except OSError:
        return False


def metrics(namespace: Namespace, query: str = "") -> dict[str, Metric]:
    response = scrape(namespace, query)
    assert response.status == 200, response.text
    return parsed([response.text])


@contextmanager
def prometheus_listener(amphora: Amphora) -> Iterator[tuple[LoadBalancer, int]]:
    """A load balancer with a PROMETHEUS listener on a port."""
    made = amphora.new_balancer()
    port = amphora.new_balancer().port
    amphora.api.upload_haproxy(made.id, made.text() + PROMETHEUS.format(vip=VIP, port=port))
    made.reload()
    yield made, port
    made.delete()


def test_every_name_is_there_with_its_type(amphora: Amphora, balancer: LoadBalancer) -> None:
    response = scrape(amphora.namespace)
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = parsed([response.text])
    assert {name: family.type for name, family in found.items()} == NAMES


def test_what_is_counted_is_what_happens(amphora: Amphora, balancer: LoadBalancer) -> None:
    listener = balancer.listener
    pool = listener.pool
    assert pool is not None
    for _ in range(6):
        balancer.get()
    # Figures of a second ago are good enough.

    def answered() -> float | None:
        found = metrics(amphora.namespace)["octavia_listener_http_responses_total"]
        return values(found).get((listener.id, "2xx"))

    # Figures of a second ago are good enough.
    until(lambda: answered() == 6, "six requests are told")
    found = metrics(amphora.namespace)
    backend = f"{pool.id}:{listener.id}"
    assert values(found["octavia_listener_status"]) == {
        (listener.id, "DOWN"): 0,
        (listener.id, "UP"): 1,
    }
    assert values(found["octavia_pool_sessions_total"]) == {(backend,): 6}
    assert values(found["octavia_member_sessions_total"]) == {
        (backend, member.id): 3 for member in pool.members
    }
    assert values(found["octavia_listener_bytes_out_total"])[listener.id,] > 600
    assert values(found["octavia_loadbalancer_requests_total"])[()] >= 6
    assert values(found["octavia_memory_pool_allocated_bytes"])[()] > 0
    assert 0 < values(found["octavia_loadbalancer_memory"])[()] < 100


def test_a_client_scrapes_a_prometheus_listener(amphora: Amphora) -> None:
    with prometheus_listener(amphora) as (made, port):
        until(
            lambda: made.listener.id in get(amphora.namespace, VIP, port, "/metrics").text,
            "the new listener is told",
        )
        response = get(amphora.namespace, VIP, port, "/metrics")
        found = parsed([response.text])
        assert found.keys() == NAMES.keys()
        listeners = {key[0] for key in values(found["octavia_listener_status"])}
        assert listeners == {made.listener.id, "metrics-listener"}
        assert "prometheus-exporter-internal" not in response.text
        narrowed = get(amphora.namespace, VIP, port, "/metrics?scope=pool")
        assert {name.split("_")[1] for name in parsed([narrowed.text])} == {"pool"}


def test_a_scrape_can_be_narrowed(amphora: Amphora, balancer: LoadBalancer) -> None:
    for scope in Scope:
        found = metrics(amphora.namespace, f"?scope={scope.value}")
        assert found.keys() == {n for n in NAMES if n.startswith(f"octavia_{scope.value}_")}
    two = metrics(amphora.namespace, "?scope=listener&scope=member")
    assert {name.split("_")[1] for name in two} == {"listener", "member"}


@pytest.mark.parametrize(
    ("path", "status"), [("/", 404), ("/metrics?scope=nothing", 400), ("/metrics/", 404)]
)
def test_what_is_no_scrape_is_refused(amphora: Amphora, path: str, status: int) -> None:
    assert get(amphora.namespace, "127.0.0.1", PORT, path).status == status


def raw(namespace: Namespace, data: bytes) -> bytes:
    with namespace.connect("127.0.0.1", PORT) as connection:
        connection.sendall(data)
        with contextlib.suppress(OSError):  # closed already
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(1 << 16):
                answer += piece
    return answer


@pytest.mark.parametrize(
    ("data", "begins"),
    [
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 405 "),
        (b"GET /metrics HTTP/1.1\r\n", b"HTTP/1.1 400 "),
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /metrics?" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", b""),
        (b"", b""),
    ],
)
def test_what_is_no_request_is_refused(amphora: Amphora, data: bytes, begins: bytes) -> None:
    answer = raw(amphora.namespace, data)
    assert answer.startswith(begins)
    assert bool(answer) == bool(begins)


def test_an_old_client_gets_no_chunks_and_head_no_body(amphora: Amphora) -> None:
    head, _, body = raw(amphora.namespace, b"GET /metrics HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert parsed([body.decode()]).keys() == NAMES.keys()
    head, _, body = raw(amphora.namespace, b"HEAD /metrics HTTP/1.1\r\n\r\n").partition(b"\r\n\r\n")
    assert (head[:13], body) == (b"HTTP/1.1 200 ", b"")


def test_nobody_outside_of_the_namespace_reaches_it(amphora: Amphora) -> None:
    assert scrape(amphora.namespace).status == 200
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", PORT), 5)


def test_an_amphora_without_load_balancers_answers(amphora: Amphora) -> None:
    until(
        lambda: metrics(amphora.namespace)["octavia_loadbalancer_max_connections"].samples == [],
        "the last load balancer is forgotten",
    )
    assert metrics(amphora.namespace).keys() == NAMES.keys()


def test_a_hung_haproxy_costs_a_scrape_its_deadline(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    with stopped(balancer.processes(), signal.SIGSTOP, signal.SIGCONT):
        until(lambda: scrape(amphora.namespace).status == 503, "figures of before are used up")
    until(lambda: scrape(amphora.namespace).status == 200, "it answers again")


def test_the_others_are_told_beside_one_that_hangs(amphora: Amphora) -> None:
    # The first to be asked must not take the time of the second.
    hung, other = (amphora.new_balancer(id=f"{letter}{uuid.uuid4()}") for letter in "ab")
    for each in (hung, other):
        each.push()

    def listeners() -> set[str]:
        found = metrics(amphora.namespace, "?scope=listener")["octavia_listener_status"]
        return {key[0] for key in values(found)}

    until(lambda: listeners() == {hung.listener.id, other.listener.id}, "both are told")
    with stopped(hung.processes(), signal.SIGSTOP, signal.SIGCONT):
        until(lambda: listeners() == {other.listener.id}, "the one that answers is told")
    until(lambda: listeners() == {hung.listener.id, other.listener.id}, "both are told again")
    for each in (hung, other):
        each.delete()


def test_silent_and_slow_clients_make_nobody_wait(amphora: Amphora, balancer: LoadBalancer) -> None:
    with ExitStack() as ending:
        silent = [
            ending.enter_context(amphora.namespace.connect("127.0.0.1", PORT)) for _ in range(100)
        ]
        for connection in silent:
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"GET /metr")
        for _ in range(10):
            # It takes nothing of what it asked for.
            connection = ending.enter_context(amphora.namespace.connect("127.0.0.1", PORT))
            connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert metrics(amphora.namespace).keys() == NAMES.keys()
        with contextlib.suppress(ConnectionResetError):
            assert silent[0].recv(1) == b"", "the oldest made room"


def test_it_goes_on_when_its_process_is_replaced(amphora: Amphora) -> None:
    assert scrape(amphora.namespace).status == 200
    before = amphora.agents()["heartbeat"]
    before.send(signal.SIGKILL)
    assert before.wait(10)
    until(lambda: answers(amphora.namespace), "another one has taken its place")


# Without the agent


@pytest.fixture
def proxy(amphora: Amphora, lab: Lab) -> Iterator[str]:
    """The command `prometheus-proxy` for a namespace that is not there yet; its name."""
    name = f"{lab.prefix}-later"
    command = "import sys; from amphora_agent.cli import prometheus_main as run; sys.exit(run())"
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", command, "--config-file", str(amphora.agent.config_file)),
            *("--netns", name, "--run-dir", str(amphora.agent.run_path)),
        ]
    )
    yield name
    process.kill()
    process.wait()


def test_it_follows_a_namespace_that_comes_and_goes(lab: Lab, proxy: str) -> None:
    namespace = lab.namespace("later")
    assert namespace.name == proxy
    until(lambda: answers(namespace), "it serves in the namespace")
    with namespace.connect("127.0.0.1", PORT):
        subprocess.run(["ip", "netns", "delete", proxy], check=True)
        subprocess.run(["ip", "netns", "add", proxy], check=True)
        namespace.up("lo")
        until(lambda: answers(namespace), "it serves in the new one")


# As haproxy's own exporter


@pytest.fixture(scope="module")
def exporting(
    boot: Callable[..., Amphora], program: Path
) -> Iterator[tuple[Amphora, LoadBalancer]]:
    with ExitStack() as ending:
        booted = boot(ending, settings={"haproxy_amphora": {"haproxy_cmd": str(program)}})
        made, _ = ending.enter_context(prometheus_listener(booted))
        for _ in range(4):
            made.get()
        yield booted, made


def test_figures_are_those_of_haproxys_own_exporter(
    exporting: tuple[Amphora, LoadBalancer],
) -> None:
    """By name, type, labels and value; our names for the same are a matter of words."""
    amphora, _ = exporting
    settings = SettingsFile(amphora.agent.config_file).current()
    layout = Layout.of(settings, run=amphora.agent.run_path, namespace=str(amphora.namespace.name))
    figures = Poller(layout).read_figures(frozenset(Scope), COLUMNS, timeout=5)
    assert None not in figures
    ours = parsed(families(Machine(0, 0), [f for f in figures if f], frozenset(Scope)))
    text = get(amphora.namespace, "127.0.0.1", EXPORTER_PORT, "/metrics").text
    text = re.sub(r".*prometheus-exporter-internal.*\n", "", text)
    theirs = parsed([text])
    for metric in METRICS:
        own, other = ours[metric.name], theirs[exporters_name(metric.name)]
        assert own.type == other.type
        found = values(own)
        for key, value in values(other).items():
            if value != value:  # not a number: haproxy has none
                assert key not in found
            elif MOVING.search(metric.name):
                assert key in found, (metric.name, key)
            else:
                assert found[key] == value, (metric.name, key)


def exporters_name(name: str) -> str:
    scope, _, rest = (
        name.removeprefix("octavia_").replace("memory_pool", "process_pool").partition("_")
    )
    rest = rest.replace("members", "servers") if scope == "pool" else rest
    rest = rest.replace("member_aborts", "server_aborts")
    kinds = {"loadbalancer": "process", "listener": "frontend", "pool": "backend"}
    return f"haproxy_{kinds.get(scope, scope).replace('member', 'server')}_{rest}"
