"""Replies to `show info` and `show stat` as figures."""

import pytest

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy.replies import choose_commands, read_figures
from amphora_agent.model.status import Figures, Scope

HEADER = "# pxname,svname,scur,status,last_chk,"
COLUMNS = frozenset({"scur", "last_chk"})
INFO = "Name: HAProxy\nVersion: 2.6.12\nnode: a: b\nCurrConns: 7"


def parse(info: str, stat: str) -> Figures:
    return read_figures(info, stat, COLUMNS)


@pytest.mark.parametrize(
    ("scopes", "asked"),
    [
        (frozenset(Scope), ("show info", "show stat -1 7 -1")),
        ({Scope.LISTENER}, (None, "show stat -1 1 -1")),
        ({Scope.POOL, Scope.MEMBER}, (None, "show stat -1 6 -1")),
        ({Scope.MEMORY_POOL}, ("show info", None)),
        ({Scope.LOADBALANCER, Scope.LISTENER}, ("show info", "show stat -1 1 -1")),
    ],
)
def test_no_more_is_asked_than_is_wanted(
    scopes: frozenset[Scope], asked: tuple[str | None, str | None]
) -> None:
    assert choose_commands(scopes) == asked


def test_the_process_is_told_by_its_names() -> None:
    process = parse(INFO, "").process
    assert (process["CurrConns"], process["node"]) == ("7", "a: b")


def test_rows_are_told_by_scope_with_the_columns_that_are_wanted() -> None:
    stat = f"{HEADER}\nl1,FRONTEND,1,OPEN,,\np1:l1,m1,2,UP,,\np1:l1,BACKEND,3,UP,,"
    found = parse("", stat)
    assert found.columns == ("pxname", "svname", "scur", "last_chk")
    assert {scope: [row[2] for row in rows] for scope, rows in found.rows.items()} == {
        Scope.LISTENER: ["1"],
        Scope.POOL: ["3"],
        Scope.MEMBER: ["2"],
    }


def test_keeps_the_answer_to_a_check_in_its_column() -> None:
    stat = f'{HEADER}\np1:l1,m1,2,UP,"what, ""you""",'
    (row,) = parse("", stat).rows[Scope.MEMBER]
    assert row[3] == 'what, "you"'


def test_the_internal_proxies_are_absent() -> None:
    internal = "prometheus-exporter-internal"
    stat = "\n".join(
        (
            HEADER,
            f"{internal}-endpoint,FRONTEND,1,OPEN,,",
            f"{internal},prometheus-internal,1,UP,,",
            f"{internal},BACKEND,1,UP,,",
        )
    )
    assert not any(parse("", stat).rows.values())


@pytest.mark.parametrize("stat", [HEADER[:10], f"{HEADER}\nl1,FRONTEND,1", "Unknown command", "a"])
def test_refuses_figures_that_are_cut_off_or_something_else(stat: str) -> None:
    with pytest.raises(OperationFailed):
        parse("", stat)


def test_refuses_a_reply_that_is_no_answer_to_show_info() -> None:
    with pytest.raises(OperationFailed):
        parse("Can't find the target PID matching the prefix", "")
