"""Changes are carried out in order, judged by the replies, proved, and left in order when refused.

The worker is a script here: how haproxy itself replies is tested where it runs.
"""

import pytest

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy.update.transaction import (
    ChangeRefused,
    Command,
    RuntimeChange,
    Verification,
    carry_out,
    list_servers,
    server_command,
)


class Worker:
    """Replies to what it is asked; to all else with nothing."""

    def __init__(self, **replies: str) -> None:
        self.replies = {text.replace("_", " "): reply for text, reply in replies.items()}
        self.asked: list[str] = []

    def __call__(self, text: str, payload: str) -> str:
        self.asked.append(text + payload)
        reply = self.replies.get(text, "")
        if reply == "dead":
            raise OperationFailed("haproxy does not answer")
        return reply


def change(
    *commands: Command, proof: tuple[Verification, ...] = (), undo: str = ""
) -> RuntimeChange:
    return RuntimeChange("the change", commands, proof, (Command(undo),) if undo else ())


def holds(text: str) -> Verification:
    return Verification(text, lambda reply: None if reply == "right" else f"it is {reply!r}")


def test_commands_go_in_order_and_all_proofs_come_last() -> None:
    worker = Worker(p="right", q="right")
    carry_out(
        [
            change(Command("a"), Command("b", "text\n"), proof=(holds("p"),)),
            change(Command("c"), proof=(holds("q"),)),
        ],
        worker,
    )
    assert worker.asked == ["a", "btext\n", "c", "p", "q"]


def test_a_question_that_several_have_is_asked_once_and_judged_for_each() -> None:
    worker = Worker(p="right")
    wrong = Verification("p", lambda reply: "not for me")
    with pytest.raises(ChangeRefused, match="not for me"):
        carry_out([change(proof=(holds("p"),)), change(proof=(wrong,))], worker)
    assert worker.asked == ["p"]


@pytest.mark.parametrize("reply", ["No such server.", "done, or not", "\n"])
def test_a_reply_that_is_not_success_is_a_refusal(reply: str) -> None:
    worker = Worker(a=reply)
    with pytest.raises(ChangeRefused, match=r"the change.*refused 'a'"):
        carry_out([change(Command("a", success=("done",)), Command("b"))], worker)
    assert worker.asked == ["a"]


def test_blanks_around_a_reply_do_not_count() -> None:
    carry_out([change(Command("a", success=("done",)))], Worker(a="\n done \n\n"))


def test_a_refusal_ends_what_its_change_has_begun_and_nothing_else() -> None:
    worker = Worker(b="no")
    changes = [change(Command("a"), undo="abort a"), change(Command("b"), undo="abort b")]
    with pytest.raises(ChangeRefused):
        carry_out(changes, worker)
    assert worker.asked == ["a", "b", "abort b"]


def test_a_worker_that_does_not_answer_refuses() -> None:
    worker = Worker(a="dead", undo="dead")
    with pytest.raises(ChangeRefused, match="does not answer"):
        carry_out([change(Command("a"), undo="undo")], worker)
    assert worker.asked == ["a", "undo"]


def test_refuses_a_command_that_cannot_be_sent() -> None:
    def ask(text: str, payload: str) -> str:
        raise ValueError("too large")

    with pytest.raises(ChangeRefused, match="too large"):
        carry_out([change(Command("a"))], ask)


def test_refuses_a_change_that_does_not_hold() -> None:
    with pytest.raises(ChangeRefused, match="does not hold: it is 'wrong'"):
        carry_out([change(proof=(holds("p"),))], Worker(p="wrong"))


def test_a_moot_command_leaves_out_the_rest_of_its_change_and_its_proof() -> None:
    worker = Worker(a="nothing to do", p="wrong")
    first = change(Command("a", moot=("nothing.*",)), Command("b"), proof=(holds("p"),))
    carry_out([first, change(Command("c"))], worker)
    assert worker.asked == ["a", "c"]


def deleting(server: str) -> Command:
    return server_command("del server", server, success=("(?s:.*)",))


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("Server deleted.", set()), ("No such server.", set()), ("Server still has…", {"b/s"})],
)
def test_servers_that_could_not_be_deleted_are_told(reply: str, expected: set[str]) -> None:
    assert carry_out([change(deleting("b/s"))], Worker(**{"del server b/s": reply})) == expected


def test_a_server_that_was_added_after_all_is_not_left_over() -> None:
    changes = [change(deleting("b/s"), server_command("add server", "b/s", "10.0.0.1:80"))]
    assert carry_out(changes, Worker(**{"del server b/s": "in use"})) == set()


def test_servers_left_over_are_swept_when_they_can_be() -> None:
    worker = Worker(**{"del server b/s": "Server deleted.", "del server b/t": "in use"})
    assert carry_out([change(Command("a"))], worker, ["b/s", "b/t"]) == {"b/t"}
    assert worker.asked == ["del server b/s", "del server b/t", "a"]


def test_a_server_left_over_that_comes_back_is_not_swept_again() -> None:
    worker = Worker(**{"del server b/s": "in use"})
    assert (
        carry_out([change(server_command("add server", "b/s", "10.0.0.1:80"))], worker, ["b/s"])
        == set()
    )


def test_the_servers_that_changes_touch() -> None:
    commands = [
        server_command("add server", "b:l/new", "10.0.0.1:80 weight 0"),
        server_command("enable health", "b:l/new"),
        server_command("set server", "b:l/old", "weight 3"),
        server_command("set server", "b:l/old", "state maint"),
        server_command("del server", "b:l/gone"),
        server_command("set maxconn server", "b:l/full", "10"),
        Command("disable frontend f/x"),
        Command("set maxconn frontend f 3"),
    ]
    assert commands[0].text == "add server b:l/new 10.0.0.1:80 weight 0"
    assert list_servers([change(*commands)]) == ("b:l/new", "b:l/old", "b:l/gone", "b:l/full")
