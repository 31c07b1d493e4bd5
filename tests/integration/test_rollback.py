"""Going back: an operator's command, beside an agent or without one."""

import contextlib
import pwd
import re
import stat
import subprocess
from pathlib import Path

import pytest

from amphora_agent import files
from amphora_agent.revisions.contents import Revisions
from amphora_agent.supervisor.processes import login_user
from lab.listeners import http_listener
from lab.waiting import until
from tests.integration.amphora import (
    Amphora,
    LoadBalancer,
    differences,
    read_answer,
    request_bytes,
    taken,
)
from tests.integration.history import push_only, push_weighted, rollback, run, told
from tests.integration.site import Site


@pytest.fixture
def pushed(balancer: LoadBalancer) -> LoadBalancer:
    """Whose generations 2 and 3 have one member each."""
    push_only(balancer, "web1")
    push_only(balancer, "web2")
    return balancer


def served(balancer: LoadBalancer) -> set[str]:
    """Who answers."""
    return {balancer.get() for _ in range(4)}


def fails(balancer: LoadBalancer, *generation: str) -> str:
    """Try to go back, in vain; what the command said."""
    done = run(balancer.amphora, "rollback", balancer.id, *generation)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def test_going_back_is_to_the_generation_before(pushed: LoadBalancer) -> None:
    assert served(pushed) == {"web2"}
    with pushed.load(clients=1) as load:
        load.wait_for(1)
        assert rollback(pushed) == "Back to generation 2, which is now generation 4"
        assert served(pushed) == {"web1"}
        load.wait_for(1)
    assert load.result.failed == 0, load.result
    # What was gone back from is the one before, now.
    assert rollback(pushed) == "Back to generation 3, which is now generation 5"
    assert served(pushed) == {"web2"}


def test_going_back_to_one_by_its_number(pushed: LoadBalancer) -> None:
    assert rollback(pushed, "1") == "Back to generation 1, which is now generation 4"
    assert served(pushed) == {"web1", "web2"}


def test_it_is_no_more_disturbing_than_any_other_change(balancer: LoadBalancer) -> None:
    push_weighted(balancer, 5)
    push_weighted(balancer, 9)
    before = balancer.workers().current
    rollback(balancer)
    assert balancer.workers().current == before
    weights = balancer.ask("@1 show stat -1 4 -1")
    assert {row.split(",")[18] for row in weights.splitlines()[1:]} == {"5"}


def test_it_is_written_down(balancer: LoadBalancer) -> None:
    push_weighted(balancer, 5)
    push_weighted(balancer, 9)
    rollback(balancer)
    entry = balancer.amphora.api.changes(balancer.id, 1)[0]
    uid = login_user()
    name = f"operator {pwd.getpwuid(uid).pw_name} (uid {uid})"
    assert entry["who"] == {"name": name, "serial": "", "address": ""}
    assert (entry["operation"], entry["result"], entry["generation"]) == ("rollback", "done", 4), (
        str(entry)
    )
    assert entry["words"][0] == "back to generation 2"
    assert entry["plan"] == "runtime"
    assert any("weight 9 -> 5" in words for words in entry["words"][1:])


def test_the_agent_goes_on_from_there(pushed: LoadBalancer) -> None:
    """What it knew of the files is not so any more."""
    rollback(pushed)
    api = pushed.amphora.api
    assert ":8002 " not in api.haproxy(pushed.id).decode()
    assert api.instance(pushed.id)["generation"] == 4
    assert api.instance(pushed.id)["pending"] is False
    # As it was before, to the byte.
    push_only(pushed, "web2")
    assert served(pushed) == {"web2"}
    pushed.push()
    assert served(pushed) == {"web1", "web2"}


def test_it_needs_no_agent(own_amphora: Amphora) -> None:
    balancer = own_amphora.new_balancer()
    balancer.push()
    push_only(balancer, "web1")
    own_amphora.agent.kill()
    assert rollback(balancer) == "Back to generation 1, which is now generation 3"
    assert served(balancer) == {"web1", "web2"}
    # By a reload as well, and without the agent's memory.
    own_amphora.agent.start()
    balancer.push()
    own_amphora.agent.stop()
    worker = balancer.workers().current
    rollback(balancer, "2")
    assert balancer.workers().current != worker
    assert served(balancer) == {"web1"}
    own_amphora.agent.start()
    assert own_amphora.api.listeners() == [
        {"uuid": balancer.listener.id, "status": "ACTIVE", "type": "HTTP"}
    ]
    balancer.push()
    assert served(balancer) == {"web1", "web2"}


def test_what_is_stopped_stays_so_and_comes_up_as_it_was(pushed: LoadBalancer) -> None:
    api = pushed.amphora.api
    api.stop(pushed.id)
    assert rollback(pushed) == "Generation 2 is committed; it does not run"
    assert pushed.processes() == []
    entry = told(pushed.amphora, pushed.id)[0]
    assert "it does not run, and was not started" in entry["words"]
    assert "generation" not in entry
    api.start(pushed.id)
    assert served(pushed) == {"web1"}
    assert api.instance(pushed.id)["generation"] == 4


