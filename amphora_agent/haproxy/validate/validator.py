"""Decide whether a configuration may be committed: policy, then resources, then haproxy's check.

The cost is in proportion to the change. When nothing differs, or the agent understands everything
that differs, nothing is started. Else one haproxy checks the smallest configuration that validates
the change. In doubt it checks the whole configuration.
"""

import contextlib
import enum
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from amphora_agent.haproxy.config import word_counts
from amphora_agent.haproxy.config.diff import ConfigDiff, compare_configs
from amphora_agent.haproxy.config.minimal_config import build_minimal_config
from amphora_agent.haproxy.config.parser import SectionText, Texts, split_sections
from amphora_agent.haproxy.config.word_counts import CountedText
from amphora_agent.haproxy.named_files import certificate_content, crt_list, references
from amphora_agent.haproxy.policy.engine import find_violations
from amphora_agent.haproxy.policy.values import Bounds
from amphora_agent.haproxy.process.binary import Haproxy
from amphora_agent.haproxy.runtime import loaded_state
from amphora_agent.haproxy.runtime.loaded_state import Digests, PreparedPlan
from amphora_agent.haproxy.update import value_diff
from amphora_agent.haproxy.update.planner import Plan, Step, make_plan
from amphora_agent.haproxy.validate.resource_limits import ResourceLimits, refuse
from amphora_agent.model.events import Difference
from amphora_agent.paths import InstanceLayout, ObjectId
from amphora_agent.revisions import reading
from amphora_agent.revisions.contents import ContentLost
from amphora_agent.supervisor.processes import Completed

#: A plan with more commands is made again rather than kept in memory.
_MOST_COMMANDS = 100


class Proof(enum.Enum):
    """How a configuration was validated."""

    SAME = "nothing differs"
    UNDERSTOOD = "all that differs is understood"
    PORTION = "haproxy checked what differs"
    WHOLE = "haproxy checked all"


class Candidate(NamedTuple):
    """A configuration to validate: texts by the names of their files.

    The policy applies to the files `theirs`, which the controller wrote or which are rendered from
    its request. `check` runs haproxy's own check on these texts, or on a part of them.
    `committed` are the committed texts that are in memory. `replaced` are the texts of a haproxy
    whose place this one takes. `has_files`: the files that the texts name are in their places.
    """

    texts: Texts
    theirs: Collection[str]
    check: Callable[[Texts], Completed]
    committed: Texts = MappingProxyType({})
    replaced: Texts = MappingProxyType({})
    has_files: bool = True


class Verdict(NamedTuple):
    """Why a configuration may be committed, and what is known of it.

    `proven`: every section has passed `haproxy -c` at least once. `counts` are the word counts of
    its texts, for the next change. `foreseen` is the plan that makes haproxy run it. `differences`
    are the first ones from what was committed.
    """

    proof: Proof
    proven: bool
    counts: Mapping[str, Mapping[str, int]] = MappingProxyType({})
    foreseen: PreparedPlan | None = None
    differences: tuple[Difference, ...] = ()


