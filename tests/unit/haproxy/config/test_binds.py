"""Where a configuration listens, as far as the agent can tell without haproxy."""

import pytest

from amphora_agent.haproxy.config.queries import ListenAddress, find_new_addresses


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("    bind 192.0.2.1:80", {ListenAddress("192.0.2.1", 80)}),
        ("\tbind 192.0.2.1:443 ssl crt-list /x alpn h2", {ListenAddress("192.0.2.1", 443)}),
        ("bind 2001:db8::5:80", {ListenAddress("2001:db8::5", 80)}),
        ("bind [2001:0DB8::5]:80", {ListenAddress("2001:db8::5", 80)}),
        (
            "bind 192.0.2.1:80,192.0.2.2:81",
            {ListenAddress("192.0.2.1", 80), ListenAddress("192.0.2.2", 81)},
        ),
        ("bind '192.0.2.1:80' # why", {ListenAddress("192.0.2.1", 80)}),
    ],
)
def test_literal_addresses_are_found(line: str, expected: set[ListenAddress]) -> None:
    assert find_new_addresses(f"frontend f\n{line}\n    mode http\n", "") == expected


@pytest.mark.parametrize(
    "line",
    [
        "bind :80",
        "bind *:80",
        "bind web.example.org:80",
        "bind 192.0.2.1:8000-8010",
        "bind /run/socket",
        "bind quic4@192.0.2.1:443",
        "bind 192.0.2.1:80 transparent",
        "bind 192.0.2.1:80 interface eth1",
        "bind",
        "bind-process 1",
        "# bind 192.0.2.1:80",
    ],
)
def test_leaves_addresses_to_haproxy_that_only_it_can_tell(line: str) -> None:
    assert find_new_addresses(f"frontend f\n    {line}\n", "") == frozenset()


def test_every_frontend_counts() -> None:
    configuration = """
frontend one
    bind 192.0.2.1:80
    bind 192.0.2.2:80
backend b
    server s 192.0.2.9:80
frontend two
    bind 192.0.2.1:81"""
    assert find_new_addresses(configuration, "") == {
        ListenAddress("192.0.2.1", 80),
        ListenAddress("192.0.2.2", 80),
        ListenAddress("192.0.2.1", 81),
    }


BEFORE = """
frontend one
    bind 192.0.2.1:80
    bind 192.0.2.1:443 ssl crt-list /x
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("    bind 192.0.2.1:81", {ListenAddress("192.0.2.1", 81)}),
        ("    bind 192.0.2.1:80", set()),
        # Another line, the same address.
        ("    bind 192.0.2.1:80 alpn h2", set()),
        ("    bind 192.0.2.1:80,192.0.2.1:82", {ListenAddress("192.0.2.1", 82)}),
        ("    # bind 192.0.2.1:81", set()),
        ("    mode http", set()),
    ],
)
def test_finds_the_addresses_that_a_change_adds(line: str, expected: set[ListenAddress]) -> None:
    assert find_new_addresses(f"{BEFORE}frontend two\n{line}\n", BEFORE) == expected


def test_leaves_out_addresses_that_a_change_removes() -> None:
    assert find_new_addresses("frontend one\n    bind 192.0.2.1:80\n", BEFORE) == frozenset()
