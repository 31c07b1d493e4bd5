"""Plan how to get from the running to the wanted state: nothing, commands, a reload or a start."""

import enum
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

from amphora_agent.haproxy.config import server_line, word_counts
from amphora_agent.haproxy.config.diff import ConfigDiff, compare_configs, find_defaults
from amphora_agent.haproxy.config.parser import Directive, Section, SectionText, Texts
from amphora_agent.haproxy.config.server_line import is_name
from amphora_agent.haproxy.replies.capabilities import Capabilities
from amphora_agent.haproxy.update import certificates, servers, transaction
from amphora_agent.haproxy.update.certificates import FileChange as FileChange
from amphora_agent.haproxy.update.runtime_change import (
    Change,
    Command,
    Finding,
    require_reload,
    shorten_list,
    show_name,
)

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


def compare_frontends(running: Section, wanted: Section) -> list[Finding]:
    """What differs in `maxconn` and `disabled` of a frontend."""
    listener = f"listener {show_name(wanted.name)}"
    found = []
    before, after = _only(running, "maxconn"), _only(wanted, "maxconn")
    if before != after:
        words = f"{listener}: connection limit {_shown(before)} -> {_shown(after)}"
        if not _number(before) or not _number(after) or not server_line.is_name(wanted.name):
            found.append(require_reload(words))
        else:
            change = Change(
                words,
                (Command(f"set maxconn frontend {wanted.name} {after[0]}"),),
                (transaction.verify_frontend(wanted.name, "slim", after[0]),),
            )
            found.append(Finding(words, change))
    was, will_be = _disabled(running), _disabled(wanted)
    if was != will_be:
        words = f"{listener}: {'disabled' if will_be else 'enabled'}"
        if not server_line.is_name(wanted.name) or was is None or will_be is None:
            found.append(require_reload(words))
        elif not will_be:
            # Only one that was disabled while haproxy ran can be enabled again.
            found.append(require_reload(words, "it has no sockets"))
        else:
            change = Change(
                words,
                (Command(f"disable frontend {wanted.name}"),),
                (transaction.verify_frontend(wanted.name, "status", "PAUSED"),),
            )
            found.append(Finding(words, change))
    return found


def compare_processes(running: Section, wanted: Section) -> list[Finding]:
    """What differs in `maxconn` of the process: it can only become less."""
    before, after = _only(running, "maxconn"), _only(wanted, "maxconn")
    if before == after:
        return []
    words = f"connection limit of all listeners {_shown(before)} -> {_shown(after)}"
    if not _number(before) or not _number(after):
        return [require_reload(words)]
    if int(after[0]) > int(before[0]):
        return [require_reload(words, "haproxy makes room for connections only when it starts")]
    command = Command(f"set maxconn global {after[0]}")
    return [
        Finding(
            words, Change(words, (command,), (transaction.verify_information("Maxconn", after[0]),))
        )
    ]


def compare_queues(running: Section, wanted: Section) -> list[Finding]:
    """What differs in `fullconn` of a backend: it only matters to members with a `minconn`."""
    before, after = _only(running, "fullconn"), _only(wanted, "fullconn")
    if before == after:
        return []
    words = f"pool {show_name(wanted.name)}: fullconn {_shown(before)} -> {_shown(after)}"
    matters = any("minconn" in line.words for line in wanted.directives)
    if matters or (after and not _number(after)):
        return [require_reload(words)]
    return [Finding(f"{words} (without effect)")]


def _only(section: Section, keyword: str) -> tuple[str, ...]:
    """The arguments of this directive; of several, those of all."""
    return tuple(word for line in section.all(keyword) for word in line.words[1:] or ("",))


def _number(arguments: tuple[str, ...]) -> bool:
    return len(arguments) == 1 and _NUMBER.fullmatch(arguments[0]) is not None


def _shown(arguments: tuple[str, ...]) -> str:
    return show_name(" ".join(arguments)) or "none"


def _disabled(section: Section) -> bool | None:
    """Whether a frontend is switched off; None when it is said more than once."""
    lines = [line.words for line in section.directives if line.words[0] in ("disabled", "enabled")]
    if len(lines) > 1:
        return None
    return lines == [("disabled",)]


