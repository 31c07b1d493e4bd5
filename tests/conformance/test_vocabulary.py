"""Every enumeration that the agent decodes has what the controller's own code can send."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from controller.release import MAJOR
from octavia.common import constants

from amphora_agent.settings import reader

lib_constants = pytest.importorskip("octavia_lib.common.constants", exc_type=ImportError)

#: Where a release has the values of an enumeration of the agent.
NAMES = {
    "Action": ("SUPPORTED_L7POLICY_ACTIONS",),
    "Algorithm": ("SUPPORTED_LB_ALGORITHMS",),
    "AlpnProtocol": ("SUPPORTED_ALPN_PROTOCOLS",),
    "ClientAuthentication": ("SUPPORTED_CLIENT_AUTH_MODES",),
    "CompareType": ("SUPPORTED_L7RULE_COMPARE_TYPES",),
    "HttpMethod": ("SUPPORTED_HEALTH_MONITOR_HTTP_METHODS",),
    "InsertHeader": ("SUPPORTED_HTTP_HEADERS", "SUPPORTED_SSL_HEADERS"),
    "ListenerProtocol": ("LISTENER_SUPPORTED_PROTOCOLS",),
    "OperatingStatus": ("SUPPORTED_OPERATING_STATUSES",),
    "MonitorType": ("SUPPORTED_HEALTH_MONITOR_TYPES",),
    "PersistenceType": ("SUPPORTED_SP_TYPES",),
    "PoolProtocol": ("POOL_SUPPORTED_PROTOCOLS",),
    "RuleType": ("SUPPORTED_L7RULE_TYPES",),
    "TlsVersion": ("TLS_ALL_VERSIONS",),
}
#: Not of the controller's models: words of JSON, what interface rules say, the agent's own.
OTHERS = {"Protocol", "Truth", "AlarmKind", "ProcessModel"}
#: The agent takes more than the newest release.
NEWER_THAN_ALL: dict[str, set[str]] = {}


@pytest.fixture(scope="module")
def enumerations() -> dict[str, list[str]]:
    agent = Path(os.environ["AMPHORA_AGENT"]).absolute()
    said = subprocess.run(
        [agent.with_name("python"), "-m", "tests.conformance.list_enumerations"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, list[str]] = json.loads(said.stdout)
    return found


def of_release(name: str) -> set[str]:
    """The values that this release knows; empty when it has no such list."""
    values: set[str] = set()
    for constant in NAMES[name]:
        for module in (lib_constants, constants):
            values |= set(getattr(module, constant, ()))
    return values


def test_every_enumeration_of_the_agent_is_compared(enumerations: dict[str, list[str]]) -> None:
    assert enumerations.keys() == NAMES.keys() | OTHERS


@pytest.mark.parametrize("name", NAMES)
def test_a1_the_agent_knows_every_value_of_this_release(
    name: str, enumerations: dict[str, list[str]]
) -> None:
    sent = of_release(name)
    if not sent:
        pytest.skip(f"this release has none of {', '.join(NAMES[name])}")
    assert sent - set(enumerations[name]) == set()
    if MAJOR >= 19:
        assert set(enumerations[name]) - sent == NEWER_THAN_ALL.get(name, set())


def test_a1_the_agent_knows_every_protocol_of_rules(enumerations: dict[str, list[str]]) -> None:
    mapped = getattr(constants, "L4_PROTOCOL_MAP", None)
    if mapped is None:
        pytest.skip("this release has no interface rules")
    # Releases that have no constant for it write the word itself.
    sent = {*mapped.values(), getattr(constants, "VRRP", "vrrp").upper()}
    assert set(enumerations["Protocol"]) == sent


def test_a1_the_agent_knows_every_topology() -> None:
    text = "[amphora_agent]\namphora_id = a\n[controller_worker]\nloadbalancer_topology = {}\n"
    for topology in constants.SUPPORTED_LB_TOPOLOGIES:
        found = reader.parse_settings(text.format(topology), "agent.conf")
        assert found.loadbalancer_topology == topology
