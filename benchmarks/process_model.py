"""One haproxy for a load balancer, or one for each of its listeners: what either costs.

Both models run the same load balancer, rendered by the agent's own code and kept alive by its own
supervisor, one after the other and by turns: in each run all processes are started anew, measured,
changed, reloaded, and one worker is made to crash. Clients, haproxies and members share the
machine's processors, so throughput is that of all of them together; CPU time per request is
haproxy's alone.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from amphora_agent.haproxy import replies
from amphora_agent.model.responses import ProcessModel
from amphora_agent.supervisor.embedded import EmbeddedSupervisor
from benchmarks import baseline_haproxy, fleet
from benchmarks.baseline_haproxy import BareHaproxy, private_copy
from benchmarks.fleet import VIP, Fleet, Site, cpu_seconds, pss
from benchmarks.load_client import Order, visit
from benchmarks.plot import Plot, Series
from benchmarks.report import Column, Section, median, milliseconds
from benchmarks.scale import Scale
from lab.network import Lab, Namespace
from lab.pki import Authority, Credentials

#: As headings call them: one haproxy, or one for each listener.
_MODELS = {ProcessModel.LOADBALANCER: "one", ProcessModel.LISTENER: "each"}

#: Connections of the clients, over all listeners; and requests a second that are far from all that
#: can be served, for the latencies.
_CONNECTIONS, _RATE = 200, 2000
#: Passes over all statistics, and changes of each kind, in one run.
_PASSES, _CHANGES = 5, 3
_PATIENCE = 30.0

_ORIGIN = f"""\
global
    maxconn 4000
    stats socket {{socket}} level user
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
frontend requests
    bind 0.0.0.0:{fleet.MEMBER_PORT}
    http-request return status 200 content-type text/plain string {"x" * 1000}
frontend checks
    bind 0.0.0.0:{fleet.CHECK_PORT}
    http-request return status 200
