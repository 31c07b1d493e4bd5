"""An amphora that runs our agent, and Octavia's controller that knows no other agent than its own.

These tests run in an environment with one release of Octavia (see the requirements files here) and
start the agent of $AMPHORA_AGENT. They need root: network namespaces, haproxy, real traffic.
"""

from __future__ import annotations  # some of the names are not there without Octavia

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

if importlib.util.find_spec("octavia") is None:  # a run of all tests in the agent's environment
    collect_ignore_glob = ["test_*.py"]
else:
    from controller import loadbalancers, settings
    from controller.amphora import WEB1, WEB1_V6, WEB2, WEB3, Amphora
    from controller.database import Database
    from controller.health_manager import HealthManager
    from controller.old import ListenerWorker
    from controller.release import MAJOR, OCTAVIA, ONLY_LISTENERS
    from controller.worker import Worker

from lab.agent import AgentProcess
from lab.backend import Backend
from lab.network import Bridge, Lab, Namespace
from lab.pki import AmphoraPki, Authority, write_private


def pytest_report_header() -> str | None:
    return f"controller: octavia {OCTAVIA}" if "OCTAVIA" in globals() else None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--api", choices=("0.5",), help="not what the controller would choose")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "api_1_0(why): not for a controller that speaks API 0.5")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if ONLY_LISTENERS or config.getoption("--api") == "0.5":
        for item in items:
            if marker := item.get_closest_marker("api_1_0"):
                item.add_marker(pytest.mark.skip(f"not in API 0.5: {marker.args[0]}"))


@pytest.fixture(scope="session")
def api_version(request: pytest.FixtureRequest) -> str | None:
    """The version that the controller believes to know already; None for one that asks."""
    return request.config.getoption("--api")


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    with Lab(f"o{MAJOR}") as opened:
        yield opened


@pytest.fixture(scope="session")
def client(lab: Lab) -> Namespace:
    """Where clients are; its bridge is the VIPs' segment and its addresses their gateways."""
    return lab.namespace("client")


@pytest.fixture(scope="session")
def vip_segment(lab: Lab, client: Namespace) -> Bridge:
    bridge = lab.bridge(client, "vips")
    client.address("vips", "10.1.0.1/24", "10.1.0.9/24", "10.3.0.1/24", "2001:db8:1::1/64")
    return bridge


@pytest.fixture(scope="session")
def servers(lab: Lab) -> Namespace:
    """Where members are."""
    return lab.namespace("servers")


@pytest.fixture(scope="session")
def member_segment(lab: Lab, servers: Namespace) -> Bridge:
    bridge = lab.bridge(servers, "members")
    servers.address("members", "10.2.0.1/24", *(f"{web}/24" for web in (WEB1, WEB2, WEB3)))
    servers.address("members", f"{WEB1_V6}/64")
    return bridge


@pytest.fixture
def backend(servers: Namespace, member_segment: Bridge) -> Iterator[Callable[..., Backend]]:
    """Starts members: `backend("web1", "10.2.0.11:80", mode=…, tls=…)`."""
    with ExitStack() as stack:
        yield lambda name, *binds, **options: stack.enter_context(
            Backend(servers, name, binds, **options)
        )


@pytest.fixture
def webs(backend: Callable[..., Backend]) -> dict[str, Backend]:
    """Two web servers, on port 80 of WEB1 and WEB2."""
    return {
        "web1": backend("web1", f"{WEB1}:80", f"[{WEB1_V6}]:80"),
        "web2": backend("web2", f"{WEB2}:80"),
    }


@pytest.fixture(scope="session")
def authorities() -> tuple[Authority, Authority]:
    """The deployment's: of the amphorae, of the controllers."""
    return Authority.create("amphora server CA"), Authority.create("controller client CA")


@pytest.fixture(scope="session")
def tenant_ca() -> Authority:
    """The tenant's own authority, for listeners, clients and members."""
    return Authority.create("tenant CA")


@pytest.fixture
def directory(lab: Lab) -> Iterator[Path]:
    made = lab.directory()
    yield made
    shutil.rmtree(made)


@pytest.fixture
def member_certificate(directory: Path, tenant_ca: Authority) -> Path:
    """Certificate and key of a member that speaks TLS."""
    file = directory / "member.pem"
    write_private(file, tenant_ca.issue("member.example.com", dns=["member.example.com"]).pem)
    return file


@pytest.fixture
def agent(
    lab: Lab, directory: Path, authorities: tuple[Authority, Authority]
) -> Iterator[AgentProcess]:
    """An agent that is not started yet; its port and its paths are known."""
    server, controller = authorities
    pki = AmphoraPki.create(
        directory / "pki",
        loadbalancers.new_id(),
        server_authority=server,
        client_authority=controller,
    )
    process = AgentProcess(directory, pki, namespace=f"{lab.prefix}-amphora", record=lab.record)
    yield process
    process.close()


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    made = Database()
    made.install(monkeypatch)
    return made


@pytest.fixture
def health(agent: AgentProcess, database: Database) -> Iterator[HealthManager]:
    with settings.in_force(agent):
        manager = HealthManager(database)
        yield manager
        manager.close()


@pytest.fixture
def worker(health: HealthManager, database: Database) -> Iterator[Worker]:
    made = ListenerWorker(database) if ONLY_LISTENERS else Worker(database)
    yield made
    made.close()


@pytest.fixture
def amphora(
    lab: Lab,
    agent: AgentProcess,
    health: HealthManager,
    worker: Worker,
    client: Namespace,
    vip_segment: Bridge,
    member_segment: Bridge,
    api_version: str | None,
    request: pytest.FixtureRequest,
) -> Iterator[Amphora]:
    """Booted with the configuration that the controller renders for its config drive."""
    agent.directory.mkdir(exist_ok=True)
    agent.config_file.write_text(
        settings.agent_configuration(agent.amphora_id, heartbeats_to=[health.address])
    )
    agent.start()
    booted = Amphora(
        lab=lab,
        agent=agent,
        worker=worker,
        model=loadbalancers.amphora(agent.amphora_id, api_version=api_version),
        vip_segment=vip_segment,
        member_segment=member_segment,
    )
    failed_before = request.session.testsfailed
    yield booted
    if request.session.testsfailed > failed_before:
        print(f"--- the agent's log ---\n{agent.log}")
    booted.unplug()
    # The next amphora has the same addresses and other network cards.
    client.ip("neigh", "flush", "all")
