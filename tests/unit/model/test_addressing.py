"""Hosts and ports, as configurations and messages write them."""

import pytest

from amphora_agent.model.addressing import (
    parse_address,
    split_endpoint,
    with_brackets,
    without_brackets,
)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.1:80", "192.0.2.1", "80"),
        ("[2001:db8::5]:80", "2001:db8::5", "80"),
        ("2001:db8::5:80", "2001:db8::5", "80"),
        (":80", "", "80"),
        ("*:8000-8010", "*", "8000-8010"),
        ("name", "", "name"),
        ("[192.0.2.1:80", "[192.0.2.1", "80"),
        ("", "", ""),
    ],
)
def test_last_colon_separates_host_and_port(text: str, host: str, port: str) -> None:
    assert split_endpoint(text) == (host, port)


@pytest.mark.parametrize(
    ("host", "written"),
    [("192.0.2.1", "192.0.2.1"), ("fd00::1", "[fd00::1]"), ("::", "[::]"), ("", "")],
)
def test_ipv6_address_is_written_in_brackets(host: str, written: str) -> None:
    assert with_brackets(host) == written
    assert without_brackets(written) == host
    if host:
        assert with_brackets(parse_address(host)) == written
