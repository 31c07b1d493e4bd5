"""`show stat` to readings. Real replies are read in tests/integration/test_observer.py."""

import pytest

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy.replies import count_unfinished, read_worker
from amphora_agent.model.status import Counters, ListenerReading

HEADER = (
    "# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,"
    "wredis,status,weight,act,bck,chkfail,conn_tot,dcon,"
)


def row(proxy: str, service: str, status: str, weight: str = "1", **columns: int) -> str:
    cells = dict.fromkeys(HEADER.removeprefix("# ").rstrip(",").split(","), "")
    cells.update(pxname=proxy, svname=service, status=status, weight=weight)
    cells.update({name: str(value) for name, value in columns.items()})
    return ",".join(cells.values()) + ","


def reply(*rows: str) -> str:
    return "\n".join([HEADER, *rows])


def member_status(status: str, weight: str = "1") -> str:
    reading = read_worker(reply(row("p:l", "m", status, weight), row("p:l", "BACKEND", "UP")), "w")
    return reading.pools["p:l"].members["m"]


def test_a_frontend_is_a_listener_with_octavia_s_counters() -> None:
    reading = read_worker(
        reply(row("l", "FRONTEND", "OPEN", scur=3, stot=40, bin=500, bout=6000, ereq=7)), "w"
    )
    assert reading.worker == "w"
    assert reading.listeners == {
        "l": ListenerReading("OPEN", 3, Counters(tx=6000, rx=500, totconns=40, ereq=7))
    }
    assert reading.pools == {}


@pytest.mark.parametrize(
    ("status", "scur", "slim", "told"),
    [
        ("OPEN", 7, 8, "OPEN"),
        ("OPEN", 8, 8, "FULL"),
        ("OPEN", 9, 8, "FULL"),
        ("OPEN", 0, 0, "OPEN"),
        ("FULL", 8, 8, "FULL"),
        ("STOP", 8, 8, "STOP"),
    ],
)
def test_a_listener_at_its_connection_limit_is_full(
    status: str, scur: int, slim: int, told: str
) -> None:
    reading = read_worker(reply(row("l", "FRONTEND", status, scur=scur, slim=slim)), "w")
    assert reading.listeners["l"].status == told


def test_empty_columns_count_nothing() -> None:
    reading = read_worker(reply(row("l", "FRONTEND", "OPEN")), "w")
    assert reading.listeners["l"] == ListenerReading("OPEN", 0, Counters(0, 0, 0, 0))


def test_a_backend_is_a_pool_with_its_servers_as_members() -> None:
    reading = read_worker(
        reply(
            row("p1:l", "m1", "UP"),
            row("p1:l", "m2", "DOWN"),
            row("p1:l", "BACKEND", "UP"),
            row("p2:l", "BACKEND", "DOWN", "0"),
        ),
        "w",
    )
    assert {name: (p.status, p.members) for name, p in reading.pools.items()} == {
        "p1:l": ("UP", {"m1": "UP", "m2": "DOWN"}),
        "p2:l": ("DOWN", {}),
    }


@pytest.mark.parametrize(
    ("status", "weight", "reported"),
    [
        ("UP", "1", "UP"),
        ("UP", "256", "UP"),
        ("UP", "0", "DRAIN"),
        ("DOWN", "0", "DOWN"),
        ("DOWN", "1", "DOWN"),
        ("MAINT", "1", "MAINT"),
        ("MAINT", "0", "MAINT"),
        ("MAINT (via p2/m9)", "1", "MAINT"),
        ("MAINT (resolution)", "1", "MAINT"),
        ("DRAIN", "1", "DRAIN"),
        ("NOLB", "1", "RESTARTING"),
        ("no check", "1", "no check"),
        ("UP 1/3", "1", "UP 1/3"),
        ("DOWN 1/2", "1", "DOWN 1/2"),
        ("DOWN (agent)", "1", "DOWN"),
    ],
)
def test_the_status_of_a_member_is_told_as_octavia_knows_it(
    status: str, weight: str, reported: str
) -> None:
    assert member_status(status, weight) == reported


def test_the_agent_s_own_exporter_is_nobody_s() -> None:
    internal = "prometheus-exporter-internal"
    reading = read_worker(
        reply(
            row(f"{internal}-endpoint", "FRONTEND", "OPEN", stot=9),
            row(f"{internal}", "prometheus-internal", "no check"),
            row(f"{internal}", "BACKEND", "UP"),
            row("l", "FRONTEND", "OPEN"),
        ),
        "w",
    )
    assert list(reading.listeners) == ["l"]
    assert reading.pools == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Unknown command",
        HEADER[:40],
        HEADER.replace("stot,bin", "bin,stot"),
        f"warning\n{HEADER}",
    ],
)
def test_refuses_a_reply_that_is_not_statistics(text: str) -> None:
    with pytest.raises(OperationFailed, match="Cannot read the statistics"):
        read_worker(text, "w")


def test_a_reply_that_was_cut_off_is_refused() -> None:
    whole = reply(*(row(f"l{number}", "FRONTEND", "OPEN", stot=12345) for number in range(3)))
    rows = whole.split("\n")
    for length in range(1, len(rows[-1])):
        cut = whole[:-length]
        # Nothing less than a whole row may count; a row that lacks only what is not read may.
        if cut.split("\n")[-1].count(",") >= 19:
            continue
        if cut.endswith("\n"):
            continue
        with pytest.raises(OperationFailed, match="cut off"):
            read_worker(cut, "w")


@pytest.mark.parametrize(
    ("columns", "count"),
    [
        ({}, 0),
        ({"scur": 3, "conn_tot": 3, "stot": 3}, 0),
        ({"scur": 3, "conn_tot": 3, "stot": 1}, 2),
        ({"scur": 1, "conn_tot": 9, "stot": 1}, 1),  # the others have failed: nobody is there
        ({"scur": 0, "conn_tot": 9, "stot": 1}, 0),
        ({"scur": 5, "conn_tot": 9, "stot": 1, "dcon": 8}, 0),
    ],
)
def test_connections_whose_handshake_may_go_on(columns: dict[str, int], count: int) -> None:
    said = reply(row("l", "FRONTEND", "STOP", "1", **columns), row("m", "FRONTEND", "STOP"), "")
    assert count_unfinished(said) == count
