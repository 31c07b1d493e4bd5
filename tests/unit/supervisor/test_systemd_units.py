"""Units: those that are rendered for each load balancer, and those that are installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from amphora_agent import templates
from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy.process.binary import Haproxy
from amphora_agent.paths import Layout, object_id
from amphora_agent.settings.reader import Settings
from amphora_agent.supervisor.contract import ProcessSpec
from amphora_agent.supervisor.systemd import render_unit

INSTALLED = ("amphora-agent.service", "amphora-netns.service", "amphora-network.service")
ID = "0c1cbc2b-3d9e-4f54-a9a5-2f5d1b0f3a11"


def spec(*argv: str) -> ProcessSpec:
    return ProcessSpec(
        name=f"haproxy-{ID}",
        description=f"HAProxy of load balancer {ID}",
        template="haproxy.service.j2",
        argv=argv,
        namespace=Path("/run/netns/amphora-haproxy"),
        before=("/usr/bin/python3", "-m", "amphora_agent.haproxy.restart", ID),
    )


def haproxy_spec(tmp_path: Path) -> ProcessSpec:
    layout = Layout.of(
        Settings(amphora_id="a1"),
        run=Path("/run/amphora-agent"),
        namespace="amphora-haproxy",
    )
    haproxy = Haproxy(Path("/usr/sbin/haproxy"), tmp_path)
    return spec(*haproxy.command(layout.instance(object_id(ID)), "x_-Y", notify=True))


def test_the_unit_runs_the_command_in_the_namespace(tmp_path: Path) -> None:
    lines = render_unit(haproxy_spec(tmp_path)).splitlines()
    assert (
        "ExecStart=/usr/sbin/haproxy -Ws "
        f"-S /run/amphora-agent/{ID}.master,mode,600 "
        f"-f /var/lib/octavia/{ID}/haproxy.cfg -f /var/lib/octavia/{ID}/agent.cfg "
        f"-p /var/lib/octavia/{ID}/{ID}.pid -L x_-Y"
    ) in lines
    assert "NetworkNamespacePath=/run/netns/amphora-haproxy" in lines
    assert f"Description=HAProxy of load balancer {ID}" in lines
    assert "Restart=always" in lines


def test_op2_files_are_compared_before_each_start_and_reload(tmp_path: Path) -> None:
    lines = render_unit(haproxy_spec(tmp_path)).splitlines()
    command = f"-+/usr/bin/python3 -m amphora_agent.haproxy.restart {ID}"
    for action in ("ExecStartPre", "ExecReload"):
        (which,) = [number for number, line in enumerate(lines) if line == f"{action}={command}"]
        assert lines[which + 1].startswith(action.removesuffix("Pre"))


@pytest.mark.parametrize(
    "word",
    [
        "a b",
        "a\tb",
        "a\nExecStartPost=/bin/sh",
        "a;",
        "$HOME",
        "%n",
        '"a',
        "'a",
        "a\\",
        "a\0",
        "a\x1b",
        "a\u2028b",
        "",
    ],
)
def test_a_word_that_a_unit_file_would_interpret_is_refused(word: str) -> None:
    with pytest.raises(OperationFailed, match="unsafe word"):
        render_unit(spec("/usr/sbin/haproxy", word))


def test_words_that_mean_themselves_pass() -> None:
    text = render_unit(spec("/opt/h-1.0/haproxy", "a=b,c:d@e", "x_-Y", "[::1]", "été"))
    assert "ExecStart=/opt/h-1.0/haproxy a=b,c:d@e x_-Y [::1] été" in text.splitlines()


needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not installed"
)


def complaints(unit: Path) -> list[str]:
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    # Those about units of this machine are none of ours.
    return [line for line in done.stderr.splitlines() if unit.stem in line or str(unit) in line]


@needs_systemd
def test_systemd_accepts_the_rendered_unit(tmp_path: Path) -> None:
    unit = tmp_path / f"haproxy-{ID}.service"
    unit.write_text(render_unit(haproxy_spec(tmp_path)))
    assert complaints(unit) == []


@needs_systemd
@pytest.mark.parametrize("name", INSTALLED)
def test_systemd_accepts_the_installed_units(name: str, tmp_path: Path) -> None:
    text = (templates.find_directory("systemd") / name).read_text()
    for installed in INSTALLED:
        (tmp_path / installed).write_text(
            # The command is where a distribution's package puts it, which is not here.
            (templates.find_directory("systemd") / installed)
            .read_text()
            .replace("/usr/bin/amphora-agent", "/bin/true")
        )
    assert "=/usr/bin/amphora-agent " in text or "=-/usr/bin/amphora-agent " in text
    assert complaints(tmp_path / name) == []


@needs_systemd
@pytest.mark.parametrize("line", ["Nonsense=1", "TimeoutStopSec=soon", "ExecStart=relative"])
def test_systemd_would_say_what_is_wrong(line: str, tmp_path: Path) -> None:
    unit = tmp_path / f"haproxy-{ID}.service"
    text = render_unit(haproxy_spec(tmp_path))
    unit.write_text(text.replace("[Service]", f"[Service]\n{line}"))
    assert complaints(unit)
