"""Agents of one format of the state on disk take over what those of another one left, and back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from amphora_agent.client.v2 import AmphoraError
from lab.cleanup_registry import remove_leftovers
from lab.lvs import LvsListener, LvsMember
from lab.network import Lab
from lab.pair import Checks, Half, Pair, make_pair
from lab.plug_bodies import fixed_ip, network_plug
from lab.releases import install_wheel, using_program
from lab.waiting import until
from tests.integration.amphora import Amphora, LoadBalancer, walk
from tests.integration.declared import DeclaredBalancer
from tests.integration.history import rollback, run
from tests.integration.site import Site

WHEELS = Path(__file__).parents[1] / "data" / "wheels"
FORMATS = sorted(wheel.stem for wheel in WHEELS.glob("*.whl"))

#: Answers that clients await before, during and after a takeover.
_ANSWERS = 10


@pytest.fixture(scope="module", params=FORMATS)
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of an agent that writes this format."""
    wheel: str = request.param
    return install_wheel(WHEELS / f"{wheel}.whl", tmp_path_factory.mktemp("release") / wheel)


@dataclass
class Occupied:
    """An amphora that has been given one of everything."""

    amphora: Amphora
    lab: Lab
    plain: LoadBalancer = field(init=False)
    site: Site = field(init=False)
    declared: DeclaredBalancer = field(init=False)
    udp: LvsListener = field(init=False)
    mac: str = field(init=False)

    def __post_init__(self) -> None:
        self.plain = self.amphora.new_balancer()
        self.site = Site(self.amphora)
        self.declared = DeclaredBalancer(self.amphora)
        self.udp = LvsListener(["127.0.0.1"], 53, [LvsMember("127.0.0.1", 5300)])
        network = self.lab.namespace(f"members{self.amphora.agent.port}")
        cable = self.lab.cable(network, "member", self.lab.host, f"m{self.amphora.agent.port}")
        self.mac = cable.mac_b

    def give_everything(self) -> None:
        self.plain.push()
        self.site.push("site.pem")
        self.declared.push()
        self.amphora.api.upload_udp_listener(self.udp.id, self.udp.text())
        self.plug()

    def weigh(self, weight: int) -> str:
        """Give a member of the declared load balancer this weight; return by what it was done."""
        self.declared.body["pools"][0]["members"][0]["weight"] = weight
        step: str = self.declared.push()["step"]
        return step

    def plug(self) -> None:
        address = fixed_ip("198.51.100.2", "198.51.100.0/24")
        self.amphora.api.plug_network(network_plug(self.mac, address))

    @contextmanager
    def traffic(self) -> Iterator[Callable[[], None]]:
        """Clients of both load balancers, on new and on kept connections. The value waits until
        all of them have had answers again. None may fail."""
        with ExitStack() as ending:
            loads = [
                ending.enter_context(balancer.load(clients=1, keep_alive=keep_alive))
                for balancer in (self.plain, self.declared)
                for keep_alive in (False, True)
            ]

            def wait() -> None:
                for load in loads:
                    load.wait_for(_ANSWERS)

            wait()
            yield wait
            wait()
        for load in loads:
            assert load.result.failed == 0, load.result

    def restart_as(self, program: Path | None) -> None:
        """Stop the agent, and start another one on what it left, under traffic. No haproxy is
        started or ended."""
        before = [*self.plain.processes(), *self.declared.processes()]
        with self.traffic() as wait:
            self.amphora.agent.stop()
            wait()
            with using_program(program):
                self.amphora.agent.start()
        assert [*self.plain.processes(), *self.declared.processes()] == before

    def require_everything(self) -> None:
        """See that the agent knows all of it, and can change all of it without a failed request."""
        api = self.amphora.api
        statuses = {row["uuid"]: row["status"] for row in api.listeners()}
        assert sorted(statuses.values()) == ["ACTIVE"] * 3 + ["OFFLINE"], statuses
        assert statuses[self.udp.id] == "OFFLINE"
        assert api.udp_listener(self.udp.id) == self.udp.text().encode()
        with self.traffic():
            master = self.plain.master
            self.plain.push()
            assert self.plain.master == master
            # The first text of another release may differ by more than the change.
            weight = 2 * self.plain.version
            steps = [self.weigh(weight), self.weigh(weight + 1)]
            assert steps[0] in {"runtime", "reload"}
            assert steps[1] == "runtime"
            serial = self.site.push(f"site{self.plain.version}.pem")
            api.upload_udp_listener(self.udp.id, self.udp.text())
            mark = len(self.amphora.agent.log)
            self.plug()
            assert "add address" not in self.amphora.agent.log[mark:]
        until(lambda: self.site.presented() == serial, "the new certificate is shown")


@pytest.fixture
def occupied(
    boot: Callable[..., Amphora], lab: Lab, other: Path, request: pytest.FixtureRequest
) -> Iterator[Occupied]:
    """An amphora with one of everything, which the other agent was given."""
    with ExitStack() as ending:
        with using_program(other):
            made = Occupied(boot(ending), lab)
        made.give_everything()
        yield made


