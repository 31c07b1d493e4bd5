"""What a heartbeat costs the agent: CPU time (user and system) of this process, in milliseconds.

Two ways, on the agent's own code in this process. "canned": `show stat` texts of a real haproxy,
taken once, are read, compared and packed again and again; the steps stand beside. "live": a whole
`Sender.beat` with a haproxy that answers and a socket that takes the datagram; what haproxy does
meanwhile is in the wall time only. Between two live beats that are not quiet, and between the two
canned texts, every listener has served a request.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amphora_agent.agent.settings_file import SettingsFile
from amphora_agent.events.alarms import Alarms
from amphora_agent.haproxy import replies
from amphora_agent.haproxy.runtime.poller import Poller
from amphora_agent.heartbeat import message
from amphora_agent.heartbeat.memory import CounterMemory
from amphora_agent.heartbeat.sender import Facts, Sender
from amphora_agent.model.status import InstanceReading
from amphora_agent.paths import Layout
from amphora_agent.slots import SlotFile
from amphora_agent.supervisor.processes import boot_id
from benchmarks.baseline_haproxy import BareHaproxy
from benchmarks.report import Column, Section, median, milliseconds
from benchmarks.scale import Scale
from benchmarks.testbed import Balancer, Testbed, make_testbed, running, touch

_COLUMNS = (
    Column("listeners", "listeners"),
    Column("members", "members each"),
    Column("source", "source"),
    Column("runs", "runs"),
    Column("cpu_ms", "CPU, ms", 1),
    Column("read_ms", "reading, ms", 1),
    Column("compare_ms", "increases, ms", 1),
    Column("content_ms", "content, ms", 1),
    Column("seal_ms", "packing, ms", 1),
    Column("wall_ms", "wall, ms", 1),
    Column("bytes", "message, bytes"),
    Column("left_out", "left out"),
)


def measure(haproxy: Path, scale: Scale) -> Section:
    rows: list[dict[str, Any]] = []
    with make_testbed(haproxy, started=False) as bed:
        for listeners in scale.heartbeat_sizes:
            balancer = Balancer.of(listeners, scale.heartbeat_members, monitored=True)
            size = {"listeners": listeners, "members": scale.heartbeat_members}
            with running(bed, balancer) as (layout, instance):
                rows += [size | row for row in _canned(bed, balancer, instance, scale)]
                rows += [size | row for row in _live(bed, balancer, layout, scale)]
    return Section(
        "heartbeats",
        "Building a heartbeat (medians of CPU time of the agent's code)",
        _COLUMNS,
        tuple(rows),
        notes=(
            "canned: from show stat as haproxy gave it; live: a whole beat, with a haproxy asked,",
            "the counters written and the datagram sent; haproxy's own time is only in the wall",
        ),
    )


def _canned(
    bed: Testbed, balancer: Balancer, instance: BareHaproxy, scale: Scale
) -> Iterator[dict[str, Any]]:
    texts = []
    for _ in range(2):
        touch(bed.namespace, balancer.listeners)
        texts.append(instance.ask(f"@!{instance.worker()} show stat").strip("\n"))
    before, after = texts
    ids = tuple(listener.id for listener in balancer.listeners)

    def reading(text: str) -> dict[str, InstanceReading]:
        return {balancer.id: InstanceReading(ids, replies.read_worker(text, "worker"), ())}

    _, reported = message.find_increases(reading(before), {})
    samples: dict[str, list[float]] = {"read": [], "compare": [], "content": [], "seal": []}
    heartbeat = message.Heartbeat(b"", "")
    with _tidy():
        for _ in range(scale.heartbeat_runs):
            begun = time.process_time()
            now = reading(after)
            read = time.process_time()
            increases, _ = message.find_increases(now, reported)
            compared = time.process_time()
            content = message.build_content(bed.agent.amphora_id, 0, now, increases)
            told = time.process_time()
            heartbeat = message.fit(content, bed.health_manager.key)
            sealed = time.process_time()
            samples["read"].append(read - begun)
            samples["compare"].append(compared - read)
            samples["content"].append(told - compared)
            samples["seal"].append(sealed - told)
    totals = [sum(steps) for steps in zip(*samples.values(), strict=True)]
    yield {
        "source": "canned",
        "runs": scale.heartbeat_runs,
        "cpu_ms": milliseconds(median(totals)),
        **{f"{name}_ms": milliseconds(median(steps)) for name, steps in samples.items()},
        "bytes": len(heartbeat.datagram),
        "left_out": heartbeat.left_out,
    }


def _live(
    bed: Testbed, balancer: Balancer, layout: Layout, scale: Scale
) -> Iterator[dict[str, Any]]:
    settings = SettingsFile(bed.agent.config_file)
    observer = Poller(layout)
    on_disk, in_memory = layout.heartbeat_counters
    memory = CounterMemory(
        [SlotFile(on_disk, sync=True), SlotFile(in_memory, sync=False)],
        boot_id(),
        Alarms(layout.alarms),
    )
    memory.start()
    readings: dict[str, InstanceReading] = {}
    sender = Sender(lambda: Facts(settings.current()), lambda: readings, memory)

    def beat() -> None:
        """What a reader and a sender do in one interval, one after the other."""
        readings.update(observer.read(timeout=5))
        number = memory.account(readings)
        while number is None or memory.written < number:
            time.sleep(0.001)
            number = memory.account(readings) if number is None else number
        sender.beat()

    beat()  # reads the configuration, and begins to remember
    bed.health_manager.next()

    def serve() -> None:
        touch(bed.namespace, balancer.listeners)

    def nothing() -> None:
        pass

    for source, between in (("live, quiet", nothing), ("live, all served", serve)):
        cpu, wall, sizes = [], [], []
        with _tidy():
            for _ in range(scale.heartbeat_runs):
                between()
                begun, begun_cpu = time.perf_counter(), time.process_time()
                beat()
                cpu.append(milliseconds(time.process_time() - begun_cpu))
                wall.append(milliseconds(time.perf_counter() - begun))
                sizes.append(bed.health_manager.next().size)
        yield {
            "source": source,
            "runs": scale.heartbeat_runs,
            "cpu_ms": median(cpu),
            "wall_ms": median(wall),
            "bytes": int(median(sizes)),
            "samples_ms": {"cpu": cpu, "wall": wall},
        }


@contextlib.contextmanager
def _tidy() -> Iterator[None]:
    """As in the agent: what was there before is no work for the garbage collector."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
