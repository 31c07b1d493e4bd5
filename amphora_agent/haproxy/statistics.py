"""`show stat` to readings (management manual, 9.1 "CSV format").

Rows are counted in thousands, columns in the nineties, and almost all of them empty: a row is
split only as far as the last column that is needed.
"""

from csv import DictReader

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy.listeners import INTERNAL_PREFIX
from amphora_agent.model.status import Counters, ListenerReading, PoolReading, WorkerReading

_HEADER = (
    "# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,"
    "wredis,status,weight,"
)
_NEEDED = _HEADER.count(",")


def parse(csv: str, worker: str) -> WorkerReading:
    """The reading in a reply to `show stat`; `worker` names the process that gave it.

    Raises:
        OperationFailed: the reply is not statistics, or it was cut off.
    """
    if not csv.startswith(_HEADER):
        raise OperationFailed("Cannot read the statistics of haproxy", repr(csv[:80]))
    listeners: dict[str, ListenerReading] = {}
    pools: dict[str, PoolReading] = {}
    members: dict[str, dict[str, str]] = {}
    for row in csv.split("\n")[1:]:
        columns = row.split(",", _NEEDED)
        if len(columns) <= _NEEDED:
            if row:
                raise OperationFailed("The statistics of haproxy were cut off", repr(row[:80]))
            continue
        proxy, service, status = columns[0], columns[1], columns[17]
        if service == "FRONTEND":
            if not proxy.startswith(INTERNAL_PREFIX):
                listeners[proxy] = _listener(columns)
        elif service == "BACKEND":
            if not proxy.startswith(INTERNAL_PREFIX):
                pools[proxy] = PoolReading(status, members.get(proxy, {}))
        else:
            if columns[18] == "0" and status == "UP":
                status = "DRAIN"  # as Octavia has it: weight 0 takes no new connections
            elif " (" in status:
                status = status.partition(" (")[0]  # "MAINT (via other/server)" is MAINT
            elif status == "NOLB":
                # A new member before its first check: the controller keeps what it knows of one
                # that is RESTARTING.
                status = "RESTARTING"
            of_pool = members.get(proxy)
            if of_pool is None:
                of_pool = members[proxy] = {}
            of_pool[service] = status
    return WorkerReading(worker, listeners, pools)


def unfinished(csv: str) -> int:
    """How many connections may still come to count in such a reply about frontends: those that
    have been accepted, and are no sessions yet. Their TLS handshake goes on, or has failed; where
    nobody is connected any more, all have failed."""
    open_now = accepted = counted = 0
    for row in DictReader(csv.removeprefix("# ").split("\n")):
        open_now += int(row.get("scur") or 0)
        accepted += int(row.get("conn_tot") or 0)
        counted += int(row.get("stot") or 0) + int(row.get("dcon") or 0)
    return min(open_now, accepted - counted)


def _listener(columns: list[str]) -> ListenerReading:
    status = columns[17]
    connections, limit = int(columns[4] or 0), int(columns[6] or 0)
    if status == "OPEN" and 0 < limit <= connections:
        status = "FULL"  # haproxy itself calls a frontend OPEN also at its limit
    return ListenerReading(
        status,
        connections,
        Counters(
            tx=int(columns[9] or 0),
            rx=int(columns[8] or 0),
            totconns=int(columns[7] or 0),
            ereq=int(columns[12] or 0),
        ),
    )
