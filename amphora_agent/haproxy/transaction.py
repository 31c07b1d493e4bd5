"""Carrying out changes on a worker: each command judged by its reply, then all read back.

What is refused or does not hold is not mended here: only a reload gets there then.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Sequence

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy.change import Change, Command

#: Asks the worker: a command, its payload; raises OperationFailed when there is no answer.
Ask = Callable[[str, str], str]


#: A command about a server.
_SERVER = re.compile(r"(?:add|del|disable|enable|set) (?:agent|health|server) (\S+/\S+)")


class Refused(OperationFailed):
    """haproxy did not do it, or it does not hold. What was done before that stays done."""


class _Moot(Exception):
    """There is nothing left to change."""


def carry_out(changes: Iterable[Change], ask: Ask, left_over: Iterable[str] = ()) -> set[str]:
    """Carry the changes out, one after another, then see that all of them hold. Returns the
    servers, as `<backend>/<server>`, that were to go and that haproxy could not delete yet; those
    of earlier changes, `left_over`, are tried again first.

    Raises:
        Refused: one was not done or does not hold. No transaction of it is left open, unless the
            worker does not answer any more.
    """
    still_there = {server for server in left_over if not _is_gone(_delete(server, ask))}
    done: list[Change] = []
    for change in changes:
        try:
            for command in change.commands:
                reply = _carry_out(command, ask)
                server = _name_after("del server", command)
                if server and not _is_gone(reply):
                    still_there.add(server)
                still_there.discard(_name_after("add server", command))
        except _Moot:
            continue
        except Refused as refusal:
            _undo(change.undo, ask)
            raise Refused(change.words, str(refusal)) from refusal
        done.append(change)
    _prove(done, ask)
    return still_there


def servers(changes: Iterable[Change]) -> tuple[str, ...]:
    """The servers, as `<backend>/<server>`, that changes touch."""
    found = (_SERVER.match(command.text) for change in changes for command in change.commands)
    return tuple(dict.fromkeys(match[1] for match in found if match))


def _name_after(words: str, command: Command) -> str:
    found = _SERVER.match(command.text)
    return found[1] if found and command.text.startswith(f"{words} ") else ""


def _delete(server: str, ask: Ask) -> str:
    return _say(f"del server {server}", "", ask)


def _is_gone(reply: str) -> bool:
    return reply.startswith(("Server deleted", "No such server"))


def _carry_out(command: Command, ask: Ask) -> str:
    reply = _say(command.text, command.payload, ask)
    if _is_one_of(reply, command.moot):
        raise _Moot
    if not _is_one_of(reply, command.success):
        raise Refused(f"haproxy refused {command.text!r}", _short(reply) or "an empty reply")
    return reply


def _is_one_of(reply: str, patterns: Sequence[str]) -> bool:
    return any(re.fullmatch(pattern, reply, re.DOTALL) for pattern in patterns)


def _undo(commands: Sequence[Command], ask: Ask) -> None:
    # Whoever does not answer any more is to be replaced, transactions and all.
    with contextlib.suppress(Refused):
        for command in commands:
            _say(command.text, command.payload, ask)


def _prove(changes: Sequence[Change], ask: Ask) -> None:
    """Ask each question once, whoever has it."""
    replies: dict[str, str] = {}
    for change in changes:
        for inquiry in change.proof:
            if inquiry.text not in replies:
                replies[inquiry.text] = _say(inquiry.text, "", ask)
            if wrong := inquiry.wrong(replies[inquiry.text]):
                raise Refused(change.words, f"it does not hold: {_short(wrong)}")


def _say(text: str, payload: str, ask: Ask) -> str:
    try:
        return ask(text, payload).strip()
    except ValueError as error:
        raise Refused("cannot be said to haproxy", str(error)) from error
    except OperationFailed as error:
        raise Refused(f"no answer to {text!r}", str(error)) from error


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]}…"