def read_format(amphora: Amphora) -> str | None:
    path = amphora.agent.base_path / "format"
    return path.read_text() if path.exists() else None


def test_agents_of_two_formats_take_over_from_each_other_under_traffic(
    occupied: Occupied, other: Path
) -> None:
    assert read_format(occupied.amphora) == {"format-1": None}.get(other.parent.name, "2\n")
    occupied.restart_as(None)
    assert read_format(occupied.amphora) == "2\n"
    occupied.require_everything()

    occupied.restart_as(other)
    occupied.require_everything()

    occupied.restart_as(None)
    occupied.require_everything()


def test_an_agent_goes_back_to_what_another_one_has_committed(occupied: Occupied) -> None:
    balancer = occupied.plain
    first = balancer.configuration.read_bytes()
    balancer.push()
    occupied.restart_as(None)

    rollback(balancer)

    assert balancer.configuration.read_bytes() == first


@pytest.mark.parametrize("reloaded", [False, True])
def test_what_another_agent_has_accepted_is_not_taken_for_an_edit(
    occupied: Occupied, other: Path, reloaded: bool
) -> None:
    balancer = occupied.plain
    occupied.restart_as(None)
    balancer.push()
    occupied.restart_as(other)
    if reloaded:
        balancer.push()
    occupied.site.put("later.pem")
    text = balancer.text().encode()
    occupied.amphora.api.upload_haproxy(balancer.id, text)

    occupied.restart_as(None)

    assert occupied.amphora.api.haproxy(balancer.id) == text
    assert (occupied.site.directory / "later.pem").exists()
    balancer.reload()
    assert balancer.configuration.read_bytes() == text
    assert not [*occupied.amphora.agent.base_path.glob("*/*.edited")]


def test_a_pair_is_moved_to_the_present_agent_and_back(other: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    remove_leftovers()
    with ExitStack() as ending:
        lab = ending.enter_context(Lab(f"tv{os.getpid()}"))
        with using_program(other):
            pair = ending.enter_context(make_pair(lab))
        pair.deploy(Checks(interval=1))
        for program in (None, other):
            _move_pair(pair, program)


def _move_pair(pair: Pair, program: Path | None) -> None:
    """Have both halves run this agent: who has the VIP keeps it, keepalived is not restarted, and
    both take a push and VRRP's configuration."""
    master, keepaliveds = pair.master.name, [half.of("keepalived") for half in _halves(pair)]

    def move() -> None:
        for half in _halves(pair):
            half.agent.stop()
            with using_program(program):
                half.agent.start()
            pair.push(half)

    outage = pair.outage(move, lambda: all(half.healthy() for half in _halves(pair)))
    assert outage.failed == 0
    assert pair.master.name == master
    assert [half.of("keepalived") for half in _halves(pair)] == keepaliveds
    for half in _halves(pair):
        half.api.upload_vrrp(half.configuration(Checks(interval=1)))
        half.api.reload_vrrp()
        until(half.healthy, f"{half.name} is well")


def _halves(pair: Pair) -> list[Half]:
    return list(pair.halves.values())


@pytest.fixture(params=["9\n", "two\n"])
def unknown(own_amphora: Amphora, request: pytest.FixtureRequest) -> tuple[Amphora, LoadBalancer]:
    """An amphora whose state is of a format that nobody knows yet, and its load balancer."""
    balancer = own_amphora.new_balancer()
    balancer.push()
    own_amphora.agent.stop()
    (own_amphora.agent.base_path / "format").write_text(request.param)
    return own_amphora, balancer


def read_state(amphora: Amphora) -> dict[Path, bytes]:
    files = (path for path in walk(amphora.agent.base_path) if path.is_file())
    return {path: path.read_bytes() for path in files}


def test_an_unknown_format_is_left_alone_and_reported(
    unknown: tuple[Amphora, LoadBalancer],
) -> None:
    amphora, balancer = unknown
    state, processes = read_state(amphora), balancer.processes()
    with balancer.load() as load:
        amphora.agent.start()
        for change in (balancer.push, balancer.reload, balancer.delete):
            with pytest.raises(AmphoraError) as refused:
                change()
            assert refused.value.status == 409
            assert "unknown format" in str(refused.value)
        for command in (("rollback", balancer.id), ("network", "up")):
            done = run(amphora, *command)
            assert done.returncode == 1
            assert "unknown format" in done.stderr
        assert json.loads(amphora.request("GET", "/1.0/details").body)["listeners"]
        assert b'kind="unknown-format"' in amphora.request("GET", "/metrics").body
        amphora.heartbeats.wait_for(lambda heartbeat: balancer.listener.id in heartbeat.listeners)
        load.wait_for(_ANSWERS)
    assert load.result.failed == 0, load.result
    amphora.agent.stop()
    assert read_state(amphora) == state
    assert balancer.processes() == processes
    assert "unknown format" in amphora.agent.log
