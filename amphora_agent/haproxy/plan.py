"""What must happen to get from the running to the wanted state: decided first, then done."""

import enum
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from amphora_agent.haproxy import certificates, limits, members, wording
from amphora_agent.haproxy.capabilities import Capabilities
from amphora_agent.haproxy.certificates import FileChange as FileChange
from amphora_agent.haproxy.change import Change, Finding, reload
from amphora_agent.haproxy.difference import Difference, difference
from amphora_agent.haproxy.server import is_name
from amphora_agent.haproxy.surroundings import Surroundings
from amphora_agent.haproxy.text import Block, Directive, Section, Texts

#: The lines of a section of a kind that may differ without a reload.
_UNDERSTOOD = {
    "backend": frozenset({"server", "fullconn"}),
    "frontend": frozenset({"maxconn", "disabled", "enabled"}),
    "global": frozenset({"maxconn"}),
}


#: A line of words, and perhaps a comment. haproxy refuses a last line that has no end.
_PLAIN = re.compile(r"[ !%&(-\[\]-~\t\r]*+(?:#[^\0]*)?\n\Z")


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


def plan(
    running: Texts | None,
    wanted: Texts,
    files: Sequence[FileChange],
    capabilities: Capabilities,
    differs: Difference | None = None,
) -> Plan:
    """How to make what runs agree with what is committed, disturbing the least.

    `running` are the texts that haproxy has loaded and been changed to, None when it does not run.
    `files` are the certificate files that differ from what haproxy has loaded, `differs` is the
    difference of the texts where it is known already. What is not fully understood takes a reload.
    """
    if running is None:
        return Plan(Step.START, ("it does not run",), words=("started",))
    differs = difference(running, wanted) if differs is None else differs
    found = _findings(running, wanted, differs, files, capabilities)
    reasons = wording.bounded([finding.reason for finding in found if finding.reason])
    changes = tuple(finding.change for finding in found if finding.change)
    words = wording.bounded([finding.words for finding in found])
    if reasons:
        return Plan(Step.RELOAD, reasons, (), words)
    if changes:
        return Plan(Step.RUNTIME, (), changes, words)
    return Plan(Step.NOTHING, words=words)


def _findings(
    running: Texts,
    wanted: Texts,
    differs: Difference,
    files: Sequence[FileChange],
    capabilities: Capabilities,
) -> list[Finding]:
    found = certificates.findings(files, running)
    if differs.reordered:
        return [*found, reload("sections follow one another otherwise")]
    surroundings = Surroundings(wanted)
    earlier = {str(n): block.text for n, (block, _) in enumerate(differs.changed)}
    if differs and (surroundings.has_conditions or Surroundings(earlier).has_conditions):
        found.append(reload("configuration changed", "it has conditions"))
    found += (reload(f"{_noun(block)} added") for block in differs.added if _counts(block))
    found += (reload(f"{_noun(block)} removed") for block in differs.removed if _counts(block))
    for before, after in differs.changed:
        found += _of_block(before, after, surroundings, capabilities)
    return found


def _of_block(
    before: Block, after: Block, surroundings: Surroundings, capabilities: Capabilities
) -> list[Finding]:
    running, wanted = before.section(), after.section()
    understood = _UNDERSTOOD.get(after.kind, frozenset())
    found = [*_unknown(after, _others(running, understood), _others(wanted, understood))]
    match after.kind:
        case "global":
            found += limits.of_process(running, wanted)
        case "frontend":
            found += limits.of_frontend(running, wanted)
        case "backend":
            found += limits.of_queues(running, wanted)
            found += _of_members(after, running, wanted, surroundings, capabilities)
    unusual = _unusual(before, after)
    if unusual and not any(finding.reason for finding in found):
        words = f"{_noun(after)}: line {unusual.line} changed"
        found.append(reload(words, "it is not plainly written"))
    return found


def _of_members(
    block: Block,
    running: Section,
    wanted: Section,
    surroundings: Surroundings,
    capabilities: Capabilities,
) -> list[Finding]:
    if _words(running.all("server")) == _words(wanted.all("server")):
        return []
    if not is_name(wanted.name):
        return [reload(f"{_noun(block)}: members changed", "its name is not plain")]
    defaults = surroundings.defaults_of(block)
    return members.findings(running, wanted, defaults, surroundings.refers_to, capabilities)


def _unknown(
    block: Block, running: Sequence[Directive], wanted: Sequence[Directive]
) -> list[Finding]:
    """A finding for each kind of line that differs and cannot be changed at run time."""
    before, after = _words(running), _words(wanted)
    if before == after:
        return []
    less, more = Counter(before), Counter(after)
    keywords = [words[0] for words in [*(less - more), *(more - less)]]
    if not keywords:
        return [reload(f"{_noun(block)}: lines follow one another otherwise")]
    at = {line.words[0]: line.line for line in reversed(wanted) if line.words not in less}
    return [
        reload(
            f"{_noun(block)}: {wording.name(keyword)} changed"
            + (f", line {at[keyword]}" if keyword in at else "")
        )
        for keyword in dict.fromkeys(keywords)
    ]


def _unusual(before: Block, after: Block) -> Directive | None:
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


def _counts(block: Block) -> bool:
    """Whether there is anything in a block but comments."""
    return bool(block.kind or block.section().directives)


def _noun(block: Block) -> str:
    nouns = {"frontend": "listener", "backend": "pool", "": "what is before all sections"}
    return f"{nouns.get(block.kind, block.kind)} {wording.name(block.name)}".strip()
