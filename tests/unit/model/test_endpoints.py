"""Entries of `controller_ip_port_list`."""

import pytest

from amphora_agent.model.status import ControllerEndpoint, parse_endpoint


@pytest.mark.parametrize(
    ("entry", "endpoint"),
    [
        ("192.0.2.1:5555", ControllerEndpoint("192.0.2.1", 5555, False)),
        (" 192.0.2.1:1 ", ControllerEndpoint("192.0.2.1", 1, False)),
        ("[2001:db8::1]:5555", ControllerEndpoint("2001:db8::1", 5555, True)),
        ("2001:db8::1:5555", ControllerEndpoint("2001:db8::1", 5555, True)),
        ("[2001:0DB8:0::1]:65535", ControllerEndpoint("2001:db8::1", 65535, True)),
        ("[fe80::1%eth0]:5555", ControllerEndpoint("fe80::1%eth0", 5555, True)),
    ],
)
def test_endpoint_is_an_address_and_a_port(entry: str, endpoint: ControllerEndpoint) -> None:
    assert parse_endpoint(entry) == endpoint


@pytest.mark.parametrize(
    "entry",
    [
        "",
        ":",
        "192.0.2.1",
        "192.0.2.1:",
        ":5555",
        "192.0.2.1:0",
        "192.0.2.1:65536",
        "192.0.2.1:-1",
        "192.0.2.1:+1",
        "192.0.2.1:55 55",
        "192.0.2.1:\u0665",
        "192.0.2.1:\u00b2",
        "192.0.2:5555",
        "192.0.2.256:5555",
        "[192.0.2.1:5555",
        "[2001:db8::1]5555",
        "[2001:db8::1]",
        "health.example.org:5555",
        "192.0.2.1:5555:5556",
    ],
)
def test_wrong_endpoint_is_refused_without_quoting_it(entry: str) -> None:
    with pytest.raises(ValueError, match=r"^is not ADDRESS:PORT$"):
        parse_endpoint(entry)
