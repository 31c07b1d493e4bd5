"""From what workers have counted to what happened since the last message.

Within one worker counters only rise, and each worker begins at zero. So the increase of a
listener is the sum, over all workers that are known, of what each has counted beyond what was
already reported of it. `Reported` is that memory; heartbeat/memory.py keeps it.
"""

from collections.abc import Collection, Iterable, Mapping

from amphora_agent.model.status import NO_COUNTERS, Counters, InstanceReading, WorkerReading

#: instance id -> worker name -> listener id -> what has been reported.
Reported = Mapping[str, Mapping[str, Mapping[str, Counters]]]

#: In place of the name of a worker: all workers that are gone, together.
GONE = "gone"


def find_increases(
    readings: Mapping[str, InstanceReading], reported: Reported
) -> tuple[dict[str, Counters], Reported]:
    """What each listener has counted since `reported`, and what will have been reported then.

    The memory of a worker becomes part of that of all `GONE` when it is gone for certain: when a
    complete reading of its instance is without it. An instance that is gone is forgotten, as is a
    listener.
    """
    increase: dict[str, Counters] = {}
    memory: dict[str, dict[str, dict[str, Counters]]] = {}
    for instance_id, reading in readings.items():
        workers = (
            reading.leaving if reading.current is None else (reading.current, *reading.leaving)
        )
        before = _with_restarts(reported.get(instance_id, {}), workers)
        after: dict[str, dict[str, Counters]] = {}
        certain = reading.current is not None and reading.complete
        if not certain:
            after.update((worker, dict(counted)) for worker, counted in before.items())
        for worker in workers:
            was = before.get(worker.worker, {})
            now = dict(was)  # also of listeners that it does not tell of: it may have been silent
            for listener_id, listener in worker.listeners.items():
                earlier = was.get(listener_id, NO_COUNTERS)
                now[listener_id] = listener.counters.at_least(earlier)
                grown = listener.counters.since(earlier)
                known = increase.get(listener_id)
                increase[listener_id] = grown if known is None else known.plus(grown)
            after[worker.worker] = now
        if certain:
            gone = [counted for worker, counted in before.items() if worker not in after]
            if kept := _sums(gone, set(reading.listeners)):
                after[GONE] = kept
        memory[instance_id] = after
    return increase, memory


def sum_reported(reported: Reported) -> dict[str, Counters]:
    """What each listener has counted since its beginning, over all workers."""
    return {
        listener_id: counted
        for workers in reported.values()
        for listener_id, counted in _sums(workers.values()).items()
    }


def move_to_gone(reported: Reported) -> Reported:
    """Return the memory from before a boot, which no worker has survived."""
    return {
        instance_id: {GONE: _sums(workers.values())} for instance_id, workers in reported.items()
    }


def add_counters(one: Mapping[str, Counters], other: Mapping[str, Counters]) -> dict[str, Counters]:
    """Add the counters of listeners."""
    return _sums((one, other))


def _with_restarts(
    before: Mapping[str, Mapping[str, Counters]], workers: Iterable[WorkerReading]
) -> Mapping[str, Mapping[str, Counters]]:
    """The memory, in which what began anew since is told apart from what it was before."""
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
            after[GONE] = _sums([ended, after.get(GONE, {})])
    return after


def _sums(
    rows: Iterable[Mapping[str, Counters]], wanted: Collection[str] | None = None
) -> dict[str, Counters]:
    sums: dict[str, Counters] = {}
    for row in rows:
        for listener_id, counted in row.items():
            if wanted is None or listener_id in wanted:
                sums[listener_id] = counted.plus(sums.get(listener_id, NO_COUNTERS))
    return sums