class Validator:
    """Validates the configurations of all instances. Changes of one instance must not overlap."""

    def __init__(
        self, haproxy: Haproxy, limits: ResourceLimits, bounds: Callable[[InstanceLayout], Bounds]
    ) -> None:
        self._haproxy = haproxy
        self._limits = limits
        self._bounds = bounds
        #: Verdicts about committed configurations, each with the signature of what it is about.
        self._verdicts: dict[ObjectId, tuple[object, Verdict]] = {}

    def require(self, instance: InstanceLayout, candidate: Candidate) -> Verdict:
        """Return the verdict if the candidate may be committed. Call `committed` once it is.

        Raises:
            InvalidRequest: it may not; the details have lines and reasons.
            OperationFailed: haproxy could not be asked.
        """
        wanted = candidate.texts
        if any("\0" in text for text in wanted.values()):
            raise refuse("the configuration has a NUL byte")
        known = self._find_verdict(instance)
        committed = _read_committed(instance, candidate.committed)
        change = compare_configs(committed, wanted) if committed else None
        verdict = Verdict(
            Proof.SAME,
            known is not None and known.proven,
            {name: word_counts.get_counts(text) for name, text in wanted.items()},
            known.foreseen if known else None,
        )
        self._require_policy(instance, candidate, change if known else None)
        self._limits.require_descriptors(wanted)
        if change == ConfigDiff():
            return verdict
        differences = value_diff.compare_values(change, candidate.theirs)
        verdict = verdict._replace(foreseen=None, differences=differences)
        capabilities = self._haproxy.capabilities()
        if committed and change:
            plan = make_plan(committed, wanted, (), capabilities, change)
            verdict = verdict._replace(foreseen=self._prepare(instance, plan))
            if plan.step in (Step.NOTHING, Step.RUNTIME):
                return verdict._replace(proof=Proof.UNDERSTOOD)
        running = committed if committed and instance.master_socket.exists() else candidate.replaced
        self._limits.require_memory(instance.id, running, wanted, capabilities.version)
        part = build_minimal_config(wanted, change) if change and verdict.proven else None
        checked = candidate.check(part or wanted)
        if not checked.succeeded:
            raise refuse(checked.output.strip())
        return verdict._replace(proof=Proof.PORTION if part else Proof.WHOLE, proven=True)

    def committed_configuration(self, instance: InstanceLayout) -> CountedText | None:
        """Return the committed text of the controller, if its word counts are known."""
        known = self._find_verdict(instance)
        counts = known.counts.get(instance.configuration.name) if known else None
        if not counts:
            return None
        try:
            text = reading.read(instance, instance.configuration.name)
        except ContentLost:
            return None  # then the next text is examined as a whole
        return word_counts.attach_counts(text.decode(errors="surrogateescape"), counts)

    def committed(self, instance: InstanceLayout, verdict: Verdict) -> None:
        """Remember the verdict about what the instance has committed now."""
        self._verdicts[instance.id] = self._sign(instance), verdict

    def foreseen(self, instance: InstanceLayout) -> PreparedPlan | None:
        """Return the plan that makes haproxy run what is committed, if it is known."""
        known = self._find_verdict(instance)
        return known.foreseen if known else None

    def forget(self, instance_id: ObjectId) -> None:
        self._verdicts.pop(instance_id, None)

    def _find_verdict(self, instance: InstanceLayout) -> Verdict | None:
        """Return the verdict about what is committed."""
        if instance.id in self._verdicts:
            signature, verdict = self._verdicts[instance.id]
            with contextlib.suppress(ContentLost):
                return verdict if signature == self._sign(instance) else None
        return None

    def _prepare(self, instance: InstanceLayout, plan: Plan) -> PreparedPlan | None:
        """Return a plan that is worth its memory until the configuration is to run."""
        if sum(len(change.commands) for change in plan.changes) > _MOST_COMMANDS:
            return None
        return PreparedPlan(*self._sign(instance), plan)

    def _sign(self, instance: InstanceLayout) -> tuple[Digests, object]:
        """Return the digests of the committed texts and the signature of the installed haproxy."""
        return loaded_state.digest_committed(instance), self._haproxy.installed()

    def _require_policy(
        self, instance: InstanceLayout, candidate: Candidate, change: ConfigDiff | None
    ) -> None:
        """`change` starts from a configuration that the policy allows; None if there is none."""
        if change is None or change.reordered:
            blocks = split_sections(candidate.texts)
        else:
            blocks = (*(block for _, block in change.changed), *change.added)
        new = [block for block in blocks if block.file in candidate.theirs]
        bounds = self._bounds(instance)
        directory = instance.configuration.parent
        lines = [
            f"[{directory / each.file}:{each.line}] : {each.reason}"
            for each in find_violations(new, bounds)
        ]
        if not lines and candidate.has_files:  # haproxy reads no file that the policy refuses
            lines += _find_list_violations(new, bounds)
        if lines:
            raise refuse("\n".join(lines))


def _read_committed(instance: InstanceLayout, known: Texts) -> Texts | None:
    try:
        texts = loaded_state.open_committed(instance)
        return {name: known[name] if name in known else texts[name] for name in texts} or None
    except (FileNotFoundError, ContentLost):
        return None


def _find_list_violations(new: Iterable[SectionText], bounds: Bounds) -> Iterator[str]:
    """Check the crt-lists that these sections name: they may be older than their role."""
    check_entry = partial(crt_list.check_entry, bounds=bounds)
    texts = {str(number): block.text for number, block in enumerate(new)}
    for path in sorted(references.find_crt_lists(texts)):
        with contextlib.suppress(OSError):  # haproxy says what is wrong with the file
            content = Path(path).read_bytes()
            for line, reason in certificate_content.find_entry_violations(content, check_entry):
                yield f"[{path}:{line}] : {reason}"