"""


class _Figure(NamedTuple):
    """`of_all` makes one of the samples of all runs."""

    key: str
    what: str
    unit: str
    of_all: Callable[[Sequence[float]], float] = median


_FIGURES = (
    _Figure("processes", "processes", ""),
    _Figure("start", "start of all", "ms"),
    _Figure("idle_pss", "memory, idle", "MiB"),
    _Figure("pss", "memory, after traffic", "MiB"),
    _Figure("throughput", "throughput", "1/s"),
    _Figure("best_throughput", "the best run", "1/s", max),
    _Figure("request_cpu", "haproxy's CPU a request", "µs"),
    _Figure("busy_p99", "latency p99 meanwhile", "ms"),
    _Figure("client_cpu", "the client's CPU", "%"),
    _Figure("kept", "connections kept to members", ""),
    _Figure("p50", "latency p50", "ms"),
    _Figure("p90", "latency p90", "ms"),
    _Figure("p99", "latency p99", "ms"),
    _Figure("checks", "health checks a minute", ""),
    _Figure("idle_cpu", "haproxy's CPU, idle", "ms/s"),
    _Figure("statistics", "statistics, one pass", "ms"),
    _Figure("statistics_cpu", "its CPU, the agent's", "ms"),
    _Figure("statistics_haproxy_cpu", "its CPU, haproxy's", "ms"),
    _Figure("added", "member added by command", "ms"),
    _Figure("added_shared", "the same, pool of several", "ms"),
    _Figure("check", "haproxy -c of a change", "ms"),
    _Figure("reloaded", "member added by reload", "ms"),
    _Figure("reloaded_shared", "the same, pool of several", "ms"),
    _Figure("reload_all", "reload of all", "ms"),
    _Figure("old_worker", "old worker of a reload", "MiB"),
    _Figure("crash_listeners", "listeners a crash stops", ""),
    _Figure("crash", "until they are back", "ms"),
    _Figure("load", "load average before", ""),
)


class _Bed(NamedTuple):
    """`program` is a copy, whose pages nobody else has in memory."""

    program: Path
    directory: Path
    namespace: Namespace
    supervisor: EmbeddedSupervisor
    origin: Path
    credentials: Credentials


def measure(haproxy: Path, scale: Scale) -> Section:
    rows: dict[str, dict[str, Any]] = {
        figure.key: {"figure": figure.key, "what": figure.what, "unit": figure.unit}
        for figure in _FIGURES
    }
    with Lab(f"model-{os.getpid()}") as lab:
        directory = lab.directory()
        lab.record.add_workplace(directory)
        namespace = lab.namespace("a")
        supervisor = EmbeddedSupervisor(directory / "records", directory / "output")
        supervisor.adopt()
        supervisor.resume()
        socket_path = directory / "origin.stats"
        credentials = Authority.create("authority of the site", key="ec").issue("site", key="ec")
        program = private_copy(haproxy, directory)
        bed = _Bed(program, directory, namespace, supervisor, socket_path, credentials)
        with BareHaproxy(haproxy, directory / "origin", namespace, "origin") as origin:
            origin.start(_ORIGIN.format(socket=socket_path))
            for listeners, runs in scale.model_runs.items():
                found = _compare(bed, listeners, runs, scale)
                for figure in _FIGURES:
                    for model in _MODELS:
                        samples = found[model][figure.key]
                        column = f"{listeners}_{model}"
                        rows[figure.key][column] = figure.of_all(samples)
                        rows[figure.key][f"{column}_samples"] = samples
    return Section(
        "process_model",
        "One haproxy for a load balancer, or one for each listener (medians)",
        (
            Column("what", "what"),
            Column("unit", ""),
            *(
                Column(f"{listeners}_{model}", f"{listeners}: {_MODELS[model]}", 1)
                for listeners in scale.model_runs
                for model in _MODELS
            ),
        ),
        tuple(rows.values()),
        notes=(
            "columns: listeners: a haproxy for all (one) or for each (each); by turns, runs of"
            f" each: {', '.join(map(str, scale.model_runs.values()))}",
            f"{scale.model_members} members in each pool; of ten listeners five share a pool, two"
            " are TERMINATED_HTTPS; one listener is HTTP",
            f"throughput: {_CONNECTIONS} kept connections over all listeners, answers of 1 kB; p50"
            f" to p99: at {_RATE}/s, as many connections",
            "clients, members and all haproxies have the same processors; CPU a request is that of"
            " the load balancer's haproxies alone",
            f"health checks every {fleet.CHECK_DELAY} s, counted at the members",
            "by reload: of all haproxies that have the pool, without haproxy -c, one after the"
            " other; start and reload of all: as many at a time as processors",
            "old worker: what it keeps for one open connection; a crash is a SIGSEGV of a worker,"
            " the supervisor waits 0.1 s (systemd's unit: 0.5 s)",
        ),
    )


def _compare(
    bed: _Bed, listeners: int, runs: int, scale: Scale
) -> Mapping[ProcessModel, Mapping[str, list[float]]]:
    samples: dict[ProcessModel, dict[str, list[float]]] = {model: {} for model in _MODELS}
    models = list(_MODELS)
    for run in range(runs):
        for model in models:
            for key, value in _run(bed, model, listeners, run, scale):
                samples[model].setdefault(key, []).append(value)
        models.reverse()  # neither always comes after the other
    return samples


def _run(
    bed: _Bed, model: ProcessModel, listeners: int, run: int, scale: Scale
) -> list[tuple[str, float]]:
    """All figures of processes that are started for it; some several times."""
    found: list[tuple[str, float]] = []

    def note(**figures: float) -> None:
        found.extend(figures.items())

    site = Site.of(listeners, scale.model_members)
    place = bed.directory / f"{model.value[:3]}-{listeners}-{run}"
    with Fleet(
        site,
        model,
        credentials=bed.credentials,
        program=bed.program,
        directory=place,
        namespace=bed.namespace,
        supervisor=bed.supervisor,
    ) as balancer:
        note(load=os.getloadavg()[0], start=_milliseconds(balancer.start))
        time.sleep(scale.rest)
        pids = balancer.pids()
        note(processes=len(pids), idle_pss=balancer.pss())
        note(**_idle(bed, pids, scale.model_watch))
        for _ in range(_PASSES):
            note(**_statistics(balancer, pids))
        note(**_traffic(bed, balancer, pids, scale.model_seconds))
        note(pss=balancer.pss())
        for _ in range(_CHANGES):
            note(**_changes(balancer))
        note(reload_all=_milliseconds(balancer.reload))
        note(old_worker=_old_worker(bed, balancer))
        note(**_crash(bed, balancer))
    shutil.rmtree(place)
    return found


def _idle(bed: _Bed, pids: list[int], seconds: float) -> dict[str, float]:
    """Nobody but the health checks has anything to do."""
    checks, cpu, begun = _checks(bed), cpu_seconds(pids), time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - begun
    return {
        "checks": (_checks(bed) - checks) / elapsed * 60,
        "idle_cpu": milliseconds(cpu_seconds(pids) - cpu) / elapsed,
    }


def _checks(bed: _Bed) -> int:
    """How many have reached the members so far."""
    for row in baseline_haproxy.ask(bed.origin, "show stat -1 1 -1 typed").splitlines():
        if found := re.fullmatch(r"F\.\d+\.0\.\d+\.req_tot\.\d+:.*:u64:(\d+)", row):
            requests = int(found[1])
    return requests


def _statistics(balancer: Fleet, pids: list[int]) -> dict[str, float]:
    """As for a heartbeat: of every haproxy its workers, and all that the current one counts."""
    haproxy, own, begun = cpu_seconds(pids), time.thread_time(), time.perf_counter()
    listeners = 0
    for instance in balancer.instances:
        listeners += len(
            replies.read_worker(instance.command("show stat"), instance.name).listeners
        )
    elapsed, own = time.perf_counter() - begun, time.thread_time() - own
    if listeners != len(balancer.site.ports):
        raise RuntimeError(f"{listeners} of {len(balancer.site.ports)} listeners are told")
    return {
        "statistics": milliseconds(elapsed),
        "statistics_cpu": milliseconds(own),
        "statistics_haproxy_cpu": milliseconds(cpu_seconds(pids) - haproxy),
    }


def _traffic(bed: _Bed, balancer: Fleet, pids: list[int], seconds: float) -> dict[str, float]:
    site = balancer.site
    order = Order(VIP, site.ports, site.encrypted, _CONNECTIONS, seconds)
    visit(bed.namespace, Order(VIP, site.ports, site.encrypted, _CONNECTIONS, seconds / 4))
    cpu = cpu_seconds(pids)
    busy = visit(bed.namespace, order)
    cpu = cpu_seconds(pids) - cpu
    calm = visit(
        bed.namespace, Order(VIP, site.ports, site.encrypted, _CONNECTIONS, seconds, _RATE)
    )
    found = re.search(
        r"^CurrConns: (\d+)", baseline_haproxy.ask(bed.origin, "show info"), re.MULTILINE
    )
    assert found is not None
    return {
        "throughput": busy.answers / busy.seconds,
        "best_throughput": busy.answers / busy.seconds,
        "request_cpu": cpu / busy.answers * 1e6,
        "busy_p99": busy.p99,
        "client_cpu": busy.own_cpu * 100,
        "kept": int(found[1]),
        "p50": calm.p50,
        "p90": calm.p90,
        "p99": calm.p99,
    }


def _changes(balancer: Fleet) -> dict[str, float]:
    """One change of each kind, of a pool that one listener has and of one that several have."""
    found = {}
    ways = {"added": balancer.add_by_command, "reloaded": balancer.add_by_reload}
    for name, pool in (("", balancer.site.own_pool), ("_shared", balancer.site.shared_pool)):
        for way, change in ways.items():
            server = balancer.add_to_files(pool)
            found[f"{way}{name}"] = _milliseconds(partial(change, pool, server))
            if not balancer.has(pool, server):
                raise RuntimeError(f"{server.id} of {pool} is not there")
    found["check"] = _milliseconds(lambda: balancer.check(balancer.site.own_pool))
    return found


def _old_worker(bed: _Bed, balancer: Fleet) -> float:
    """MiB of what stays after a reload, as long as one connection does."""
    instance = balancer.having(balancer.site.own_pool)[-1]
    with bed.namespace.connect(VIP, balancer.site.plain_port(instance.listeners)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: site\r\n")  # and not yet the end of it
        old = instance.worker()
        instance.command("show info")  # by now it has accepted the connection
        instance.reload()
        return pss(old)


def _crash(bed: _Bed, balancer: Fleet) -> dict[str, float]:
    ports = balancer.site.ports
    victim = balancer.instances[0].worker()
    stopped: set[int] = set()
    begun = time.monotonic()
    os.kill(victim, signal.SIGSEGV)

    def watch() -> float:
        while (now := time.monotonic()) < begun + _PATIENCE:
            refused = {port for port in ports if not _listens(port)}
            if stopped and not refused:
                return now
            stopped.update(refused)
        raise TimeoutError("the supervisor has not brought it back")

    back = bed.namespace.inside(watch)
    balancer.instances[0].await_worker(victim)
    return {"crash_listeners": len(stopped), "crash": milliseconds(back - begun)}


def _listens(port: int) -> bool:
    try:
        socket.create_connection((VIP, port), timeout=_PATIENCE).close()
    except ConnectionError:
        return False
    return True


def _milliseconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return milliseconds(time.perf_counter() - begun)


@dataclass(frozen=True)
class _Drawing:
    """A plot of figures, each for both models."""

    name: str
    title: str
    y_label: str
    figures: Mapping[str, str]
    """By key, what is written behind the model's name."""
    logarithmic: bool = True


