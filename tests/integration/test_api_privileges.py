"""The process that speaks TLS and HTTP is an unprivileged user's, and either of the API's two
processes may end at any time."""

import ctypes
import fcntl
import http.client
import os
import pwd
import shutil
import signal
import ssl
import struct
import subprocess
import termios
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from socket import socket

import pytest

from amphora_agent.daemon import privileges
from lab.pki import Authority
from lab.processes import Process
from lab.waiting import until
from tests.integration.amphora import (
    Amphora,
    Answer,
    LoadBalancer,
    read_answer,
    request_bytes,
)
from tests.integration.history import told

KEY = "the-key-of-heartbeats-in-no-other-place"

#: A haproxy that, asked to check a configuration, waits while there is a file "hold".
_HELD = """\
#!/bin/sh
case " $* " in *" -c "*)
    while [ -e {directory}/hold ]; do touch {directory}/reached; sleep 0.02; done;;
esac
exec {program} "$@"
"""


@pytest.fixture(scope="module")
def user() -> Iterator[str]:
    """An unprivileged user for the API."""
    name = f"amphora-it{os.getpid()}"
    add = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name]
    subprocess.run(add, check=True)
    yield name
    subprocess.run(["userdel", name], check=True)


@pytest.fixture
def amphora(boot: Callable[..., Amphora], user: str, tmp_path: Path) -> Iterator[Amphora]:
    haproxy = tmp_path / "haproxy"
    program = shutil.which("haproxy")
    haproxy.write_text(_HELD.format(directory=tmp_path, program=program))
    haproxy.chmod(0o755)
    with ExitStack() as ending:
        yield boot(
            ending,
            options=("--memory-limit", "1024", "--api-user", user),
            settings={"haproxy_amphora": {"haproxy_cmd": str(haproxy)}},
            heartbeat_key=KEY,
        )


@pytest.fixture
def served(amphora: Amphora) -> LoadBalancer:
    made = amphora.new_balancer()
    made.push()
    return made


# What it may not


def status(process: Process) -> dict[str, str]:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_the_process_that_receives_has_no_privilege(amphora: Amphora, user: str) -> None:
    agents, entry = amphora.agents(), pwd.getpwnam(user)
    found = status(agents["api"])
    assert found["Uid"].split() == [str(entry.pw_uid)] * 4
    assert found["Gid"].split() == [str(entry.pw_gid)] * 4
    assert found["Groups"] == ""
    assert found["NoNewPrivs"] == "1"
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[name], 16) == 0, name
    assert Path(f"/proc/{agents['api'].pid}/cwd").readlink() == Path("/")
    for name in ("main", "services", "heartbeat"):
        assert status(agents[name])["Uid"].split() == ["0"] * 4


