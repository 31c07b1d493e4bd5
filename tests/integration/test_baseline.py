"""What is said of the agent that this one replaces: each of its failures, and that it is none here.

More ways to each are tried in test_api_patience, test_api_truncated, test_api_refusals,
test_api_certificates, test_haproxy_life and the policy's own tests.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from amphora_agent.client.v2 import AmphoraError
from lab.pki import Authority
from lab.waiting import until
from tests.integration.amphora import Amphora, LoadBalancer, differences, request_bytes
from tests.integration.test_api_patience import answers, silent_after_a_request, silent_tcp
from tests.integration.test_haproxy_life import hung

MIB = 1 << 20
#: The largest configuration in its pieces, in one, and as much again for TLS and the allocator.
MOST_GROWTH = 3 * 32 * MIB


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


# One silent TCP connection to the API port blocks the whole API, as does an idle authenticated one


def test_a_silent_connection_blocks_nobody(amphora: Amphora, ending: ExitStack) -> None:
    silent_tcp(amphora, ending)
    assert answers(amphora)


def test_an_idle_authenticated_connection_blocks_nobody(
    amphora: Amphora, ending: ExitStack
) -> None:
    silent_after_a_request(amphora, ending)
    assert answers(amphora)


# A haproxy that does not answer on its socket stops every heartbeat, hangs the reload and the API


def test_a_haproxy_that_does_not_answer_stops_no_heartbeat(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    with hung(balancer):
        amphora.heartbeats.drain()
        amphora.heartbeats.wait_for(
            lambda beat: beat.listeners.get(balancer.listener.id, {}).get("status") == "DOWN"
        )


def test_a_haproxy_that_does_not_answer_hangs_neither_its_reload_nor_the_api(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    balancer.upload()
    other = amphora.new_balancer()
    with hung(balancer):
        with pytest.raises(AmphoraError) as failure:
            balancer.reload()
        assert failure.value.status == 500
        assert answers(amphora)
        other.push()
    other.delete()


# An upload that is cut off half-way replaces the good file with the fragment


@pytest.fixture
def cut_off(amphora: Amphora) -> Callable[[str, bytes], None]:
    """Send half of a body, and go."""

    def send(target: str, body: bytes) -> None:
        said = len(amphora.agent.log)
        request = request_bytes("PUT", target, body)
        with amphora.connect() as connection:
            connection.sendall(request[: len(request) - len(body) // 2])
        until(lambda: "was cut off" in amphora.agent.log[said:], "the agent has noticed")

    return send


def test_a_certificate_that_was_cut_off_leaves_the_good_one(
    amphora: Amphora, balancer: LoadBalancer, cut_off: Callable[[str, bytes], None]
) -> None:
    amphora.api.upload_certificate(
        balancer.id, "x.pem", amphora.agent.pki.client_authority.certificate
    )
    before = amphora.files()
    cut_off(f"/1.0/loadbalancer/{balancer.id}/certificates/x.pem", b"other" * 100)
    assert differences(before, amphora.files()) == set()


def test_an_agent_certificate_that_was_cut_off_leaves_the_good_one_and_tls(
    amphora: Amphora,
    authorities: tuple[Authority, Authority],
    cut_off: Callable[[str, bytes], None],
) -> None:
    before = amphora.files()
    name = amphora.agent.amphora_id
    cut_off("/1.0/certificate", authorities[0].issue(name, dns=[name], key="ec").pem)
    assert differences(before, amphora.files()) == set()
    assert amphora.request("GET", "/1.0/info").status == 200


def test_a_configuration_that_was_cut_off_leaves_the_good_one(
    amphora: Amphora, balancer: LoadBalancer, cut_off: Callable[[str, bytes], None]
) -> None:
    before = amphora.files()
    text = balancer.text().encode()
    cut_off(f"/1.0/loadbalancer/{amphora.agent.amphora_id}/{balancer.id}/haproxy", text)
    assert differences(before, amphora.files()) == set()
    assert balancer.get() in ("web1", "web2")


# `lb_id = ..` writes outside the certificate directory; x.pem.sh and x.pem%0a are accepted


@pytest.mark.parametrize("lb_id", ["..", "%2e%2e", "%2e."])
def test_an_id_that_is_a_way_upwards_writes_nothing(amphora: Amphora, lb_id: str) -> None:
    before = amphora.files()
    answer = amphora.request("PUT", f"/1.0/loadbalancer/{lb_id}/certificates/x.pem", b"content")
    assert answer.status == 400
    assert differences(before, amphora.files()) == set()


@pytest.mark.parametrize("name", ["x.pem.sh", "x.pem%0a"])
def test_a_name_that_is_no_certificate_s_is_refused(
    amphora: Amphora, balancer: LoadBalancer, name: str
) -> None:
    before = amphora.files()
    target = f"/1.0/loadbalancer/{balancer.id}/certificates/{name}"
    assert amphora.request("PUT", target, b"content").status == 400
    assert differences(before, amphora.files()) == set()


# Bodies have no bound: 100 MB of configuration, 1 GB of memory


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "in chunks"])
def test_a_hundred_megabytes_of_configuration_are_refused_and_cost_no_memory(
    own_amphora: Amphora, announced: bool
) -> None:
    made = own_amphora.new_balancer()
    made.push()
    before = _most_memory(own_amphora)
    target = f"/1.0/loadbalancer/{own_amphora.agent.amphora_id}/{made.id}/haproxy"
    head = f"PUT {target} HTTP/1.1\r\nHost: amphora\r\n"
    piece = b"#" * (MIB - 1) + b"\n"
    # It may hang up before it has read all of it.
    with own_amphora.connect() as connection, contextlib.suppress(OSError):
        if announced:
            connection.sendall(f"{head}Content-Length: {100 * MIB}\r\n\r\n".encode())
        else:
            connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            piece = b"%x\r\n%s\r\n" % (MIB, piece)
        for _ in range(100):
            connection.sendall(piece)
    assert own_amphora.api.info()
    assert own_amphora.api.haproxy(made.id).startswith(b"# Configuration")
    assert _most_memory(own_amphora) - before < MOST_GROWTH


# An uploaded lua-load runs as root during the check; external-check, user root, an admin socket
# and a bind on the agent's own port are accepted


def test_lua_never_runs(amphora: Amphora, balancer: LoadBalancer, tmp_path: Path) -> None:
    proof, script = tmp_path / "proof", tmp_path / "script.lua"
    script.write_text(f"io.open('{proof}', 'w'):close()\n")
    before = amphora.files()
    for word in ("lua-load", "lua-load-per-thread"):
        _is_refused(balancer, after="global", line=f"{word} {script}")
    assert not proof.exists()
    assert _unchanged(amphora, before)


FOREIGN = {
    "an external check": ("backend", "external-check command /bin/sh"),
    "user root": ("global", "user root"),
    "uid 0": ("global", "uid 0"),
    "a socket for administrators": ("global", "stats socket {directory}/admin.sock level admin"),
    "more rights at its own": ("global", "stats socket {base}/{id}.sock mode 0666 level admin"),
    "the port of the agent": ("frontend", "bind :{port}"),
    "the port of the agent at all addresses": ("frontend", "bind 0.0.0.0:{port}"),
    "the port of the agent in words": ("frontend", "bind *:{port}"),
    "a range with the port of the agent": ("frontend", "bind [::]:{before}-{behind}"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_not_the_load_balancer_s_is_refused(
    amphora: Amphora, balancer: LoadBalancer, what: str
) -> None:
    section, line = FOREIGN[what]
    agent = amphora.agent
    before = amphora.files()
    line = line.format(
        directory=balancer.directory,
        base=agent.base_path,
        id=balancer.id,
        port=agent.port,
        before=agent.port - 1,
        behind=agent.port + 1,
    )
    _is_refused(balancer, after=section, line=line)
    assert _unchanged(amphora, before)
    assert balancer.get() in ("web1", "web2")


def _is_refused(balancer: LoadBalancer, *, after: str, line: str) -> None:
    """The first section of this kind begins with the line: it must be named, and its number."""
    text, count = re.subn(rf"(?m)^{after}\b.*$", rf"\g<0>\n    {line}", balancer.text(), count=1)
    assert count == 1
    number = text[: text.index(f"    {line}")].count("\n") + 1
    with pytest.raises(AmphoraError) as refusal:
        balancer.amphora.api.upload_haproxy(balancer.id, text)
    assert refusal.value.status == 400
    assert re.search(rf"\b{number}\b", refusal.value.answer["details"]), refusal.value.answer
    # A bad check speaks in haproxy's words.
    assert "[ALERT]" not in refusal.value.answer["details"]


def _unchanged(amphora: Amphora, before: dict[str, tuple[str, str]]) -> bool:
    """But for what is kept of the text for a person to read."""
    names = {os.path.basename(name) for name in differences(before, amphora.files())}
    return names <= {"haproxy.cfg.rejected"}


def _most_memory(amphora: Amphora) -> int:
    """Bytes that the agent's processes have had at most."""
    found = 0
    for process in amphora.agents().values():
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert peak
        found += int(peak[1]) * 1024
    return found
