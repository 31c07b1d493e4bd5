"""The unit of a UDP or SCTP listener."""

from pathlib import Path

from amphora_agent.supervisor.contract import ProcessSpec
from amphora_agent.supervisor.systemd import render_unit
from tests.unit.supervisor.test_systemd_units import complaints, needs_systemd

SPEC = ProcessSpec(
    name="octavia-keepalivedlvs-l",
    description="keepalived of listener l",
    template="octavia-keepalivedlvs.service.j2",
    # The program itself need not be installed here.
    argv=(
        *("/bin/true", "--pid", "/var/lib/octavia/lvs/octavia-keepalivedlvs-l.pid"),
        *("--use-file", "/var/lib/octavia/lvs/agent-l.conf"),
    ),
    namespace=Path("/run/netns/amphora-haproxy"),
)


def test_flows_are_tracked_before_there_can_be_any() -> None:
    lines = render_unit(SPEC).splitlines()
    tracks = next(index for index, line in enumerate(lines) if "vs/conntrack" in line)
    assert lines.index("ExecStartPre=+-/sbin/modprobe ip_vs") < tracks
    assert tracks < lines.index(f"ExecStart={' '.join(SPEC.argv)}")
    assert "NetworkNamespacePath=/run/netns/amphora-haproxy" in lines


def test_the_pid_of_an_earlier_boot_is_forgotten() -> None:
    assert f"ExecStartPre=/bin/rm -f {SPEC.argv[2]}" in render_unit(SPEC).splitlines()


def test_unit_needs_the_configuration_of_the_agent() -> None:
    assert f"ConditionPathExists={SPEC.argv[4]}" in render_unit(SPEC).splitlines()


def test_unit_starts_before_the_agent() -> None:
    [before] = [line for line in render_unit(SPEC).splitlines() if line.startswith("Before=")]
    assert {"amphora-agent.service", "octavia-keepalived.service"} <= set(before[7:].split())


@needs_systemd
def test_systemd_accepts_it(tmp_path: Path) -> None:
    unit = tmp_path / f"{SPEC.name}.service"
    unit.write_text(render_unit(SPEC))
    assert complaints(unit) == []
