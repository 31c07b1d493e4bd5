"""From what workers have counted to what happened since the last message.

Within one worker counters only rise, and each worker begins at zero. So the increase of a
listener is the sum, over all workers that are known, of what each has counted beyond what was
already reported of it. `Reported` is that memory; it is on disk between two messages.
"""

from collections.abc import Mapping

from amphora_agent.model.status import NO_COUNTERS, Counters, InstanceReading

#: instance id -> worker name -> listener id -> what has been reported.
Reported = Mapping[str, Mapping[str, Mapping[str, Counters]]]


def increases(
    readings: Mapping[str, InstanceReading], reported: Reported
) -> tuple[dict[str, Counters], Reported]:
    """What each listener has counted since `reported`, and what will have been reported then.

    The memory of a worker goes when the worker is gone for certain: when its instance has
    answered without it. An instance that is gone is forgotten.
    """
    increase: dict[str, Counters] = {}
    memory: dict[str, dict[str, dict[str, Counters]]] = {}
    for instance_id, reading in readings.items():
        before = reported.get(instance_id, {})
        after: dict[str, dict[str, Counters]] = {}
        if reading.current is None:
            after.update((worker, dict(counted)) for worker, counted in before.items())
        workers = (
            reading.leaving if reading.current is None else (reading.current, *reading.leaving)
        )
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
        memory[instance_id] = after
    return increase, memory
