"""Whoever dies, and whenever: disk and haproxy have the old or the new, a repetition gives the new.

An agent is killed before one of its steps, while it carries out an operation; the next agent
begins, and is asked for the same again. Or haproxy is killed there, and the agent lives on.

CHAOS_SEED chooses the generated histories (it is printed), CHAOS_HISTORIES says how many, and
CHAOS_HISTORY has one of them again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import pytest

from tests.integration.chaos.histories import FIRST, Histories
from tests.integration.chaos.operations import KINDS

HISTORIES = range(int(os.environ.get("CHAOS_HISTORIES", "300")))
if "CHAOS_HISTORY" in os.environ:
    HISTORIES = range(int(os.environ["CHAOS_HISTORY"]), int(os.environ["CHAOS_HISTORY"]) + 1)

#: Operations of which each step is interrupted once: those that take another way.
SWEPT = (
    FIRST,
    "several members",
    "member removed",
    "certificate replaced",
    "certificate added",
    "certificate removed",
    "reload",
    "refused certificate",
    "rollback",
    "stop",
    "start",
    "delete",
)

#: What must have been interrupted at least.
STEPS = (
    "open",
    "os.chmod",  # in the middle of a write
    "os.rename",
    "os.symlink",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "subprocess.Popen haproxy -c",
    "subprocess.Popen haproxy -W",
    "command add server",
    "answer to add server",
    "command set server",
    "answer to set server",
    "command commit ssl cert",
    "answer to commit ssl cert",
    "command reload",
    "answer to reload",
    "pidfd_send_signal",
)


@pytest.mark.parametrize("kind", SWEPT)
def test_an_agent_killed_before_any_step_of(histories: Histories, kind: str) -> None:
    program = histories.programs[SWEPT.index(kind) % len(histories.programs)]
    length = histories.length(kind, program)
    assert length > 1
    each = [partial(histories.interrupted, kind, number, program) for number in range(length)]
    failures = histories.run(each)
    assert not failures, "\n".join([f"{len(failures)} of {length}", *failures[:3]])


def test_generated_histories(histories: Histories, tell: Callable[[str], None]) -> None:
    tell(f"seed {histories.seed}")
    for kind in (FIRST, *KINDS):
        histories.length(kind, histories.programs[0])
    each = [partial(histories.generated, number) for number in HISTORIES]
    failures = histories.run(each)
    assert not failures, "\n".join([f"{len(failures)} of {len(HISTORIES)}", *failures[:3]])


def test_every_kind_of_step_was_interrupted(
    histories: Histories, tell: Callable[[str], None]
) -> None:
    tell(histories.told())
    missing = [kind for kind in STEPS if not any(step.startswith(kind) for step in histories.steps)]
    assert missing == []
