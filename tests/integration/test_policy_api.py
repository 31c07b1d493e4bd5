"""Configurations beyond the policy: refused with line and reason, before haproxy sees them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.network import Lab
from tests.integration.amphora import Amphora, Answer, LoadBalancer, differences


@dataclass
class Trap:
    """What would tell that haproxy was started, and that Lua code was run."""

    program: Path
    starts: Path
    code: Path
    marker: Path

    @classmethod
    def set_up(cls, directory: Path) -> Trap:
        trap = cls(*(directory / name for name in ("haproxy", "starts", "evil.lua", "marker")))
        installed = shutil.which("haproxy")
        trap.program.write_text(f'#!/bin/sh\necho "$@" >>{trap.starts}\nexec {installed} "$@"\n')
        trap.program.chmod(0o755)
        trap.starts.touch()
        trap.code.write_text(f'io.open("{trap.marker}", "w"):close()\n')
        return trap


@pytest.fixture(scope="module")
def trap(lab: Lab) -> Trap:
    return Trap.set_up(lab.directory())


@pytest.fixture(scope="module")
def amphora(boot: Callable[..., Amphora], trap: Trap) -> Iterator[Amphora]:
    with ExitStack() as ending:
        settings = {"haproxy_amphora": {"haproxy_cmd": str(trap.program)}}
        yield boot(ending, settings=settings)


@pytest.fixture(autouse=True)
def nothing_happens(amphora: Amphora, served: LoadBalancer, trap: Trap) -> Iterator[None]:
    """haproxy is not started, the file that Lua would write stays away, and so does any change
    but the copy of what was refused, which is for a person to read."""
    before, starts, processes = amphora.files(), trap.starts.read_text(), served.processes()
    yield
    changed = differences(before, amphora.files())
    assert {Path(name).name for name in changed} <= {"haproxy.cfg.rejected"}
    assert trap.starts.read_text() == starts
    assert not trap.marker.exists()
    assert served.processes() == processes
    assert served.get()


def upload(balancer: LoadBalancer, text: str) -> Answer:
    target = f"/1.0/loadbalancer/{balancer.amphora.agent.amphora_id}/{balancer.id}/haproxy"
    return balancer.amphora.request("PUT", target, text.encode(errors="surrogateescape"))


def assert_refused(balancer: LoadBalancer, text: str, line: int) -> str:
    """The reason."""
    answer = upload(balancer, text)
    assert answer.status == 400, answer
    said = answer.json()
    assert said["message"] == "Invalid request"
    first = said["details"].split("\n")[0]
    assert first.startswith(f"[{balancer.configuration}:{line}] : "), said
    return str(said["details"])


def with_line(balancer: LoadBalancer, after: str, line: str) -> tuple[str, int]:
    """A right configuration with one more line after the first that begins so; its number."""
    lines = balancer.text().split("\n")
    place = next(i for i, each in enumerate(lines) if each.strip().startswith(after)) + 1
    lines.insert(place, line)
    return "\n".join(lines), place + 1


def test_the_trap_works(served: LoadBalancer, trap: Trap, tmp_path: Path) -> None:
    """What the other tests do not see happen does happen where nobody refuses it."""
    own = Trap.set_up(tmp_path)
    text, _ = with_line(served, "daemon", f"    lua-load {own.code}")
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(text)
    subprocess.run([own.program, "-c", "-f", configuration], capture_output=True, check=False)
    assert own.marker.exists()
    assert own.starts.read_text()


IN_GLOBAL = [
    ("lua-load {code}", "runs code"),
    ("lua-load-per-thread {code}", "runs code"),
    ('"lua-load" {code}', "runs code"),
    (r"lua-loa\x64 {code}", "runs code"),
    ("no lua-load {code}", "runs code"),
    ("user root", "user root"),
    ("group root", "group root"),
    ("chroot /tmp", "settled"),
    ("stats socket /tmp/other.sock mode 0666 level admin", "socket"),
    ("stats socket {base}/{id}.sock mode 0666 level admin", "level user"),
    ("setenv A b", "environment"),
    ("log /tmp/file local0", "network"),
    ("log stdout format raw local0", "syslog"),
    ("server-state-file /etc/passwd", "servers-state"),
    ('description "${{PATH}}"', "environment"),
    (".if defined(PATH)", "what is written"),
    ("nonsense", "does not know"),
]

IN_FRONTEND = [
    ("bind *:{port}", "agent's own"),
    ("bind 0.0.0.0:{port}", "agent's own"),
    ("bind :::{port} v4v6", "agent's own"),
    ("bind /tmp/other.sock", "network"),
    ("bind 127.0.0.1:1 ssl crt {agent_certificate}", "not below"),
    ("bind 127.0.0.1:1 ssl crt {certs}/{id}/../other/x.pem", "not below"),
    ("acl x path -f /etc/passwd", "not below"),
    ("http-request return status 200 file {agent_certificate}", "file"),
    ("http-request use-service lua.x", "does not know"),
    ("http-request set-header X %[env(PATH)]", "environment"),
    ("http-request set-header X %[src,map_ip(/etc/passwd)]", "not below"),
    ("errorfile 503 /etc/passwd", "file"),
    ("external-check command /bin/sh", "ping-wrapper"),
    ("filter spoe engine x config /etc/passwd", "runs code"),
    ("server x unix@/tmp/x", "network"),
]


def filled(served: LoadBalancer, trap: Trap, line: str) -> str:
    agent = served.amphora.agent
    return "    " + line.format(
        code=trap.code,
        base=agent.base_path,
        certs=agent.cert_path,
        agent_certificate=agent.pki.server_pem,
        id=served.id,
        port=agent.port,
    )


@pytest.mark.parametrize(("line", "why"), IN_GLOBAL)
def test_what_the_process_may_not(served: LoadBalancer, trap: Trap, line: str, why: str) -> None:
    text, number = with_line(served, "daemon", filled(served, trap, line))
    assert why in assert_refused(served, text, number)


@pytest.mark.parametrize(("line", "why"), IN_FRONTEND)
def test_what_a_proxy_may_not(served: LoadBalancer, trap: Trap, line: str, why: str) -> None:
    text, number = with_line(served, "frontend", filled(served, trap, line))
    assert why in assert_refused(served, text, number)


@pytest.mark.parametrize("section", ["program x", "ring x", "log-forward x", "fcgi-app x"])
def test_sections_that_are_refused(served: LoadBalancer, section: str) -> None:
    text = served.text() + f"\n{section}\n"
    assert "not allowed" in assert_refused(served, text, text.count("\n"))


LINE_BREAKS = [
    "\n",
    "\r",
    "\r\n",
    "\v",
    "\f",
    "\0",
    "\x1c",
    "\n\n",
    '"\n',
    "'\n",
    "\\\n",
    "\n.if 1\n",
]


def ciphers(value: str) -> str:
    return f"    bind 127.0.0.1:1 ssl verify none ciphers {value} no-sslv3 alpn h2"


def redirect_url(value: str) -> str:
    return f"    redirect code 302 location {value} if {{ path /x }}"


def redirect_prefix(value: str) -> str:
    return f"    redirect prefix {value} if {{ path /x }}"


@pytest.mark.parametrize("field", [ciphers, redirect_url, redirect_prefix])
@pytest.mark.parametrize("line_break", LINE_BREAKS, ids=ascii)
def test_lines_smuggled_into_a_field(
    served: LoadBalancer, trap: Trap, field: Callable[[str], str], line_break: str
) -> None:
    smuggled = f"x{line_break}    global{line_break}    lua-load {trap.code}{line_break}"
    text, _ = with_line(served, "frontend", field(smuggled))
    answer = upload(served, text)
    assert answer.status == 400
    assert "not allowed" in answer.json()["details"] or "NUL" in answer.json()["details"]


@pytest.mark.parametrize(
    "value",
    [
        "http://x/%[env(PATH)]",
        "http://x/%{+Q}[env(PATH)]",
        "http://x/%[lua.x]",
        "http://x/%[src,map_ip(/etc/passwd)]",
        'http://x/"$PATH"',
        'http://x/"${PATH}"',
        r"http://x/\r\nSet-Cookie:a=b",
        r"http://x/\x00",
        "http://x if { path -f /etc/passwd } #",
    ],
)
@pytest.mark.parametrize("field", [redirect_url, redirect_prefix])
def test_what_a_redirection_would_tell(
    served: LoadBalancer, field: Callable[[str], str], value: str
) -> None:
    text, number = with_line(served, "frontend", field(value))
    assert "not allowed" in assert_refused(served, text, number)


@pytest.mark.parametrize(
    "value",
    ["A crt /etc/passwd", "A ca-file /etc/passwd", "A namespace x", '"A$PATH"', "A level admin"],
)
def test_options_smuggled_among_ciphers(served: LoadBalancer, value: str) -> None:
    text, number = with_line(served, "frontend", ciphers(value))
    assert "not allowed" in assert_refused(served, text, number)


def test_all_that_is_wrong_is_told(served: LoadBalancer) -> None:
    text, number = with_line(served, "daemon", "    user root\n    chroot /")
    details = assert_refused(served, text, number)
    assert f":{number + 1}] : chroot is not allowed" in details


def test_bytes_that_are_no_text_are_let_through_or_refused(served: LoadBalancer) -> None:
    text, number = with_line(served, "daemon", "    nonsense \udcff\udcfe")
    assert_refused(served, text, number)
