"""Compute increases from the counters of workers.

Within one worker counters only rise, and each worker begins at zero. So the increase of a listener
is the sum, over all known workers, of what each has counted beyond what was reported of it before.
`Reported` is that memory; heartbeat/memory.py keeps it.
"""

from collections.abc import Collection, Iterable, Mapping

from amphora_agent.model.status import NO_COUNTERS, Counters, InstanceReading, WorkerReading

#: instance id -> worker name -> listener id -> what has been reported.
Reported = Mapping[str, Mapping[str, Mapping[str, Counters]]]

#: Stands for the name of a worker: the sum of all workers that have ended.
GONE = "gone"


def find_increases(
    readings: Mapping[str, InstanceReading], reported: Reported
) -> tuple[dict[str, Counters], Reported]:
    """Return the increase of each listener since `reported`, and the memory that includes it.

    The memory of a worker is added to `GONE` when it has ended for certain: when a complete reading
    of its instance is without it. Instances and listeners that are gone are forgotten.
    """
    increase: dict[str, Counters] = {}
    memory: dict[str, dict[str, dict[str, Counters]]] = {}
    for instance_id, reading in readings.items():
        workers = (
            reading.leaving if reading.current is None else (reading.current, *reading.leaving)
        )
        before = _split_restarted(reported.get(instance_id, {}), workers)
        after: dict[str, dict[str, Counters]] = {}
        certain = reading.current is not None and reading.complete
        if not certain:
            after.update((worker, dict(counted)) for worker, counted in before.items())
        for worker in workers:
            was = before.get(worker.worker, {})
            now = dict(was)  # also listeners that are missing: the worker may have been silent
            for listener_id, listener in worker.listeners.items():
                earlier = was.get(listener_id, NO_COUNTERS)
                now[listener_id] = listener.counters.at_least(earlier)
                grown = listener.counters.since(earlier)
                known = increase.get(listener_id)
                increase[listener_id] = grown if known is None else known.plus(grown)
            after[worker.worker] = now
        if certain:
            ended = [counted for worker, counted in before.items() if worker not in after]
            if kept := _sum_rows(ended, set(reading.listeners)):
                after[GONE] = kept
        memory[instance_id] = after
    return increase, memory


def sum_reported(reported: Reported) -> dict[str, Counters]:
    """Return what each listener has counted since its beginning, over all workers."""
    return {
        listener_id: counted
        for workers in reported.values()
        for listener_id, counted in _sum_rows(workers.values()).items()
    }


def move_to_gone(reported: Reported) -> Reported:
    """Return the memory after a boot, which no worker has survived."""
    return {
        instance_id: {GONE: _sum_rows(workers.values())}
        for instance_id, workers in reported.items()
    }


def add_counters(one: Mapping[str, Counters], other: Mapping[str, Counters]) -> dict[str, Counters]:
    """Add the counters of listeners."""
    return _sum_rows((one, other))


def _split_restarted(
    before: Mapping[str, Mapping[str, Counters]], workers: Iterable[WorkerReading]
) -> Mapping[str, Mapping[str, Counters]]:
    """Return the memory with the counters of restarted listeners moved to `GONE`."""
    after = dict(before)
    for worker in workers:
        was = before.get(worker.worker, {})
        ended = {
            listener_id: was[listener_id]
            for listener_id, listener in worker.listeners.items()
            if worker.restarts
            and listener_id in was
            and listener.counters.at_least(was[listener_id]) != listener.counters
        }
        if ended:
            after[worker.worker] = {
                listener_id: counted
                for listener_id, counted in was.items()
                if listener_id not in ended
            }
            after[GONE] = _sum_rows([ended, after.get(GONE, {})])
    return after


def _sum_rows(
    rows: Iterable[Mapping[str, Counters]], wanted: Collection[str] | None = None
) -> dict[str, Counters]:
    sums: dict[str, Counters] = {}
    for row in rows:
        for listener_id, counted in row.items():
            if wanted is None or listener_id in wanted:
                sums[listener_id] = counted.plus(sums.get(listener_id, NO_COUNTERS))
    return sums
