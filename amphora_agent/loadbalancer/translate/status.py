"""Find the operating statuses of a load balancer, by Octavia's names, in what haproxy and IPVS say.

The rules are those by which Octavia's health manager makes statuses of heartbeats: a listener is
ONLINE when it can take connections, whatever its pools can do; a pool is what haproxy calls its
backend; the load balancer is as bad as any pool that a listener or policy uses. One rule is ours:
where haproxy or keepalived does not serve a listener, the load balancer is in ERROR, too. (Octavia
takes no heartbeat for valid then, and replaces the amphora.)
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import msgspec

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy.replies.statistics import read_statistics
from amphora_agent.model.resolved import (
    ResolvedListener,
    ResolvedLoadBalancer,
    ResolvedPool,
)
from amphora_agent.model.responses import (
    ListenerStatus,
    LoadBalancerStatus,
    MemberStatus,
    OperatingStatus,
    PoolStatus,
)
from amphora_agent.model.status import InstanceReading
from amphora_agent.x509.validity import Stage, find_stage

_DOWN = "administratively down"

_SILENT = "haproxy does not answer"

_UNUSED = "no listener uses it"

_UNKNOWN = "haproxy does not have it"

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

#: What makes a load balancer worse, the worst first.
_BAD = (Status.ERROR, Status.DEGRADED)

#: What a member is by the first word that haproxy or keepalived says of it.
_MEMBERS = {
    "DOWN": Status.ERROR,
    "DRAIN": Status.DRAINING,
    "MAINT": Status.OFFLINE,
    "UP": Status.ONLINE,
    "no check": Status.NO_MONITOR,
}

_Row = Mapping[str, str]

#: What is read of each row.
_COLUMNS = frozenset(
    {"scur", "slim", "status", "weight", "check_status", "check_code", "check_duration", "last_chk"}
)


class Times(NamedTuple):
    """When a file is valid, as the API tells it (RFC 3339); `not_after` may be empty."""

    not_before: str
    not_after: str


class Note(NamedTuple):
    """Why an object may not work, and how bad that makes it; ONLINE: it will be bad."""

    status: Status
    reason: str


class _Said(NamedTuple):
    """Rows of all processes; `silent` are those that say nothing."""

    frontends: Mapping[str, _Row]
    backends: Mapping[str, _Row]
    servers: Mapping[tuple[str, str], _Row]
    silent: bool


class _Told(NamedTuple):
    """What is told of a pool: UP or DOWN, and of each member a status with its reason."""

    word: str
    members: Mapping[str, tuple[Status, str]]


def find_status(
    balancer: ResolvedLoadBalancer,
    statistics: Mapping[str, str | None],
    layer4: Mapping[str, InstanceReading],
    notes: Mapping[str, Note] = MappingProxyType({}),
) -> LoadBalancerStatus:
    """`statistics` is what each process says to `show stat`, None when it does not answer; `layer4`
    the readings of UDP and SCTP listeners; `notes` what their certificates do to objects, by their
    ids. Octavia knows nothing of certificates: a listener or pool that they keep from working is
    not ONLINE here."""
    said = _read(statistics.values())
    used = {pool.pool_id for each in balancer.haproxy_listeners for pool in each.used_pools}
    pools = tuple(
        _noted(_pool(pool, _told(pool, said, layer4, used)), notes.get(pool.pool_id))
        for pool in balancer.pools.values()
    )
    by_id = {pool.pool_id: pool for pool in pools}
    listeners = tuple(
        _noted(
            _listener(listener, balancer.is_up, said, layer4, by_id),
            notes.get(listener.listener_id),
        )
        for listener in balancer.listeners
    )
    status, reason = Status.OFFLINE, _DOWN
    if balancer.is_up:
        status, reason = _worst(
            (
                *((each.operating_status, f"pool {each.pool_id}: {each.reason}") for each in pools),
                *(
                    (each.operating_status, f"listener {each.listener_id}: {each.reason}")
                    for each in listeners
                ),
            )
        )
    return LoadBalancerStatus(
        loadbalancer_id=balancer.id,
        operating_status=status,
        reason=reason,
        listeners=listeners,
        pools=pools,
    )


_Status = TypeVar("_Status", ListenerStatus, PoolStatus)


def _noted(told: _Status, note: Note | None) -> _Status:
    """Add what certificates do to an object that is meant to work."""
    if note is None or told.operating_status is Status.OFFLINE:
        return told
    found = ((told.operating_status, told.reason), (note.status, note.reason))
    reason = "; ".join(words for _, words in found if words)
    return msgspec.structs.replace(told, operating_status=_worst(found)[0], reason=reason)


def _read(statistics: Iterable[str | None]) -> _Said:
    frontends: dict[str, _Row] = {}
    backends: dict[str, _Row] = {}
    servers: dict[tuple[str, str], _Row] = {}
    silent = False
    for text in statistics:
        try:
            rows = [*read_statistics(text, _COLUMNS).by_column()] if text is not None else None
        except OperationFailed:
            rows = None
        if rows is None:
            silent = True
            continue
        for row in rows:
            match row["svname"]:
                case "FRONTEND":
                    frontends[row["pxname"]] = row
                case "BACKEND":
                    backends.setdefault(row["pxname"], row)
                case server:
                    servers.setdefault((row["pxname"], server), row)
    return _Said(frontends, backends, servers, silent)


def _listener(
    listener: ResolvedListener,
    is_balancer_up: bool,
    said: _Said,
    layer4: Mapping[str, InstanceReading],
    pools: Mapping[str, PoolStatus],
) -> ListenerStatus:
    status, reason, connections = Status.OFFLINE, _DOWN, 0
    if is_balancer_up and listener.admin_state_up:
        status, reason, connections = _serving(listener, said, layer4)
    if status is Status.ONLINE:
        found = (pools[pool.pool_id] for pool in listener.used_pools)
        _, reason = _worst(
            (each.operating_status, f"pool {each.pool_id}: {each.reason}") for each in found
        )
    return ListenerStatus(
        listener_id=listener.listener_id,
        operating_status=status,
        reason=reason,
        connections=connections,
    )


def _serving(
    listener: ResolvedListener, said: _Said, layer4: Mapping[str, InstanceReading]
) -> tuple[Status, str, int]:
    """Return how a listener that is up takes connections, why, and how many it has."""
    name = listener.listener_id
    if listener.is_layer4:
        reading = layer4.get(name)
        now = reading and reading.current and reading.current.listeners.get(name)
        if not now:
            return Status.ERROR, "keepalived does not serve it", 0
        return Status.ONLINE, "", now.conns
    row = said.frontends.get(name)
    if row is None:
        return Status.ERROR, _SILENT if said.silent else _UNKNOWN, 0
    connections, limit = int(row["scur"] or 0), int(row["slim"] or 0)
    if row["status"] != "OPEN" or 0 < limit <= connections:
        words = f"haproxy calls it {row['status']}; {connections} of {limit} connections"
        return Status.DEGRADED, words, connections
    return Status.ONLINE, "", connections


def _told(
    pool: ResolvedPool, said: _Said, layer4: Mapping[str, InstanceReading], used: Collection[str]
) -> _Told | None:
    """Return what is told of a pool; None when nobody has it. Of those that haproxy uses, whoever
    has them may not answer."""
    row = said.backends.get(pool.pool_id)
    if row is not None:
        rows = {
            member.member_id: said.servers.get((pool.pool_id, member.member_id))
            for member in pool.members
        }
        members = {name: _of_row(found) for name, found in rows.items() if found is not None}
        return _Told(row["status"], members)
    for reading in layer4.values():
        for key, found in reading.current.pools.items() if reading.current else ():
            if key.partition(":")[0] == pool.pool_id:
                words = {
                    name: _of_word(word, f"keepalived calls it {word}")
                    for name, word in found.members.items()
                }
                return _Told(found.status, words)
    if said.silent and pool.pool_id in used and pool.admin_state_up:
        lost = {
            member.member_id: (Status.ERROR, _SILENT)
            for member in pool.members
            if member.admin_state_up
        }
        return _Told("DOWN", lost)
    return None


def _pool(pool: ResolvedPool, told: _Told | None) -> PoolStatus:
    members = tuple(_members(pool, told))
    if told is None:
        status, reason = Status.OFFLINE, _UNUSED if pool.admin_state_up else _DOWN
    else:
        bad = sum(each.operating_status is Status.ERROR for each in members)
        count = f"{bad} of {len(members)} members"
        if told.word != "UP":
            status, reason = Status.ERROR, f"{count} do not work" if bad else "no member works"
        elif bad:
            status, reason = Status.DEGRADED, f"{count} do not work"
        else:
            status, reason = Status.ONLINE, ""
    return PoolStatus(pool_id=pool.pool_id, operating_status=status, reason=reason, members=members)


def _members(pool: ResolvedPool, told: _Told | None) -> Iterator[MemberStatus]:
    for member in pool.members:
        if not pool.admin_state_up or not member.admin_state_up:
            status, reason = Status.OFFLINE, _DOWN
        elif told is None:
            status, reason = Status.OFFLINE, _UNUSED
        else:
            status, reason = told.members.get(member.member_id, (Status.OFFLINE, _UNKNOWN))
        yield MemberStatus(member_id=member.member_id, operating_status=status, reason=reason)


def _of_row(row: _Row) -> tuple[Status, str]:
    """Return the status of a member that haproxy has, and why."""
    word = row["status"]
    match word.partition(" ")[0]:
        case "no":
            return _MEMBERS["no check"], "its pool has no health monitor"
        case "MAINT":
            return _MEMBERS["MAINT"], "in maintenance"
        case "UP" if word == "UP" and row["weight"] == "0":
            return _MEMBERS["DRAIN"], "weight 0"
        case "NOLB":
            return Status.OFFLINE, "not checked yet"
        case first:
            return _of_word(first, _last_check(row))


def _of_word(word: str, reason: str) -> tuple[Status, str]:
    """What is neither is on its way (RESTARTING): Octavia keeps what it knew, and begins with
    OFFLINE."""
    return _MEMBERS.get(word, Status.OFFLINE), reason


def _last_check(row: _Row) -> str:
    """Say the last check in words: "a wrong status: 503 Service Unavailable, 2 ms (L7STS)"."""
    code = row.get("check_status", "").lstrip("* ")
    if not code:
        return ""
    details = " ".join(
        word for word in (row.get("check_code", ""), row.get("last_chk", "")) if word
    )
    words = _CHECKS.get(code, code)
    took = f", {row['check_duration']} ms" if row.get("check_duration") else ""
    return f"{words}{f': {details}' if details else ''}{took} ({code})"


def _worst(found: Iterable[tuple[Status, str]]) -> tuple[Status, str]:
    """Return the worst of these statuses with its reason; ONLINE when nothing is bad."""
    bad = [each for each in found if each[0] in _BAD]
    return min(bad, key=lambda each: _BAD.index(each[0]), default=(Status.ONLINE, ""))


_WHAT = {"ca": "CA", "crl": "revocation list"}

#: What clients are examined with: once it has expired, none of them passes.
_OF_CLIENTS = frozenset({"client-ca", "client-crl"})


def find_notes(files: Mapping[str, Times], now: datetime) -> Mapping[str, Note]:
    """Return what is wrong with the files of each listener and pool, the worst first, by its id.
    `files` are by their names in a state."""
    notes: dict[str, list[Note]] = {}
    for path, times in sorted(files.items()):
        name, _, purpose = path.rpartition("/")[2].removesuffix(".pem").partition(".")
        if note := _note(purpose, times, now):
            notes.setdefault(name, []).append(note)
    return {name: _join_notes(each) for name, each in notes.items()}


def _note(purpose: str, times: Times, now: datetime) -> Note | None:
    what = _WHAT.get(purpose.rpartition("-")[2], "certificate")
    bad = Status.ERROR if purpose in _OF_CLIENTS else Status.DEGRADED
    if datetime.fromisoformat(times.not_before) > now:
        return Note(bad, f"its {what} is not valid before {times.not_before}")
    if not times.not_after:
        return None
    reached = find_stage(datetime.fromisoformat(times.not_after).timestamp(), now.timestamp())
    if reached is Stage.VALID:
        return None
    status = bad if reached is Stage.EXPIRED else Status.ONLINE
    return Note(status, f"its {what} {reached.words}, at {times.not_after}")


def _join_notes(some: Iterable[Note]) -> Note:
    order = (Status.ERROR, Status.DEGRADED, Status.ONLINE)
    worst = sorted(dict.fromkeys(some), key=lambda note: order.index(note.status))
    return Note(worst[0].status, "; ".join(dict.fromkeys(note.reason for note in worst[:5])))
