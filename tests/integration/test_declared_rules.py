"""Rules of policies decide as Octavia's words for them say, whatever a client sends."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from lab.backend import Backend
from tests.integration.amphora import Amphora
from tests.integration.declared import DeclaredBalancer, listener, new_id

CHROME = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0"
    " Safari/537.36"
)

#: Comparison, what with, what the header is, whether it matches.
HEADERS = (
    ("CONTAINS", "(KHTML, like Gecko)", CHROME, True),
    ("CONTAINS", "KHTML", CHROME, True),
    ("CONTAINS", "like Gecko) Chrome", CHROME, True),
    ("CONTAINS", "(KHTML,like Gecko)", CHROME, False),
    ("EQUAL_TO", CHROME, CHROME, True),
    ("EQUAL_TO", "a, b", "a, b, c", False),
    ("EQUAL_TO", "gzip", "br, gzip", True),
    ("EQUAL_TO", "gzip", "br, gzip2", False),
    ("STARTS_WITH", CHROME[:70], CHROME, True),
    ("STARTS_WITH", "KHTML, like", CHROME, False),
    ("STARTS_WITH", "g", "br, gzip", True),
    ("ENDS_WITH", "KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36", CHROME, True),
    ("ENDS_WITH", "KHTML, like", CHROME, False),
    ("ENDS_WITH", "Safari/537.36", CHROME, True),
    ("REGEX", r"KHTML, like Gecko\) Chrome/\d+", CHROME, True),
    ("REGEX", r"^Mozilla.*Safari/[0-9.]+$", CHROME, True),
    ("REGEX", "^gzip$", "br, gzip", True),
    ("REGEX", "^g.{1,2}p$", "br, gzip", True),
    ("REGEX", "^gzip$", "br, gzip2", False),
)
HOSTS = (
    ("EQUAL_TO", "www.example.com", "www.example.com", True),
    ("EQUAL_TO", "www.example.com", "www.example.com:8080", True),
    ("EQUAL_TO", "www.example.com", "WWW.Example.COM:80", True),
    ("EQUAL_TO", "WWW.Example.com", "www.example.com:443", True),
    ("EQUAL_TO", "www.example.com", "www.example.com.:80", True),
    ("EQUAL_TO", "www.example.com.", "www.example.com", True),
    ("EQUAL_TO", "www.example.com", "www.example.com.evil.org", False),
    ("EQUAL_TO", "www.example.com:8080", "www.example.com:8080", True),
    ("EQUAL_TO", "www.example.com:8080", "www.example.com", False),
    ("EQUAL_TO", "[2001:db8::1]", "[2001:DB8::1]:8080", True),
    ("EQUAL_TO", "2001:db8::1", "[2001:db8::1]:80", True),
    ("EQUAL_TO", "[2001:db8::1]", "[2001:db8::1]", True),
    ("EQUAL_TO", "[2001:db8::1]", "[2001:db8::1:80]", False),
    ("EQUAL_TO", "192.0.2.1", "192.0.2.1:80", True),
    ("STARTS_WITH", "www.", "WWW.example.com:80", True),
    ("STARTS_WITH", "[2001:db8:", "[2001:db8::7]:80", True),
    ("STARTS_WITH", "www.", "example.com", False),
    ("ENDS_WITH", ".example.com", "www.EXAMPLE.com:8080", True),
    ("ENDS_WITH", ".example.com", "www.example.com.", True),
    ("ENDS_WITH", "80", "www.example.com:8080", False),
    ("CONTAINS", "example", "www.EXAMPLE.com:80", True),
    ("CONTAINS", "8080", "www.example.com:8080", False),
    ("REGEX", r"^www\.example\.(?:com|org)$", "www.example.org:8080", True),
    ("REGEX", r"^WWW\.", "www.example.org:8080", True),
    ("REGEX", r"^www\.example\.com:8080$", "www.example.com:8080", True),
    ("REGEX", r"^\[2001:db8::[0-9a-f]+\]$", "[2001:db8::a]:80", True),
    ("REGEX", r"^www\.example\.com$", "www.example.com.au", False),
)


class Rejecting:
    """A load balancer each of whose listeners rejects what its rule matches."""

    def __init__(self, amphora: Amphora, first_port: int, rules: list[dict[str, Any]]) -> None:
        self.balancer = DeclaredBalancer(amphora)
        self._ports = range(first_port, first_port + len(rules))
        self.balancer.body["listeners"] = [
            listener(new_id(), port, l7policies=[self._policy(rule)])
            for port, rule in zip(self._ports, rules, strict=True)
        ]
        self.balancer.push()

    @staticmethod
    def _policy(rule: dict[str, Any]) -> dict[str, Any]:
        made = {"l7rule_id": str(uuid.uuid4()), **rule}
        return {"l7policy_id": str(uuid.uuid4()), "action": "REJECT", "rules": [made]}

    def rejects(self, index: int, name: str, value: str) -> bool:
        with self.balancer.client(self._ports[index]) as client:
            answer = client.get("/", {name: value})
        assert answer.status in (200, 403)
        return answer.status == 403


@pytest.fixture(scope="module")
def header_rules(amphora: Amphora, webs: dict[str, Backend]) -> Iterator[Rejecting]:
    rules = [
        {"type": "HEADER", "key": "X-Seen", "compare_type": compare, "value": value}
        for compare, value, _, _ in HEADERS
    ]
    made = Rejecting(amphora, 16000, [*rules, *({**rule, "invert": True} for rule in rules)])
    yield made
    made.balancer.delete()


@pytest.fixture(scope="module")
def host_rules(amphora: Amphora, webs: dict[str, Backend]) -> Iterator[Rejecting]:
    rules = [
        {"type": "HOST_NAME", "compare_type": compare, "value": value}
        for compare, value, _, _ in HOSTS
    ]
    made = Rejecting(amphora, 17000, [*rules, *({**rule, "invert": True} for rule in rules)])
    yield made
    made.balancer.delete()


@pytest.mark.parametrize("index", range(len(HEADERS)), ids=[" ".join(h[:2]) for h in HEADERS])
def test_d12_a_header_is_compared_with_its_commas(header_rules: Rejecting, index: int) -> None:
    *_, sent, matches = HEADERS[index]
    assert header_rules.rejects(index, "X-Seen", sent) == matches
    assert header_rules.rejects(index + len(HEADERS), "X-Seen", sent) != matches


@pytest.mark.parametrize("index", range(len(HOSTS)), ids=[f"{h[0]} {h[1]} {h[2]}" for h in HOSTS])
def test_d13_a_host_is_compared_without_its_port(host_rules: Rejecting, index: int) -> None:
    *_, sent, matches = HOSTS[index]
    assert host_rules.rejects(index, "Host", sent) == matches
    assert host_rules.rejects(index + len(HOSTS), "Host", sent) != matches
