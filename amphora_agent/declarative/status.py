"""How a load balancer is, in Octavia's words, from what haproxy and IPVS say.

The rules are those by which Octavia's health manager makes statuses of heartbeats.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from amphora_agent.model import meaning
from amphora_agent.model.declared import (
    ListenerStatus,
    LoadBalancerStatus,
    MemberStatus,
    OperatingStatus,
    PoolStatus,
)
from amphora_agent.model.loadbalancer import Listener, LoadBalancer, Member, Pool
from amphora_agent.model.meaning import is_up
from amphora_agent.model.status import InstanceReading

_DOWN = "administratively down"
_SILENT = "haproxy does not answer"
_UNUSED = "no listener uses it"

#: haproxy's words for how a health check went (management manual, "show stat", check_status).
_CHECKS = {
    "HANA": "the check was stopped",
    "INI": "not checked yet",
    "L4CON": "no connection",
    "L4OK": "connected",
    "L4TOUT": "no connection in time",
    "L6OK": "TLS works",
    "L6RSP": "no TLS",
    "L6TOUT": "no TLS in time",
    "L7OK": "answered",
    "L7OKC": "answered conditionally",
    "L7RSP": "a wrong answer",
    "L7STS": "a wrong status",
    "L7TOUT": "no answer in time",
    "PROCERR": "the check failed",
    "PROCOK": "the check passed",
    "PROCTOUT": "the check took too long",
    "SOCKERR": "no socket",
    "UNK": "unknown",
}

Status = OperatingStatus
_ORDER = (Status.ERROR, Status.DEGRADED, Status.DRAINING, Status.ONLINE)

_Row = Mapping[str, str]


class _Said(NamedTuple):
    """Rows of all processes; `silent` are those that say nothing."""

    frontends: Mapping[str, _Row]
    backends: Mapping[str, _Row]
    servers: Mapping[tuple[str, str], _Row]
    silent: bool


def of(
    balancer: LoadBalancer,
    statistics: Mapping[str, str | None],
    layer4: Mapping[str, InstanceReading],
) -> LoadBalancerStatus:
    """`statistics` is what each process says to `show stat`, None when it does not answer; `layer4`
    the readings of UDP and SCTP listeners."""
    said = _read(statistics.values())
    pools = tuple(_pool(pool, said, layer4) for pool in meaning.pools(balancer).values())
    by_id = {pool.pool_id: pool for pool in pools}
    listeners = tuple(
        _listener(listener, said, layer4, by_id) for listener in balancer.listeners or ()
    )
    if not is_up(balancer):
        status, reason = Status.OFFLINE, _DOWN
    else:
        status, reason = _worst((each.operating_status, each.listener_id) for each in listeners)
    return LoadBalancerStatus(
        loadbalancer_id=balancer.loadbalancer_id,
        operating_status=status,
        reason=reason,
        listeners=listeners,
        pools=pools,
    )


def _read(statistics: Iterable[str | None]) -> _Said:
    frontends: dict[str, _Row] = {}
    backends: dict[str, _Row] = {}
    servers: dict[tuple[str, str], _Row] = {}
    silent = False
    for text in statistics:
        if text is None:
            silent = True
            continue
        for row in csv.DictReader(text.removeprefix("# ").splitlines()):
            match row["svname"]:
                case "FRONTEND":
                    frontends[row["pxname"]] = row
                case "BACKEND":
                    backends.setdefault(row["pxname"], row)
                case server:
                    servers.setdefault((row["pxname"], server), row)
    return _Said(frontends, backends, servers, silent)


def _listener(
    listener: Listener,
    said: _Said,
    layer4: Mapping[str, InstanceReading],
    pools: Mapping[str, PoolStatus],
) -> ListenerStatus:
    name = listener.listener_id
    connections = 0
    if not is_up(listener):
        return ListenerStatus(listener_id=name, operating_status=Status.OFFLINE, reason=_DOWN)
    if meaning.is_layer4(listener):
        reading = layer4.get(name)
        now = reading and reading.current and reading.current.listeners.get(name)
        if not now:
            words = "keepalived does not serve it"
            return ListenerStatus(listener_id=name, operating_status=Status.ERROR, reason=words)
        connections = now.conns
    else:
        row = said.frontends.get(name)
        if row is None:
            words = _SILENT if said.silent else "haproxy does not have it"
            return ListenerStatus(listener_id=name, operating_status=Status.ERROR, reason=words)
        connections = int(row["scur"] or 0)
        limit = int(row["slim"] or 0)
        if row["status"] != "OPEN" or 0 < limit <= connections:
            words = f"haproxy calls it {row['status']}; {connections} of {limit} connections"
            return ListenerStatus(
                listener_id=name,
                operating_status=Status.DEGRADED,
                reason=words,
                connections=connections,
            )
    default = pools.get(meaning.default_pool_id(listener) or "")
    status, reason = Status.ONLINE, ""
    if default is not None and default.operating_status in (Status.ERROR, Status.DEGRADED):
        status = default.operating_status
        reason = f"pool {default.pool_id}: {default.reason}"
    return ListenerStatus(
        listener_id=name, operating_status=status, reason=reason, connections=connections
    )


def _pool(pool: Pool, said: _Said, layer4: Mapping[str, InstanceReading]) -> PoolStatus:
    members = tuple(_members(pool, said, layer4))
    status, reason = Status.ONLINE, ""
    counted = [each for each in members if each.operating_status is not Status.OFFLINE]
    bad = [each.member_id for each in counted if each.operating_status is Status.ERROR]
    if not is_up(pool):
        status, reason = Status.OFFLINE, _DOWN
    elif members and all(each.reason == _UNUSED for each in members):
        status, reason = Status.OFFLINE, _UNUSED
    elif bad:
        status = Status.ERROR if len(bad) == len(counted) else Status.DEGRADED
        reason = f"{len(bad)} of {len(counted)} members do not work"
    elif counted and all(each.operating_status is Status.DRAINING for each in counted):
        status, reason = Status.DRAINING, "all members have weight 0"
    return PoolStatus(pool_id=pool.pool_id, operating_status=status, reason=reason, members=members)


def _members(
    pool: Pool, said: _Said, layer4: Mapping[str, InstanceReading]
) -> Iterator[MemberStatus]:
    in_ipvs = {
        member: word
        for reading in layer4.values()
        if reading.current is not None
        for key, found in reading.current.pools.items()
        if key.partition(":")[0] == pool.pool_id
        for member, word in found.members.items()
    }
    for member in pool.members or ():
        row = said.servers.get((pool.pool_id, member.member_id))
        if not is_up(pool) or not is_up(member):
            status, reason = Status.OFFLINE, _DOWN
        elif member.member_id in in_ipvs:
            word = in_ipvs[member.member_id]
            status, reason = _of_word(word), f"keepalived calls it {word}"
        elif row is None:
            silent = said.silent and not said.backends
            status, reason = (Status.ERROR, _SILENT) if silent else (Status.OFFLINE, _UNUSED)
        else:
            status, reason = _of_row(member, pool, row)
        yield MemberStatus(member_id=member.member_id, operating_status=status, reason=reason)


def _of_row(member: Member, pool: Pool, row: _Row) -> tuple[Status, str]:
    word, checked = row["status"], _last_check(row)
    if not (pool.healthmonitor and is_up(pool.healthmonitor)):
        if member.weight == 0:
            return Status.DRAINING, "weight 0"
        return Status.NO_MONITOR, "its pool has no health monitor"
    if word.startswith("MAINT"):
        return Status.OFFLINE, "in maintenance"
    if member.weight == 0 and word.startswith("UP"):
        return Status.DRAINING, "weight 0"
    return _of_word(word.partition(" ")[0]), checked


def _of_word(word: str) -> Status:
    if word in ("UP", "no"):
        return Status.ONLINE
    if word == "DRAIN":
        return Status.DRAINING
    if word in ("MAINT",):
        return Status.OFFLINE
    return Status.ERROR


def _last_check(row: _Row) -> str:
    """The last check in words: "a wrong status: 503 Service Unavailable, 2 ms (L7STS)"."""
    code = row.get("check_status", "").lstrip("* ")
    if not code:
        return ""
    details = " ".join(
        word for word in (row.get("check_code", ""), row.get("last_chk", "")) if word
    )
    words = _CHECKS.get(code, code)
    took = f", {row['check_duration']} ms" if row.get("check_duration") else ""
    return f"{words}{f': {details}' if details else ''}{took} ({code})"


def _worst(statuses: Iterable[tuple[Status, str]]) -> tuple[Status, str]:
    found = [(status, name) for status, name in statuses if status is not Status.OFFLINE]
    if not found:
        return Status.ONLINE, ""
    status, name = min(found, key=lambda each: _ORDER.index(each[0]))
    return status, "" if status is Status.ONLINE else f"listener {name}"
