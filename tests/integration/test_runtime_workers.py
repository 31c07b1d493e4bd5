"""Workers that were replaced are bounded, in number and in time, with every version of haproxy."""

import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from amphora_agent.client.v2 import AmphoraClient
from lab.backend import Backend
from lab.waiting import until
from tests.integration.amphora import VIP, Amphora
from tests.integration.runtime import Changing, amphora, member

__all__ = ["amphora"]  # of each version of haproxy

#: What the agent adds: docs/decisions/0017-bounded-old-workers.md.
MOST_RELOADS = 50


@pytest.fixture
def balancer(amphora: Amphora, webs: dict[str, Backend]) -> Iterator[Changing]:
    made = Changing(amphora, 10960)
    made.push()
    yield made
    made.delete()


def busy(balancer: Changing) -> socket.socket:
    """A connection that its worker cannot leave behind: a request that does not end."""
    connection = balancer.amphora.namespace.connect(VIP, balancer.port)
    connection.sendall(b"POST / HTTP/1.1\r\nHost: site\r\nContent-Length: 9\r\n\r\n")
    until(lambda: sessions(balancer) > 0, "it is taken")
    return connection


def sessions(balancer: Changing) -> int:
    header, row = balancer.ask(f"@1 show stat {balancer.listener.id} 1 -1").splitlines()[:2]
    return int(row.split(",")[header.split(",").index("scur")])


def replaced(balancer: Changing) -> None:
    worker = balancer.current()
    balancer.timeout += 1
    balancer.push()
    assert balancer.done() == "reload"
    assert balancer.current() != worker


def test_as_many_as_the_agent_allows_stay_for_their_connections(balancer: Changing) -> None:
    with ExitStack() as ending:
        first = balancer.current()
        for _ in range(MOST_RELOADS):
            ending.enter_context(busy(balancer))
            replaced(balancer)
        assert len(balancer.workers().leaving) == MOST_RELOADS
        assert first in balancer.workers().leaving
        for _ in range(2):
            ending.enter_context(busy(balancer))
            replaced(balancer)
        until(lambda: len(balancer.workers().leaving) == MOST_RELOADS, "the oldest have gone")
        assert first not in balancer.workers().leaving
        assert "hard-stop-after" in addition(balancer)


def test_what_the_text_says_of_them_counts(balancer: Changing) -> None:
    own = balancer.text().replace("    daemon\n", "    daemon\n    hard-stop-after 500ms\n")
    balancer.amphora.api.upload_haproxy(balancer.id, own)
    balancer.reload()
    assert "hard-stop-after" not in addition(balancer)
    worker = balancer.current()
    with busy(balancer):
        balancer.amphora.api.upload_haproxy(balancer.id, own.replace("500ms", "501ms"))
        balancer.reload()
        assert balancer.done() == "reload"
        assert balancer.workers().leaving == (worker,)
        until(lambda: balancer.workers().leaving == (), "its time is over")


def agent_of_before(balancer: Changing) -> None:
    """Leave what an agent leaves that kept links and added less."""
    (balancer.directory / "agent.cfg").write_text("global\n    group nogroup\n")
    shutil.rmtree(balancer.directory / "revisions")
    for kept in ("last-good", "generations/1"):
        directory = balancer.directory / kept
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("haproxy.cfg", "agent.cfg", "peer"):
            (directory / name).hardlink_to(balancer.directory / name)
        (directory / "certificates").mkdir()
        for path in (balancer.directory.parent / "certs" / balancer.id).glob("*.pem"):
            (directory / "certificates" / path.name).hardlink_to(path)


def test_what_an_upgraded_agent_adds_waits_for_the_next_change(balancer: Changing) -> None:
    worker, agent = balancer.current(), balancer.amphora.agent
    agent.kill()
    agent_of_before(balancer)
    agent.start()
    assert "hard-stop-after" in addition(balancer)
    assert balancer.current() == worker
    balancer.members[0] = member(1, weight=2)
    balancer.push()
    assert balancer.done() == "reload"
    balancer.members[0] = member(1, weight=3)
    balancer.push()
    assert balancer.done() == "runtime"


def test_reloads_that_are_asked_for_at_once_are_one(balancer: Changing) -> None:
    """Each takes up all that is committed by then, and the others find nothing to do."""
    reloads = balancer.workers().reloads
    balancer.timeout += 1
    balancer.amphora.api.upload_haproxy(balancer.id, balancer.text())

    def reload(_: int) -> None:
        agent = balancer.amphora.agent
        controller = agent.pki.controller_pem
        with closing(
            AmphoraClient(agent.url, agent.amphora_id, controller, agent.pki.server_ca)
        ) as api:
            api.reload(balancer.id)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(reload, range(20)))
    assert balancer.workers().reloads == reloads + 1


def addition(balancer: Changing) -> str:
    return (balancer.directory / "agent.cfg").read_text()