# Certificates


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_certificates_come_back_that_have_been_deleted_since(site: Site) -> None:
    old = site.push("old.pem")
    new = site.push("new.pem", instead_of="old.pem")
    assert site.presented() == new
    assert names(site.directory) == {"new.pem", "listener.pem"}
    rollback(site.balancer)
    assert site.presented() == old
    assert names(site.directory) == {"old.pem", "listener.pem"}
    for path in site.directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    site.push("new.pem", instead_of="old.pem")
    assert names(site.directory) == {"new.pem", "listener.pem"}


def test_certificates_are_as_they_were_when_going_back_fails(site: Site) -> None:
    site.push("old.pem")
    new = site.push("new.pem", instead_of="old.pem")
    spoil(site.balancer, 1)
    before = site.amphora.files()
    assert "Cannot go back" in fails(site.balancer)
    assert differences(before, site.amphora.files()) == set()
    assert site.presented() == new


# What cannot be done


def spoil(balancer: LoadBalancer, generation: int) -> None:
    """Have haproxy not take a generation any more."""
    revisions = Revisions(balancer.directory / "revisions")
    digest = revisions.reference(str(generation))
    assert digest is not None
    manifest = revisions.manifest(digest)
    nonsense = revisions.keep({"haproxy.cfg": b"frontend f\n    nonsense here\n"})
    revisions.refer(str(generation), revisions.keep_manifest({**manifest, **nonsense}))


def test_one_that_haproxy_takes_no_more_changes_nothing(pushed: LoadBalancer) -> None:
    spoil(pushed, 2)
    before, worker = pushed.amphora.files(), pushed.workers().current
    said = fails(pushed)
    assert "nonsense" in said
    assert str(pushed.configuration) in said
    assert differences(before, pushed.amphora.files()) == set()
    assert pushed.workers().current == worker
    assert served(pushed) == {"web2"}
    entry = told(pushed.amphora, pushed.id)[0]
    assert (entry["operation"], entry["result"]) == ("rollback", "failed")
    assert "nonsense" in entry["because"]


def test_one_that_does_not_come_up_any_more_changes_nothing(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    busy = amphora.new_balancer()
    balancer.push(http_listener("second", port=busy.port, members=[]))
    balancer.push()
    # Committed, and not asked to be loaded yet.
    balancer.upload()
    waiting = balancer.configuration.read_text()
    before, worker = amphora.files(), balancer.workers().current
    until(lambda: not busy.accepts(), "the port is free")
    with taken(busy):
        assert str(busy.port) in fails(balancer)
    changed = differences(before, amphora.files())
    assert changed <= {f"octavia/{balancer.id}/haproxy.cfg.rejected"}, changed
    assert balancer.configuration.read_text() == waiting
    assert balancer.workers().current == worker
    assert served(balancer) == {"web1", "web2"}


def test_what_was_committed_and_never_loaded_is_dropped_and_kept_to_read(
    pushed: LoadBalancer,
) -> None:
    pushed.upload()
    waiting = pushed.configuration.read_text()
    rollback(pushed)
    assert served(pushed) == {"web1"}
    assert pushed.configuration.with_name("haproxy.cfg.rejected").read_text() == waiting
    assert told(pushed.amphora, pushed.id)[0]["words"][1].endswith("is dropped")


def test_what_is_not_there_cannot_be_gone_back_to(amphora: Amphora, balancer: LoadBalancer) -> None:
    before = amphora.files()
    assert "there is none before the present one" in fails(balancer)
    for number in ("0", "2", "99"):
        assert f"no generation {number}: there are 1 to 1" in fails(balancer, number)
    done = run(amphora, "rollback", "none")
    assert (done.returncode, done.stdout) == (1, "")
    assert "No loadbalancer with UUID: none" in done.stderr
    for words in (("rollback", balancer.id, "-1"), ("rollback", balancer.id, "x"), ("rollback",)):
        assert run(amphora, *words).returncode == 2
    assert differences(before, amphora.files()) == set()


# Beside the agent


def waiters(path: Path) -> set[int]:
    """The processes that wait for a lock, as the kernel tells."""
    inode = path.stat().st_ino
    lines = Path("/proc/locks").read_text().splitlines()
    waiting = (re.match(rf"\d+: +-> FLOCK .* (\d+) [^ ]+:{inode} ", line) for line in lines)
    return {int(found[1]) for found in waiting if found}


def test_the_command_and_the_agent_wait_for_one_another(pushed: LoadBalancer) -> None:
    agent = pushed.amphora.agent
    lock = agent.run_path / "instances" / f"{pushed.id}.lock"
    command = [*agent.command(), "rollback", pushed.id]
    with pushed.amphora.connect() as connection, contextlib.ExitStack() as ending:
        with files.locked(lock):
            started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            ending.enter_context(started)
            until(lambda: waiters(lock) == {started.pid}, "the command waits")
            connection.sendall(request_bytes("PUT", f"/1.0/loadbalancer/{pushed.id}/reload"))
            until(lambda: len(waiters(lock)) == 2, "the agent waits")
            assert served(pushed) == {"web2"}
        assert read_answer(connection).status == 202
        assert started.stdout is not None
        assert started.stdout.read().startswith("Back to generation 2")
    assert served(pushed) == {"web1"}
