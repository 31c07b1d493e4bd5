"""Which rows of `show servers state` go through a reload: those that the new text still has."""

from collections.abc import Collection

import pytest

from amphora_agent.haproxy.config.parser import parse_config
from amphora_agent.haproxy.update.server_state_file import (
    Told,
    carry_over,
    find_differing_backends,
    inherit,
    may_be_read,
)

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


def new_row(
    name: str, address: str, port: int, *, state: int = 3, weight: int = 1, tls: int = 0
) -> str:
    """Of a server that has to pass a check first."""
    check = "1 0 0 6"
    return (
        f"1 p1:l 1 {name} {address} {state} 0 {weight} {weight} 0 {check} 0 0 0 - {port} -"
        f" {tls} 0 - - 0"
    )


def kept(state: list[str], wanted: str) -> list[str]:
    """The rows that are carried over where nothing has changed at run time."""
    return rows(state, wanted)


def rows(
    state: list[str], wanted: str, running: str | None = None, touched: Collection[str] = ()
) -> list[str]:
    before = {} if running is None else find_differing_backends(running, wanted)
    result = carry_over("\n".join([HEADER, *state]), parse_config(wanted), before, touched)
    assert result.startswith(HEADER)
    assert result.endswith("\n")
    return [row for row in result.removeprefix(HEADER).strip("\n").split("\n") if row]


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
    ["m1 10.0.0.2:8080", "m1 10.0.0.9:80", "m1 10.0.0.2", "m1"],
    ids=["port", "address", "without port", "without address"],
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


def test_a_row_that_was_cut_off_is_none() -> None:
    cut = [OLD[0], OLD[1][:30]]
    assert kept(cut, wanted("m1 10.0.0.2:80", "m2 10.0.0.3:80")) == [
        OLD[0],
        new_row("m2", "10.0.0.3", 80),
    ]


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


# Servers that are new


M1, M2 = "m1 10.0.0.2:80", "m2 10.0.0.3:80"


def test_a_server_that_is_new_to_a_pool_waits_for_its_first_check() -> None:
    new = "m9 10.0.0.9:8080"
    assert rows(OLD[:1], wanted(M1, new), wanted(M1)) == [
        OLD[0],
        new_row("m9", "10.0.0.9", 8080),
    ]


def test_a_server_that_is_new_to_a_pool_that_was_empty_waits_too() -> None:
    assert rows([], wanted(M1), wanted()) == [new_row("m1", "10.0.0.2", 80)]


def test_the_servers_of_a_new_pool_do_not_wait() -> None:
    assert rows([], wanted(M1, backend="p2:l"), wanted()) == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("weight 7 check", new_row("m1", "10.0.0.2", 80, weight=7)),
        ("check weight 0", new_row("m1", "10.0.0.2", 80, weight=0)),
        ("check ssl verify none", new_row("m1", "10.0.0.2", 80, tls=1)),
        ("check ssl no-ssl", new_row("m1", "10.0.0.2", 80)),
    ],
)
def test_a_new_row_is_of_its_line(line: str, expected: str) -> None:
    text = f"backend p1:l\n    server m1 10.0.0.2:80 {line}\n"
    assert rows([], text, "backend p1:l\n") == [expected]


def test_all_pools_are_compared_when_it_is_not_plain_which_differ() -> None:
    """Here the pools follow one another otherwise, so each is looked into."""
    other = "backend p2:l\n    mode http\n"
    running, text = f"{other}{wanted(M1, M2)}", f"{wanted(M1, f'{M2} backup')}{other}"
    state = [weighing(OLD[0], 9, 1), weighing(OLD[1], 9, 1)]
    assert rows(state, text, running) == [state[0], OLD[1]]


@pytest.mark.parametrize("line", ["", "check disabled", "check no-check"])
def test_a_server_that_is_not_checked_does_not_wait(line: str) -> None:
    text = f"backend p1:l\n    server m1 10.0.0.2:80 {line}\n"
    assert rows([], text, "backend p1:l\n") == []


@pytest.mark.parametrize("where", ["defaults", "backend p1:l"])
def test_counts_the_options_that_servers_have_by_default(where: str) -> None:
    default = "    default-server check weight 4 ssl\n"
    text = f"defaults\n{default if where == 'defaults' else ''}backend p1:l\n"
    text += f"{default if where != 'defaults' else ''}    server m1 10.0.0.2:80\n"
    expected = new_row("m1", "10.0.0.2", 80, weight=4, tls=1)
    assert rows([], text, "backend p1:l\n") == [expected]


@pytest.mark.parametrize("line", ["cookie SRV insert indirect nocache", "stick on src"])
def test_where_clients_stay_with_a_server_a_new_one_is_down_at_first(line: str) -> None:
    """A server that is about to stop still serves those."""
    text = f"backend p1:l\n    {line}\n    server m1 10.0.0.2:80 check rise 1\n"
    assert rows([], text, "backend p1:l\n") == [new_row("m1", "10.0.0.2", 80, state=0)]


