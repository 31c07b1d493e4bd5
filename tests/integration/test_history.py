"""What the agent tells of its instances: how they are, and who changed what."""

import re
import signal
from typing import Any

import pytest

from amphora_agent.client.v2 import AmphoraError
from lab.listeners import http_listener
from lab.pki import Authority
from lab.waiting import until
from tests.integration.amphora import VIP, Amphora, LoadBalancer, damage, taken
from tests.integration.history import push_only, run, told


def changes(balancer: LoadBalancer) -> list[dict[str, Any]]:
    return balancer.amphora.api.changes(balancer.id)


def details(balancer: LoadBalancer) -> dict[str, Any]:
    return balancer.amphora.api.instance(balancer.id)


# What was changed


def test_a_deployment_is_written_down_with_who_asked_for_it(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    reload, upload = changes(balancer)
    assert (upload["operation"], reload["operation"]) == ("upload", "reload")
    assert (reload["plan"], reload["result"], reload["generation"]) == ("start", "done", 1)
    assert upload["result"] == "done"
    assert "generation" not in upload
    serial = amphora.agent.pki.controller.serial
    for entry in (upload, reload):
        assert entry["who"]["name"] == "octavia-controller"
        assert int(entry["who"]["serial"], 16) == serial
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["at"])
        assert entry["milliseconds"] > 0
        assert entry["who"]["address"] == "127.0.0.1"
    assert upload["at"] <= reload["at"]
    assert upload["id"] < reload["id"]


def test_a_member_that_went_is_told_in_words(balancer: LoadBalancer) -> None:
    push_only(balancer, "web1")
    push_only(balancer, "web2")
    entry = changes(balancer)[0]
    assert entry["plan"] == "runtime"
    assert entry["result"] == "done"
    assert entry["generation"] == 3
    assert any("8002" in words for words in entry["words"]), entry


def test_a_reload_says_why_it_is_one(balancer: LoadBalancer) -> None:
    balancer.push()
    entry = changes(balancer)[0]
    assert entry["plan"] == "reload"
    assert entry["reasons"]
    assert all(entry["reasons"])


def test_a_refused_upload_is_written_down_with_the_reason(balancer: LoadBalancer) -> None:
    with pytest.raises(AmphoraError):
        balancer.amphora.api.upload_haproxy(balancer.id, "frontend f\n    nonsense here\n")
    entry = changes(balancer)[0]
    assert (entry["operation"], entry["result"]) == ("upload", "refused")
    assert "nonsense" in entry["because"]
    assert details(balancer)["generation"] == 1


def test_what_was_never_accepted_has_a_history_and_is_no_instance(amphora: Amphora) -> None:
    made = amphora.new_balancer()
    with pytest.raises(AmphoraError):
        amphora.api.upload_haproxy(made.id, "nonsense\n")
    assert [entry["result"] for entry in changes(made)] == ["refused"]
    with pytest.raises(AmphoraError) as raised:
        details(made)
    assert raised.value.status == 404
    made.delete()


