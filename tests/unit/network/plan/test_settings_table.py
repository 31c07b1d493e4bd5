"""The table of the namespace's settings: which value is written where the kernel has another."""

import pytest

from amphora_agent.network.plan.namespace_settings import SETTINGS

#: A new namespace of a kernel without further settings.
DEFAULTS = {
    "net/ipv4/ip_local_port_range": "32768 60999",
    "net/ipv4/ip_local_reserved_ports": "",
    "net/core/somaxconn": "4096",
    "net/ipv4/tcp_fin_timeout": "60",
    "net/ipv4/tcp_keepalive_time": "7200",
    "net/ipv4/tcp_max_syn_backlog": "2048",
    "net/ipv4/tcp_mtu_probing": "0",
    "net/ipv4/tcp_rmem": "4096 131072 6291456",
    "net/ipv4/tcp_synack_retries": "5",
    "net/ipv4/tcp_tw_reuse": "2",
    "net/ipv4/tcp_wmem": "4096 16384 4194304",
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("net/ipv4/ip_local_port_range", "1025 65534"),
        ("net/ipv4/ip_local_reserved_ports", "1025,9102"),
        ("net/core/somaxconn", "65534"),
        ("net/ipv4/tcp_fin_timeout", "5"),
        ("net/ipv4/tcp_keepalive_time", "300"),
        ("net/ipv4/tcp_max_syn_backlog", "100000"),
        ("net/ipv4/tcp_mtu_probing", "1"),
        ("net/ipv4/tcp_rmem", "4096 131072 33554432"),
        ("net/ipv4/tcp_synack_retries", "3"),
        ("net/ipv4/tcp_tw_reuse", "1"),
        ("net/ipv4/tcp_wmem", "4096 87380 33554432"),
    ],
)
def test_replaces_the_default_of_the_kernel(key: str, value: str) -> None:
    assert SETTINGS[key].find_value(DEFAULTS[key]) == value
    assert SETTINGS[key].find_value(value) is None


@pytest.mark.parametrize(
    ("key", "actual"),
    [
        ("net/ipv4/ip_local_port_range", "1024 65535"),
        ("net/ipv4/ip_local_reserved_ports", "1000-1100,8080,9000-9200"),
        ("net/core/somaxconn", "262144"),
        ("net/ipv4/tcp_fin_timeout", "3"),
        ("net/ipv4/tcp_keepalive_time", "60"),
        ("net/ipv4/tcp_mtu_probing", "2"),
        ("net/ipv4/tcp_rmem", "8192 200000 67108864"),
        ("net/netfilter/nf_conntrack_max", "1000000"),
    ],
)
def test_keeps_a_value_that_an_operator_set_further(key: str, actual: str) -> None:
    assert SETTINGS[key].find_value(actual) is None


@pytest.mark.parametrize(
    ("key", "actual", "value"),
    [
        ("net/ipv4/ip_local_port_range", "1024 60999", "1024 65534"),
        ("net/ipv4/ip_local_port_range", "32768 65535", "1025 65535"),
        ("net/ipv4/ip_local_reserved_ports", "8080,9000-9100", "8080,9000-9100,1025,9102"),
        ("net/ipv4/tcp_wmem", "8192 16384 4194304", "8192 87380 33554432"),
    ],
)
def test_keeps_each_number_that_goes_further(key: str, actual: str, value: str) -> None:
    assert SETTINGS[key].find_value(actual) == value


def test_every_setting_says_why() -> None:
    assert all(setting.why for setting in SETTINGS.values())
