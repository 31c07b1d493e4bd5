"""What is said to fit into a memory starts and is reloaded there, on every version; and what does
not fit is refused, by little. The memory is limited for real: who takes more is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy import replies
from amphora_agent.haproxy.config import preflight
from amphora_agent.haproxy.runtime.socket import InteractiveSession, MasterSocket
from amphora_agent.haproxy.validate.validator import ResourceLimits
from lab import haproxies, rendered
from lab.backend import Backend
from lab.listeners import HealthMonitor, loadbalancer, many_listeners
from lab.memory import MemoryGroup, UnavailableError
from lab.pki import Authority
from lab.waiting import until
from tests.builders import bodies
from tests.builders.bodies import Body
from tests.builders.places import PLACES
from tests.integration.amphora import Amphora
from tests.integration.declared import DeclaredBalancer, listener, pool

#: In so much of what was said to be needed it does not work: what is refused is not far off. A
#: check by TLS takes most while the member is silent, and little when it refuses.
TOO_LITTLE, TOO_LITTLE_BY_TLS = 0.7, 0.4
FIRST_PORT = 21000
VIP = "127.0.0.9"


def declared(directory: Path, *, checked: bool) -> str:
    """300 listeners, each with a pool of 10 members that do not answer."""
    pools = []
    for number in range(300):
        members = [
            bodies.member(f"{number}-{each}-{'x' * 30}", protocol_port=9000 + each)
            for each in range(10)
        ]
        more: Body = {"healthmonitor": bodies.monitor()} if checked else {}
        pools.append(bodies.pool("HTTP", f"{number}-{'x' * 32}", members=members, **more))
    listeners = [
        bodies.listener(
            name=f"{number}-{'y' * 32}",
            protocol_port=FIRST_PORT + number,
            default_pool_id=each["pool_id"],
            connection_limit=5,
        )
        for number, each in enumerate(pools)
    ]
    body = bodies.balancer(*listeners, pools=tuple(pools), vip_address=VIP)
    process = rendered.translate_whole(bodies.decoded(body))
    places = PLACES._replace(
        configuration=str(directory / "current"),
        certificates=str(directory / "current"),
        stats_socket=str(directory / "stats"),
        state_file=str(directory / "state"),
    )
    files = rendered.render(process, places)
    names = sorted(files, key=lambda name: (name != "haproxy.cfg", name))
    return "".join(files[name] for name in names if name.endswith(".cfg"))


def uploaded(directory: Path) -> str:
    members = [("127.0.2.1", 9000 + each) for each in range(10)]
    listeners = many_listeners(
        300, members=members, first_port=FIRST_PORT, connection_limit=5, monitor=HealthMonitor()
    )
    text = loadbalancer("lb", vip=VIP, listeners=listeners, base_path=str(directory))
    return text.replace(f"{directory}/lb.sock", f"{directory}/stats")


def encrypted(directory: Path) -> str:
    """To clients, by 150 certificates, and to members."""
    text = uploaded(directory)
    authority = Authority.create("CA", key="ec")
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("    bind ") and len(lines) % 2:
            certificate = directory / f"{len(lines)}.pem"
            certificate.write_bytes(authority.issue("site", dns=["site"], key="ec").pem)
            line += f" ssl crt {certificate}"
        lines.append(f"{line} ssl verify none" if line.startswith("    server ") else line)
    return "\n".join(lines) + "\n"


TEXTS: dict[str, Callable[[Path], str]] = {
    "declared": lambda directory: declared(directory, checked=False),
    "declared, checked": lambda directory: declared(directory, checked=True),
    "uploaded, checked": uploaded,
    "encrypted, members refuse": encrypted,
    "encrypted, members are silent": lambda directory: encrypted(directory).replace(
        "127.0.2.1:", "198.51.100.1:"
    ),
}


@contextlib.contextmanager
def limited(limit: int) -> Iterator[MemoryGroup]:
    try:
        group = MemoryGroup(limit)
    except UnavailableError as missing:
        pytest.skip(str(missing))
    with group:
        yield group


def works(program: Path, directory: Path, limit: int) -> bool:
    """Whether haproxy starts, and has two workers at a reload, in so many bytes."""
    with limited(limit) as group, contextlib.ExitStack() as ending:
        started = subprocess.Popen(
            [program, "-W", "-db", "-S", directory / "master", "-f", directory / "haproxy.cfg"],
            preexec_fn=lambda: group.take(os.getpid()),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        ending.callback(started.wait)
        ending.callback(os.killpg, started.pid, signal.SIGKILL)
        master = MasterSocket(directory / "master")
        before = worker_of(started, master)
        if before is None:
            return False
        with InteractiveSession(directory / "stats", timeout=10) as old:  # keeps it there
            old.ask("show info")
            with contextlib.suppress(OperationFailed):  # a master of 2.6 hangs up
                master.command("reload", timeout=30)
            after = worker_of(started, master, before)
            if after is None:
                return False
            with contextlib.suppress(OperationFailed, TimeoutError):
                # It is told to when the new one serves.
                until(lambda: "Stopping: 1" in old.ask("show info"), "the old worker is leaving")
                return True
            return False


def worker_of(
    started: subprocess.Popen[bytes], master: MasterSocket, before: int | None = None
) -> int | None:
    """The worker that answers after the one `before`; None when there will be none."""
    found: int | None = None

    def settled() -> bool:
        nonlocal found
        with contextlib.suppress(OperationFailed):
            now = replies.read_workers(master.command("show proc", timeout=10))
            if now.current not in (None, before):
                master.command(f"@!{now.current} show version", timeout=10)
                found = now.current
            return found is not None or (before is not None and now.failed > 0)
        return started.poll() is not None

    until(settled, "haproxy has started or failed", timeout=60)
    return found


@pytest.mark.parametrize("kind", TEXTS)
def test_d2_what_is_said_to_fit_starts_and_is_reloaded(
    program: Path, tmp_path: Path, kind: str
) -> None:
    text = TEXTS[kind](tmp_path)
    (tmp_path / "haproxy.cfg").write_text(text)
    version = haproxies.version(program)
    said = preflight.estimate_memory(
        {"haproxy.cfg": text}, version, ResourceLimits("self").threads()
    ).most()
    assert works(program, tmp_path, said), f"{said >> 20} MiB"
    too_little = TOO_LITTLE_BY_TLS if "encrypted" in kind else TOO_LITTLE
    assert not works(program, tmp_path, int(said * too_little)), f"{said >> 20} MiB"


def test_d2_a_dry_run_says_what_a_small_machine_holds(
    own_amphora: Amphora, webs: dict[str, Backend]
) -> None:
    """An amphora with little memory takes ever more listeners, until it is said that it is too
    small: all that was taken serves, and is reloaded, and nothing is killed."""
    made = DeclaredBalancer(own_amphora)
    with ExitStack() as ending:
        group = ending.enter_context(limited(1 << 40))
        ending.callback(own_amphora.agent.close)
        for each in own_amphora.agent.processes():
            group.take(each.pid)
        made.push()
        agents = own_amphora.agent.pids()
        group.set_limit(group.used() + (130 << 20))
        refused = taken = 0
        for count in range(50, 2000, 50):
            members = [
                {"member_id": f"m{each}", "address": "127.0.0.1", "protocol_port": 9000 + each}
                for each in range(10)
            ]
            made.body["pools"] = [pool(f"pool-{each}", *members) for each in range(count)]
            made.body["listeners"] = [
                listener(f"l-{each}", FIRST_PORT + each, default_pool_id=f"pool-{each}")
                for each in range(count)
            ]
            answer = made.put("?dry_run=1")
            if answer.status == 400:
                refused = count
                assert "MiB are available" in answer.body.decode()
                break
            assert made.push()["step"] == "reload"
            taken = count
        assert refused
        assert taken >= 150  # of which each worker has 12 MiB
        assert own_amphora.agent.pids() == agents
        made.body = made.body | {"pools": made.body["pools"][:1]}
        made.body["listeners"] = made.body["listeners"][:1]
        assert made.push()["step"] == "reload"  # it becomes less at any time
        made.delete()
