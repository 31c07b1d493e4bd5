"""UDP and SCTP listeners over the API, on a kernel without IPVS; tests/vm has one with it."""

import hashlib
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from amphora_agent import templates
from amphora_agent.client.v2 import AmphoraError
from lab.lvs import LvsListener, LvsMember
from lab.network import Namespace
from tests.integration.amphora import Amphora, differences

MEMBER = LvsMember("127.0.0.1", 5300)
UDP = LvsListener(["127.0.0.1"], 53, [MEMBER])

pytestmark = pytest.mark.skipif(
    Path("/proc/net/ip_vs").exists(), reason="this kernel has IPVS: tests/vm says what it does"
)


@pytest.fixture
def uploaded(amphora: Amphora) -> Iterator[LvsListener]:
    amphora.api.upload_udp_listener(UDP.id, UDP.text())
    yield UDP
    amphora.api.delete(UDP.id)


def test_an_upload_is_answered_with_its_md5_and_read_back(amphora: Amphora) -> None:
    path = f"/1.0/listeners/{amphora.agent.amphora_id}/{UDP.id}/udp_listener"
    text = UDP.text().encode()
    try:
        answer = amphora.request("PUT", path, text)
        assert (answer.status, answer.json()) == (200, {"message": "OK"})
        assert answer.headers["etag"] == hashlib.md5(text).hexdigest()
        answer = amphora.request("GET", f"/1.0/listeners/{UDP.id}/udp_listener")
        assert (answer.status, answer.body) == (200, text)
        assert answer.headers["content-type"].startswith("text/plain")
    finally:
        amphora.api.delete(UDP.id)
    answer = amphora.request("GET", f"/1.0/listeners/{UDP.id}/udp_listener")
    assert (answer.status, answer.json()["message"]) == (404, "UDP Listener Not Found")


def test_a_listener_is_told_of_before_it_ever_ran(amphora: Amphora, uploaded: LvsListener) -> None:
    assert {"status": "OFFLINE", "uuid": UDP.id, "type": "UDP"} in amphora.api.listeners()
    details = amphora.api.details()
    assert UDP.id in details["listeners"]
    assert details["lvs_listener_process_count"] == 0
    heartbeat = amphora.heartbeats.wait_for(lambda heartbeat: UDP.id in heartbeat.listeners)
    stats = heartbeat.listeners[UDP.id]["stats"]
    assert stats == {"tx": 0, "rx": 0, "conns": 0, "totconns": 0, "ereq": 0}
    amphora.heartbeats.wait_for(lambda heartbeat: MEMBER.id in heartbeat.members)


def test_a_listener_that_is_disabled_is_not_expected_in_heartbeats(
    amphora: Amphora, uploaded: LvsListener
) -> None:
    amphora.heartbeats.wait_for(lambda heartbeat: UDP.id in heartbeat.listeners)
    amphora.api.upload_udp_listener(UDP.id, replace(UDP, enabled=False).text())
    amphora.heartbeats.wait_for(lambda heartbeat: UDP.id not in heartbeat.listeners)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("weight 1", "notify_up /bin/sh", "notify_up is not allowed here"),
        ("protocol UDP", "protocol UDP\n    lb_algo nonsense {", "not closed"),
        ("virtual_server_group ipv4-group {", "virtual_server_group {", "takes one value"),
        ("group ipv4-group {\n    lb", "group other {\n    lb", "line 7: there is no such group"),
        ("lb_kind NAT", "lb_algo lc", "line 9: lb_algo stands here twice"),
    ],
)
def test_a_configuration_that_is_refused_changes_nothing(
    amphora: Amphora, uploaded: LvsListener, old: str, new: str, words: str
) -> None:
    before = amphora.files()
    with pytest.raises(AmphoraError, match=words) as refused:
        amphora.api.upload_udp_listener(UDP.id, UDP.text().replace(old, new))
    assert refused.value.status == 400
    assert differences(before, amphora.files()) == set()


@pytest.mark.parametrize("brace", ["}", " }", "\t} ", "}\v"])
def test_b2_a_brace_ends_a_line_for_the_agent_as_for_keepalived(
    amphora: Amphora, uploaded: LvsListener, brace: str
) -> None:
    before = amphora.files()
    canary = amphora.agent.base_path / "canary"
    harm = f"quorum 1 {brace}global_defs{{startup_script \"/bin/sh -c 'touch {canary}'\""
    for text in (
        UDP.text().replace("protocol UDP", f"protocol UDP\n{harm}"),
        UDP.text().replace("lb_kind NAT", f"lb_kind NAT {harm.removeprefix('quorum 1')}"),
    ):
        with pytest.raises(AmphoraError, match=r"400: Invalid request: line \d+: ") as refused:
            amphora.api.upload_udp_listener(UDP.id, text)
        assert "touch" not in str(refused.value)
    assert differences(before, amphora.files()) == set()
    assert not canary.exists()


