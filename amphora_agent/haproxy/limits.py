"""Limits of connections, and listeners that are switched off, while haproxy runs."""

import re

from amphora_agent.haproxy import readback, server, wording
from amphora_agent.haproxy.change import Change, Command, Finding, reload
from amphora_agent.haproxy.text import Section

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


def of_frontend(running: Section, wanted: Section) -> list[Finding]:
    """What differs in `maxconn` and `disabled` of a frontend."""
    listener = f"listener {wording.name(wanted.name)}"
    found = []
    before, after = _only(running, "maxconn"), _only(wanted, "maxconn")
    if before != after:
        words = f"{listener}: connection limit {_shown(before)} -> {_shown(after)}"
        if not _number(before) or not _number(after) or not server.is_name(wanted.name):
            found.append(reload(words))
        else:
            change = Change(
                words,
                (Command(f"set maxconn frontend {wanted.name} {after[0]}"),),
                (readback.frontend(wanted.name, "slim", after[0]),),
            )
            found.append(Finding(words, change))
    was, will_be = _disabled(running), _disabled(wanted)
    if was != will_be:
        words = f"{listener}: {'disabled' if will_be else 'enabled'}"
        if not server.is_name(wanted.name) or was is None or will_be is None:
            found.append(reload(words))
        elif not will_be:
            # Only one that was disabled while haproxy ran can be enabled again.
            found.append(reload(words, "it has no sockets"))
        else:
            change = Change(
                words,
                (Command(f"disable frontend {wanted.name}"),),
                (readback.frontend(wanted.name, "status", "PAUSED"),),
            )
            found.append(Finding(words, change))
    return found


def of_process(running: Section, wanted: Section) -> list[Finding]:
    """What differs in `maxconn` of the process: it can only become less."""
    before, after = _only(running, "maxconn"), _only(wanted, "maxconn")
    if before == after:
        return []
    words = f"connection limit of all listeners {_shown(before)} -> {_shown(after)}"
    if not _number(before) or not _number(after):
        return [reload(words)]
    if int(after[0]) > int(before[0]):
        return [reload(words, "haproxy makes room for connections only when it starts")]
    command = Command(f"set maxconn global {after[0]}")
    return [Finding(words, Change(words, (command,), (readback.information("Maxconn", after[0]),)))]


def of_queues(running: Section, wanted: Section) -> list[Finding]:
    """What differs in `fullconn` of a backend: it only matters to members with a `minconn`."""
    before, after = _only(running, "fullconn"), _only(wanted, "fullconn")
    if before == after:
        return []
    words = f"pool {wording.name(wanted.name)}: fullconn {_shown(before)} -> {_shown(after)}"
    matters = any("minconn" in line.words for line in wanted.directives)
    if matters or (after and not _number(after)):
        return [reload(words)]
    return [Finding(f"{words} (without effect)")]


def _only(section: Section, keyword: str) -> tuple[str, ...]:
    """The arguments of this directive; of several, those of all."""
    return tuple(word for line in section.all(keyword) for word in line.words[1:] or ("",))


def _number(arguments: tuple[str, ...]) -> bool:
    return len(arguments) == 1 and _NUMBER.fullmatch(arguments[0]) is not None


def _shown(arguments: tuple[str, ...]) -> str:
    return wording.name(" ".join(arguments)) or "none"


def _disabled(section: Section) -> bool | None:
    """Whether a frontend is switched off; None when it is said more than once."""
    lines = [line.words for line in section.directives if line.words[0] in ("disabled", "enabled")]
    if len(lines) > 1:
        return None
    return lines == [("disabled",)]
