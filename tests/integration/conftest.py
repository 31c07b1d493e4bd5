"""What all integration tests share: one namespace with two web servers; one agent a module."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from amphora_agent.client.v2 import AmphoraClient
from lab import haproxies
from lab.agent import AgentProcess
from lab.backend import Backend
from lab.cleanup_registry import remove_leftovers
from lab.heartbeats import HeartbeatReceiver
from lab.network import Lab, Namespace
from lab.pki import AmphoraPki, Authority
from tests.integration import programs
from tests.integration.amphora import VIP, WEB_PORTS, Amphora, LoadBalancer, differences
from tests.integration.site import Site

#: The property of a test that is told at the end of the run.
_TOLD = "told"

#: Files that take minutes. They begin first: none of several processes is left with one at the end.
_LONGEST = (
    "test_unnoticed.py",
    "test_chaos.py",
    "test_interrupted.py",
    "test_benchmarks.py",
    "test_declared_kills.py",
    "test_tutorial.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in _LONGEST)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    remove_leftovers()  # of earlier runs that were killed
    with Lab(f"it{os.getpid()}") as opened:
        yield opened


@pytest.fixture(scope="session")
def namespace(lab: Lab) -> Namespace:
    """The amphora's; it is there before any agent."""
    return lab.namespace("amphora")


@pytest.fixture(scope="session")
def webs(namespace: Namespace) -> Iterator[dict[str, Backend]]:
    with ExitStack() as ending:
        yield {
            f"web{number}": ending.enter_context(
                Backend(namespace, f"web{number}", [f"{VIP}:{port}"])
            )
            for number, port in enumerate(WEB_PORTS, 1)
        }


@pytest.fixture(scope="module", params=haproxies.SERIES)
def program(request: pytest.FixtureRequest) -> Path:
    """haproxy's, of each version."""
    return programs.of_series(request.param)


@pytest.fixture(scope="session")
def authorities() -> tuple[Authority, Authority]:
    """The deployment's: of the amphorae, of the controllers."""
    return (
        Authority.create("amphora server CA", key="ec"),
        Authority.create("controller client CA", key="ec"),
    )


@pytest.fixture(scope="session")
def boot(
    lab: Lab,
    namespace: Namespace,
    webs: dict[str, Backend],
    authorities: tuple[Authority, Authority],
    request: pytest.FixtureRequest,
) -> Callable[..., Any]:
    """Boots an amphora for as long as the `ExitStack` given lasts; options are AgentProcess's, and
    `prepare`, which is called with the amphora's directory before. Its log is shown when a test
    fails meanwhile."""

    def make(ending: ExitStack, **options: Any) -> Amphora:
        directory = lab.directory()
        options.pop("prepare", lambda directory: None)(directory)
        server, client = authorities
        pki = AmphoraPki.create(
            directory / "pki",
            str(uuid.uuid4()),
            server_authority=server,
            client_authority=client,
            key="ec",
        )
        heartbeats = ending.enter_context(HeartbeatReceiver("insecure"))
        options.setdefault("controllers", [heartbeats.address])
        options.setdefault("start_timeout", 60)  # the machine may be busy
        agent = AgentProcess(
            directory, pki, namespace=str(namespace.name), record=lab.record, **options
        )
        ending.callback(agent.close)
        agent.start()
        api = AmphoraClient(agent.url, pki.amphora_id, pki.controller_pem, pki.server_ca)
        ending.callback(api.close)
        failed_before = request.session.testsfailed

        def show_log() -> None:
            if request.session.testsfailed > failed_before:
                print(f"--- the agent's log ---\n{agent.log[-20000:]}")

        ending.callback(show_log)
        return Amphora(agent, api, heartbeats, namespace)

    return make


@pytest.fixture(scope="module")
def amphora(boot: Callable[..., Amphora]) -> Iterator[Amphora]:
    """Shared by the tests of a module, which leave it as they found it."""
    with ExitStack() as ending:
        yield boot(ending)


@pytest.fixture
def own_amphora(boot: Callable[..., Amphora]) -> Iterator[Amphora]:
    """For a test that kills agents or leaves something behind."""
    with ExitStack() as ending:
        yield boot(ending)


@pytest.fixture
def balancer(amphora: Amphora) -> Iterator[LoadBalancer]:
    """A load balancer that serves, with one web server after the other."""
    made = amphora.new_balancer()
    made.push()
    yield made
    made.delete()


@pytest.fixture(scope="module")
def served(amphora: Amphora) -> Iterator[LoadBalancer]:
    """One that serves all the while."""
    made = amphora.new_balancer()
    made.push()
    yield made
    made.delete()


@pytest.fixture
def site(amphora: Amphora) -> Iterator[Site]:
    made = Site(amphora)
    yield made
    made.balancer.delete()


@pytest.fixture
def nothing_changes(amphora: Amphora, served: LoadBalancer) -> Iterator[None]:
    """Not on disk, and not for the traffic of the module's `served`, which runs all the while."""
    files, processes = amphora.files(), served.processes()
    with served.load(clients=1) as load:
        load.wait_for(1)
        yield
        load.wait_for(1)
    assert load.result.failed == 0, load.result
    assert differences(files, amphora.files()) == set()
    assert served.processes() == processes


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say something at the end of the run: also where each process runs a part of the tests, and
    what it prints is not seen."""
    return partial(record_property, _TOLD)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for some in terminalreporter.stats.values() for report in some]
    calls = [report for report in reports if getattr(report, "when", None) == "call"]
    for report in calls:
        if told := [words for name, words in report.user_properties if name == _TOLD]:
            terminalreporter.section(report.nodeid.rpartition("/")[2])
            terminalreporter.write_line("\n".join(told))
