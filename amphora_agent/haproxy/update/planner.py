"""Plan how to get from the running to the wanted state: nothing, commands, a reload or a start."""

import enum
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from amphora_agent.haproxy.config import diff
from amphora_agent.haproxy.config.diff import ConfigDiff, compare_configs, find_defaults
from amphora_agent.haproxy.config.parser import Directive, Section, SectionText, Texts
from amphora_agent.haproxy.config.server_line import is_name
from amphora_agent.haproxy.replies import Capabilities
from amphora_agent.haproxy.update import certificates, servers, transaction
from amphora_agent.haproxy.update.certificates import FileChange as FileChange
from amphora_agent.haproxy.update.transaction import (
    Command,
    Finding,
    RuntimeChange,
    Verification,
    require_reload,
    shorten_list,
    show_name,
    show_section,
)

#: Keywords that may differ without a reload, by the kind of section.
_CHANGEABLE = {
    "backend": frozenset({"server", "fullconn"}),
    "frontend": frozenset({"maxconn", "disabled", "enabled"}),
    "global": frozenset({"maxconn"}),
}
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
#: A line of plain words, and perhaps a comment. haproxy refuses a last line that has no end.
_PLAIN = re.compile(r"[ !%&(-\[\]-~\t\r]*+(?:#[^\0]*)?\n\Z")
#: Each `.if` needs an `.endif`, the longer word, which is found faster.
_CONDITION = re.compile(r"""^[ \t"']*\.endif""", re.MULTILINE)
#: What names a server outside its own line: `use-server`, `track`, `srv_is_up(…)`.
_REFERENCE = re.compile(r"(?:use-server|\btrack\b|srv_\w+\()[^\n]*")
_REFERENCE_WORDS = ("use-server", "track", "srv_")

#: haproxy 2.6.12 and 3.0.11 keep references to a certificate that was replaced, from the CA and CRL
#: files beside it, and die when such a file is replaced in its turn.
_AUTHORITIES_LATE = "a CA or CRL file changed, and certificates have changed while haproxy ran"


class Step(enum.Enum):
    """What is done to a haproxy, from least to most disturbing."""

    NOTHING = "nothing"
    RUNTIME = "runtime"
    RELOAD = "reload"
    START = "start"


class Plan(NamedTuple):
    """A step, and in `reasons` why no lesser one is enough. `changes` are for the runtime API, in
    order. `words` describe every difference."""

    step: Step
    reasons: tuple[str, ...] = ()
    changes: tuple[RuntimeChange, ...] = ()
    words: tuple[str, ...] = ()


def make_plan(
    running: Texts | None,
    wanted: Texts,
    files: Sequence[FileChange],
    capabilities: Capabilities,
    config_diff: ConfigDiff | None = None,
    *,
    certificates_changed: bool = False,
) -> Plan:
    """Plan how to make haproxy run what is committed, with the least disturbing step.

    `running` are the texts that haproxy has loaded, as runtime changes have altered them; None when
    haproxy does not run. `files` differ from what haproxy has loaded. `config_diff` is the
    difference of the texts, if it is known already. `certificates_changed`: the worker has been
    given certificates since it started. A difference that is not fully understood takes a reload.
    """
    if running is None:
        return Plan(Step.START, ("it does not run",), words=("start of haproxy",))
    config_diff = config_diff or compare_configs(running, wanted)
    findings = certificates.compare_files(files, running)
    findings += _compare_sections(wanted, config_diff, capabilities)
    reasons = shorten_list([finding.reason for finding in findings if finding.reason])
    changes = tuple(finding.change for finding in findings if finding.change)
    words = shorten_list([finding.words for finding in findings])
    if reasons:
        return Plan(Step.RELOAD, reasons, (), words)
    certificates_changed |= certificates.exchanges_certificates(changes)
    if certificates_changed and certificates.exchanges_authorities(changes):
        return Plan(Step.RELOAD, (_AUTHORITIES_LATE,), (), words)
    return Plan(Step.RUNTIME if changes else Step.NOTHING, (), changes, words)


