"""What the laboratory's machines promise, so that a test may rely on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.archive import UnavailableError
from lab.network import Lab, namespace_exists
from lab.nspawn import Machine


@pytest.fixture(scope="module")
def other(lab: Lab, layers: list[Path], machine: Machine) -> Iterator[Machine]:
    """A second one, while the first runs; without a configuration for its agent."""
    made = Machine(lab, "other", layers)
    made.write("/etc/motd", b"delivered before it boots\n")
    with made:
        yield made


def test_two_machines_run_side_by_side(machine: Machine, other: Machine) -> None:
    assert other.output("cat", "/proc/1/comm") == "systemd"
    assert other.output("cat", "/etc/machine-id") != machine.output("cat", "/etc/machine-id")
    assert other.state() in ("running", "degraded")
    assert machine.state() == "running"


def test_a_file_is_there_when_it_boots_and_another_survives_a_reboot(other: Machine) -> None:
    assert other.path("/etc/motd").read_text() == "delivered before it boots\n"
    other.run(["touch", "/var/lib/kept", "/run/lost"])

    other.stop()
    other.start()

    assert other.path("/var/lib/kept").exists()
    assert not other.path("/run/lost").exists()


def test_cables_lead_to_it(lab: Lab, other: Machine) -> None:
    neighbour = lab.namespace("neighbour")
    lab.cable(neighbour, "eth0", other.namespace, "eth5")
    assert "eth5" in other.output("ip", "-brief", "link")


def test_cables_can_be_laid_before_it_boots(lab: Lab, other: Machine) -> None:
    other.stop()
    cable = lab.cable(lab.namespace("friend"), "eth0", other.namespace, "eth6")
    other.start()
    assert cable.mac_b in other.output("ip", "link", "show", "dev", "eth6")


def test_nothing_is_left_when_the_plug_is_pulled(
    lab: Lab, layers: list[Path], machine: Machine
) -> None:
    with Machine(lab, "brief", layers) as brief:
        name = brief.namespace.name
        assert name is not None
        assert namespace_exists(name)
    assert not namespace_exists(name)
    assert not list(Path("/sys/fs/cgroup").glob(f"**/amphora-lab-{name}"))


def test_why_it_cannot_run_is_told(lab: Lab, machine: Machine, tmp_path: Path) -> None:
    with (
        pytest.raises(UnavailableError, match=r"systemd-nspawn cannot run: .* OS root"),
        Machine(lab, "empty", [tmp_path]),
    ):
        pass
    assert not list(Path("/sys/fs/cgroup").glob("**/amphora-lab-*-empty"))
