"""What haproxy replies. Real replies are read in tests/integration."""

import pytest

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy.replies import (
    ServerRow,
    read_information,
    read_server_row,
    read_servers_state,
    read_statistics,
)

HEADER = "# pxname,svname,scur,status,last_chk,mode,"


def rows(reply: str, *wanted: str) -> list[dict[str, str]]:
    return [*read_statistics(reply, wanted).by_column()]


def test_wanted_columns_come_in_the_order_of_haproxy() -> None:
    found = read_statistics(f"{HEADER}\nl,FRONTEND,3,OPEN,,http,\n", ("status", "scur", "none"))
    assert found.columns == ("pxname", "svname", "scur", "status")
    assert found.places == (0, 1, 2, 3)
    assert [row[:4] for row in found.rows] == [["l", "FRONTEND", "3", "OPEN"]]


@pytest.mark.parametrize(
    ("words", "told"),
    [("", ""), ("what", "what"), ('"what, ""you"""', 'what, "you"'), ('"a,b,c"', "a,b,c")],
)
def test_words_of_a_server_change_no_other_column(words: str, told: str) -> None:
    reply = f"{HEADER}\np,m,2,UP,{words},tcp,\np,BACKEND,2,UP,,tcp,\n\n"
    (row, _), (last, _) = rows(reply, "status"), rows(reply, "mode", "last_chk")
    assert row["status"] == "UP"
    assert last["mode"] == "tcp"
    assert last["last_chk"] == told
    (fast, _) = read_statistics(reply, ["status"], may_have_quotes=False).by_column()
    assert fast == row


def test_a_reply_without_rows_is_whole() -> None:
    assert rows(f"{HEADER}\n\n", "status") == []


@pytest.mark.parametrize(
    "reply",
    [
        "",
        HEADER[:10],
        "Unknown command",
        f"{HEADER}\nl,FRONTEND,3,OPEN,,ht",
        f"{HEADER}\nl,FRONTEND,3\n",
        f"{HEADER}\nl,FRONTEND\nk,FRONTEND,3,OPEN,,http,\n",
    ],
)
@pytest.mark.parametrize("wanted", ["status", "mode"])
def test_statistics_that_are_not_whole_are_refused(reply: str, wanted: str) -> None:
    with pytest.raises(OperationFailed):
        rows(reply, wanted)


def test_information_is_told_by_its_names() -> None:
    assert read_information("Name: HAProxy\nPid: 7\nnode: a: b\n")["node"] == "a: b"
    with pytest.raises(OperationFailed, match="figures"):
        read_information("Permission denied")


def test_servers_are_told_by_backend_and_name() -> None:
    line = "3 p 1 a 10.0.0.1 2 5 7 1 9 15 3 4 6 0 0 0 - 80 - 0 0 - - 0"
    found = read_servers_state(f"1\n# be_id be_name\n{line}\ncut off\n\n")
    assert found.head == ["1", "# be_id be_name"]
    assert found.rows == {("p", "a"): line}
    assert read_server_row(line) == ServerRow("10.0.0.1", 5, 7, 6, 80)
