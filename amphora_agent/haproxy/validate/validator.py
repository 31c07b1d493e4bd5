"""Whether a configuration may be committed: policy, then what a start needs, then proof.

Proof costs in proportion to the change: nothing where nothing differs or where the agent
understands all that does; else one haproxy, which checks as little as proves the change, and
without the memory of a start. What is doubtful is checked whole.
"""

import contextlib
import enum
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from amphora_agent.errors import InvalidRequest
from amphora_agent.haproxy.config import preflight, word_counts
from amphora_agent.haproxy.config.diff import ConfigDiff, compare_configs
from amphora_agent.haproxy.config.minimal_config import build_minimal_config
from amphora_agent.haproxy.config.parser import SectionText, Texts, split_sections
from amphora_agent.haproxy.config.word_counts import CountedText
from amphora_agent.haproxy.named_files import certificate_content, crt_list, references
from amphora_agent.haproxy.policy.engine import find_violations
from amphora_agent.haproxy.policy.values import Bounds
from amphora_agent.haproxy.process.binary import Haproxy
from amphora_agent.haproxy.runtime import loaded_state
from amphora_agent.haproxy.runtime.loaded_state import PreparedPlan
from amphora_agent.haproxy.update import value_diff
from amphora_agent.haproxy.update.planner import Plan, Step, make_plan
from amphora_agent.haproxy.validate.resource_limits import ResourceLimits
from amphora_agent.model.events import Difference
from amphora_agent.paths import InstanceLayout, ObjectId
from amphora_agent.revisions import reading
from amphora_agent.revisions.contents import ContentLost
from amphora_agent.supervisor.command import Completed

logger = logging.getLogger(__name__)

#: A plan of more commands is made anew rather than kept.
_MOST_COMMANDS = 100


class Proof(enum.Enum):
    """How a configuration was found to be right."""

    SAME = "nothing differs"
    UNDERSTOOD = "all that differs is understood"
    PORTION = "haproxy checked what differs"
    WHOLE = "haproxy checked all"


class Candidate(NamedTuple):
    """What is to be accepted: texts by the names of their files, of which `theirs` are the
    controller's, or made of what it says. `check` lets haproxy check these texts, or as much of
    them as proves what is new. `committed` are those that are committed, as far as they have been
    read. `replaced` are those of a haproxy whose place it takes. `has_files`: the files that the
    texts name are in their places already."""

    texts: Texts
    theirs: Collection[str]
    check: Callable[[Texts], Completed]
    committed: Texts = MappingProxyType({})
    replaced: Texts = MappingProxyType({})
    has_files: bool = True


class Verdict(NamedTuple):
    """`proven`: of all that the configuration has, haproxy has checked everything, by and by.
    `counts`: of the words of its texts, for the next one. `foreseen`: how it can be carried out.
    `differences`: from what was committed, the first ones."""

    proof: Proof
    proven: bool
    counts: Mapping[str, Mapping[str, int]] = MappingProxyType({})
    foreseen: PreparedPlan | None = None
    differences: tuple[Difference, ...] = ()


class _Accepted(NamedTuple):
    """What is known of a committed configuration, and of which: the digests of its texts and the
    signature of the haproxy that checked it."""

    files: tuple[object, ...]
    verdict: Verdict


