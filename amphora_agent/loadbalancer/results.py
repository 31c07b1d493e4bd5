"""Results of a change, for its caller."""

from collections.abc import Sequence

import msgspec

from amphora_agent.haproxy.apply import find_greatest
from amphora_agent.loadbalancer.states import Record, State
from amphora_agent.model.resolved import ResolvedLoadBalancer
from amphora_agent.model.responses import ProcessModel, ProcessPlan, Result, Summary

_BESIDE = (
    "haproxy runs with an uploaded text: this one starts beside it and takes its place, and no"
    " request is lost",
)
_ENDS = (
    "haproxy runs with an uploaded text: when all others serve, it accepts no more connections,"
    " serves those that it has, and ends",
)


def summary(balancer: ResolvedLoadBalancer, state: State) -> Summary:
    """A load balancer among others."""
    return Summary(
        loadbalancer_id=balancer.id,
        etag=state.record.etag,
        process_model=ProcessModel(state.record.process_model),
        generation=state.number,
        listeners=len(balancer.listeners),
        pools=len(balancer.pools),
    )


def result(
    lb_id: str,
    record: Record,
    before: State | None,
    plans: Sequence[ProcessPlan],
    *,
    dry_run: bool = False,
    number: int | None = None,
) -> Result:
    """The answer to a change, to the state `number` or to what was there before."""
    return Result(
        loadbalancer_id=lb_id,
        etag=record.etag,
        process_model=ProcessModel(record.process_model),
        created=before is None,
        dry_run=dry_run,
        step=find_greatest([plan.step for plan in plans]),
        processes=tuple(plans),
        generation=number or (before.number if before else None),
    )


def deletion(lb_id: str, state: State, *, dry_run: bool) -> Result:
    """The answer to the deletion of a load balancer."""
    processes = (*state.record.processes, *state.record.layer4)
    plans = tuple(ProcessPlan(id=each, step="stop") for each in processes)
    return result(lb_id, state.record, state, plans, dry_run=dry_run)


def replacing(lb_id: str, plans: Sequence[ProcessPlan]) -> list[ProcessPlan]:
    """The same plans where a load balancer takes the place of an uploaded text of its id."""
    found = []
    for each in plans:
        if each.step == "start":
            step = "replace" if each.id == lb_id else each.step
            each = msgspec.structs.replace(each, step=step, reasons=_BESIDE)
        found.append(each)
    if not any(each.id == lb_id for each in plans):
        found.append(ProcessPlan(id=lb_id, step="stop", reasons=_ENDS))
    return found


def stopped(before: State | None, record: Record) -> list[ProcessPlan]:
    """The processes that end with a state from before."""
    if before is None:
        return []
    gone = [each for each in before.record.processes if each not in record.processes]
    gone += [each for each in before.record.layer4 if each not in record.layer4]
    return [ProcessPlan(id=each, step="stop") for each in gone]