#: Each `.if` needs one, and it is the longer word, which is found faster.
_CONDITION = re.compile(r"""^[ \t"']*\.endif""", re.MULTILINE)
#: What speaks of a server elsewhere than in its own line: `use-server`, `track`, `srv_is_up(…)`.
_REFERENCE = re.compile(r"(?:use-server|\btrack\b|srv_\w+\()[^\n]*")
_SIGNS_OF_REFERENCES = ("use-server", "track", "srv_")


class SectionContext:
    """Of the sections of these texts."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._defaults: dict[str, Section | None] = {}

    @cached_property
    def has_conditions(self) -> bool:
        """Whether there is `.if`: then a line that is there need not count."""
        return any(
            word_counts.has_word(text, ".endif") and _CONDITION.search(text)
            for text in self._texts.values()
        )

    def defaults_of(self, block: SectionText) -> Section | None:
        """The `defaults` section in effect for a section."""
        if block.file in self._defaults and self._has_one_defaults:
            return self._defaults[block.file]
        found = find_defaults(self._texts, block)
        self._defaults[block.file] = found.section() if found else None
        return self._defaults[block.file]

    def refers_to(self, server: str) -> bool:
        """Whether something speaks of a server of this name."""
        return any(server in reference for reference in self._references)

    @cached_property
    def _has_one_defaults(self) -> bool:
        """Whether all sections after it, and none before it, have the same."""
        return sum(word_counts.count_word(text, "defaults") for text in self._texts.values()) == 1

    @cached_property
    def _references(self) -> list[str]:
        return [
            reference
            for text in self._texts.values()
            if any(word_counts.has_word(text, sign) for sign in _SIGNS_OF_REFERENCES)
            for reference in _REFERENCE.findall(text)
        ]


#: The lines of a section of a kind that may differ without a reload.
_UNDERSTOOD = {
    "backend": frozenset({"server", "fullconn"}),
    "frontend": frozenset({"maxconn", "disabled", "enabled"}),
    "global": frozenset({"maxconn"}),
}


#: A line of words, and perhaps a comment. haproxy refuses a last line that has no end.
_PLAIN = re.compile(r"[ !%&(-\[\]-~\t\r]*+(?:#[^\0]*)?\n\Z")


#: haproxy 2.6.12 and 3.0.11 keep references to a certificate that was replaced, from the CA and CRL
#: files beside it, and die when such a file is replaced in its turn.
_AUTHORITIES_LATE = "a CA or CRL file changed, and certificates have changed while haproxy ran"


class Step(enum.Enum):
    NOTHING = "nothing"
    RUNTIME = "runtime"
    RELOAD = "reload"
    START = "start"


class Plan(NamedTuple):
    """One step; why it is no lesser one; what to change at run time, in this order; and all that
    differs, in words."""

    step: Step
    reasons: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    words: tuple[str, ...] = ()


def make_plan(
    running: Texts | None,
    wanted: Texts,
    files: Sequence[FileChange],
    capabilities: Capabilities,
    differs: ConfigDiff | None = None,
    *,
    certificates_changed: bool = False,
) -> Plan:
    """How to make what runs agree with what is committed, disturbing the least.

    `running` are the texts that haproxy has loaded and been changed to, None when it does not run.
    `files` are the certificate files that differ from what haproxy has loaded, `differs` is the
    difference of the texts where it is known already; `certificates_changed`: the worker has been
    given certificates while it ran. What is not fully understood takes a reload.
    """
    if running is None:
        return Plan(Step.START, ("it does not run",), words=("start of haproxy",))
    differs = compare_configs(running, wanted) if differs is None else differs
    found = _findings(running, wanted, differs, files, capabilities)
    reasons = shorten_list([finding.reason for finding in found if finding.reason])
    changes = tuple(finding.change for finding in found if finding.change)
    words = shorten_list([finding.words for finding in found])
    if reasons:
        return Plan(Step.RELOAD, reasons, (), words)
    certificates_changed |= certificates.exchanges_certificates(changes)
    if certificates_changed and certificates.exchanges_authorities(changes):
        return Plan(Step.RELOAD, (_AUTHORITIES_LATE,), (), words)
    if changes:
        return Plan(Step.RUNTIME, (), changes, words)
    return Plan(Step.NOTHING, words=words)


def _findings(
    running: Texts,
    wanted: Texts,
    differs: ConfigDiff,
    files: Sequence[FileChange],
    capabilities: Capabilities,
) -> list[Finding]:
    found = certificates.compare_files(files, running)
    if differs.reordered:
        return [*found, require_reload("sections follow one another otherwise")]
    surroundings = SectionContext(wanted)
    earlier = {str(n): block.text for n, (block, _) in enumerate(differs.changed)}
    if differs and (surroundings.has_conditions or SectionContext(earlier).has_conditions):
        found.append(require_reload("configuration changed", "it has conditions"))
    found += (require_reload(f"{_noun(block)} added") for block in differs.added if _counts(block))
    found += (
        require_reload(f"{_noun(block)} removed") for block in differs.removed if _counts(block)
    )
    for before, after in differs.changed:
        found += _of_block(before, after, surroundings, capabilities)
    return found


def _of_block(
    before: SectionText,
    after: SectionText,
    surroundings: SectionContext,
    capabilities: Capabilities,
) -> list[Finding]:
    running, wanted = before.section(), after.section()
    understood = _UNDERSTOOD.get(after.kind, frozenset())
    found = [*_unknown(after, _others(running, understood), _others(wanted, understood))]
    match after.kind:
        case "global":
            found += compare_processes(running, wanted)
        case "frontend":
            found += compare_frontends(running, wanted)
        case "backend":
            found += compare_queues(running, wanted)
            found += _of_members(after, running, wanted, surroundings, capabilities)
        case _:
            pass  # nothing of another section is understood
    unusual = _unusual(before, after)
    if unusual and not any(finding.reason for finding in found):
        words = f"{_noun(after)}: line {unusual.line} changed"
        found.append(require_reload(words, "it is not plainly written"))
    return found


def _of_members(
    block: SectionText,
    running: Section,
    wanted: Section,
    surroundings: SectionContext,
    capabilities: Capabilities,
) -> list[Finding]:
    if _words(running.all("server")) == _words(wanted.all("server")):
        return []
    if not is_name(wanted.name):
        return [require_reload(f"{_noun(block)}: members changed", "its name is not plain")]
    defaults = surroundings.defaults_of(block)
    return servers.compare_servers(running, wanted, defaults, surroundings.refers_to, capabilities)


def _unknown(
    block: SectionText, running: Sequence[Directive], wanted: Sequence[Directive]
) -> list[Finding]:
    """A finding for each kind of line that differs and cannot be changed at run time."""
    before, after = _words(running), _words(wanted)
    if before == after:
        return []
    less, more = Counter(before), Counter(after)
    keywords = [words[0] for words in [*(less - more), *(more - less)]]
    if not keywords:
        return [require_reload(f"{_noun(block)}: lines follow one another otherwise")]
    at = {line.words[0]: line.line for line in reversed(wanted) if line.words not in less}
    return [
        require_reload(
            f"{_noun(block)}: {show_name(keyword)} changed"
            + (f", line {at[keyword]}" if keyword in at else "")
        )
        for keyword in dict.fromkeys(keywords)
    ]


def _unusual(before: SectionText, after: SectionText) -> Directive | None:
    """A line that is new in a section and has quotes, escapes or what is no plain text before a
    comment: what haproxy makes of it, and whether it likes it, is haproxy's to say."""
    known = {line.written for line in before.lines()}
    new = (line for line in after.lines() if line.written not in known)
    return next((line for line in new if not _PLAIN.match(line.written)), None)


def _others(section: Section, understood: frozenset[str]) -> list[Directive]:
    """The header, and the lines that must stay as they are."""
    header = [section.header] if section.header else []
    return header + [line for line in section.directives if line.words[0] not in understood]


def _words(lines: Iterable[Directive]) -> list[tuple[str, ...]]:
    return [line.words for line in lines]


def _counts(block: SectionText) -> bool:
    """Whether there is anything in a block but comments."""
    return bool(block.kind or block.section().directives)


def _noun(block: SectionText) -> str:
    nouns = {"frontend": "listener", "backend": "pool", "": "what is before all sections"}
    return f"{nouns.get(block.kind, block.kind)} {show_name(block.name)}".strip()