class SectionContext:
    """Context that a section needs from other sections of these texts."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._defaults: dict[str, Section | None] = {}

    @cached_property
    def has_conditions(self) -> bool:
        """Whether a text has `.if`: then haproxy may skip lines."""
        return any(
            diff.has_word(text, ".endif") and _CONDITION.search(text)
            for text in self._texts.values()
        )

    def find_defaults(self, block: SectionText) -> Section | None:
        """Return the `defaults` section in effect for a section."""
        if block.file not in self._defaults or not self._has_one_defaults:
            defaults = find_defaults(self._texts, block)
            self._defaults[block.file] = defaults.section() if defaults else None
        return self._defaults[block.file]

    def refers_to(self, server: str) -> bool:
        """Whether a line other than its own names a server."""
        return any(server in reference for reference in self._references)

    @cached_property
    def _has_one_defaults(self) -> bool:
        """Whether all sections after it, and none before it, have the same `defaults`."""
        return sum(diff.count_word(text, "defaults") for text in self._texts.values()) == 1

    @cached_property
    def _references(self) -> list[str]:
        return [
            reference
            for text in self._texts.values()
            if any(diff.has_word(text, word) for word in _REFERENCE_WORDS)
            for reference in _REFERENCE.findall(text)
        ]


def _compare_sections(
    wanted: Texts, config_diff: ConfigDiff, capabilities: Capabilities
) -> list[Finding]:
    if config_diff.reordered:
        return [require_reload("sections follow one another otherwise")]
    context = SectionContext(wanted)
    earlier = {str(n): block.text for n, (block, _) in enumerate(config_diff.changed)}
    findings = []
    if context.has_conditions or SectionContext(earlier).has_conditions:
        findings.append(require_reload("configuration changed", "it has conditions"))
    for what, blocks in (("added", config_diff.added), ("removed", config_diff.removed)):
        # Lines before the first section may be nothing but comments.
        findings += [
            require_reload(f"{show_section(block)} {what}")
            for block in blocks
            if block.kind or block.section().directives
        ]
    for before, after in config_diff.changed:
        findings += _compare_section(before, after, context, capabilities)
    return findings


def _compare_section(
    before: SectionText, after: SectionText, context: SectionContext, capabilities: Capabilities
) -> list[Finding]:
    running, wanted = before.section(), after.section()
    findings = _compare_other_lines(after, running, wanted)
    match after.kind:
        case "global":
            findings += _compare_global(running, wanted)
        case "frontend":
            findings += _compare_frontend(running, wanted)
        case "backend":
            findings += _compare_fullconn(running, wanted)
            findings += _compare_servers(after, running, wanted, context, capabilities)
        case _:
            pass  # nothing of another section can change at run time
    if not any(finding.reason for finding in findings):
        # What haproxy makes of quotes and escapes in a new line, only haproxy can tell.
        known = {line.written for line in before.lines()}
        for line in after.lines():
            if line.written not in known and not _PLAIN.match(line.written):
                words = f"{show_section(after)}: line {line.line} changed"
                return [*findings, require_reload(words, "it is not plainly written")]
    return findings


def _compare_other_lines(block: SectionText, running: Section, wanted: Section) -> list[Finding]:
    """Return a finding for each keyword that differs and cannot change at run time."""
    wanted_lines = _find_other_lines(wanted)
    before = [line.words for line in _find_other_lines(running)]
    after = [line.words for line in wanted_lines]
    if before == after:
        return []
    gone, new = Counter(before) - Counter(after), Counter(after) - Counter(before)
    if not gone and not new:
        return [require_reload(f"{show_section(block)}: lines follow one another otherwise")]
    known = set(before)
    line_numbers = {
        line.words[0]: line.line for line in reversed(wanted_lines) if line.words not in known
    }
    return [
        require_reload(
            f"{show_section(block)}: {show_name(keyword)} changed"
            + (f", line {line_numbers[keyword]}" if keyword in line_numbers else "")
        )
        for keyword in dict.fromkeys(words[0] for words in (*gone, *new))
    ]


def _find_other_lines(section: Section) -> list[Directive]:
    """Return the header, and the lines that must stay as they are."""
    changeable = _CHANGEABLE.get(section.kind, frozenset())
    header = [section.header] if section.header else []
    return header + [line for line in section.directives if line.words[0] not in changeable]


def _compare_global(running: Section, wanted: Section) -> list[Finding]:
    """Compare `maxconn` of the process, which haproxy can only lower."""
    before, after = _find_arguments(running, "maxconn"), _find_arguments(wanted, "maxconn")
    if before == after:
        return []
    words = f"connection limit of all listeners {_show(before)} -> {_show(after)}"
    if not _is_number(before) or not _is_number(after):
        return [require_reload(words)]
    if int(after[0]) > int(before[0]):
        return [require_reload(words, "haproxy makes room for connections only when it starts")]
    proof = transaction.verify_information("Maxconn", after[0])
    return [_change(words, f"set maxconn global {after[0]}", proof)]


def _compare_frontend(running: Section, wanted: Section) -> list[Finding]:
    """Compare `maxconn` and `disabled`."""
    name, findings = wanted.name, []
    before, after = _find_arguments(running, "maxconn"), _find_arguments(wanted, "maxconn")
    if before != after:
        words = f"listener {show_name(name)}: connection limit {_show(before)} -> {_show(after)}"
        if _is_number(before) and _is_number(after) and is_name(name):
            proof = transaction.verify_frontend(name, "slim", after[0])
            findings.append(_change(words, f"set maxconn frontend {name} {after[0]}", proof))
        else:
            findings.append(require_reload(words))
    was_disabled, is_disabled = _find_disabled(running), _find_disabled(wanted)
    if was_disabled != is_disabled:
        words = f"listener {show_name(name)}: {'disabled' if is_disabled else 'enabled'}"
        if not is_name(name) or was_disabled is None or is_disabled is None:
            findings.append(require_reload(words))
        elif is_disabled:
            proof = transaction.verify_frontend(name, "status", "PAUSED")
            findings.append(_change(words, f"disable frontend {name}", proof))
        else:
            # haproxy can only enable a frontend that was disabled while it ran.
            findings.append(require_reload(words, "it has no sockets"))
    return findings


def _compare_fullconn(running: Section, wanted: Section) -> list[Finding]:
    """Compare `fullconn` of a backend, which matters only to servers with a `minconn`."""
    before, after = _find_arguments(running, "fullconn"), _find_arguments(wanted, "fullconn")
    if before == after:
        return []
    words = f"pool {show_name(wanted.name)}: fullconn {_show(before)} -> {_show(after)}"
    matters = any("minconn" in line.words for line in wanted.directives)
    if matters or (after and not _is_number(after)):
        return [require_reload(words)]
    return [Finding(f"{words} (without effect)")]


def _compare_servers(
    block: SectionText,
    running: Section,
    wanted: Section,
    context: SectionContext,
    capabilities: Capabilities,
) -> list[Finding]:
    before, after = ([line.words for line in side.all("server")] for side in (running, wanted))
    if before == after:
        return []
    if not is_name(wanted.name):
        return [require_reload(f"{show_section(block)}: members changed", "its name is not plain")]
    defaults = context.find_defaults(block)
    return servers.compare_servers(running, wanted, defaults, context.refers_to, capabilities)


def _change(words: str, command: str, proof: Verification) -> Finding:
    return Finding(words, RuntimeChange(words, (Command(command),), (proof,)))


def _find_arguments(section: Section, keyword: str) -> tuple[str, ...]:
    """Return the arguments of a directive; if there are several, those of all."""
    return tuple(word for line in section.all(keyword) for word in line.words[1:] or ("",))


def _is_number(arguments: tuple[str, ...]) -> bool:
    return len(arguments) == 1 and _NUMBER.fullmatch(arguments[0]) is not None


def _show(arguments: tuple[str, ...]) -> str:
    return show_name(" ".join(arguments)) or "none"


def _find_disabled(section: Section) -> bool | None:
    """Return whether a frontend is disabled; None when several lines say so."""
    lines = [line.words for line in section.directives if line.words[0] in ("disabled", "enabled")]
    return None if len(lines) > 1 else lines == [("disabled",)]
