"""A change of a running haproxy, as a value: what to say, and how to see that it holds."""

from collections.abc import Callable
from typing import NamedTuple


class Command(NamedTuple):
    """One command for a worker.

    `text` is one line; `payload` (several lines, none of them blank, the last one with its end)
    follows it after `<<`, and one blank line ends it: haproxy 2.6 takes another for a command.
    `success` are the replies, as regular expressions for the whole of it without the blanks around
    it, that mean it was done. `moot` are those that mean that there is nothing to change: the rest
    of the change, and its proof, are left out. Any other reply is a refusal.
    """

    text: str
    payload: str = ""
    success: tuple[str, ...] = ("",)
    moot: tuple[str, ...] = ()


class Inquiry(NamedTuple):
    """A command that only reads; `wrong` says of its reply what is not as it should be, or None."""

    text: str
    wrong: Callable[[str], str | None]


class Change(NamedTuple):
    """What changes, in words without secrets; how; and how to see that it did.

    `undo` ends what a refused command may have left open.
    """

    words: str
    commands: tuple[Command, ...]
    proof: tuple[Inquiry, ...]
    undo: tuple[Command, ...] = ()


class Finding(NamedTuple):
    """What differs, in words; and what it takes: a change, or a reload for a reason, or neither
    when it has no effect."""

    words: str
    change: Change | None = None
    reason: str = ""


def reload(words: str, because: str = "") -> Finding:
    """What only a reload can bring about; `because` is added to the words when it is not plain."""
    return Finding(words, reason=f"{words}: {because}" if because else words)
