"""Load balancers: upload, read, start, stop, reload, delete; every message as in WIRE §3."""

import grp
import hashlib
import os
import pwd
import stat
from collections.abc import Iterator

import pytest

from amphora_agent.client.v2 import AmphoraError
from lab.pki import Authority
from lab.waiting import until
from tests.integration.amphora import Amphora, LoadBalancer, differences

OK = {"message": "OK"}


@pytest.fixture
def absent(amphora: Amphora) -> LoadBalancer:
    """One that nobody has uploaded."""
    return amphora.new_balancer()


@pytest.fixture
def uploaded(amphora: Amphora) -> Iterator[LoadBalancer]:
    """One that has a configuration and does not run."""
    made = amphora.new_balancer()
    made.upload()
    yield made
    made.delete()


def test_an_upload_is_accepted_with_the_md5_of_what_was_sent(
    amphora: Amphora, absent: LoadBalancer
) -> None:
    text = absent.text().encode()
    target = f"/1.0/loadbalancer/{amphora.agent.amphora_id}/{absent.id}/haproxy"
    answer = amphora.request("PUT", target, text)
    assert (answer.status, answer.json()) == (202, OK)
    assert answer.headers["etag"] == hashlib.md5(text).hexdigest()
    absent.delete()


def test_what_was_sent_is_read_back_byte_for_byte(amphora: Amphora, absent: LoadBalancer) -> None:
    text = absent.text().encode() + "\n# b\xfcro\r\n".encode("latin-1")
    amphora.api.upload_haproxy(absent.id, text)
    answer = amphora.request("GET", f"/1.0/loadbalancer/{absent.id}/haproxy")
    assert (answer.status, answer.body) == (200, text)
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["etag"] == hashlib.md5(text).hexdigest()
    absent.delete()


def test_an_upload_touches_nothing_that_runs(balancer: LoadBalancer) -> None:
    before = balancer.processes()
    balancer.upload()
    assert balancer.processes() == before
    assert balancer.workers().reloads == 0


def test_an_uploaded_load_balancer_runs_only_when_told(uploaded: LoadBalancer) -> None:
    assert uploaded.processes() == []
    assert not uploaded.accepts()


def test_a_refused_upload_says_what_haproxy_said(uploaded: LoadBalancer) -> None:
    amphora = uploaded.amphora
    good = uploaded.configuration.read_bytes()
    target = f"/1.0/loadbalancer/{amphora.agent.amphora_id}/{uploaded.id}/haproxy"
    answer = amphora.request("PUT", target, good + b"\nfrontend broken\n    nonsense here\n")
    assert answer.status == 400
    assert answer.json()["message"] == "Invalid request"
    line = good.count(b"\n") + 3
    assert (
        f"[{uploaded.configuration}:{line}] : unknown keyword 'nonsense'"
        in (answer.json()["details"])
    )
    assert amphora.api.haproxy(uploaded.id) == good


def test_a_refused_upload_is_kept_for_a_person_and_changes_nothing_else(
    uploaded: LoadBalancer,
) -> None:
    before = uploaded.amphora.files()
    with pytest.raises(AmphoraError):
        uploaded.amphora.api.upload_haproxy(uploaded.id, "nonsense\n")
    rejected = uploaded.configuration.with_name("haproxy.cfg.rejected")
    name = str(rejected.relative_to(uploaded.amphora.agent.directory))
    assert differences(before, uploaded.amphora.files()) == {name}
    assert rejected.read_text() == "nonsense\n"


def test_a_first_upload_that_is_refused_makes_no_load_balancer(
    amphora: Amphora, absent: LoadBalancer
) -> None:
    with pytest.raises(AmphoraError):
        amphora.api.upload_haproxy(absent.id, "nonsense\n")
    with pytest.raises(AmphoraError) as raised:
        amphora.api.haproxy(absent.id)
    assert raised.value.status == 404
    assert amphora.api.listeners() == []
    absent.delete()


def test_files_are_for_the_agent_alone(uploaded: LoadBalancer) -> None:
    paths = [path for path in uploaded.directory.rglob("*") if not path.is_symlink()]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600, 0o400}


def test_a_reload_starts_what_does_not_run_and_answers_as_a_start(uploaded: LoadBalancer) -> None:
    amphora = uploaded.amphora
    answer = amphora.request("PUT", f"/1.0/loadbalancer/{uploaded.id}/reload")
    assert (answer.status, answer.json()) == (202, started(uploaded))
    assert uploaded.get() in ("web1", "web2")


def test_a_start(uploaded: LoadBalancer) -> None:
    answer = uploaded.amphora.request("PUT", f"/1.0/loadbalancer/{uploaded.id}/start")
    assert (answer.status, answer.json()) == (202, started(uploaded))
    assert uploaded.get() in ("web1", "web2")


def test_a_start_of_what_runs_changes_nothing(balancer: LoadBalancer) -> None:
    before = balancer.processes()
    answer = balancer.amphora.request("PUT", f"/1.0/loadbalancer/{balancer.id}/start")
    assert (answer.status, answer.json()) == (202, started(balancer))
    assert balancer.processes() == before


def test_a_reload(balancer: LoadBalancer) -> None:
    before = balancer.workers().current
    balancer.upload()
    answer = balancer.amphora.request("PUT", f"/1.0/loadbalancer/{balancer.id}/reload")
    assert answer.status == 202
    assert answer.json() == {"message": "OK", "details": f"Listener {balancer.id} reloaded"}
    assert balancer.workers().current not in (before, None)


