"""Versions of haproxy, and what follows from them."""

import pytest

from amphora_agent.haproxy.capabilities import of_version
from amphora_agent.haproxy.instance import peer_name
from lab import listeners


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
def test_what_can_be_done_while_it_runs(
    version: str,
    add_servers: bool,
    add_cookies: bool,
    delete_servers: bool,
    pools_connections: bool,
) -> None:
    assert of_version(version) == (
        version,
        add_servers,
        add_cookies,
        delete_servers,
        pools_connections,
    )


@pytest.mark.parametrize(
    ("amphora_id", "name"),
    [
        # Computed with octavia.common.utils.base64_sha1_string of release 19, less the padding.
        ("a", "hvfkN-qlp-zhXR3cuerq6jd2Z7g"),
        ("b", "6dcfXufJLW3J6S-9rRe4vUlBj5g"),
        ("8", "xl27zqXOfimIuMabz9-eiQSqvB8"),
    ],
)
def test_the_peer_name_is_the_controller_s(amphora_id: str, name: str) -> None:
    assert peer_name(amphora_id) == name


def test_a_peer_name_never_begins_with_a_hyphen() -> None:
    names = {peer_name(str(number)) for number in range(2000)}
    assert all(len(name) == 27 for name in names)
    assert not any(name.startswith("-") for name in names)
    assert any(name.startswith("x") for name in names)
    assert not any(set(name) & set("+/=") for name in names)


def test_the_laboratory_computes_the_same_peer_name() -> None:
    for number in range(300):
        assert listeners.peer_name(str(number)) == peer_name(str(number))