#: As agents before this one gave it to keepalived, in front of the controller's text.
EARLIER = "global_defs {\n    script_user root\n    enable_script_security\n}\n"


def test_b2_with_a_text_on_disk_that_is_not_allowed_nothing_starts(
    amphora: Amphora, uploaded: LvsListener
) -> None:
    directory = amphora.agent.base_path / "lvs"
    given = directory / f"agent-{UDP.id}.conf"
    text = UDP.text().replace("lb_kind NAT", "lb_kind NAT\n    quorum_up /bin/true")
    amphora.agent.stop()
    (directory / f"octavia-keepalivedlvs-{UDP.id}.conf").write_text(text)
    given.write_text(EARLIER + text)
    amphora.agent.start()
    assert not given.exists()
    reason = f"octavia-keepalivedlvs-{UDP.id}.conf is not allowed: line 10: quorum_up"
    assert reason in amphora.agent.log
    told = amphora.request("GET", "/metrics").body.decode()
    assert f'kind="keepalived-text-refused",subject="{UDP.id}"' in told
    with pytest.raises(AmphoraError, match=r"500: .* is not allowed: line 10: quorum_up"):
        amphora.api.request("PUT", f"/1.0/loadbalancer/{UDP.id}/reload")
    assert not given.exists()
    # It is told of as before, and another upload ends the alarm.
    amphora.heartbeats.wait_for(lambda heartbeat: MEMBER.id in heartbeat.members)
    amphora.api.upload_udp_listener(UDP.id, UDP.text())
    assert "keepalived-text-refused" not in amphora.request("GET", "/metrics").body.decode()


def test_what_an_earlier_agent_gave_to_keepalived_is_written_anew(
    amphora: Amphora, uploaded: LvsListener
) -> None:
    given = amphora.agent.base_path / "lvs" / f"agent-{UDP.id}.conf"
    amphora.agent.stop()
    given.write_text(EARLIER + UDP.text())
    amphora.agent.start()
    assert "# Configuration" not in given.read_text()
    assert "real_server 127.0.0.1 5300 {" in given.read_text()


@pytest.mark.parametrize("action", ["start", "reload"])
def test_where_the_kernel_cannot_balance_the_answer_says_so_and_nothing_stays(
    amphora: Amphora, uploaded: LvsListener, action: str
) -> None:
    with pytest.raises(AmphoraError, match=r"(?i)ipvs") as refused:
        amphora.api.request("PUT", f"/1.0/loadbalancer/{UDP.id}/{action}")
    assert refused.value.status == 500
    assert amphora.api.details()["lvs_listener_process_count"] == 0
    status = {each["uuid"]: each["status"] for each in amphora.api.listeners()}
    assert status[UDP.id] == "OFFLINE"


def test_a_deleted_listener_leaves_only_the_check_that_all_share(amphora: Amphora) -> None:
    amphora.api.upload_udp_listener(UDP.id, UDP.text())
    amphora.api.delete(UDP.id)
    left = amphora.agent.base_path / "lvs"
    assert [path.name for path in left.rglob("*") if path.is_file()] == ["udp_check.sh"]
    amphora.api.delete(UDP.id)  # and once more


def test_an_unknown_action_is_refused(amphora: Amphora, uploaded: LvsListener) -> None:
    with pytest.raises(AmphoraError, match="Unknown action: pause") as refused:
        amphora.api.request("PUT", f"/1.0/loadbalancer/{UDP.id}/pause")
    assert refused.value.status == 400


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("behaviour", ["answers", "is silent", "is not there"])
def test_the_check_of_udp_members(
    namespace: Namespace, tmp_path: Path, address: str, behaviour: str
) -> None:
    script = tmp_path / "udp_check.sh"
    script.write_text(templates.render("systemd", "udp_check.sh.j2"))
    with namespace.inside(lambda: _bound(address)) as server:
        port = server.getsockname()[1]
        if behaviour == "is not there":
            server.close()
        command = namespace.command(["bash", str(script), address, str(port)])
        with subprocess.Popen(command) as check:
            if behaviour == "answers":
                _, peer = server.recvfrom(100)
                server.sendto(b"yes", peer)
        assert (check.returncode == 0) == (behaviour != "is not there")


def _bound(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(10)
    made.bind((address, 0))
    return made