def test_a_stop(balancer: LoadBalancer) -> None:
    answer = balancer.amphora.request("PUT", f"/1.0/loadbalancer/{balancer.id}/stop")
    assert answer.status == 202
    assert answer.json() == {"message": "OK", "details": f"Listener {balancer.id} stopped"}
    assert balancer.processes() == []
    assert not balancer.accepts()


def test_a_stop_of_what_does_not_run_is_answered_the_same(uploaded: LoadBalancer) -> None:
    answer = uploaded.amphora.request("PUT", f"/1.0/loadbalancer/{uploaded.id}/stop")
    assert answer.status == 202
    assert answer.json() == {"message": "OK", "details": f"Listener {uploaded.id} stopped"}


def test_a_stopped_load_balancer_starts_again(balancer: LoadBalancer) -> None:
    for begin in (balancer.amphora.api.start, balancer.amphora.api.reload):
        balancer.amphora.api.stop(balancer.id)
        begin(balancer.id)
        assert balancer.get() in ("web1", "web2")


def test_an_unknown_action_is_named(balancer: LoadBalancer) -> None:
    answer = balancer.amphora.request("PUT", f"/1.0/loadbalancer/{balancer.id}/explode")
    assert answer.status == 400
    assert answer.json() == {"message": "Invalid Request", "details": "Unknown action: explode"}


@pytest.mark.parametrize(
    ("method", "action"),
    [("GET", "haproxy"), ("PUT", "start"), ("PUT", "stop"), ("PUT", "reload")],
)
def test_what_is_not_there_is_not_found(
    amphora: Amphora, absent: LoadBalancer, method: str, action: str
) -> None:
    answer = amphora.request(method, f"/1.0/loadbalancer/{absent.id}/{action}")
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "message": "Loadbalancer Not Found",
        "details": f"No loadbalancer with UUID: {absent.id}",
    }


def test_a_delete_leaves_nothing_on_disk_and_nothing_running(
    amphora: Amphora, authorities: tuple[Authority, Authority]
) -> None:
    before = amphora.files()
    made = amphora.new_balancer()
    made.push()
    amphora.api.upload_certificate(made.id, "site.pem", authorities[0].certificate)
    made.push()
    with pytest.raises(AmphoraError):
        amphora.api.upload_haproxy(made.id, "nonsense\n")
    processes = made.processes()

    answer = amphora.request("DELETE", f"/1.0/listeners/{made.id}")

    assert (answer.status, answer.json()) == (200, OK)
    assert processes
    until(lambda: not any(process.alive for process in processes), "haproxy is gone")
    assert not made.accepts()
    assert differences(before, amphora.files()) == set()
    assert [path for path in amphora.agent.directory.rglob("*") if made.id in path.name] == []


def test_a_delete_of_what_is_not_there_is_answered_the_same(
    amphora: Amphora, absent: LoadBalancer
) -> None:
    before = amphora.files()
    for _ in range(2):
        answer = amphora.request("DELETE", f"/1.0/listeners/{absent.id}")
        assert (answer.status, answer.json()) == (200, OK)
    assert differences(before, amphora.files()) == set()


def test_load_balancers_live_beside_each_other(amphora: Amphora, balancer: LoadBalancer) -> None:
    other = amphora.new_balancer()
    other.push()
    before = balancer.processes()
    amphora.api.stop(other.id)
    other.push()
    other.delete()
    assert balancer.processes() == before
    assert balancer.get() in ("web1", "web2")


def test_haproxy_runs_as_nobody_in_nobody_s_group(balancer: LoadBalancer) -> None:
    """The controller names the user; the group is the agent's to add."""
    master, worker = balancer.processes()
    assert owner(worker.pid) == ("nobody", "nogroup")
    assert os.stat(f"/proc/{master.pid}").st_uid == 0


@pytest.mark.parametrize("instead", ["", "    # user nobody\n", "    description 'user nobody'\n"])
def test_b3_a_worker_is_not_root_when_the_text_names_no_user(
    amphora: Amphora, instead: str
) -> None:
    made = amphora.new_balancer()

    def push(comment: str) -> None:
        text = made.text().replace("    user nobody\n", instead) + f"# {comment}\nuserlist u\n"
        assert text.count("user nobody") == instead.count("user nobody")
        amphora.api.upload_haproxy(made.id, f"{text}    user root insecure-password {comment}\n")
        made.reload()

    push("first")
    try:
        first = made.processes()[1]
        assert owner(first.pid) == ("nobody", "nogroup")
        push("second")
        reloaded = made.processes()[1]
        assert reloaded != first
        assert owner(reloaded.pid) == ("nobody", "nogroup")
        assert made.get() in ("web1", "web2")
        amphora.api.stop(made.id)
        amphora.api.start(made.id)
        assert owner(made.processes()[1].pid) == ("nobody", "nogroup")
    finally:
        made.delete()


def test_a_group_of_the_controller_s_own_is_not_doubled(amphora: Amphora) -> None:
    made = amphora.new_balancer()
    text = made.text().replace("    user nobody\n", "    user nobody\n    group daemon\n")
    amphora.api.upload_haproxy(made.id, text)
    made.reload()
    try:
        assert owner(made.processes()[1].pid) == ("nobody", "daemon")
    finally:
        made.delete()


def started(balancer: LoadBalancer) -> dict[str, str]:
    return {
        "message": "OK",
        "details": f"Configuration file is valid\nhaproxy daemon for {balancer.id} started",
    }


def owner(pid: int) -> tuple[str, str]:
    found = os.stat(f"/proc/{pid}")
    return pwd.getpwuid(found.st_uid).pw_name, grp.getgrgid(found.st_gid).gr_name
