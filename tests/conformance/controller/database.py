"""The one thing stood in for: the controller's database.

Octavia's driver and heartbeat receiver work on repositories, which here keep the data models of
the test itself: what the controller would write to its database is read off the very objects
that the test has built (`balancer.operating_status`, `member.operating_status`, …).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from octavia.common import constants, data_models, utils
from octavia.db import api, repositories
from stevedore import extension

try:
    from octavia.statistics import stats_base

    _Driver = stats_base.StatsDriverMixin
except ImportError:  # old releases have one place for statistics, a repository
    stats_base, _Driver = None, object


class Session:
    """A transaction on nothing."""

    @contextmanager
    def begin(self) -> Iterator["Session"]:
        yield self

    def commit(self) -> None:
        pass

    def rollback(self) -> None:
        pass


class Database:
    """The load balancers that this controller knows, and what it has heard of them."""

    def __init__(self) -> None:
        self.load_balancers: list[data_models.LoadBalancer] = []
        #: Ids of amphorae, one for each heartbeat that counted as a sign of health.
        self.signs_of_health: list[str] = []
        #: Statistics as the receiver handed them to Octavia's statistics drivers, with whether
        #: they are differences.
        self.statistics: list[tuple[data_models.ListenerStatistics, bool]] = []

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Let Octavia's code find this database where it looks for its own."""
        stand_ins = {
            "AmphoraRepository": _Amphorae(self),
            "AmphoraHealthRepository": _AmphoraHealth(self),
            "ListenerRepository": _Listeners(self, self.listeners),
            "LoadBalancerRepository": _Objects(self, lambda: iter(self.load_balancers)),
            "MemberRepository": _Objects(self, self.members),
            "PoolRepository": _Objects(self, self.pools),
        }
        for name, repository in stand_ins.items():
            patch.setattr(repositories, name, lambda found=repository: found)
        patch.setattr(api, "get_session", lambda **_: Session())
        if hasattr(api, "session"):
            patch.setattr(api, "session", lambda: Session())
        if stats_base is None:
            kept = _ListenerStatistics(self)
            patch.setattr(repositories, "ListenerStatisticsRepository", lambda: kept)
            return
        driver = extension.Extension("conformance", None, None, _Statistics(self))
        patch.setattr(
            stats_base,
            "_STATS_HANDLERS",
            extension.ExtensionManager.make_test_instance([driver]),
        )

    def listeners(self) -> Iterator[data_models.Listener]:
        for balancer in self.load_balancers:
            yield from balancer.listeners

    def pools(self) -> Iterator[data_models.Pool]:
        for balancer in self.load_balancers:
            yield from balancer.pools

    def members(self) -> Iterator[data_models.Member]:
        for pool in self.pools():
            yield from pool.members

    def counted(self, counter: str, listener_id: str) -> int:
        """What a counter of a listener has come to: increases are added up, and what is told as a
        whole (API 0.5) takes the place of what was told before."""
        total = 0
        for told, is_increase in self.statistics:
            if told.listener_id == listener_id:
                total = getattr(told, counter) + (total if is_increase else 0)
        return total

    def of_amphora(self, amphora_id: str) -> data_models.LoadBalancer | None:
        for balancer in self.load_balancers:
            if any(amphora.id == amphora_id for amphora in balancer.amphorae):
                return balancer
        return None


class _Objects:
    """A repository of objects that can be updated by id."""

    def __init__(self, database: Database, objects: Any) -> None:
        self._database = database
        self._objects = objects

    def update(self, session: Session, id: str, **values: Any) -> None:
        if (found := self.get(session, id)) is None:
            raise AssertionError(f"the controller updated {id}, which no load balancer has")
        found.update(values)

    def get(self, session: Session, id: str) -> Any:
        return next((found for found in self._objects() if found.id == id), None)


class _Listeners(_Objects):
    def get_port_protocol_cidr_for_lb(
        self, session: Session, loadbalancer_id: str
    ) -> list[dict[str, Any]]:
        """The rows of the query; what is made of each is the controller's own."""
        return [
            utils.map_protocol_to_nftable_protocol(
                {
                    constants.PROTOCOL: listener.protocol,
                    constants.CIDR: cidr,
                    constants.PORT: listener.protocol_port,
                }
            )
            for listener in self._objects()
            if listener.load_balancer_id == loadbalancer_id
            for cidr in [allowed.cidr for allowed in listener.allowed_cidrs] or [None]
        ]


class _Amphorae:
    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, session: Session, id: str) -> data_models.Amphora | None:
        balancer = self._database.of_amphora(id)
        amphorae = balancer.amphorae if balancer else ()
        return next((amphora for amphora in amphorae if amphora.id == id), None)

    def update(self, session: Session, id: str, **values: Any) -> None:
        if (found := self.get(session, id)) is None:
            raise AssertionError(f"the controller updated {id}, which no load balancer has")
        found.update(values)

    def get_lb_for_health_update(self, session: Session, amphora_id: str) -> dict[str, Any]:
        """The flat form of a load balancer that the receiver works on."""
        balancer = self._database.of_amphora(amphora_id)
        if balancer is None:
            return {}
        listeners = {
            listener.id: {
                "operating_status": listener.operating_status,
                "protocol": listener.protocol,
                "enabled": listener.enabled,
            }
            for listener in balancer.listeners
        }
        pools = {
            pool.id: {
                "operating_status": pool.operating_status,
                "members": {
                    member.id: {"operating_status": member.operating_status}
                    for member in pool.members
                },
            }
            for pool in balancer.pools
        }
        return {
            "id": balancer.id,
            "enabled": balancer.enabled,
            "provisioning_status": balancer.provisioning_status,
            "operating_status": balancer.operating_status,
            **({constants.LISTENERS: listeners} if listeners else {}),
            **({"pools": pools} if pools else {}),
        }


class _AmphoraHealth:
    def __init__(self, database: Database) -> None:
        self._database = database

    def replace(self, session: Session, amphora_id: str, **values: Any) -> None:
        self._database.signs_of_health.append(amphora_id)


class _ListenerStatistics:
    def __init__(self, database: Database) -> None:
        self._database = database

    def replace(self, session: Session, listener_id: str, amphora_id: str, **values: Any) -> None:
        told = data_models.ListenerStatistics(listener_id, amphora_id, **values)
        self._database.statistics.append((told, False))


class _Statistics(_Driver):  # type: ignore[misc]
    """A statistics driver, as operators may add their own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def update_stats(
        self, listener_stats: list[data_models.ListenerStatistics], deltas: bool = False
    ) -> None:
        self._database.statistics += [(one, deltas) for one in listener_stats]