def try_as(user: str, attempt: Callable[[], object]) -> str:
    """What an attempt of a process with the user's rights ends with: the name of an error."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            found = privileges.find_user(user)
            assert found is not None
            privileges.become(found)
            attempt()
            os.write(writing, b"nothing")
        except Exception as error:  # whatever it is, the test shall see it
            os.write(writing, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as outcome:
        name = outcome.read()
    os.waitpid(pid, 0)
    return name


def test_such_a_process_reads_no_secret_and_signals_nobody(
    amphora: Amphora, served: LoadBalancer, user: str
) -> None:
    agent, services = amphora.agent, amphora.agents()["services"].pid
    agent.directory.chmod(0o755)  # pytest's own is private
    haproxy = [process.pid for process in served.processes()]
    forbidden: dict[str, Callable[[], object]] = {
        "settings": agent.config_file.read_bytes,
        "certificate": agent.pki.server_pem.read_bytes,
        "a socket of haproxy": lambda: list(agent.run_path.iterdir()),
        "the services' memory": lambda: open(f"/proc/{services}/mem", "rb").close(),
        **{f"signal {pid}": partial(os.kill, pid, 0) for pid in (*haproxy, services)},
        "root again": lambda: os.setuid(0),
        "its own socket for the network": lambda: socket(17, 3, 0).close(),
    }
    assert {name: try_as(user, attempt) for name, attempt in forbidden.items()} == dict.fromkeys(
        forbidden, "PermissionError"
    )


def has_in_memory(process: Process, secret: bytes) -> bool:
    """Whether a secret is in the memory of a process that it can write."""
    with open(f"/proc/{process.pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
            place, mode = line.split()[:2]
            start, end = (int(word, 16) for word in place.split("-"))
            if mode.startswith("rw"):
                try:
                    memory.seek(start)
                    content = memory.read(end - start)
                except (OSError, OverflowError):  # of the kernel's own
                    continue
                if secret in content:
                    return True
    return False


def test_a_secret_is_only_in_the_processes_that_need_it(
    amphora: Amphora, served: LoadBalancer
) -> None:
    agents = amphora.agents()
    found = {name for name, agent in agents.items() if has_in_memory(agent, KEY.encode())}
    assert found <= {"services", "heartbeat"}
    assert "heartbeat" in found
    lines = amphora.agent.pki.server_pem.read_bytes().split(b"PRIVATE KEY-----\n")[1]
    key = lines.splitlines()[0]
    found = {name for name, agent in agents.items() if has_in_memory(agent, key)}
    assert found <= {"services", "api"}


# What it is given


def test_it_is_given_another_certificate_with_the_answer(
    amphora: Amphora, authorities: tuple[Authority, Authority]
) -> None:
    amphora_id = amphora.agent.amphora_id
    renewed = authorities[0].issue(amphora_id, dns=[amphora_id], key="ec")
    assert amphora.request("PUT", "/1.0/certificate", renewed.pem).status == 202
    peer = amphora.agent.get("/1.0/info").peer
    assert peer is not None
    assert peer.serial == renewed.serial


def test_it_is_given_a_file_for_a_body_that_memory_has_no_room_for(amphora: Amphora) -> None:
    large = b"#" * (17 << 20)  # more than there is for large ones
    target = f"/1.0/loadbalancer/{amphora.agent.amphora_id}/{uuid.uuid4()}/haproxy"
    answer = amphora.request("PUT", target, large)
    assert answer.status == 400, answer.body


# Ends, at each step of a request


class Change:
    """A request that sends a configuration with another weight, and what came of it."""

    def __init__(self, balancer: LoadBalancer, weight: int) -> None:
        amphora = balancer.amphora
        text = balancer.text().replace(" weight 1", f" weight {weight}")
        target = f"/1.0/loadbalancer/{amphora.agent.amphora_id}/{balancer.id}/haproxy"
        request = request_bytes("PUT", target, text.encode())
        self._rest = request[-100:]
        self._connection = amphora.connect(timeout=60)
        self._connection.sendall(request[:-100])
        self._pool = ThreadPoolExecutor(1)

    def finish(self) -> "Future[Answer]":
        """Send the rest, and let a thread wait for the answer."""
        self._connection.sendall(self._rest)
        return self._pool.submit(read_answer, self._connection)

    def close(self) -> None:
        self._pool.shutdown()
        self._connection.close()


@pytest.fixture
def change(served: LoadBalancer) -> Iterator[Change]:
    with closing(Change(served, 7)) as made:
        yield made


def changes(balancer: LoadBalancer) -> int:
    return len(told(balancer.amphora, balancer.id))


def kill(amphora: Amphora, name: str) -> None:
    """End one of the agent's processes, and wait for another in its place."""
    before = amphora.agents()[name]
    before.send(signal.SIGKILL)
    assert before.wait(10)

    def is_there() -> bool:
        children = [p for p in amphora.agent.processes() if p.parent == amphora.agent.pid]
        return len(children) == 3 and amphora.agents().get(name) not in (None, before)

    until(is_there, f"another {name} process is there")


def require_good(balancer: LoadBalancer) -> None:
    """Everything goes on as if nothing had been."""
    until(lambda: _answers(balancer.amphora), "the API answers")
    with closing(Change(balancer, 9)) as another:
        assert another.finish().result(60).status == 202
    assert " weight 9" in balancer.amphora.request("GET", _text_of(balancer)).body.decode()
    assert set(balancer.amphora.agents()) == {"main", "api", "services", "heartbeat"}


def _text_of(balancer: LoadBalancer) -> str:
    return f"/1.0/loadbalancer/{balancer.id}/haproxy"


def _answers(amphora: Amphora) -> bool:
    try:
        return amphora.agent.get("/1.0/info", timeout=2).status == 200
    except OSError:
        return False


def test_services_that_end_between_requests_are_waited_for(served: LoadBalancer) -> None:
    amphora = served.amphora
    services = amphora.agents()["services"]
    services.send(signal.SIGKILL)
    assert services.wait(10)
    assert amphora.request("GET", "/1.0/info").status == 200
    require_good(served)


