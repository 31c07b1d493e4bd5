"""What old controllers send and haproxy refuses, made acceptable and not forgotten.

A file that is mended says in a comment, which haproxy passes over, how it came: from the file
alone `as_sent` gives back the controller's very bytes, and lines keep their numbers.
"""

from typing import NamedTuple

from amphora_agent.haproxy import signs, text

#: In front of a line of a configuration that haproxy is not to see.
_PASSED_OVER = b"#amphora-agent:"
#: Behind a crt-list whose last line did not end.
_LINE_ENDED = b"\n#amphora-agent: came without the newline before this line\n"

#: Statements that haproxy refuses. The option chose between two engines in 1.9 and 2.0, and is not
#: known any more. The group is what releases 1 and 2 write when they leave it to the agent.
_REFUSED = frozenset(
    {("option", "http-use-htx"), ("no", "option", "http-use-htx"), ("group", "None")}
)
#: What a text with one of them has somewhere, for a quick look.
_SIGNS = ("http-use-htx", "group None", _PASSED_OVER.decode())


class Mended(NamedTuple):
    """`content` is for haproxy; `changes` says what was done, in words for the log."""

    content: bytes
    changes: tuple[str, ...]


def configuration(sent: bytes, content: str | None = None) -> Mended:
    """A configuration without the statements that haproxy refuses; `content` is the same as text,
    if that is at hand."""
    if content is None:
        content = sent.decode(errors="surrogateescape")
    if not any(signs.has(content, sign) for sign in _SIGNS):
        return Mended(sent, ())
    lines = sent.split(b"\n")
    changes = []
    for index, line in enumerate(lines):
        refused = text.split(line.decode(errors="replace")) in _REFUSED
        if refused:
            changes.append(f"line {index + 1} left out: {line.strip().decode(errors='replace')!r}")
        # A comment of the controller's that looks like one of these has to come back as well.
        if refused or line.startswith(_PASSED_OVER):
            lines[index] = _PASSED_OVER + line
    return Mended(b"\n".join(lines), tuple(changes))


def configuration_as_sent(content: bytes) -> bytes:
    """What `configuration` was given."""
    if _PASSED_OVER not in content:
        return content
    return b"\n".join(line.removeprefix(_PASSED_OVER) for line in content.split(b"\n"))


def certificate(sent: bytes) -> Mended:
    """A certificate file; a crt-list (absolute paths, one a line) with its last line ended."""
    unended = sent.startswith(b"/") and not sent.endswith(b"\n")
    if unended or sent.endswith(_LINE_ENDED):
        return Mended(sent + _LINE_ENDED, ("last line ended",) if unended else ())
    return Mended(sent, ())


def certificate_as_sent(content: bytes) -> bytes:
    """What `certificate` was given."""
    return content.removesuffix(_LINE_ENDED)
