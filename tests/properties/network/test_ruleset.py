"""Any ruleset is read back from what nft prints as the same value."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from amphora_agent.network.plan.firewall_rules import Port, build_ruleset, parse_listing
from tests.interface_rules import ports_lists
from tests.unit.network.test_ruleset import as_printed, printed


@given(ports_lists, st.randoms())
def test_the_order_of_ports_and_rules_does_not_matter(
    ports: list[Port], shuffler: random.Random
) -> None:
    def shuffled(port: Port) -> Port:
        if port.rules is None:
            return port
        return Port(port.name, tuple(shuffler.sample(port.rules, len(port.rules))))

    others = [shuffled(port) for port in shuffler.sample(ports, len(ports))]
    assert build_ruleset(others) == build_ruleset(ports)
    assert hash(build_ruleset(others)) == hash(build_ruleset(ports))


@given(ports_lists)
def test_distinguishes_guarded_from_open_ports(ports: list[Port]) -> None:
    for number, port in enumerate(ports):
        other = Port(port.name, () if port.rules is None else None)
        assert build_ruleset([*ports[:number], other, *ports[number + 1 :]]) != build_ruleset(ports)


@given(ports_lists)
def test_lists_the_ruleset_that_was_applied(ports: list[Port]) -> None:
    made = build_ruleset(ports)
    assert parse_listing(printed(*as_printed(made))) == made
