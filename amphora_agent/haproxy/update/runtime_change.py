"""A change of a running haproxy as a value: the commands, how to verify them, a description."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from amphora_agent.haproxy.config.parser import SectionText

#: Characters of a name, and sentences of a list.
_NAME, _SENTENCES = 100, 50
#: Octavia's names of haproxy's sections.
_NOUNS = {"frontend": "listener", "backend": "pool", "": "what is before all sections"}


def show_name(text: str) -> str:
    """Return a name from a configuration as a printable word of a sentence."""
    printable = "".join(
        character
        if character.isascii() and character.isprintable()
        else character.encode("unicode_escape").decode()
        for character in text[: _NAME + 1]
    )
    return printable if len(printable) <= _NAME else printable[: _NAME - 1] + "…"


def show_section(block: SectionText) -> str:
    """Return what Octavia calls a section, with its name."""
    return f"{_NOUNS.get(block.kind, block.kind)} {show_name(block.name)}".strip()


def shorten_list(sentences: Sequence[str]) -> tuple[str, ...]:
    """Return the sentences, or the first fifty and how many more there are."""
    if len(sentences) <= _SENTENCES:
        return tuple(sentences)
    return *sentences[:_SENTENCES], f"and {len(sentences) - _SENTENCES} more"


class Command(NamedTuple):
    """One command for a worker.

    `text` is one line. `payload` (several lines, none of them blank, the last one with its end)
    follows it after `<<`, and one blank line ends it: haproxy 2.6 takes another for a command.
    Replies are compared without the blanks around them. A reply that matches one of `success`
    (regular expressions) means that the command was carried out. One that matches `moot` means that
    there is nothing to change: the rest of the change, and its proof, are left out. Any other reply
    is a refusal.
    `server` is the server, as `<backend>/<server>`, that the command changes.
    """

    text: str
    payload: str = ""
    success: tuple[str, ...] = ("",)
    moot: tuple[str, ...] = ()
    server: str = ""


def server_command(
    verb: str, server: str, arguments: str = "", success: tuple[str, ...] = ("",)
) -> Command:
    """Return the command `<verb> <server> <arguments>`, which changes a server."""
    return Command(f"{verb} {server} {arguments}".rstrip(), success=success, server=server)


class Verification(NamedTuple):
    """A command that only reads. `wrong` returns what is wrong with its reply, or None."""

    text: str
    wrong: Callable[[str], str | None]


class Change(NamedTuple):
    """A change: a description without secrets, commands, and how to verify that they had effect.

    `undo` closes what a refused command may have left open.
    """

    words: str
    commands: tuple[Command, ...]
    proof: tuple[Verification, ...]
    undo: tuple[Command, ...] = ()


class Finding(NamedTuple):
    """A difference, in words, and what it takes: a change, or a reload for a reason. It has neither
    when the difference has no effect."""

    words: str
    change: Change | None = None
    reason: str = ""


def require_reload(words: str, because: str = "") -> Finding:
    """Return a difference that takes a reload. `because` says why, unless that is plain."""
    return Finding(words, reason=f"{words}: {because}" if because else words)
