"""Whether a configuration may be committed: policy, then what a start needs, then proof.

Proof costs in proportion to the change: nothing where nothing differs or where the agent
understands all that does; else one haproxy, which checks as little as proves the change, and
without the memory of a start. What is doubtful is checked whole.
"""

import enum
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from amphora_agent import files
from amphora_agent.errors import InvalidRequest
from amphora_agent.haproxy import preflight
from amphora_agent.haproxy.difference import Difference, difference
from amphora_agent.haproxy.headroom import Headroom
from amphora_agent.haproxy.plan import Step, plan
from amphora_agent.haproxy.policy import Bounds, violations
from amphora_agent.haproxy.portion import portion
from amphora_agent.haproxy.process import Haproxy
from amphora_agent.haproxy.text import Block, Texts, blocks
from amphora_agent.layout import InstanceLayout, ObjectId

logger = logging.getLogger(__name__)


class Proof(enum.Enum):
    """How a configuration was found to be right."""

    SAME = "nothing differs"
    UNDERSTOOD = "all that differs is understood"
    PORTION = "haproxy checked what differs"
    WHOLE = "haproxy checked all"


class Candidate(NamedTuple):
    """What is to be accepted: the text for haproxy, and the file of what the agent adds to it."""

    configuration: str
    addition: Path
    peer: str


class Verdict(NamedTuple):
    """`proven`: of all that the configuration has, haproxy has checked everything, by and by."""

    proof: Proof
    proven: bool


class _Accepted(NamedTuple):
    """What is known of a committed configuration, and of which: the signatures of its files and of
    the haproxy that checked it."""

    files: tuple[object, ...]
    proven: bool


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
        configuration = candidate.configuration
        if "\0" in configuration:
            raise _refusal("the configuration has a NUL byte")
        name = instance.configuration.name
        wanted = {name: configuration, instance.addition.name: _text(candidate.addition)}
        committed = _committed(instance)
        change = difference(committed, wanted) if committed else None
        known = self._accepted.get(instance.id)
        if known is not None and known.files != self._signatures(instance):
            known = None
        proven = known is not None and known.proven

        self._require_policy(instance, wanted, change if known else None)
        self._require_descriptors(configuration)
        if change == Difference():
            return Verdict(Proof.SAME, proven)
        if committed:
            step = plan(committed, wanted, (), self._haproxy.capabilities()).step
            if step in (Step.NOTHING, Step.RUNTIME):
                return Verdict(Proof.UNDERSTOOD, proven)
        self._require_memory(instance, committed, wanted)
        part = portion(wanted, change) if change and proven else None
        self._require_check(instance, candidate, part[name] if part else configuration)
        return Verdict(Proof.PORTION if part else Proof.WHOLE, proven=True)

    def committed(self, instance: InstanceLayout, verdict: Verdict) -> None:
        """Remember the verdict about what is under the instance's names now."""
        self._accepted[instance.id] = _Accepted(self._signatures(instance), verdict.proven)

    def forget(self, instance_id: ObjectId) -> None:
        self._accepted.pop(instance_id, None)

    def _signatures(self, instance: InstanceLayout) -> tuple[object, ...]:
        return (
            files.signature(instance.configuration),
            files.signature(instance.addition),
            self._haproxy.installed(),
        )

    def _require_policy(
        self, instance: InstanceLayout, wanted: Texts, change: Difference | None
    ) -> None:
        """`change` is the one from a configuration that was within the policy, if there was."""
        name = instance.configuration.name
        if change is None or change.reordered:
            new: Iterable[Block] = blocks({name: wanted[name]})
        else:
            after = (*(block for _, block in change.changed), *change.added)
            new = (block for block in after if block.file == name)
        found = violations(new, self._bounds(instance))
        if found:
            raise _refusal(
                "\n".join(f"[{instance.configuration}:{v.line}] : {v.reason}" for v in found)
            )

    def _require_descriptors(self, configuration: str) -> None:
        limit = self._headroom.descriptors()
        short = preflight.descriptors(configuration, limit)
        if short:
            raise _refusal(
                f"maxconn {short.connections}: haproxy would need at least {short.least} file"
                f" descriptors to start, and may have {limit}"
            )

    def _require_memory(
        self, instance: InstanceLayout, committed: Texts | None, wanted: Texts
    ) -> None:
        name = instance.configuration.name
        needed = preflight.tls_cache(wanted[name])
        if not needed:
            return
        room = self._headroom.memory()
        if needed > room:
            raise _refusal(
                f"tune.ssl.cachesize: a new worker would need {needed >> 20} MiB for its TLS"
                f" session cache, and {room >> 20} MiB are available"
            )
        running = committed is not None and instance.master_socket.exists()
        given_back = preflight.tls_cache(committed[name]) if committed and running else 0
        if needed > room - needed + given_back:
            logger.warning(
                "instance=%s the TLS session cache takes %d MiB, and a reload as much again for a"
                " while: that is more than there will be",
                instance.id,
                needed >> 20,
            )

    def _require_check(
        self, instance: InstanceLayout, candidate: Candidate, configuration: str
    ) -> None:
        checked = self._haproxy.check(
            configuration.encode(errors="surrogateescape"),
            instance.configuration,
            candidate.addition,
            candidate.peer,
        )
        if not checked.succeeded:
            words = checked.output.replace(str(candidate.addition), str(instance.addition))
            raise _refusal(words.strip())


def _committed(instance: InstanceLayout) -> Texts | None:
    try:
        return {
            instance.configuration.name: _text(instance.configuration),
            instance.addition.name: _text(instance.addition),
        }
    except FileNotFoundError:
        return None


def _text(file: Path) -> str:
    return file.read_bytes().decode(errors="surrogateescape")


def _refusal(details: str) -> InvalidRequest:
    return InvalidRequest("Invalid request", details)