_DRAWINGS = (
    _Drawing(
        "throughput", "Throughput, the best run", "answers a second", {"best_throughput": ""}, False
    ),
    _Drawing("cpu", "haproxy's CPU time of a request", "µs", {"request_cpu": ""}, False),
    _Drawing(
        "latency", f"Latency at {_RATE} requests a second", "ms", {"p50": " p50", "p99": " p99"}
    ),
    _Drawing("memory", "Memory after traffic, PSS of all processes", "MiB", {"pss": ""}),
    _Drawing("reload", "Reload", "ms", {"reload_all": ", all", "reloaded": ", a change"}),
    _Drawing(
        "change",
        "A member added by command",
        "ms",
        {"added": "", "added_shared": ", shared"},
    ),
    _Drawing(
        "statistics",
        "Statistics of all listeners, one pass",
        "ms",
        {"statistics": "", "statistics_cpu": ", agent's CPU"},
    ),
    _Drawing("checks", "Health checks at the members", "a minute", {"checks": ""}),
    _Drawing("crash", "Listeners that a crash stops", "listeners", {"crash_listeners": ""}),
)


def plots(section: Section) -> Mapping[str, str]:
    """SVG by file name."""
    rows = {row["figure"]: row for row in section.rows}
    sizes = [
        int(c.key.partition("_")[0])
        for c in section.columns
        if c.key.endswith(ProcessModel.LISTENER)
    ]
    files = {}
    for drawing in _DRAWINGS:
        series = [
            Series(
                f"{model}{words}",
                [(size, rows[key][f"{size}_{model}"]) for size in sizes],
                like=number if other else None,
            )
            for other, (key, words) in enumerate(drawing.figures.items())
            for number, model in enumerate(_MODELS)
        ]
        plot = Plot(drawing.title, "listeners", drawing.y_label, series, drawing.logarithmic)
        files[f"{drawing.name}.svg"] = plot.svg()
    return files
