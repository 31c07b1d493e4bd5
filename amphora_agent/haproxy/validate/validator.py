"""Decide whether a configuration may be committed: policy, then resources, then haproxy's check.

The cost is in proportion to the change. When nothing differs, or the agent understands everything
that differs, nothing is started. Else one haproxy checks the smallest configuration that validates
the change. In doubt it checks the whole configuration.

haproxy's check does not tell whether this machine has enough file descriptors and memory for a
start: `ResourceLimits` does.
"""

import contextlib
import enum
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from amphora_agent.errors import InvalidRequest
from amphora_agent.haproxy.config import diff, preflight, queries
from amphora_agent.haproxy.config.diff import (
    ConfigDiff,
    CountedText,
    build_minimal_config,
    compare_configs,
)
from amphora_agent.haproxy.config.parser import SectionText, Texts, split_sections
from amphora_agent.haproxy.policy import certificate_content
from amphora_agent.haproxy.policy.engine import find_violations
from amphora_agent.haproxy.policy.values import Bounds
from amphora_agent.haproxy.process.binary import Haproxy
from amphora_agent.haproxy.runtime import loaded_state
from amphora_agent.haproxy.runtime.loaded_state import Digests, PreparedPlan
from amphora_agent.haproxy.update import value_diff
from amphora_agent.haproxy.update.planner import Plan, Step, make_plan
from amphora_agent.model.events import Difference
from amphora_agent.paths import InstanceLayout, ObjectId
from amphora_agent.revisions import reading
from amphora_agent.revisions.contents import ContentLost
from amphora_agent.supervisor.processes import Completed

logger = logging.getLogger(__name__)

#: Bit of `CapEff` in /proc/PID/status: a process that has it raises its own limits.
_CAP_SYS_RESOURCE = 24
_HARD_FILES = re.compile(r"^Max open files\s+\S+\s+(\d+)", re.MULTILINE)
_CAPABILITIES = re.compile(r"^CapEff:\s*([0-9a-f]+)", re.MULTILINE)
_KILOBYTES = re.compile(r"^(MemAvailable|SwapFree):\s+(\d+) kB", re.MULTILINE)

#: More than any program asks for.
_UNLIMITED = 1 << 62


class ResourceLimits:
    """Upper bounds for a haproxy that `starter` starts: "self" for this process, "1" for systemd,
    whose children have other limits and another control group than this process.
    `root` is the directory with the kernel's files."""

    def __init__(self, starter: str, root: Path = Path("/")) -> None:
        self._starter = starter
        self._root = root

    def descriptors(self) -> int:
        """Return how many descriptors haproxy can have. It raises its limit up to the hard one, or
        with the capability that root has, up to the kernel's."""
        process = self._root / "proc" / self._starter
        capabilities = _CAPABILITIES.search(_read(process / "status"))
        if capabilities is None or int(capabilities[1], 16) >> _CAP_SYS_RESOURCE & 1:
            return _read_number(self._root / "proc/sys/fs/nr_open", _UNLIMITED)
        hard = _HARD_FILES.search(_read(process / "limits"))
        return int(hard[1]) if hard else _UNLIMITED

    def threads(self) -> int:
        """Return how many threads haproxy has by default: one for each processor."""
        return len(os.sched_getaffinity(0))

    def memory(self) -> int:
        """Return how many bytes a new worker could have now."""
        meminfo = {
            name: int(kilobytes) << 10
            for name, kilobytes in _KILOBYTES.findall(_read(self._root / "proc/meminfo"))
        }
        available = meminfo.get("MemAvailable", _UNLIMITED)
        groups = self._read_groups() if self._starter == "self" else ()
        return min(available, *groups, _UNLIMITED) + meminfo.get("SwapFree", 0)

    def require_descriptors(self, texts: Texts) -> None:
        """Check that a start finds enough file descriptors.

        Raises:
            InvalidRequest
        """
        limit = self.descriptors()
        if short := preflight.find_shortage(texts, limit):
            raise refuse(
                f"maxconn {short.connections}: haproxy would need at least {short.least} file"
                f" descriptors to start, and may have {limit}"
            )

    def require_memory(self, instance_id: str, running: Texts, wanted: Texts, version: str) -> None:
        """Check that there is memory for the new worker beside the `running` one, and for the next
        reload beside the new one. The TLS session cache must fit once: a controller may size it for
        half of the machine. `version` is haproxy's.

        Raises:
            InvalidRequest
        """
        threads, room = self.threads(), self.memory()
        needed = preflight.estimate_memory(wanted, version, threads)
        cache = preflight.estimate_tls_cache(wanted)
        given_back = preflight.estimate_tls_cache(running)
        if cache > room:
            raise refuse(
                f"tune.ssl.cachesize: a new worker would need {cache >> 20} MiB for its TLS"
                f" session cache, and {room >> 20} MiB are available"
            )
        if cache and cache > room - cache + given_back:
            logger.warning(
                "instance=%s the TLS session cache takes %d MiB, and a reload as much again for a"
                " while: that is more than there will be",
                instance_id,
                cache >> 20,
            )
        if running:
            before = preflight.estimate_memory(running, version, threads)
            if needed.most() <= before.most():
                return  # a change that needs no more memory is always allowed
            given_back += before.serving
        if needed.start + cache > room or needed.most() + cache > room + given_back:
            raise refuse(
                f"haproxy would need about {needed.start >> 20} MiB to load so many listeners,"
                f" pools and members, while a worker with {needed.serving >> 20} MiB serves, and"
                f" {room + given_back - cache >> 20} MiB are available for both"
            )

    def _read_groups(self) -> Iterator[int]:
        """Yield the bytes that each control group of this process has left."""
        top = self._root / "sys/fs/cgroup"
        for line in _read(self._root / "proc" / self._starter / "cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            # In version 2 all controllers have one tree, in version 1 each its own.
            if not controllers:
                tree, names = top, ("memory.max", "memory.current", "")
            elif "memory" in controllers.split(","):
                tree = top / "memory"
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            else:
                continue
            group = tree / path.lstrip("/")
            while group.is_relative_to(tree):
                yield _read_group(group, *names)
                group = group.parent


def refuse(details: str) -> InvalidRequest:
    """Return the error for a configuration that cannot be committed."""
    return InvalidRequest("Invalid request", details)


def _read_group(group: Path, limit: str, usage: str, prefix: str) -> int:
    # The kernel gives up pages of files before anything fails.
    pattern = rf"(?m)^{prefix}(?:in)?active_file (\d+)"
    cached = sum(map(int, re.findall(pattern, _read(group / "memory.stat"))))
    return _read_number(group / limit, _UNLIMITED) - _read_number(group / usage, 0) + cached


def _read_number(path: Path, default: int) -> int:
    content = _read(path).strip()
    return int(content) if content.isdigit() else default


def _read(path: Path) -> str:
    """Return a file's text; empty if it does not exist: then it sets no limit."""
    try:
        return path.read_text()
    except OSError:
        return ""


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
            {name: diff.get_counts(text) for name, text in wanted.items()},
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
        return diff.attach_counts(text.decode(errors="surrogateescape"), counts)

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
    check_entry = partial(certificate_content.check_entry, bounds=bounds)
    texts = {str(number): block.text for number, block in enumerate(new)}
    for path in sorted(queries.find_crt_lists(texts)):
        with contextlib.suppress(OSError):  # haproxy says what is wrong with the file
            content = Path(path).read_bytes()
            for line, reason in certificate_content.find_entry_violations(content, check_entry):
                yield f"[{path}:{line}] : {reason}"
