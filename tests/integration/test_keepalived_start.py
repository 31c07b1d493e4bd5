"""keepalived starts at once where the amphora's name does not resolve: it asks nobody for it."""

from pathlib import Path

import pytest

from amphora_agent.keepalived.config import lvs, vrrp
from lab.lvs import LvsListener, LvsMember
from lab.network import Lab, Namespace
from lab.pair import Checks, vrrp_configuration
from lab.traced_keepalived import Kind, Traced, run_traced

#: Where a name is looked for before anybody is asked.
_NAMES = {"/etc/hosts", "/etc/resolv.conf"}
_LISTENER = LvsListener(["10.1.0.5"], 53, [LvsMember("10.1.0.6", 53)])


@pytest.fixture(scope="module")
def place(lab: Lab) -> Namespace:
    """A namespace with an interface, and nobody who knows names."""
    namespace = lab.namespace("keepalived")
    lab.bridge(lab.namespace("peers"), "segment").port(namespace, "eth1")
    namespace.address("eth1", "10.1.0.3/24")
    return namespace


def given(kind: Kind, directory: Path) -> bytes:
    """What the agent gives to keepalived."""
    if kind == "check":
        return lvs.rewrite(_LISTENER.text().encode(), "/none").text
    check = directory / "vrrp" / "check_script.sh"
    check.parent.mkdir()
    check.write_text("#!/bin/true\n")
    check.chmod(0o755)
    text = vrrp_configuration(
        base_path=directory, address="10.1.0.3", peer="10.1.0.4", priority=100, checks=Checks()
    )
    return vrrp.rewrite(text.encode(), str(check), f"{directory}/notify").text


def asks(traced: Traced) -> bool:
    """Whether it has looked for a name, or asked for one."""
    return bool(traced.opened & _NAMES) or any("AF_INET" in each for each in traced.connected)


@pytest.mark.parametrize("kind", ["vrrp", "check"])
def test_a7_keepalived_asks_nobody_for_the_name_of_the_amphora(
    place: Namespace, tmp_path: Path, kind: Kind
) -> None:
    """Operator row 5: each check and start took the ten seconds of a resolver that does not
    answer."""
    file = tmp_path / "keepalived.conf"
    text = given(kind, tmp_path)
    file.write_bytes(text)
    assert not asks(run_traced(kind, file, place, tmp_path))
    file.write_bytes(text.replace(b"    router_id amphora\n", b""))
    assert asks(run_traced(kind, file, place, tmp_path))
