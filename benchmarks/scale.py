"""How much is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """`change_runs`: listeners of a load balancer -> pairs of runs. `heartbeat_sizes`: listeners
    of the heartbeats. `runtime_runs`: listeners of a load balancer -> runs of each change at run
    time, `declared_runs` of each change of a declared one. `first_delays`: seconds between the
    checks of a new member. `failover_cases`: so many of them, and 20 reloads. `model_runs`:
    listeners of a load balancer -> runs of each process model; `model_seconds`: of its traffic;
    `model_watch`: seconds without. `crowd`: so many clients take nothing of an answer of
    `crowd_answer` bytes, and so many uploads of that size send `crowd_sent` bytes, later
    `crowd_most`; then come `crowd_texts` of `crowd_text` bytes; `crowd_interval`: seconds between
    heartbeats meanwhile. `rest`: seconds for the last request's threads and for old workers to come
    to rest before memory is looked at. The others are sizes and numbers of repetitions."""

    change_runs: Mapping[int, int]
    change_members: int
    runtime_runs: Mapping[int, int]
    runtime_members: int
    declared_runs: Mapping[int, int]
    declared_members: int
    first_delays: tuple[int, ...]
    first_runs: int
    starts: int
    rest: float
    requests: int
    sessions: int
    asked_listeners: int
    heartbeat_sizes: tuple[int, ...]
    heartbeat_members: int
    heartbeat_runs: int
    capacity_members: tuple[int, ...]
    metrics_sizes: tuple[int, ...]
    metrics_runs: int
    failover_cases: int
    failover_runs: int
    model_runs: Mapping[int, int]
    model_members: int
    model_seconds: float
    model_watch: float
    crowd: int
    crowd_interval: int
    crowd_runs: int
    crowd_answer: int
    crowd_sent: int
    crowd_most: int
    crowd_texts: int
    crowd_text: int


FULL = Scale(
    change_runs={1: 25, 100: 21, 500: 15},
    change_members=10,
    runtime_runs={1: 15, 10: 15, 100: 11, 500: 9, 2000: 7},
    runtime_members=4,
    declared_runs={10: 9, 500: 7},
    declared_members=10,
    first_delays=(2, 10, 60),
    first_runs=9,
    starts=9,
    rest=2.0,
    requests=500,
    sessions=150,
    asked_listeners=100,
    heartbeat_sizes=(100, 1000),
    heartbeat_members=4,
    heartbeat_runs=9,
    capacity_members=(1, 4, 10, 50),
    metrics_sizes=(5, 100, 500),
    metrics_runs=9,
    failover_cases=8,
    failover_runs=3,
    model_runs={1: 3, 10: 3, 50: 3, 200: 3},
    model_members=4,
    model_seconds=3.0,
    model_watch=10.0,
    crowd=200,
    crowd_interval=3,
    crowd_runs=15,
    crowd_answer=10_000_000,
    crowd_sent=300_000,
    crowd_most=3_200_000,
    crowd_texts=20,
    crowd_text=14_000_000,
)

#: Everything once, so that it is known to run; its figures mean nothing.
QUICK = Scale(
    change_runs={1: 1, 5: 1},
    change_members=2,
    runtime_runs={1: 1, 5: 1},
    runtime_members=2,
    declared_runs={2: 1},
    declared_members=2,
    first_delays=(2,),
    first_runs=1,
    starts=1,
    rest=0.1,
    requests=3,
    sessions=2,
    asked_listeners=2,
    heartbeat_sizes=(5,),
    heartbeat_members=2,
    heartbeat_runs=1,
    capacity_members=(4,),
    metrics_sizes=(5,),
    metrics_runs=1,
    failover_cases=1,
    failover_runs=1,
    model_runs={1: 1, 6: 1},
    model_members=2,
    model_seconds=0.3,
    model_watch=0.5,
    crowd=3,
    crowd_interval=1,
    crowd_runs=2,
    crowd_answer=1_000_000,
    crowd_sent=100_000,
    crowd_most=200_000,
    crowd_texts=2,
    crowd_text=300_000,
)
