"""Versions of haproxy, and what follows from them."""

import pytest

from amphora_agent.haproxy.capabilities import of_version
from amphora_agent.haproxy.instance import peer_name
from amphora_agent.haproxy.plan import Step, plan
from lab import listeners


@pytest.mark.parametrize(
    ("version", "synchronous"),
    [
        ("2.6.12-1+deb12u4", False),
        ("2.7.0", True),
        ("2.8.25-5cf5d0683", True),
        ("3.0.11-1+deb13u5", True),
        ("10.0", True),
        ("unknown", False),
    ],
)
def test_reloads_are_synchronous_from_2_7_on(version: str, synchronous: bool) -> None:
    assert of_version(version).synchronous_reload is synchronous
    assert of_version(version).version == version


def test_what_does_not_run_is_started_by_a_reload() -> None:
    assert plan(running=False).step is Step.START
    assert plan(running=True).step is Step.RELOAD


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
