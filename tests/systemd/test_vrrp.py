"""VRRP as systemd's units: brought up, brought back, over a reboot, and never the agent's child."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from amphora_agent.client.v2 import AmphoraClient, AmphoraError
from lab import debian
from lab.archive import UnavailableError
from lab.debian import Release
from lab.listeners import http_listener, loadbalancer
from lab.network import Cable, Lab, Namespace
from lab.nspawn import Machine
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

    def serves_itself(self) -> bool:
        """Whether the load balancer and the agent are there, whoever has the VIP."""
        units = (f"haproxy-{LB}.service", "amphora-agent.service")
        return all(self.machine.properties(unit)["ActiveState"] == "active" for unit in units)

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


def states(machine: Machine) -> list[str]:
    """What the record has of who has the VIPs, the oldest first."""
    said = machine.output("amphora-agent", "history", "--json").splitlines()
    entries = [json.loads(line) for line in said][::-1]
    told = [each for each in entries if each["operation"] == "mastership"]
    return [f"{each['old']} -> {each['new']}" for one in told for each in one["differences"]]


def test_op11_mastership_is_recorded_by_the_confined_agent(half: Half, machine: Machine) -> None:
    until(lambda: states(machine)[-1].endswith("-> MASTER"), "it is recorded")
    with half.api() as api:
        api.stop_vrrp()
        until(lambda: states(machine)[-1] == "MASTER -> STOPPED", "its end is recorded")
        before = len(states(machine))
        api.start_vrrp()
        half.await_service()
        until(
            lambda: states(machine)[before:] == ["STOPPED -> BACKUP", "BACKUP -> MASTER"],
            "its start is recorded",
        )
        api.reload_vrrp()  # it makes a FIFO of its own anew, where it has made the one before
        machine.run(["ip", "-netns", "amphora-haproxy", "link", "set", "eth1", "down"])
        until(lambda: states(machine)[-1] == "MASTER -> FAULT", "its fault is recorded")
        machine.run(["ip", "-netns", "amphora-haproxy", "link", "set", "eth1", "up"])
        until(lambda: states(machine)[-1] == "BACKUP -> MASTER", "its mastership is recorded")
    assert machine.run(["test", "-p", "/run/amphora-agent/vrrp-notify"]).returncode == 0


def test_b1_a_text_on_disk_that_is_not_allowed_starts_nothing_at_a_boot(
    half: Half, machine: Machine
) -> None:
    machine.run(["amphora-interface", "up", "all"])
    half.await_service()
    canary = "/var/lib/octavia/canary"
    good = machine.output("cat", f"{BASE}/octavia-keepalived.conf")
    harm = f'global_defs {{\n    startup_script "/usr/bin/touch {canary}"\n}}\n{good}\n'
    for name in ("octavia-keepalived.conf", "agent.conf"):
        machine.path(f"{BASE}/{name}").write_text(harm)
    half.reboot()
    until(half.serves_itself, "the load balancer is up", timeout=60)
    shown = machine.properties(KEEPALIVED)
    assert (shown["ActiveState"], shown["ConditionResult"]) == ("inactive", "no")
    until(
        lambda: machine.properties(KEEPALIVED)["UnitFileState"] == "disabled",
        "the agent does not want it any more",
    )
    assert not half.has_vip()
    assert not machine.path(f"{BASE}/agent.conf").exists()
    assert not machine.path(canary).exists()
    said = machine.output("journalctl", "--boot", "-p", "err", "--output=cat")
    assert f"{BASE}/octavia-keepalived.conf is not allowed: line 1:" in said
    with half.api() as api:
        with pytest.raises(AmphoraError, match="is not allowed: line 1"):
            api.start_vrrp()
        api.upload_vrrp(f"{good}\n")
        assert api.start_vrrp() == "keepalived started"
    half.await_service()