class Validator:
    """Decides about the uploads of all instances; those of one must follow one another."""

    def __init__(
        self, haproxy: Haproxy, headroom: ResourceLimits, bounds: Callable[[InstanceLayout], Bounds]
    ) -> None:
        self._haproxy = haproxy
        self._headroom = headroom
        self._bounds = bounds
        self._accepted: dict[ObjectId, _Accepted] = {}

    def require(self, instance: InstanceLayout, candidate: Candidate) -> Verdict:
        """Return when the candidate may be committed; `committed` must be told when it is.

        Raises:
            InvalidRequest: it may not; the details have lines and reasons.
            OperationFailed: haproxy could not be asked.
        """
        wanted = candidate.texts
        if any("\0" in content for content in wanted.values()):
            raise _refusal("the configuration has a NUL byte")
        known = self._known(instance)
        committed = _committed(instance, candidate.committed)
        change = compare_configs(committed, wanted) if committed else None
        proven = known is not None and known.proven
        counts = {name: word_counts.get_counts(content) for name, content in wanted.items()}

        self._require_policy(instance, candidate, change if known else None)
        self._require_descriptors(wanted)
        if change == ConfigDiff():
            return Verdict(Proof.SAME, proven, counts, known.foreseen if known else None)
        foreseen = None
        told = value_diff.compare_values(change, candidate.theirs)
        if committed and change:
            decided = make_plan(committed, wanted, (), self._haproxy.capabilities(), change)
            foreseen = self._foreseen(instance, decided)
            if decided.step in (Step.NOTHING, Step.RUNTIME):
                return Verdict(Proof.UNDERSTOOD, proven, counts, foreseen, told)
        runs = committed if committed and instance.master_socket.exists() else {}
        self._require_memory(instance, runs or candidate.replaced, wanted)
        part = build_minimal_config(wanted, change) if change and proven else None
        self._require_check(candidate, part or wanted)
        proof = Proof.PORTION if part else Proof.WHOLE
        return Verdict(proof, proven=True, counts=counts, foreseen=foreseen, differences=told)

    def committed_configuration(self, instance: InstanceLayout) -> CountedText | None:
        """What the controller sent last, if it is known which words are in it."""
        known = self._known(instance)
        counts = known.counts.get(instance.configuration.name) if known else None
        if not counts:
            return None
        try:
            content = reading.read(instance, instance.configuration.name)
        except ContentLost:
            return None  # nobody can read it any more: what comes now is looked at whole
        return word_counts.attach_counts(content.decode(errors="surrogateescape"), counts)

    def committed(self, instance: InstanceLayout, verdict: Verdict) -> None:
        """Remember the verdict about what is under the instance's names now."""
        self._accepted[instance.id] = _Accepted(self._signatures(instance), verdict)

    def foreseen(self, instance: InstanceLayout) -> PreparedPlan | None:
        """How the configuration that was accepted last can be carried out, if that is known."""
        known = self._known(instance)
        return known.foreseen if known else None

    def forget(self, instance_id: ObjectId) -> None:
        self._accepted.pop(instance_id, None)

    def _known(self, instance: InstanceLayout) -> Verdict | None:
        """The verdict about what is committed."""
        known = self._accepted.get(instance.id)
        if known is None:
            return None
        with contextlib.suppress(ContentLost):
            return known.verdict if known.files == self._signatures(instance) else None
        return None

    def _foreseen(self, instance: InstanceLayout, decided: Plan) -> PreparedPlan | None:
        """A plan that is worth to be kept until the configuration is to run."""
        if sum(len(change.commands) for change in decided.changes) > _MOST_COMMANDS:
            return None
        before = loaded_state.digest_committed(instance)
        return PreparedPlan(before, self._haproxy.installed(), decided)

    def _signatures(self, instance: InstanceLayout) -> tuple[object, ...]:
        return (
            loaded_state.digest_committed(instance),
            self._haproxy.installed(),
        )

    def _require_policy(
        self, instance: InstanceLayout, candidate: Candidate, change: ConfigDiff | None
    ) -> None:
        """`change` is the one from a configuration that was within the policy, if there was."""
        theirs = candidate.theirs
        if change is None or change.reordered:
            new = list(
                split_sections(
                    {name: content for name, content in candidate.texts.items() if name in theirs}
                )
            )
        else:
            after = (*(block for _, block in change.changed), *change.added)
            new = [block for block in after if block.file in theirs]
        bounds = self._bounds(instance)
        directory = instance.configuration.parent
        lines = [
            f"[{directory / each.file}:{each.line}] : {each.reason}"
            for each in find_violations(new, bounds)
        ]
        if not lines and candidate.has_files:  # what may not be named is not read
            lines += _violations_in_lists(new, bounds)
        if lines:
            raise _refusal("\n".join(lines))

    def _require_descriptors(self, texts: Texts) -> None:
        limit = self._headroom.descriptors()
        short = preflight.find_shortage(texts, limit)
        if short:
            raise _refusal(
                f"maxconn {short.connections}: haproxy would need at least {short.least} file"
                f" descriptors to start, and may have {limit}"
            )

    def _require_memory(self, instance: InstanceLayout, running: Texts, wanted: Texts) -> None:
        """See that there is memory for the new worker beside those that run, and for that of the
        next reload beside this one. A TLS session cache of the controller's size must fit once: it
        may be made for half of the machine."""
        version, threads = self._haproxy.capabilities().version, self._headroom.threads()
        needed, cache = (
            preflight.estimate_memory(wanted, version, threads),
            preflight.estimate_tls_cache(wanted),
        )
        room, given_back = self._headroom.memory(), preflight.estimate_tls_cache(running)
        if cache > room:
            raise _refusal(
                f"tune.ssl.cachesize: a new worker would need {cache >> 20} MiB for its TLS"
                f" session cache, and {room >> 20} MiB are available"
            )
        if cache and cache > room - cache + given_back:
            logger.warning(
                "instance=%s the TLS session cache takes %d MiB, and a reload as much again for a"
                " while: that is more than there will be",
                instance.id,
                cache >> 20,
            )
        if running:
            before = preflight.estimate_memory(running, version, threads)
            if needed.most() <= before.most():
                return  # what there is may be changed, and become less
            given_back += before.serving
        if needed.start + cache > room or needed.most() + cache > room + given_back:
            raise _refusal(
                f"haproxy would need about {needed.start >> 20} MiB to load so many listeners,"
                f" pools and members, while a worker with {needed.serving >> 20} MiB serves, and"
                f" {room + given_back - cache >> 20} MiB are available for both"
            )

    def _require_check(self, candidate: Candidate, texts: Texts) -> None:
        checked = candidate.check(texts)
        if not checked.succeeded:
            raise _refusal(checked.output.strip())


def _committed(instance: InstanceLayout, read: Texts) -> Texts | None:
    try:
        texts = loaded_state.open_committed(instance)
        return {name: read[name] if name in read else texts[name] for name in texts} or None
    except (FileNotFoundError, ContentLost):
        return None


def _violations_in_lists(new: Iterable[SectionText], bounds: Bounds) -> Iterator[str]:
    """What the crt-lists that these sections name may not have. They may have been there before
    anybody knew what they are."""
    check_entry = partial(crt_list.check_entry, bounds=bounds)
    for path in sorted(
        references.find_crt_lists({str(n): block.text for n, block in enumerate(new)})
    ):
        with contextlib.suppress(OSError):  # haproxy says what is wrong with the file
            for line, reason in certificate_content.find_entry_violations(
                Path(path).read_bytes(), check_entry
            ):
                yield f"[{path}:{line}] : {reason}"


def _refusal(details: str) -> InvalidRequest:
    return InvalidRequest("Invalid request", details)
