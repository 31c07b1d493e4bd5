"""The unit of a DHCP client."""

from __future__ import annotations

from pathlib import Path

from amphora_agent.supervisor.contract import ProcessSpec
from amphora_agent.supervisor.systemd import render_unit
from tests.unit.supervisor.test_systemd_units import complaints, needs_systemd

SPEC = ProcessSpec(
    name="amphora-dhcp-eth2",
    description="DHCP client of eth2",
    template="dhcp.service.j2",
    # The client itself need not be installed here.
    argv=("/bin/true", "-i", "eth2", "-s", "/var/lib/octavia/dhcp/eth2.sh", "-f"),
    namespace=Path("/run/netns/amphora-haproxy"),
)


def test_the_client_runs_in_the_namespace_for_as_long_as_it_is_wanted() -> None:
    lines = render_unit(SPEC).splitlines()
    assert f"ExecStart={' '.join(SPEC.argv)}" in lines
    assert "NetworkNamespacePath=/run/netns/amphora-haproxy" in lines
    assert "After=network.target amphora-netns.service amphora-network.service" in lines
    assert "Restart=always" in lines


@needs_systemd
def test_systemd_accepts_it(tmp_path: Path) -> None:
    unit = tmp_path / f"{SPEC.name}.service"
    unit.write_text(render_unit(SPEC))
    assert complaints(unit) == []
