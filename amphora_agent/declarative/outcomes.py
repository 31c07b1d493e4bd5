"""What a change has come to, for whoever asked for it."""

from collections.abc import Sequence

from amphora_agent.declarative.store import Record, State
from amphora_agent.haproxy.activation import Outcome
from amphora_agent.haproxy.plan import Plan
from amphora_agent.model import meaning
from amphora_agent.model.declared import ProcessModel, ProcessPlan, Result, Summary
from amphora_agent.model.loadbalancer import LoadBalancer

#: From the least to the most that is noticed.
_STEPS = ("nothing", "runtime", "stop", "reload", "start")


def summary(balancer: LoadBalancer, state: State) -> Summary:
    """A load balancer among others."""
    return Summary(
        loadbalancer_id=balancer.loadbalancer_id,
        etag=state.record.etag,
        process_model=ProcessModel(state.record.process_model),
        generation=state.number,
        listeners=len(balancer.listeners or ()),
        pools=len(meaning.pools(balancer)),
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
        step=greatest(plans),
        processes=tuple(plans),
        generation=number or (before.number if before else None),
    )


def greatest(plans: Sequence[ProcessPlan]) -> str:
    """The step of all that is noticed most."""
    return max((plan.step for plan in plans), key=_STEPS.index, default="nothing")


def foreseen(process: str, plan: Plan) -> ProcessPlan:
    """What would be done with a process."""
    return ProcessPlan(id=process, step=plan.step.value, reasons=plan.reasons, words=plan.words)


def done(process: str, outcome: Outcome) -> ProcessPlan:
    """What was done with a process."""
    return ProcessPlan(
        id=process,
        step=outcome.done.value,
        reasons=outcome.plan.reasons,
        words=outcome.plan.words,
        fell_back=outcome.fell_back,
    )


def stopped(before: State | None, record: Record) -> list[ProcessPlan]:
    """The processes that end with a state from before."""
    if before is None:
        return []
    gone = [each for each in before.record.processes if each not in record.processes]
    gone += [each for each in before.record.layer4 if each not in record.layer4]
    return [ProcessPlan(id=each, step="stop") for each in gone]
