"""Whether a configuration may be committed: policy, then what a start needs, then proof.

Proof costs in proportion to the change: nothing where nothing differs or where the agent
understands all that does; else one haproxy, which checks as little as proves the change, and
without the memory of a start. What is doubtful is checked whole.
"""

import enum
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from amphora_agent import files
from amphora_agent.errors import InvalidRequest
from amphora_agent.haproxy import preflight, running, signs
from amphora_agent.haproxy.difference import Difference, difference
from amphora_agent.haproxy.headroom import Headroom
from amphora_agent.haproxy.plan import Plan, Step, plan
from amphora_agent.haproxy.policy import Bounds, violations
from amphora_agent.haproxy.portion import portion
from amphora_agent.haproxy.process import Haproxy
from amphora_agent.haproxy.running import Foreseen
from amphora_agent.haproxy.signs import Counted
from amphora_agent.haproxy.text import Block, Texts, blocks
from amphora_agent.layout import InstanceLayout, ObjectId
from amphora_agent.processes.command import Completed

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
    read; of a declared instance all."""

    texts: Texts
    theirs: Collection[str]
    check: Callable[[Texts], Completed]
    committed: Texts = MappingProxyType({})


class Verdict(NamedTuple):
    """`proven`: of all that the configuration has, haproxy has checked everything, by and by.
    `counts`: of the words of its texts, for the next one. `foreseen`: how it can be carried out."""

    proof: Proof
    proven: bool
    counts: Mapping[str, Mapping[str, int]] = MappingProxyType({})
    foreseen: Foreseen | None = None


class _Accepted(NamedTuple):
    """What is known of a committed configuration, and of which: the signatures of its files and of
    the haproxy that checked it."""

    files: tuple[object, ...]
    verdict: Verdict


class Acceptance:
    """Decides about the uploads of all instances; those of one must follow one another."""

    def __init__(
        self, haproxy: Haproxy, headroom: Headroom, bounds: Callable[[InstanceLayout], Bounds]
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
        change = difference(committed, wanted) if committed else None
        proven = known is not None and known.proven
        counts = {name: signs.known(content) for name, content in wanted.items()}

        self._require_policy(instance, candidate, change if known else None)
        self._require_descriptors(wanted)
        if change == Difference():
            return Verdict(Proof.SAME, proven, counts, known.foreseen if known else None)
        foreseen = None
        if committed and change:
            decided = plan(committed, wanted, (), self._haproxy.capabilities(), change)
            foreseen = self._foreseen(instance, decided)
            if decided.step in (Step.NOTHING, Step.RUNTIME):
                return Verdict(Proof.UNDERSTOOD, proven, counts, foreseen)
        self._require_memory(instance, committed, wanted)
        part = portion(wanted, change) if change and proven else None
        self._require_check(candidate, part or wanted)
        proof = Proof.PORTION if part else Proof.WHOLE
        return Verdict(proof, proven=True, counts=counts, foreseen=foreseen)

    def committed_configuration(self, instance: InstanceLayout) -> Counted | None:
        """What the controller sent last, if it is known which words are in it."""
        known = self._known(instance)
        counts = known.counts.get(instance.configuration.name) if known else None
        if not counts:
            return None
        return signs.with_counts(files.text(instance.configuration), counts)

    def committed(self, instance: InstanceLayout, verdict: Verdict) -> None:
        """Remember the verdict about what is under the instance's names now."""
        self._accepted[instance.id] = _Accepted(self._signatures(instance), verdict)

    def foreseen(self, instance: InstanceLayout) -> Foreseen | None:
        """How the configuration that was accepted last can be carried out, if that is known."""
        known = self._known(instance)
        return known.foreseen if known else None

    def forget(self, instance_id: ObjectId) -> None:
        self._accepted.pop(instance_id, None)

    def _known(self, instance: InstanceLayout) -> Verdict | None:
        """The verdict about what is committed."""
        known = self._accepted.get(instance.id)
        return known.verdict if known and known.files == self._signatures(instance) else None

    def _foreseen(self, instance: InstanceLayout, decided: Plan) -> Foreseen | None:
        """A plan that is worth to be kept until the configuration is to run."""
        if sum(len(change.commands) for change in decided.changes) > _MOST_COMMANDS:
            return None
        before = running.signatures(instance.loads)
        return Foreseen(before, self._haproxy.installed(), decided)

    def _signatures(self, instance: InstanceLayout) -> tuple[object, ...]:
        return (
            *running.signatures(instance.loads),
            self._haproxy.installed(),
        )

    def _require_policy(
        self, instance: InstanceLayout, candidate: Candidate, change: Difference | None
    ) -> None:
        """`change` is the one from a configuration that was within the policy, if there was."""
        theirs = candidate.theirs
        if change is None or change.reordered:
            new: Iterable[Block] = blocks(
                {name: content for name, content in candidate.texts.items() if name in theirs}
            )
        else:
            after = (*(block for _, block in change.changed), *change.added)
            new = (block for block in after if block.file in theirs)
        found = violations(new, self._bounds(instance))
        if found:
            directory = instance.configuration.parent
            lines = (f"[{directory / each.file}:{each.line}] : {each.reason}" for each in found)
            raise _refusal("\n".join(lines))

    def _require_descriptors(self, texts: Texts) -> None:
        limit = self._headroom.descriptors()
        short = preflight.descriptors(texts, limit)
        if short:
            raise _refusal(
                f"maxconn {short.connections}: haproxy would need at least {short.least} file"
                f" descriptors to start, and may have {limit}"
            )

    def _require_memory(
        self, instance: InstanceLayout, committed: Texts | None, wanted: Texts
    ) -> None:
        needed = preflight.tls_cache(wanted)
        if not needed:
            return
        room = self._headroom.memory()
        if needed > room:
            raise _refusal(
                f"tune.ssl.cachesize: a new worker would need {needed >> 20} MiB for its TLS"
                f" session cache, and {room >> 20} MiB are available"
            )
        runs = committed is not None and instance.master_socket.exists()
        given_back = preflight.tls_cache(committed) if committed and runs else 0
        if needed > room - needed + given_back:
            logger.warning(
                "instance=%s the TLS session cache takes %d MiB, and a reload as much again for a"
                " while: that is more than there will be",
                instance.id,
                needed >> 20,
            )

    def _require_check(self, candidate: Candidate, texts: Texts) -> None:
        checked = candidate.check(texts)
        if not checked.succeeded:
            raise _refusal(checked.output.strip())


def _committed(instance: InstanceLayout, read: Texts) -> Texts | None:
    if instance.declared:
        return read or None
    texts = running.unread(instance)
    try:
        return {name: read[name] if name in read else texts[name] for name in texts} or None
    except FileNotFoundError:
        return None


def _refusal(details: str) -> InvalidRequest:
    return InvalidRequest("Invalid request", details)