@pytest.mark.parametrize("line", ["cookie SRV insert indirect nocache", "stick on src"])
def test_a8_the_first_check_that_passes_brings_up_who_needs_several(line: str) -> None:
    text = f"backend p1:l\n    {line}\n    server m1 10.0.0.2:80 check rise 3\n"
    assert rows([], text, "backend p1:l\n") == [new_row("m1", "10.0.0.2", 80)]


def test_a8_one_that_haproxy_would_keep_down_for_several_checks_serves() -> None:
    text = "backend p1:l\n    server m1 10.0.0.2:80 check fall 1 rise 3\n"
    assert rows([], text, "backend p1:l\n") == []


def test_a_name_instead_of_an_address_does_not_wait() -> None:
    assert rows([], wanted("m1 web.example.org:80"), wanted()) == []


# Servers that were changed at run time


def maintained(row: str, bits: int = 1) -> str:
    columns = row.split(" ")
    columns[5], columns[6] = "0", str(bits)
    return " ".join(columns)


def weighing(row: str, now: int, at_first: int) -> str:
    columns = row.split(" ")
    columns[7], columns[8] = str(now), str(at_first)
    return " ".join(columns)


def test_a_server_that_was_removed_and_is_still_there_is_new_when_it_comes_back() -> None:
    assert rows([maintained(OLD[0])], wanted(M1), wanted()) == [new_row("m1", "10.0.0.2", 80)]


def test_a_server_that_was_removed_and_is_still_there_goes() -> None:
    assert rows([OLD[0], maintained(OLD[1])], wanted(M1), wanted(M1)) == [OLD[0]]


def test_a_weight_that_changes_with_the_reload_is_the_wanted_one() -> None:
    """haproxy takes that of the file when the configuration's is what it was at the start."""
    was, now = f"{M1} weight 5", f"{M1}"
    assert rows([weighing(OLD[0], 5, 1)], wanted(now), wanted(was)) == [OLD[0]]


def test_keeps_an_operators_changes_of_a_server_that_stays() -> None:
    state = [maintained(OLD[0]), weighing(OLD[1], 9, 1)]
    assert rows(state, wanted(M1, M2), wanted(M1, M2)) == state


def test_a_server_that_is_enabled_with_the_reload_waits_for_its_check() -> None:
    disabled = f"{M1} disabled"
    for bits in (1, 4, 5):
        state = [maintained(OLD[0], bits)]
        assert rows(state, wanted(M1), wanted(disabled)) == [new_row("m1", "10.0.0.2", 80)]


def test_a_drain_is_not_a_maintenance() -> None:
    disabled = f"{M1} disabled"
    assert rows([maintained(OLD[0], 8)], wanted(M1), wanted(disabled)) == [maintained(OLD[0], 8)]


def test_a_change_that_was_cut_in_two_leaves_nothing_of_itself() -> None:
    state = [maintained(OLD[0]), weighing(OLD[1], 9, 1)]
    touched = {"p1:l/m1", "p1:l/m2"}
    assert rows(state, wanted(M1, M2), wanted(M1, M2), touched) == [
        new_row("m1", "10.0.0.2", 80),
        OLD[1],
    ]


def test_a_server_that_is_disabled_needs_no_row_after_a_change_that_was_cut_in_two() -> None:
    text = wanted(f"{M1} disabled")
    assert rows([OLD[0]], text, wanted(M1), {"p1:l/m1"}) == []


def inherited(told: list[Told], wanted: str) -> list[str]:
    """The rows for a haproxy that takes the place of others."""
    return inherit(told, wanted).removeprefix(HEADER).strip("\n").split("\n")


def test_another_haproxy_inherits_members_by_pool_and_name() -> None:
    down = state_row("p1:l", "m2", "10.0.0.3", 80).replace(" 2 0 1 1 ", " 0 0 1 1 ")
    text = wanted("m1 10.0.0.2:80", "m2 10.0.0.3:80")
    told = Told("\n".join([HEADER, OLD[0], down]), text)
    servers = ("m1 10.0.0.2:80", "m2 10.0.0.3:80", "m4 10.0.0.4:80")
    assert inherited([told], wanted(*servers, backend="p1")) == [
        OLD[0].replace("p1:l", "p1"),
        down.replace("p1:l", "p1"),
        new_row("m4", "10.0.0.4", 80).replace("p1:l", "p1"),
    ]


def test_of_several_haproxies_the_first_that_has_a_member_counts() -> None:
    text = wanted("m1 10.0.0.2:80")
    told = [
        Told(f"{HEADER}\n{row}", text) for row in (OLD[0], OLD[0].replace(" 2 0 1 1 ", " 0 0 1 1 "))
    ]
    found = inherited(told, wanted("m1 10.0.0.2:80", backend="p1:x"))
    assert found == [OLD[0].replace("p1:l", "p1:x")]


def test_nothing_is_inherited_from_nobody() -> None:
    assert inherit([], wanted("m1 10.0.0.2:80")) == "1\n"
