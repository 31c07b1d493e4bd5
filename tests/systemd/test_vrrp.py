"""VRRP as systemd's units: brought up, brought back, over a reboot, and never the agent's child."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from amphora_agent.client import AmphoraClient
from lab import debian
from lab.archive import UnavailableError
from lab.booted import Machine
from lab.debian import Release
from lab.listeners import http_listener, loadbalancer
from lab.network import Cable, Lab, Namespace
from lab.pair import Checks, vrrp_configuration
from lab.pki import AmphoraPki
from lab.waiting import until
from tests.systemd.conftest import AMPHORA, CONTROLLER, VIP, ControllerClient, amphora, vip_plug

KEEPALIVED, PROBE = "octavia-keepalived.service", "octavia-vrrp-check.service"
BASE = "/var/lib/octavia/vrrp"
LB = "5a1d1c52-93c6-4c3d-9d5c-1b8f3f0a7c11"
MACS = {"controller": "fa:16:3e:00:01:01", "client": "fa:16:3e:00:01:02"}


class Half:
    """One amphora of a pair whose other half is not there."""

    def __init__(self, lab: Lab, machine: Machine, pki: AmphoraPki) -> None:
        self.machine = machine
        self.ends = {name: lab.namespace(f"{name}-of-half") for name in MACS}
        self._lab = lab
        self._pki = pki
        self._cables: list[Cable] = []

    def plug(self) -> None:
        for name, mac in MACS.items():
            end = self.ends[name]
            ifname = f"ens{len(self._cables)}"
            self._cables.append(
                self._lab.cable(end, "eth0", self.machine.namespace, ifname, mac_b=mac)
            )
            address = CONTROLLER if name == "controller" else "10.1.0.1"
            end.address("eth0", f"{address}/24")
            if name == "controller":
                self.machine.namespace.address(ifname, f"{AMPHORA}/24")

    def reboot(self) -> None:
        self.machine.stop()
        # As a power cut leaves it: the number is another process's by then, which keepalived, if
        # it found that, would take for itself.
        self.machine.write(f"{BASE}/octavia-keepalived.pid", b"1\n")
        while self._cables:
            self._cables.pop().unplug()
        self.plug()
        self.machine.start(timeout=60)

    @property
    def client(self) -> Namespace:
        return self.ends["client"]

    def api(self) -> ControllerClient:
        return ControllerClient(self.ends["controller"], self._pki)

    def main_pid(self, unit: str = KEEPALIVED) -> int:
        return int(self.machine.properties(unit)["MainPID"])

    def check(self) -> int:
        return self.machine.run([f"{BASE}/check_script.sh"], check=False).returncode

    def has_vip(self) -> bool:
        shown = self.machine.output(
            *("ip", "-netns", "amphora-haproxy", "address", "show", "to", VIP)
        )
        return bool(shown.strip())

    def serves(self) -> bool:
        try:
            self.client.connect(VIP, 80, timeout=1).close()
        except OSError:
            return False
        return True

    def await_service(self) -> None:
        until(lambda: self.has_vip() and self.serves(), "the VIP is served", timeout=30)


@pytest.fixture(scope="module")
def half(lab: Lab, release: Release, pki: AmphoraPki) -> Iterator[Half]:
    """Booted, plugged, with a load balancer, and VRRP started."""
    with ExitStack() as ending:
        try:
            layers = debian.tree(release, more=("keepalived",))
            machine = amphora(lab, "half", layers, pki, topology="ACTIVE_STANDBY")
            ending.callback(machine.close)
            made = Half(lab, machine, pki)
            made.plug()
            machine.start()
        except UnavailableError as missing:
            pytest.skip(str(missing))
        text = vrrp_configuration(
            base_path=Path("/var/lib/octavia"),
            address="10.1.0.4",
            peer="10.1.0.3",
            priority=100,
            checks=Checks(),
        )
        with made.api() as api:
            api.plug_vip(VIP, vip_plug(MACS["client"]))
            listener = http_listener("half", port=80, members=[("10.1.0.1", 8001)])
            api.upload_haproxy(LB, loadbalancer(LB, vip=VIP, listeners=[listener]))
            api.reload(LB)
            api.upload_vrrp(text)
            assert api.start_vrrp() == "keepalived started"
        made.await_service()
        yield made


@pytest.fixture
def machine(half: Half) -> Machine:
    return half.machine


@pytest.fixture
def api(half: Half) -> Iterator[AmphoraClient]:
    with half.api() as made:
        yield made


def test_keepalived_and_the_probe_are_units(half: Half, machine: Machine) -> None:
    for unit in (KEEPALIVED, PROBE):
        shown = machine.properties(unit)
        assert (shown["ActiveState"], shown["UnitFileState"]) == ("active", "enabled")
        said = machine.run(["systemd-analyze", "verify", unit])
        assert said.stdout + said.stderr == ""
    assert machine.output("ip", "netns", "identify", str(half.main_pid())) == "amphora-haproxy"
    assert half.check() == 0


def test_the_agents_end_is_nothing_to_them(half: Half, machine: Machine) -> None:
    before = half.main_pid(), half.main_pid(PROBE)
    machine.run(["systemctl", "kill", "--signal=KILL", "amphora-agent.service"])
    machine.run(["systemctl", "restart", "amphora-agent.service"])
    assert (half.main_pid(), half.main_pid(PROBE)) == before
    assert half.has_vip()


def test_a_start_while_it_runs_is_a_reload(half: Half, api: AmphoraClient) -> None:
    before = half.main_pid()
    assert api.start_vrrp() == "keepalived reloaded"
    assert half.main_pid() == before
    assert half.check() == 0


def test_a_killed_keepalived_is_brought_back(half: Half, machine: Machine) -> None:
    before = half.main_pid()
    machine.run(["systemctl", "kill", "--signal=KILL", KEEPALIVED])
    until(lambda: half.main_pid() not in (0, before), "systemd starts it again")
    half.await_service()


def test_it_boots_without_controller_and_agent(half: Half, machine: Machine) -> None:
    machine.run(["systemctl", "disable", "amphora-agent.service"])
    half.reboot()
    half.await_service()
    assert int(machine.output("cat", f"{BASE}/octavia-keepalived.pid")) == half.main_pid()
    # Its very first check has found the load balancer.
    assert "failed" not in machine.output("journalctl", "--boot", "--unit", KEEPALIVED)
    machine.run(["systemctl", "enable", "--now", "amphora-agent.service"])


def test_what_is_stopped_stays_so(half: Half, machine: Machine) -> None:
    with half.api() as api:
        assert api.stop_vrrp() == "keepalived stopped"
        for unit in (KEEPALIVED, PROBE):
            shown = machine.properties(unit)
            assert (shown["ActiveState"], shown["UnitFileState"]) == ("inactive", "disabled")
        assert not half.has_vip()
        assert api.start_vrrp() == "keepalived started"
    half.await_service()
