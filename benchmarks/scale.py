"""How much is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """`change_runs`: listeners of a load balancer -> pairs of runs. `heartbeat_sizes`: listeners
    of the heartbeats. `failover_cases`: so many of them, and 20 reloads. `rest`: seconds for the
    last request's threads and for old workers to come to rest before memory is looked at. The
    others are sizes and numbers of repetitions."""

    change_runs: Mapping[int, int]
    change_members: int
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


FULL = Scale(
    change_runs={1: 25, 100: 21, 500: 15},
    change_members=10,
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
)

#: Everything once, so that it is known to run; its figures mean nothing.
QUICK = Scale(
    change_runs={1: 1, 5: 1},
    change_members=2,
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
)
