"""The agent's own metrics, at `GET /metrics` of the API."""

import signal
from pathlib import Path

import pytest
from cryptography import x509
from prometheus_client import Metric

from lab.waiting import until
from tests.builders.samples import parsed, values
from tests.integration.amphora import VIP, Amphora, LoadBalancer, stopped

TRACKED = Path("/proc/sys/net/netfilter/nf_conntrack_max")


def metrics(amphora: Amphora) -> dict[str, Metric]:
    answer = amphora.request("GET", "/metrics")
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parsed([answer.body.decode()])


def told(amphora: Amphora, name: str) -> dict[tuple[str, ...], float]:
    return values(metrics(amphora)[f"amphora_agent_{name}"])


def test_requests_and_changes_are_counted(amphora: Amphora) -> None:
    made = amphora.new_balancer()
    route = "/1.0/loadbalancer/<lb_id>/<action>"

    def changes(kind: str, result: str = "done") -> float:
        family = metrics(amphora)["amphora_agent_change_duration_seconds"]
        wanted = {"kind": kind, "result": result}
        found = [s for s in family.samples if s.name.endswith("_count") and s.labels == wanted]
        return found[0].value if found else 0

    before = told(amphora, "requests_total").get(("PUT", route, "202"), 0)
    uploads, reloads = changes("loadbalancers.upload"), changes("loadbalancers.reload")
    refused = changes("loadbalancers.act", "refused")
    made.push()
    made.push()
    assert amphora.request("PUT", f"/1.0/loadbalancer/{made.id}/jump").status == 400
    assert told(amphora, "requests_total")["PUT", route, "202"] == before + 2
    assert changes("loadbalancers.upload") == uploads + 2
    assert changes("loadbalancers.reload") == reloads + 2
    assert changes("loadbalancers.act", "refused") == refused + 1
    made.delete()
    assert changes("loadbalancers.delete") >= 1


def test_a_path_that_nobody_knows_is_no_label_of_its_own(amphora: Amphora) -> None:
    assert amphora.request("GET", "/1.0/nothing").status == 404
    assert amphora.request("BREW", "/1.0/nothing").status in {404, 405}
    counted = told(amphora, "requests_total")
    assert counted["GET", "none", "404"] >= 1
    assert not any("nothing" in key[1] or "BREW" in key for key in counted)


def test_workers_and_reloads_are_told(amphora: Amphora, balancer: LoadBalancer) -> None:
    assert told(amphora, "haproxy_workers") == {
        (balancer.id, "serving"): 1,
        (balancer.id, "leaving"): 0,
    }
    reloads = told(amphora, "haproxy_reloads_total")[balancer.id,]
    with amphora.namespace.connect(VIP, balancer.port) as connection:
        connection.sendall(b"GET /stream?seconds=60 HTTP/1.1\r\nHost: site\r\n\r\n")
        assert connection.recv(100)
        balancer.push()
        assert told(amphora, "haproxy_workers")[balancer.id, "leaving"] == 1
    assert told(amphora, "haproxy_reloads_total") == {(balancer.id,): reloads + 1}
    assert told(amphora, "haproxy_failed_reloads") == {(balancer.id,): 0}
    until(lambda: not balancer.workers().leaving, "the old worker has left")
    assert told(amphora, "haproxy_workers")[balancer.id, "leaving"] == 0


def test_a_hung_haproxy_is_told_of(amphora: Amphora, balancer: LoadBalancer) -> None:
    assert told(amphora, "haproxy_answers") == {(balancer.id,): 1}
    with stopped(balancer.processes(), signal.SIGSTOP, signal.SIGCONT):
        assert told(amphora, "haproxy_answers") == {(balancer.id,): 0}


def test_the_last_heartbeat_is_told(amphora: Amphora, balancer: LoadBalancer) -> None:
    # From one made with the load balancer on, not the one under way when it came.
    amphora.heartbeats.wait_for(lambda beat: set(beat.listeners) == {balancer.listener.id})
    until(lambda: told(amphora, "heartbeat_listeners") == {(): 1}, "it is told")
    beat = amphora.heartbeats.next()
    until(
        lambda: told(amphora, "heartbeats_total")[("yes",)] > beat.sequence, "the next is counted"
    )
    found = metrics(amphora)
    assert values(found["amphora_agent_heartbeat_size_bytes"])[()] > 100
    assert 0 <= values(found["amphora_agent_heartbeat_age_seconds"])[()] < 60
    assert values(found["amphora_agent_heartbeat_pools_left_out"]) == {(): 0}
    assert values(found["amphora_agent_heartbeats_total"])[("no",)] == 0


def test_the_end_of_the_agents_certificate_is_told(amphora: Amphora) -> None:
    (certificate,) = x509.load_pem_x509_certificates(amphora.agent.pki.server_pem.read_bytes())[:1]
    assert told(amphora, "certificate_expiry_timestamp_seconds") == {
        (): certificate.not_valid_after_utc.timestamp()
    }


@pytest.mark.skipif(not TRACKED.exists(), reason="the kernel tracks no connections")
def test_the_kernels_table_of_connections_is_told(amphora: Amphora) -> None:
    limit = int(amphora.namespace.inside(TRACKED.read_text))
    assert told(amphora, "conntrack_entries_limit") == {(): limit}
    assert 0 <= told(amphora, "conntrack_entries")[()] <= limit
