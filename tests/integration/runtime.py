"""Load balancers whose configuration changes by what a test changes, and by nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from lab.listeners import HealthMonitor, Listener, Member, loadbalancer, stable_id
from tests.integration.amphora import VIP, WEB_PORTS, Amphora, LoadBalancer

#: Quick to find out, and steady.
WATCHED = HealthMonitor(delay=1, timeout=1, fall=2, rise=2)


@pytest.fixture(scope="module")
def amphora(boot: Callable[..., Amphora], program: Path) -> Iterator[Amphora]:
    """Of one version of haproxy."""
    with ExitStack() as ending:
        yield boot(ending, settings={"haproxy_amphora": {"haproxy_cmd": str(program)}})


def member(number: int, **more: object) -> Member:
    """The member for web<number>."""
    plain = Member(stable_id(f"web{number}"), VIP, 8000 + number)
    return replace(plain, **more)  # type: ignore[arg-type]


@dataclass
class Changing(LoadBalancer):
    """`members` and `limit` are what changes can be made of while haproxy runs; `timeout` is one
    that takes a reload."""

    members: list[Member] = field(
        default_factory=lambda: [member(port - 8000) for port in WEB_PORTS]
    )
    limit: int = 2000
    timeout: int = 50000

    @property
    def listener(self) -> Listener:
        made = super().listener
        assert made.pool is not None
        pool = replace(made.pool, members=tuple(self.members))
        return replace(made, pool=pool, connection_limit=self.limit)

    def text(self, *more: Listener) -> str:
        text = loadbalancer(
            self.id,
            vip=VIP,
            listeners=[self.listener, *more],
            base_path=str(self.amphora.agent.base_path),
            timeout_client=self.timeout,
        )
        return text + "\n"

    @property
    def backend(self) -> str:
        assert self.listener.pool is not None
        return f"{self.listener.pool.id}:{self.listener.id}"

    def current(self) -> int:
        """The worker's pid."""
        found = self.workers().current
        assert found is not None
        return found

    def status(self) -> dict[str, str]:
        """haproxy's word for each member that it has."""
        return self._column("status")

    def weights(self) -> dict[str, str]:
        return self._column("weight")

    def _column(self, name: str) -> dict[str, str]:
        header, *rows = self.ask(f"@1 show stat {self.backend} 4 -1").splitlines()
        place = header.removeprefix("# ").split(",").index(name)
        columns = (row.split(",") for row in rows if row)
        return {row[1]: row[place] for row in columns}

    def done(self) -> str:
        """By what the last reload that was asked for was carried out: "nothing", "runtime",
        "reload", "start"; "fell back" when commands did not do and a reload did."""
        asked = [
            line
            for line in self.amphora.agent.log.splitlines()
            if f"instance={self.id} change=reload " in line
        ]
        found = re.search(r"plan=(\S+) result=(\S+)", asked[-1])
        assert found is not None, asked[-1]
        return "fell back" if found[2] == "fell" else found[1]