def test_services_that_end_while_a_body_comes_are_waited_for(
    served: LoadBalancer, change: Change
) -> None:
    services = served.amphora.agents()["services"]
    services.send(signal.SIGKILL)
    assert services.wait(10)
    assert change.finish().result(60).status == 202
    require_good(served)


def test_services_that_end_before_they_begin_leave_a_503_and_no_change(
    served: LoadBalancer, change: Change
) -> None:
    services, before = served.amphora.agents()["services"], changes(served)
    services.send(signal.SIGSTOP)
    answer = change.finish()
    until(lambda: has_unread(services, 1000), "the request has been passed on")
    services.send(signal.SIGKILL)
    _require_503(answer.result(60))
    require_good(served)
    assert changes(served) == before + 1, "only the one after it"


def test_services_that_end_in_the_middle_leave_a_503_and_no_half_change(
    served: LoadBalancer, change: Change, tmp_path: Path
) -> None:
    before = changes(served)
    with held(tmp_path):
        answer = _begin_change(change, tmp_path)
        served.amphora.agents()["services"].send(signal.SIGKILL)
        _require_503(answer.result(60))
    require_good(served)
    assert changes(served) == before + 1, "only the one after it"


def test_a_receiving_process_that_ends_while_a_body_comes_changes_nothing(
    served: LoadBalancer, change: Change
) -> None:
    before = changes(served)
    kill(served.amphora, "api")
    with pytest.raises(
        (BrokenPipeError, ConnectionResetError, ssl.SSLError, http.client.HTTPException)
    ):
        change.finish().result(60)
    require_good(served)
    assert changes(served) == before + 1, "only the one after it"


def test_a_change_that_is_under_way_is_made_once_when_the_receiving_process_ends(
    served: LoadBalancer, change: Change, tmp_path: Path
) -> None:
    before = changes(served)
    with held(tmp_path):
        answer = _begin_change(change, tmp_path)
        kill(served.amphora, "api")
        with pytest.raises((OSError, http.client.HTTPException)):
            answer.result(60)
    until(lambda: changes(served) == before + 1, "the change is made")
    require_good(served)
    assert changes(served) == before + 2, "each once"


def test_services_that_hang_are_replaced_and_their_request_gets_a_503(
    served: LoadBalancer, change: Change
) -> None:
    services = served.amphora.agents()["services"]
    services.send(signal.SIGSTOP)
    _require_503(change.finish().result(60))
    assert services.wait(10)
    require_good(served)
    assert "services-worker" in served.amphora.request("GET", "/metrics").body.decode()


def test_a_request_that_is_under_way_at_the_end_is_answered(
    served: LoadBalancer, change: Change, tmp_path: Path
) -> None:
    with held(tmp_path):
        answer = change.finish()
        until((tmp_path / "reached").exists, "the change is under way")
        os.kill(served.amphora.agent.pid, signal.SIGTERM)
        until(lambda: not _answers(served.amphora), "no new connection is taken")
    assert answer.result(60).status == 202
    served.amphora.agent.kill()


def _begin_change(change: Change, directory: Path) -> "Future[Answer]":
    """Send the rest of the change, and wait until haproxy would check it."""
    answer = change.finish()
    until((directory / "reached").exists, "the change is under way")
    return answer


def _require_503(answer: Answer) -> None:
    assert answer.status == 503, answer
    assert answer.headers["retry-after"] == "5"
    assert answer.json()["details"].endswith("try again later")


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """haproxy checks no configuration meanwhile."""
    (directory / "reached").unlink(missing_ok=True)
    (directory / "hold").touch()
    try:
        yield
    finally:
        (directory / "hold").unlink()


def has_unread(process: Process, size: int) -> bool:
    """Whether a process has received so many bytes at a socket, and not read them."""
    # pidfd_open(2), pidfd_getfd(2): copies of the descriptors of another process.
    libc = ctypes.CDLL(None, use_errno=True)
    with os.fdopen(libc.syscall(434, process.pid, 0), "rb", buffering=0) as pidfd:
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            if not str(link.readlink()).startswith("socket:"):
                continue
            copy = libc.syscall(438, pidfd.fileno(), int(link.name), 0)
            count = bytearray(4)
            try:
                fcntl.ioctl(copy, termios.FIONREAD, count)
            except OSError:  # it listens
                continue
            finally:
                os.close(copy)
            if struct.unpack("=i", count)[0] >= size:
                return True
    return False
