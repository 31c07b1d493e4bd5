"""What a pushed configuration may change, as a table; and the document that tells it."""

import dataclasses
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amphora_agent.settings import policy
from amphora_agent.settings.policy import (
    TABLE,
    AddressIsFree,
    AuthorityKnowsCaller,
    CallerSpeaks,
    CertificateServes,
    Decision,
    DirectoryIsUsable,
    ProgramIsHaproxy,
    PushRule,
    decide,
)
from amphora_agent.settings.reader import Settings, locate

IN_FORCE = Settings(amphora_id="amphora-1", heartbeat_key="key")
PARENTS = ("/var/lib/octavia", "/etc/octavia", "/run")
KNOWN = ("/var/lib/octavia",)


def judge(**changed: Any) -> Decision:
    return decide(IN_FORCE, replace(IN_FORCE, **changed), parents=PARENTS, known=KNOWN)


def test_the_table_has_every_setting() -> None:
    assert set(TABLE) == {each.name for each in dataclasses.fields(Settings)}


def test_the_document_has_the_table() -> None:
    text = Path("docs/policy.md").read_text()
    rows = dict(re.findall(r"(?m)^\| `(\[\w+\] \w+)` \| ([^|]+?) \|", text))
    assert rows == {locate(name): str(row.rule) for name, row in TABLE.items()}


def test_asks_no_proof_for_a_value_in_force() -> None:
    odd = replace(IN_FORCE, base_path="/etc", haproxy_cmd="/usr/bin/perl", heartbeat_key="")
    assert decide(odd, odd, parents=PARENTS, known=KNOWN) == Decision((), {})


FREE = {
    "debug": True,
    "use_syslog": True,
    "syslog_log_facility": "LOG_LOCAL7",
    "user_log_facility": 5,
    "administrative_log_facility": 6,
    "controller_ip_port_list": ("192.0.2.1:5555",),
    "heartbeat_interval": 3,
    "heartbeat_key": "another",
    "agent_request_read_timeout": 20,
    "loadbalancer_topology": "ACTIVE_STANDBY",
}


def test_only_mutable_and_harmless_settings_may_change() -> None:
    assert {name for name, row in TABLE.items() if row.rule is PushRule.MAY_CHANGE} == FREE.keys()
    assert judge(**FREE) == Decision((), {})


@pytest.mark.parametrize(
    ("changed", "proof"),
    [
        ({"bind_host": "192.0.2.1"}, AddressIsFree("192.0.2.1", 9443)),
        ({"bind_port": 9444}, AddressIsFree("::", 9444)),
        ({"agent_server_cert": "/x.pem"}, CertificateServes("/x.pem", "amphora-1")),
        ({"agent_server_ca": "/x.pem"}, AuthorityKnowsCaller("/x.pem")),
        ({"haproxy_cmd": "/opt/haproxy"}, ProgramIsHaproxy("/opt/haproxy")),
        ({"agent_tls_protocol": "TLSv1.3"}, CallerSpeaks("TLSv1.3")),
        (
            {"base_path": "/run/octavia/"},
            DirectoryIsUsable("/run/octavia", "/run", KNOWN),
        ),
        (
            {"base_cert_dir": "/etc/octavia/c"},
            DirectoryIsUsable("/etc/octavia/c", "/etc/octavia", KNOWN),
        ),
    ],
    ids=str,
)
def test_demands_a_proof_for_other_settings_that_differ(
    changed: dict[str, Any], proof: object
) -> None:
    assert list(judge(**changed).proofs) == [proof]
    assert judge(**changed).refusals == ()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"amphora_id": "../x"}, "cannot be changed"),
        ({"amphora_id": "amphora-2"}, "cannot be changed"),
        ({"heartbeat_key": ""}, "is empty"),
        ({"amphora_udp_driver": "other"}, "is not keepalived_lvs"),
        ({"agent_tls_protocol": "SSLv3"}, "older than any"),
        ({"agent_tls_protocol": "TLSv1.1"}, "older than any"),
        ({"base_path": "/etc"}, "is not below"),
        ({"base_path": "/run"}, "is not below"),
        ({"base_path": "/var/lib/octavia2"}, "is not below"),
        ({"base_path": "/var/lib/octavia/../../../etc"}, "plain way"),
        ({"base_path": "/run//x"}, "plain way"),
        ({"base_path": "/run/./x"}, "plain way"),
        ({"base_path": "/run/" + "x" * 60}, "room for sockets"),
        ({"base_path": "/"}, "is not below"),
        ({"base_path": "/var/lib/octavia/certs"}, "same directory"),
        ({"agent_server_network_dir": "/var/lib/octavia/"}, "same directory"),
        ({"haproxy_cmd": "/usr/sbin/../bin/perl"}, "plain way"),
        ({"agent_server_cert": "/etc/octavia/../shadow"}, "plain way"),
        ({"agent_server_ca": "//etc/shadow"}, "plain way"),
    ],
    ids=str,
)
def test_refuses_unprovable_settings_by_section_and_key(
    changed: dict[str, Any], reason: str
) -> None:
    decision = judge(**changed)
    (name,) = changed
    assert locate(name) in {refusal.partition(":")[0] for refusal in decision.refusals}
    assert any(reason in refusal for refusal in decision.refusals)
    for value in map(str, changed.values()):
        assert not value.strip("/") or value not in " ".join(decision.refusals)


def test_proves_an_address_once_whichever_half_changes() -> None:
    assert judge(bind_host="0.0.0.0", bind_port=1).proofs == {
        AddressIsFree("0.0.0.0", 1): "[haproxy_amphora] bind_host"
    }


@pytest.mark.parametrize(
    "changed",
    [{"bind_host": "0:0::0"}, {"agent_server_network_dir": "/etc/octavia/interfaces"}],
    ids=str,
)
def test_the_same_in_other_words_is_no_change(changed: dict[str, Any]) -> None:
    assert judge(**changed) == Decision((), {})


def test_lists_and_keeps_settings_that_are_read_at_the_start() -> None:
    wanted = replace(IN_FORCE, bind_port=1, heartbeat_interval=3, agent_server_cert="/x")
    assert policy.differs_at_start(IN_FORCE, wanted) == ["bind_port"]
    kept = policy.with_start_settings(wanted, IN_FORCE)
    assert kept == replace(wanted, bind_port=IN_FORCE.bind_port)
