"""What is read back, and what of it is wrong."""

import pytest

from amphora_agent.haproxy.config.server_line import ServerLine
from amphora_agent.haproxy.update import transaction

HEAD = "1\n# be_id be_name srv_id srv_name srv_addr …\n"
A = ServerLine("a", "10.0.0.1", 80, weight=5, check=True)


def state(
    address: str = "10.0.0.1", admin: int = 0, weight: int = 5, check: int = 6, port: int = 80
) -> str:
    return (
        f"{HEAD}3 p 1 a {address} 2 {admin} {weight} 1 9 15 3 4 {check} 0 0 0 - {port} - 0 0 - - 0"
    )


MEMBERS = [
    (A, state(), None),
    (A, state(admin=4), None),
    (A, state(check=7), None),
    (A, HEAD, "a is not there"),
    (A, "", "a is not there"),
    (A, state(address="10.0.0.2"), "a is at 10.0.0.2"),
    (A, state(port=81), "a has port 81"),
    (A, state(weight=1), "a has weight 1"),
    (A, state(admin=1), "a has the administrative state 1"),
    (A, state(admin=5), "a has the administrative state 5"),
    (A, state(admin=8), "a has the administrative state 8"),
    (A, state(check=2), "a is not checked"),
    (A._replace(check=False), state(check=0), None),
    (A._replace(disabled=True), state(admin=1), None),
    (A._replace(disabled=True), state(admin=5), None),
    (A._replace(disabled=True), state(), "a is enabled"),
    (A._replace(address="fd00::1"), state(address="fd00:0::1"), None),
    (None, state(), "a may still get requests"),
    (None, state(admin=4), "a may still get requests"),
    (None, state(admin=1), None),
    (None, HEAD, None),
]


@pytest.mark.parametrize(("expected", "reply", "wrong"), MEMBERS)
def test_members(expected: ServerLine | None, reply: str, wrong: str | None) -> None:
    inquiry = transaction.verify_servers("p", {"a": expected})
    assert inquiry.text == "show servers state p"
    assert inquiry.wrong(reply) == wrong


CSV = "# pxname,svname,slim,status,bck\nf,FRONTEND,50,OPEN,\np,a,,UP,1\n"


def test_statistics() -> None:
    assert transaction.verify_frontend("f", "slim", "50").wrong(CSV) is None
    assert transaction.verify_frontend("f", "slim", "60").wrong(CSV) == "slim of f is '50'"
    assert transaction.verify_frontend("g", "slim", "50").wrong(CSV) == "g is not there"
    assert transaction.verify_frontend("f", "slim", "50").wrong("") == "f is not there"
    assert transaction.verify_roles("p", {"a": True}).wrong(CSV) is None
    assert transaction.verify_roles("p", {"a": False}).wrong(CSV) == "a is a backup"
    assert transaction.verify_roles("p", {"b": True}).wrong(CSV) == "b is active"
    information = "Name: HAProxy\nHard_maxconn: 9\nMaxconn: 7\n"
    assert transaction.verify_information("Maxconn", "7").wrong(information) is None
    assert transaction.verify_information("Maxconn", "9").wrong(information) == "Maxconn is '7'"
    assert (
        transaction.verify_information("Maxconn", "7").wrong("Permission denied")
        == "Maxconn is None"
    )
