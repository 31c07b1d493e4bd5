"""What must happen to get from the running to the wanted state: decided first, then done."""

import enum
from typing import NamedTuple


class Step(enum.Enum):
    START = "start"
    RELOAD = "reload"


class Plan(NamedTuple):
    """One step, and why."""

    step: Step
    reason: str


def plan(*, running: bool) -> Plan:
    """How to make what runs agree with what is committed.

    A load balancer that is not running is started by a reload: so the controller deploys one.
    """
    if not running:
        return Plan(Step.START, "it does not run")
    return Plan(Step.RELOAD, "the controller asked for it")
