"""Versions of haproxy, and what follows from them."""

import pytest

from amphora_agent.haproxy.replies import find_capabilities


@pytest.mark.parametrize(
    ("version", "add_servers", "add_cookies", "delete_servers", "pools_connections"),
    [
        ("2.4.22", False, False, False, False),
        ("2.6.12-1+deb12u4", True, False, False, False),
        ("2.8.25-5cf5d0683", True, True, True, True),
        ("3.0.11-1+deb13u5", True, True, True, True),
        ("unknown", False, False, False, False),
    ],
)
def test_a_version_tells_what_can_change_at_run_time(
    version: str,
    add_servers: bool,
    add_cookies: bool,
    delete_servers: bool,
    pools_connections: bool,
) -> None:
    assert find_capabilities(version) == (
        version,
        add_servers,
        add_cookies,
        delete_servers,
        pools_connections,
    )
