"""`show stat` to readings (management manual, 9.1 "CSV format").

Rows are counted in thousands, columns in the nineties, and almost all of them empty: a row is
split only as far as the last column that is needed.
"""

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
        proxy, service = columns[0], columns[1]
        if proxy.startswith(INTERNAL_PREFIX):
            continue
        if service == "FRONTEND":
            listeners[proxy] = ListenerReading(
                columns[17],
                _number(columns[4]),
                Counters(
                    tx=_number(columns[9]),
                    rx=_number(columns[8]),
                    totconns=_number(columns[7]),
                    ereq=_number(columns[12]),
                ),
            )
        elif service == "BACKEND":
            pools[proxy] = PoolReading(columns[17], members.get(proxy, {}))
        else:
            status = columns[17]
            if columns[18] == "0" and status == "UP":
                status = "DRAIN"  # as Octavia has it: weight 0 takes no new connections
            elif " (" in status:
                status = status.partition(" (")[0]  # "MAINT (via other/server)" is MAINT
            of_pool = members.get(proxy)
            if of_pool is None:
                of_pool = members[proxy] = {}
            of_pool[service] = status
    return WorkerReading(worker, listeners, pools)


def _number(column: str) -> int:
    return int(column) if column else 0
