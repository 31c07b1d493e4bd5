"""Reading real instances: what haproxy says, what the agent makes of it, and when it goes wrong.

Without the API: the services that it would call.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amphora_agent.events.alarms import Alarms
from amphora_agent.haproxy import replies
from amphora_agent.haproxy.config import parser
from amphora_agent.haproxy.process.binary import Haproxy
from amphora_agent.haproxy.runtime.poller import Poller
from amphora_agent.haproxy.runtime.socket import MasterSocket, NoAnswer, NotListening
from amphora_agent.haproxy.service import Instances
from amphora_agent.haproxy.update import server_state_file
from amphora_agent.heartbeat.message import Reported, find_increases
from amphora_agent.paths import Layout, ObjectId, certificate_name, object_id
from amphora_agent.settings.reader import Settings
from amphora_agent.supervisor.embedded import EmbeddedSupervisor
from amphora_agent.wiring import make_journal
from lab import listeners, processes
from lab.http import Tls, get
from lab.network import Lab, Namespace
from lab.pki import Authority
from lab.waiting import until
from tests.integration.amphora import VIP, WEB_PORTS

ID = object_id("lb1")
PORT = 10000
_STAT = "show stat -1 1 -1"


class Services:
    """Instances as an agent has them, in this very process."""

    def __init__(self, directory: Path, namespace: Namespace) -> None:
        self.namespace = namespace
        self.layout = Layout.of(
            Settings(amphora_id="a1", base_path=str(directory / "o")),
            run=directory / "run",
            namespace=str(namespace.name),
        )
        self.supervisor = EmbeddedSupervisor(self.layout.processes, self.layout.run)
        self.instances = Instances(
            self.layout,
            Haproxy(Path("/usr/sbin/haproxy"), self.layout.run),
            self.supervisor,
            make_journal(self.layout),
            Alarms(self.layout.alarms),
            group="nogroup",
        )
        self.version = 0

    @property
    def master(self) -> MasterSocket:
        return MasterSocket(self.layout.instance(ID).master_socket)

    def push(
        self, *, monitor: bool = False, count: int = 1, crt_list: str = ""
    ) -> list[listeners.Listener]:
        """A configuration that needs a reload, with this many listeners, of HTTPS with a list."""
        self.version += 1
        made = [
            listeners.http_listener(
                f"listener {number}",
                port=PORT + number,
                members=[(VIP, port) for port in WEB_PORTS],
                monitor=listeners.HealthMonitor(rise=1) if monitor else None,
                kind="TERMINATED_HTTPS" if crt_list else "HTTP",
                crt_list=crt_list,
            )
            for number in range(count)
        ]
        config = listeners.loadbalancer(
            ID,
            vip=VIP,
            listeners=made,
            base_path=str(self.layout.base),
            timeout_client=listeners.TIMEOUT_CLIENT + self.version,
        )
        self.instances.upload(ID, ObjectId("a1"), config.encode())
        self.instances.reload(ID)
        return made

    def request(self, times: int = 1) -> None:
        for _ in range(times):
            assert get(self.namespace, VIP, PORT).status == 200

    def observer(self, clock: Callable[[], float] = time.monotonic) -> Poller:
        return Poller(self.layout, clock)


@pytest.fixture
def services(lab: Lab, namespace: Namespace, webs: object) -> Iterator[Services]:
    directory = lab.directory()
    made = Services(directory, namespace)
    (directory / "o").mkdir()
    made.instances.adopt()
    yield made
    made.instances.delete(ID)
    processes.end(processes.mentioning(directory))


def test_a_running_instance_is_read_whole(services: Services) -> None:
    (listener,) = services.push()
    services.request(3)
    (reading,) = services.observer().read(timeout=5).values()
    assert reading.listeners == (listener.id,)
    assert reading.leaving == ()
    assert reading.current is not None
    found = reading.current.listeners[listener.id]
    assert (found.status, found.counters.totconns) == ("OPEN", 3)
    assert found.counters.tx > found.counters.rx > 0
    assert listener.pool is not None
    (pool,) = reading.current.pools.values()
    assert dict(pool.members) == {member.id: "no check" for member in listener.pool.members}


def test_real_statistics_are_read_whole_and_refused_in_part(services: Services) -> None:
    made = services.push(count=3)
    reply = services.master.command("@1 show stat", timeout=5)
    assert set(replies.read_worker(reply, "w").listeners) == {listener.id for listener in made}
    frontends = services.master.command("@1 show stat -1 1 -1", timeout=5)
    assert set(replies.read_worker(frontends, "w").listeners) == {listener.id for listener in made}
    last_row = reply.rindex("\n") + 1
    for length in range(last_row + 1, last_row + 40):
        with pytest.raises(Exception, match="cut off"):
            replies.read_worker(reply[:length], "w")


def test_real_member_states_go_through_when_nothing_has_changed(services: Services) -> None:
    services.push(monitor=True, count=2)
    state = services.master.command("@1 show servers state", timeout=5)
    config = parser.parse_config(services.layout.instance(ID).configuration.read_text())
    assert server_state_file.carry_over(state, config).split() == state.split()
    assert len(state.splitlines()) == 2 + 4


def test_what_is_drained_counts_as_drained_and_what_is_down_as_down(services: Services) -> None:
    (listener,) = services.push(monitor=True)
    assert listener.pool is not None
    first, second = (member.id for member in listener.pool.members)
    backend = f"{listener.pool.id}:{listener.id}"

    def members() -> dict[str, str]:
        (reading,) = services.observer().read(timeout=5).values()
        assert reading.current is not None
        return dict(reading.current.pools[backend].members)

    until(lambda: members() == {first: "UP", second: "UP"}, "the members are checked")
    services.master.command(f"@1 set server {backend}/{first} weight 0", timeout=5)
    services.master.command(f"@1 set server {backend}/{second} state maint", timeout=5)
    assert members() == {first: "DRAIN", second: "MAINT"}


def test_an_instance_that_does_not_run_is_read_as_such(services: Services) -> None:
    (listener,) = services.push()
    services.instances.stop(ID)
    (reading,) = services.observer().read(timeout=5).values()
    assert (reading.listeners, reading.current) == ((listener.id,), None)


def test_an_amphora_without_instances_has_no_readings(services: Services) -> None:
    assert services.observer().read(timeout=5) == {}


def test_a_hung_instance_costs_its_own_row(services: Services) -> None:
    (listener,) = services.push()
    hung = processes.mentioning(services.layout.instance(ID).directory)
    for process in hung:
        process.send(signal.SIGSTOP)
    try:
        with pytest.raises(NoAnswer):
            services.master.command("show proc", timeout=0.1)
        assert services.master.listening()
        (reading,) = services.observer().read(timeout=0.2).values()
    finally:
        for process in hung:
            process.send(signal.SIGCONT)
    assert (reading.listeners, reading.current) == ((listener.id,), None)


def test_a_reload_between_two_readings_loses_nothing(services: Services) -> None:
    services.push()
    observer = services.observer()
    _, memory = counted(services, observer, {})
    services.request(3)
    services.push()
    services.request(4)
    services.push()
    services.request(2)
    total, memory = counted(services, observer, memory)
    assert total == 9
    assert counted(services, observer, memory)[0] == 0


def test_a_reload_in_the_middle_of_a_reading_counts_nothing_twice(services: Services) -> None:
    """The reading has begun and haproxy has not been asked: the clock says when."""
    services.push()
    services.request(5)
    reloads = [services.push]

    def clock() -> float:
        if armed and reloads:
            reloads.pop()()
        return time.monotonic()

    armed = False
    observer = services.observer(clock)
    total, memory = counted(services, observer, {})
    assert total == 5
    services.request(2)
    armed = True
    for expected in (2, 0, 0):
        total, memory = counted(services, observer, memory)
        assert total == expected
    assert not reloads


def test_a_reload_without_a_last_word_counts_nothing_twice(services: Services) -> None:
    """haproxy can also be told to reload by others than the agent."""
    services.push()
    observer = services.observer()
    services.request(5)
    total, memory = counted(services, observer, {})
    assert total == 5
    before = services.master.command("show proc", timeout=5)
    with services.namespace.connect(VIP, PORT) as connection:
        connection.sendall(b"GET /stream?seconds=60 HTTP/1.1\r\nHost: site\r\n\r\n")
        assert connection.recv(100)
        services.master.command("reload", timeout=10)
        until(lambda: _reloaded(services, before), "the new worker is there")
        (old,) = _workers(services)[1:]
        os.kill(old, signal.SIGSTOP)  # it is there, and silent
        stat = Path(f"/proc/{old}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it is stopped")
        total, memory = counted(services, observer, memory, timeout=0.5)
        os.kill(old, signal.SIGCONT)
        later, memory = counted(services, observer, memory)
    assert (total, later) == (0, 1)


def test_a_connection_counts_from_the_end_of_its_handshake_on(
    services: Services, authorities: tuple[Authority, Authority]
) -> None:
    """Which is why the last word of a worker is waited for until none goes on."""
    site, directory = authorities[0].issue("site"), services.layout.instance(ID).certificates
    certificates = services.instances.certificates
    certificates.put(ID, certificate_name("site.pem"), site.pem)
    listed = listeners.crt_list([str(directory / "site.pem")]).encode()
    certificates.put(ID, certificate_name("list.pem"), listed)
    services.push(crt_list=str(directory / "list.pem"))

    def unfinished() -> int:
        (current,) = _workers(services)
        return replies.count_unfinished(services.master.command(f"@!{current} {_STAT}", timeout=5))

    assert unfinished() == 0
    with services.namespace.connect(VIP, PORT) as connection:
        until(lambda: unfinished() == 1, "it is accepted")
        with Tls().context().wrap_socket(connection) as encrypted:
            until(lambda: unfinished() == 0, "it counts")
            services.namespace.connect(VIP, PORT).close()
            until(lambda: unfinished() == 1, "one has failed")
            assert encrypted.version()
    until(lambda: unfinished() == 0, "nobody is left who could")


def test_last_words_are_kept_until_they_are_forgotten(services: Services) -> None:
    services.push()
    services.request(1)
    services.push()
    observer = services.observer()
    words = services.layout.instance(ID).final_counters
    assert len(list(words.iterdir())) == 1
    readings = observer.read(timeout=5)
    until(lambda: len(_workers(services)) == 1, "the replaced worker has left")
    observer.forget(readings)
    assert list(words.iterdir()) == []


def test_the_last_word_of_a_worker_that_stayed_is_not_forgotten(services: Services) -> None:
    services.push()
    services.push()
    words = services.layout.instance(ID).final_counters
    with services.namespace.connect(VIP, PORT) as connection:
        connection.sendall(b"GET /stream?seconds=60 HTTP/1.1\r\nHost: site\r\n\r\n")
        assert connection.recv(100)
        services.push()
        until(lambda: len(_workers(services)) == 2, "only the one with a connection is left")
        observer = services.observer()
        observer.forget(observer.read(timeout=5))
        assert len(list(words.iterdir())) == 1


@pytest.mark.parametrize("command", ["show info\nshow stat", "show info;show stat"])
def test_a_command_is_one_command(services: Services, command: str) -> None:
    with pytest.raises(ValueError, match="not one command"):
        services.master.command(command, timeout=1)


def test_nobody_listens_where_nothing_runs(services: Services) -> None:
    assert not services.master.listening()
    with pytest.raises(NotListening):
        services.master.command("show proc", timeout=1)


def counted(
    services: Services, observer: Poller, memory: Reported, timeout: float = 5
) -> tuple[int, Reported]:
    """The connections that one beat would tell, and what it would remember."""
    readings = observer.read(timeout=timeout)
    increase, memory = find_increases(readings, memory)
    observer.forget(readings)
    return sum(one.totconns for one in increase.values()), memory


def _workers(services: Services) -> list[int]:
    """Process ids, the current one first."""
    now = replies.read_workers(services.master.command("show proc", timeout=5))
    return [*([now.current] if now.current else []), *now.leaving]


def _reloaded(services: Services, before: str) -> bool:
    try:
        return (
            before.split("# workers")[1].split()[0]
            not in (services.master.command("show proc", timeout=5).split("# old workers")[0])
        )
    except (NoAnswer, NotListening, IndexError):
        return False
