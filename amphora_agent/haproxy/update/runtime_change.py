"""A change of a running haproxy as a value: what to say, how to see that it holds, its words."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

#: Characters of a name, and sentences of a list.
_NAME, _SENTENCES = 100, 50


def show_name(text: str) -> str:
    """A name from a configuration as a word of a sentence."""
    printable = "".join(
        character
        if character.isascii() and character.isprintable()
        else character.encode("unicode_escape").decode()
        for character in text[: _NAME + 1]
    )
    return printable if len(printable) <= _NAME else printable[: _NAME - 1] + "…"


def shorten_list(sentences: Sequence[str]) -> tuple[str, ...]:
    """The sentences, or the first of them and how many more there are."""
    if len(sentences) <= _SENTENCES:
        return tuple(sentences)
    return *sentences[:_SENTENCES], f"and {len(sentences) - _SENTENCES} more"


class Command(NamedTuple):
    """One command for a worker.

    `text` is one line; `payload` (several lines, none of them blank, the last one with its end)
    follows it after `<<`, and one blank line ends it: haproxy 2.6 takes another for a command.
    `success` are the replies, as regular expressions for the whole of it without the blanks around
    it, that mean it was done. `moot` are those that mean that there is nothing to change: the rest
    of the change, and its proof, are left out. Any other reply is a refusal.
    `server` is the server, as `<backend>/<server>`, that the command is about.
    """

    text: str
    payload: str = ""
    success: tuple[str, ...] = ("",)
    moot: tuple[str, ...] = ()
    server: str = ""


def server_command(
    verb: str, server: str, arguments: str = "", success: tuple[str, ...] = ("",)
) -> Command:
    """Return the command `<verb> <server> <arguments>`, which is about a server."""
    return Command(f"{verb} {server} {arguments}".rstrip(), success=success, server=server)


class Verification(NamedTuple):
    """A command that only reads; `wrong` says of its reply what is not as it should be, or None."""

    text: str
    wrong: Callable[[str], str | None]


class Change(NamedTuple):
    """What changes, in words without secrets; how; and how to see that it did.

    `undo` ends what a refused command may have left open.
    """

    words: str
    commands: tuple[Command, ...]
    proof: tuple[Verification, ...]
    undo: tuple[Command, ...] = ()


class Finding(NamedTuple):
    """What differs, in words; and what it takes: a change, or a reload for a reason, or neither
    when it has no effect."""

    words: str
    change: Change | None = None
    reason: str = ""


def require_reload(words: str, because: str = "") -> Finding:
    """What only a reload can bring about; `because` is added to the words when it is not plain."""
    return Finding(words, reason=f"{words}: {because}" if because else words)
