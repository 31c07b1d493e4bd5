"""Find the operating statuses of a load balancer, by Octavia's names, in what haproxy and IPVS say.

The rules are those by which Octavia's health manager makes statuses of heartbeats: a listener is
ONLINE when it can take connections, whatever its pools can do; a pool is what haproxy calls its
backend; the load balancer is as bad as any pool that a listener or policy uses. One rule is ours:
where haproxy or keepalived does not serve a listener, the load balancer is in ERROR, too. (Octavia
takes no heartbeat for valid then, and replaces the amphora.)
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import msgspec

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy.replies import read_statistics
from amphora_agent.model.resolved import ResolvedListener, ResolvedLoadBalancer, ResolvedPool
from amphora_agent.model.responses import (
    About,
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
_MEMBERS = {"DOWN": Status.ERROR, "DRAIN": Status.DRAINING, "UP": Status.ONLINE}

_Row = Mapping[str, str]

#: What is read of each row.
_COLUMNS = frozenset(
    {"scur", "slim", "status", "weight", "check_status", "check_code", "check_duration", "last_chk"}
)


class Note(NamedTuple):
    """A status, and the reason for it. As a note about a certificate, ONLINE: it will be bad."""

    status: Status
    reason: str


_ONLINE = Note(Status.ONLINE, "")


class _Statistics(NamedTuple):
    """Rows of all processes. `silent`: one of them does not answer."""

    frontends: Mapping[str, _Row]
    backends: Mapping[str, _Row]
    servers: Mapping[tuple[str, str], _Row]
    silent: bool


class _PoolReport(NamedTuple):
    """What haproxy or keepalived says of a pool: UP or DOWN, and what that means of each member."""

    word: str
    members: Mapping[str, Note]


def find_status(
    balancer: ResolvedLoadBalancer,
    replies: Mapping[str, str | None],
    layer4: Mapping[str, InstanceReading],
    notes: Mapping[str, Note] = MappingProxyType({}),
) -> LoadBalancerStatus:
    """Return the statuses of a load balancer and its parts.

    `replies` is what each process says to `show stat`, None when it does not answer; `layer4` the
    readings of UDP and SCTP listeners; `notes` what their certificates do to objects, by their ids.
    Octavia knows nothing of certificates: a listener or pool that they keep from working is not
    ONLINE here.
    """
    statistics = _read(replies.values())
    used = {pool.pool_id for listener in balancer.haproxy_listeners for pool in listener.used_pools}
    pools = {}
    for pool_id, pool in balancer.pools.items():
        report = _find_report(pool, statistics, layer4, is_used=pool_id in used)
        pools[pool_id] = _add_note(_judge_pool(pool, report), notes.get(pool_id))
    listeners = tuple(
        _add_note(
            _judge_listener(listener, balancer.is_up, statistics, layer4, pools),
            notes.get(listener.listener_id),
        )
        for listener in balancer.listeners
    )
    worst = Note(Status.OFFLINE, _DOWN)
    if balancer.is_up:
        worst = _find_worst((*map(_describe, pools.values()), *map(_describe, listeners)))
    return LoadBalancerStatus(
        loadbalancer_id=balancer.id,
        operating_status=worst.status,
        reason=worst.reason,
        listeners=listeners,
        pools=tuple(pools.values()),
    )


_Part = TypeVar("_Part", ListenerStatus, PoolStatus)


def _add_note(part: _Part, note: Note | None) -> _Part:
    """Add what certificates do to an object that is meant to work."""
    if note is None or part.operating_status is Status.OFFLINE:
        return part
    status, _ = _find_worst((Note(part.operating_status, part.reason), note))
    reason = "; ".join(filter(None, (part.reason, note.reason)))
    return msgspec.structs.replace(part, operating_status=status, reason=reason)


def _describe(part: ListenerStatus | PoolStatus) -> Note:
    """Return the status of a part, with its name in the reason."""
    name = (
        f"pool {part.pool_id}" if isinstance(part, PoolStatus) else f"listener {part.listener_id}"
    )
    return Note(part.operating_status, f"{name}: {part.reason}")


def _find_worst(notes: Iterable[Note]) -> Note:
    """Return the first of those with the worst status; ONLINE when nothing is bad."""
    bad = [note for note in notes if note.status in _BAD]
    return min(bad, key=lambda note: _BAD.index(note.status), default=_ONLINE)


def _read(replies: Iterable[str | None]) -> _Statistics:
    frontends: dict[str, _Row] = {}
    backends: dict[str, _Row] = {}
    servers: dict[tuple[str, str], _Row] = {}
    silent = False
    for text in replies:
        try:
            rows = [*read_statistics(text, _COLUMNS).by_column()] if text is not None else None
        except OperationFailed:
            rows = None
        silent = silent or rows is None
        for row in rows or ():
            match row["svname"]:
                case "FRONTEND":
                    frontends[row["pxname"]] = row
                case "BACKEND":
                    backends.setdefault(row["pxname"], row)
                case server:
                    servers.setdefault((row["pxname"], server), row)
    return _Statistics(frontends, backends, servers, silent)


def _judge_listener(
    listener: ResolvedListener,
    is_balancer_up: bool,
    statistics: _Statistics,
    layer4: Mapping[str, InstanceReading],
    pools: Mapping[str, PoolStatus],
) -> ListenerStatus:
    note, connections = Note(Status.OFFLINE, _DOWN), 0
    if is_balancer_up and listener.admin_state_up:
        note, connections = _judge_service(listener, statistics, layer4)
    reason = note.reason
    if note.status is Status.ONLINE:
        used = (pools[pool.pool_id] for pool in listener.used_pools)
        reason = _find_worst(map(_describe, used)).reason
    return ListenerStatus(
        listener_id=listener.listener_id,
        operating_status=note.status,
        reason=reason,
        connections=connections,
    )


def _judge_service(
    listener: ResolvedListener, statistics: _Statistics, layer4: Mapping[str, InstanceReading]
) -> tuple[Note, int]:
    """Return how a listener that is up takes connections, and how many it has."""
    name = listener.listener_id
    if listener.is_layer4:
        reading = layer4.get(name)
        current = reading and reading.current and reading.current.listeners.get(name)
        if not current:
            return Note(Status.ERROR, "keepalived does not serve it"), 0
        return _ONLINE, current.conns
    row = statistics.frontends.get(name)
    if row is None:
        return Note(Status.ERROR, _SILENT if statistics.silent else _UNKNOWN), 0
    connections, limit = int(row["scur"] or 0), int(row["slim"] or 0)
    if row["status"] != "OPEN" or 0 < limit <= connections:
        message = f"haproxy calls it {row['status']}; {connections} of {limit} connections"
        return Note(Status.DEGRADED, message), connections
    return _ONLINE, connections


def _find_report(
    pool: ResolvedPool,
    statistics: _Statistics,
    layer4: Mapping[str, InstanceReading],
    *,
    is_used: bool,
) -> _PoolReport | None:
    """Return what is said of a pool; None when nobody has it. If `is_used`, a haproxy that does not
    answer may have it."""
    row = statistics.backends.get(pool.pool_id)
    if row is not None:
        members = {
            member.member_id: _judge_row(server)
            for member in pool.members
            if (server := statistics.servers.get((pool.pool_id, member.member_id)))
        }
        return _PoolReport(row["status"], members)
    for reading in layer4.values():
        for key, pool_reading in reading.current.pools.items() if reading.current else ():
            if key.partition(":")[0] == pool.pool_id:
                members = {
                    name: _judge_word(word, f"keepalived calls it {word}")
                    for name, word in pool_reading.members.items()
                }
                return _PoolReport(pool_reading.status, members)
    if statistics.silent and is_used and pool.admin_state_up:
        lost = Note(Status.ERROR, _SILENT)
        return _PoolReport("DOWN", {member.member_id: lost for member in pool.members})
    return None


def _judge_pool(pool: ResolvedPool, report: _PoolReport | None) -> PoolStatus:
    members = tuple(_judge_members(pool, report))
    bad = sum(member.operating_status is Status.ERROR for member in members)
    reason = f"{bad} of {len(members)} members do not work" if bad else ""
    if report is None:
        status, reason = Status.OFFLINE, _UNUSED if pool.admin_state_up else _DOWN
    elif report.word != "UP":
        status, reason = Status.ERROR, reason or "no member works"
    else:
        status = Status.DEGRADED if bad else Status.ONLINE
    return PoolStatus(pool_id=pool.pool_id, operating_status=status, reason=reason, members=members)


def _judge_members(pool: ResolvedPool, report: _PoolReport | None) -> Iterator[MemberStatus]:
    for member in pool.members:
        if not pool.admin_state_up or not member.admin_state_up:
            note = Note(Status.OFFLINE, _DOWN)
        elif report is None:
            note = Note(Status.OFFLINE, _UNUSED)
        else:
            note = report.members.get(member.member_id, Note(Status.OFFLINE, _UNKNOWN))
        yield MemberStatus(
            member_id=member.member_id, operating_status=note.status, reason=note.reason
        )


def _judge_row(row: _Row) -> Note:
    """Return the status of a member that haproxy has."""
    word = row["status"]
    match word.partition(" ")[0]:
        case "no":
            return Note(Status.NO_MONITOR, "its pool has no health monitor")
        case "MAINT":
            return Note(Status.OFFLINE, "in maintenance")
        case "UP" if word == "UP" and row["weight"] == "0":
            return Note(Status.DRAINING, "weight 0")
        case "NOLB":
            return Note(Status.OFFLINE, "not checked yet")
        case first:
            return _judge_word(first, _describe_check(row))


def _judge_word(word: str, reason: str) -> Note:
    """Return the status by one word. A member with another word is on its way (RESTARTING): Octavia
    keeps what it knew, and begins with OFFLINE."""
    return Note(_MEMBERS.get(word, Status.OFFLINE), reason)


def _describe_check(row: _Row) -> str:
    """Say the last check in words: "a wrong status: 503 Service Unavailable, 2 ms (L7STS)"."""
    code = row.get("check_status", "").lstrip("* ")
    if not code:
        return ""
    details = " ".join(filter(None, (row.get("check_code"), row.get("last_chk"))))
    outcome = _CHECKS.get(code, code)
    took = f", {row['check_duration']} ms" if row.get("check_duration") else ""
    return f"{outcome}{f': {details}' if details else ''}{took} ({code})"


_WHAT = {"ca": "CA", "crl": "revocation list"}
#: What clients are examined with: once it has expired, none of them passes.
_OF_CLIENTS = frozenset({"client-ca", "client-crl"})


def find_notes(files: Mapping[str, About], now: datetime) -> Mapping[str, Note]:
    """Return what is wrong with the certificates of each listener and pool, the worst first, by its
    id. `files` are by their names in a state."""
    notes: dict[str, list[Note]] = {}
    for path, about in sorted(files.items()):
        name, _, purpose = path.rpartition("/")[2].removesuffix(".pem").partition(".")
        if note := _judge_file(purpose, about, now):
            notes.setdefault(name, []).append(note)
    return {name: _join_notes(found_notes) for name, found_notes in notes.items()}


def _judge_file(purpose: str, about: About, now: datetime) -> Note | None:
    what = _WHAT.get(purpose.rpartition("-")[2], "certificate")
    bad = Status.ERROR if purpose in _OF_CLIENTS else Status.DEGRADED
    if datetime.fromisoformat(about.not_before) > now:
        return Note(bad, f"its {what} is not valid before {about.not_before}")
    if not about.not_after:
        return None
    stage = find_stage(datetime.fromisoformat(about.not_after).timestamp(), now.timestamp())
    if stage is Stage.VALID:
        return None
    status = bad if stage is Stage.EXPIRED else Status.ONLINE
    return Note(status, f"its {what} {stage.words}, at {about.not_after}")


def _join_notes(notes: Iterable[Note]) -> Note:
    order = (*_BAD, Status.ONLINE)
    worst = sorted(dict.fromkeys(notes), key=lambda note: order.index(note.status))
    return Note(worst[0].status, "; ".join(dict.fromkeys(note.reason for note in worst[:5])))
