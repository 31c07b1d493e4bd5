"""Several sources of readings as one."""

from amphora_agent.heartbeat.sender import Source
from amphora_agent.model.status import InstanceReading


class Sources:
    """Implements `Source`. No two of them know an id in common."""

    def __init__(self, *sources: Source) -> None:
        self._sources = sources

    def read(self, *, timeout: float) -> dict[str, InstanceReading]:
        readings: dict[str, InstanceReading] = {}
        for source in self._sources:
            readings.update(source.read(timeout=timeout))
        return readings

    def forget(self, readings: dict[str, InstanceReading]) -> None:
        for source in self._sources:
            source.forget(readings)