def test_a_reload_that_fails_is_written_down_with_haproxy_s_words(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    busy = amphora.new_balancer()
    balancer.upload(http_listener("second", port=busy.port, members=[]))
    with taken(busy), pytest.raises(AmphoraError):
        balancer.reload()
    entry = changes(balancer)[0]
    assert (entry["operation"], entry["result"]) == ("reload", "failed")
    assert str(busy.port) in entry["because"]
    assert "generation" not in entry
    assert details(balancer)["generation"] == 1


def test_certificates_are_told_by_name_and_keys_by_nothing(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    issued = Authority.create("tenant", key="ec").issue("site", key="ec")
    amphora.api.upload_certificate(balancer.id, "site.pem", issued.pem)
    amphora.api.delete_certificate(balancer.id, "site.pem")
    amphora.api.delete_certificate(balancer.id, "site.pem")  # there is none any more
    found = [(entry["operation"], entry["words"]) for entry in changes(balancer)[:3]]
    assert found[:2] == [
        ("certificate delete", ["site.pem"]),
        ("certificate put", ["site.pem"]),
    ]
    assert found[2][0] == "reload"
    journal = (balancer.amphora.agent.base_path / "journal/record.jsonl").read_bytes()
    for line in (issued.key + issued.certificate).splitlines():
        assert line not in journal


def test_stopping_and_starting_are_written_down(amphora: Amphora, balancer: LoadBalancer) -> None:
    amphora.api.stop(balancer.id)
    amphora.api.start(balancer.id)
    start, stop = changes(balancer)[:2]
    assert (stop["operation"], start["operation"], start["plan"]) == ("stop", "start", "start")
    # Nothing else came up than before.
    assert start["generation"] == 1


def test_the_newest_come_first_and_no_more_than_asked_for(balancer: LoadBalancer) -> None:
    balancer.push()
    assert [entry["operation"] for entry in balancer.amphora.api.changes(balancer.id, 3)] == [
        *("reload", "upload", "reload")
    ]
    assert len(balancer.amphora.api.changes(balancer.id, 10_000)) == 4


def test_history_and_numbers_survive_the_agent_s_death(own_amphora: Amphora) -> None:
    balancer = own_amphora.new_balancer()
    balancer.push()
    before = changes(balancer)
    own_amphora.agent.kill()
    # Nobody needs to be asked.
    assert told(own_amphora, balancer.id) == before
    own_amphora.agent.start()
    balancer.push()
    assert changes(balancer)[2:] == before
    assert details(balancer)["generation"] == 2


def test_nothing_but_the_record_is_left_of_one_that_was_deleted(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    made = amphora.new_balancer()
    issued = Authority.create("tenant", key="ec").issue("site", key="ec")
    amphora.api.upload_certificate(made.id, "site.pem", issued.pem)
    made.push()
    made.push()
    assert any(made.id in name for name in amphora.files())
    made.delete()
    assert not [name for name in amphora.files() if made.id in name]
    assert [entry["operation"] for entry in changes(made)][:2] == ["delete", "reload"]


# How they are


def test_an_instance_tells_its_processes_and_what_it_runs(
    amphora: Amphora, balancer: LoadBalancer
) -> None:
    now = details(balancer)
    assert now["id"] == balancer.id
    assert (now["state"], now["generation"], now["generations"]) == ("ACTIVE", 1, [1])
    assert now["pending"] is False
    assert now["current"]["pid"] == balancer.workers().current
    assert now["current"]["reloads"] == 0
    assert now["leaving"] == []


def test_a_worker_that_leaves_is_listed_as_long_as_it_is_there(balancer: LoadBalancer) -> None:
    old = balancer.workers().current
    with balancer.amphora.namespace.connect(VIP, balancer.port) as unfinished:
        unfinished.sendall(b"GET / HTTP/1.1\r\n")
        balancer.get()  # the request before has been accepted by now
        balancer.push()
        now = details(balancer)
        assert now["current"]["pid"] == balancer.workers().current != old
        assert [(worker["pid"], worker["reloads"]) for worker in now["leaving"]] == [(old, 1)]
    until(lambda: details(balancer)["leaving"] == [], "it has left")


def test_what_is_committed_and_not_loaded_is_pending(balancer: LoadBalancer) -> None:
    balancer.upload()
    now = details(balancer)
    assert (now["pending"], now["generation"]) == (True, 1)
    balancer.reload()
    now = details(balancer)
    assert (now["pending"], now["generation"]) == (False, 2)


def test_all_are_listed(amphora: Amphora, balancer: LoadBalancer) -> None:
    other = amphora.new_balancer()
    other.upload()
    quiet: dict[str, Any] = {"alarms": [], "reason": None, "since": None}
    expected: list[dict[str, Any]] = [
        {"id": balancer.id, "state": "ACTIVE", "generation": 1, "pending": False, **quiet},
        {"id": other.id, "state": "OFFLINE", "generation": None, "pending": True, **quiet},
    ]
    assert amphora.api.instances() == sorted(expected, key=lambda instance: instance["id"])
    other.delete()


def test_one_that_was_stopped_has_no_processes(amphora: Amphora, balancer: LoadBalancer) -> None:
    amphora.api.stop(balancer.id)
    now = details(balancer)
    assert (now["state"], now["current"], now["leaving"]) == ("OFFLINE", None, [])


def test_one_that_cannot_come_back_is_an_error(amphora: Amphora, balancer: LoadBalancer) -> None:
    damage(balancer)
    balancer.master.send(signal.SIGKILL)
    until(lambda: details(balancer)["state"] == "ERROR", "it is seen that it does not run")


# Errors


@pytest.mark.parametrize(
    ("method", "path", "status", "title", "detail"),
    [
        ("GET", "/2.0/instances/none", 404, "Not Found", "none"),
        ("GET", "/2.0/instances/none/changes", 404, "Not Found", "none"),
        ("GET", "/2.0/instances/%2e%2e/changes", 400, "Bad Request", "'..' is not an id"),
        ("GET", "/2.0/instances/certs", 400, "Bad Request", "'certs' is not an id"),
        ("GET", "/2.0/instances/x/changes?limit=0", 400, "Bad Request", "limit='0'"),
        ("GET", "/2.0/instances/x/changes?limit=-1", 400, "Bad Request", "limit='-1'"),
        ("GET", "/2.0/instances/x/changes?limit=", 400, "Bad Request", "limit=''"),
        ("GET", "/2.0/instances/x/changes?limit=%D9%A3", 400, "Bad Request", "limit='٣'"),
        ("GET", f"/2.0/instances/x/changes?limit={'9' * 1000}", 400, "Bad Request", "limit="),
        ("GET", "/2.0/nothing", 404, "Not Found", ""),
        ("PUT", "/2.0/instances", 405, "Method Not Allowed", ""),
    ],
)
def test_an_error_is_a_problem_in_detail(
    amphora: Amphora, method: str, path: str, status: int, title: str, detail: str
) -> None:
    answer = amphora.request(method, path)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail"}
    assert (problem["type"], problem["title"], problem["status"]) == ("about:blank", title, status)
    assert detail in problem["detail"]
    if status == 405:
        assert "GET" in answer.headers["allow"]


def test_a_client_says_a_problem_in_one_line(amphora: Amphora) -> None:
    with pytest.raises(AmphoraError, match=r"404: Not Found: .*No loadbalancer with UUID: none"):
        amphora.api.instance("none")


@pytest.mark.parametrize("path", ["/1.0/loadbalancer/none/haproxy", "/1.0/nothing", "/2.00"])
def test_errors_of_the_controllers_api_are_as_ever(amphora: Amphora, path: str) -> None:
    answer = amphora.request("GET", path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/json"
    assert "detail" not in answer.json()


# The command


def test_the_command_tells_the_same_as_the_api(balancer: LoadBalancer) -> None:
    balancer.push()
    assert told(balancer.amphora, balancer.id) == changes(balancer)


def test_the_table_is_for_reading(amphora: Amphora, balancer: LoadBalancer) -> None:
    push_only(balancer, "web1")
    with pytest.raises(AmphoraError):
        amphora.api.upload_haproxy(balancer.id, "frontend f\n    nonsense here\n")
    done = run(amphora, "history", balancer.id)
    assert done.returncode == 0
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["id", "when", "who", "subject", "what", "plan", "result", "ms", "gen"]
    serial = f"{amphora.agent.pki.controller.serial:X}"
    # OpenSSL writes whole bytes.
    serial = serial.zfill(len(serial) + len(serial) % 2)
    assert f"octavia-controller ({serial}) at 127.0.0.1" in done.stdout
    assert any(row.startswith("    because: ") and "nonsense" in row for row in rows)
    assert not any(row != row.rstrip() for row in rows)


def test_the_command_says_when_there_is_nothing_to_tell_of(amphora: Amphora) -> None:
    for words in (("history", "none"), ("history", "../x"), ("history", "none", "--json")):
        done = run(amphora, *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert words[1] in done.stderr
        assert len(done.stderr.splitlines()) == 1
