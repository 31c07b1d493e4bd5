"""Which rows of `show servers state` go through a reload: those that the new text still has."""

import pytest

from amphora_agent.haproxy.server_state import carry_over, may_be_read
from amphora_agent.haproxy.text import parse

# As haproxy 2.6 prints it.
HEADER = (
    "1\n"
    "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state "
    "srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl "
    "srv_check_port srv_check_addr srv_agent_addr srv_agent_port"
)


def state_row(backend: str, name: str, address: str, port: int) -> str:
    return f"3 {backend} 1 {name} {address} 2 0 1 1 5 6 3 4 6 0 0 0 - {port} - 0 0 - - 0"


def kept(state: list[str], wanted: str) -> list[str]:
    """The rows that are carried over, by their number in `state`."""
    result = carry_over("\n".join([HEADER, *state]), parse(wanted))
    assert result.startswith(HEADER)
    assert result.endswith("\n")
    rows = result.removeprefix(HEADER).strip("\n").split("\n")
    return [row for row in rows if row]


OLD = [
    state_row("p1:l", "m1", "10.0.0.2", 80),
    state_row("p1:l", "m2", "10.0.0.3", 80),
    state_row("p1:l", "m3", "2001:db8::3", 80),
]


def wanted(*servers: str, backend: str = "p1:l") -> str:
    lines = "".join(f"    server {server} weight 1 check\n" for server in servers)
    return f"global\n    daemon\nbackend {backend}\n    mode http\n{lines}"


def test_servers_that_stay_as_they_are_keep_their_state() -> None:
    text = wanted("m1 10.0.0.2:80", "m2 10.0.0.3:80", "m3 2001:db8::3:80")
    assert kept(OLD, text) == OLD


@pytest.mark.parametrize(
    "server",
    ["m1 10.0.0.2:8080", "m1 10.0.0.9:80", "m9 10.0.0.2:80", "m1 10.0.0.2", "m1"],
    ids=["port", "address", "name", "without port", "without address"],
)
def test_a_server_that_changed_begins_anew(server: str) -> None:
    assert kept(OLD, wanted(server, "m2 10.0.0.3:80")) == [OLD[1]]


def test_a_server_that_moved_to_another_backend_begins_anew() -> None:
    assert kept(OLD, wanted("m1 10.0.0.2:80", backend="p2:l")) == []


def test_the_same_server_name_in_two_backends_is_two_servers() -> None:
    rows = [state_row("p1:l", "m1", "10.0.0.2", 80), state_row("p2:l", "m1", "10.0.0.2", 80)]
    text = wanted("m1 10.0.0.2:80") + wanted("m1 10.0.0.2:81", backend="p2:l")
    assert kept(rows, text) == [rows[0]]


@pytest.mark.parametrize(
    "address",
    ["2001:db8::3:80", "[2001:db8::3]:80", "2001:0DB8:0:0::3:80", "[2001:db8:0:0:0:0:0:3]:80"],
)
def test_an_ipv6_address_is_the_same_in_any_spelling(address: str) -> None:
    assert kept(OLD, wanted(f"m3 {address}")) == [OLD[2]]


def test_a_name_instead_of_an_address_is_compared_as_it_is() -> None:
    rows = [state_row("p1:l", "m1", "web.example.org", 80)]
    assert kept(rows, wanted("m1 web.example.org:80")) == rows


def test_a_row_that_was_cut_off_is_dropped() -> None:
    assert kept([OLD[0], OLD[1][:30]], wanted("m1 10.0.0.2:80", "m2 10.0.0.3:80")) == [OLD[0]]


def test_a_server_in_a_comment_is_not_there() -> None:
    assert kept(OLD, "backend p1:l\n    # server m1 10.0.0.2:80\n") == []


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        ("global\n server-state-file /x\nbackend b\n load-server-state-from-file global", True),
        ("global\n server-state-file /x\ndefaults\n load-server-state-from-file global", True),
        ("global\n server-state-file /x\nbackend b\n mode http", False),
        ("global\n daemon\nbackend b\n load-server-state-from-file global", False),
    ],
)
def test_the_file_is_read_when_it_is_named_and_a_pool_loads_it(
    configuration: str, expected: bool
) -> None:
    assert may_be_read(configuration) is expected
