"""The metrics of a load balancer by Octavia's names, translated from haproxy's figures.

Names and types are those of Octavia's metrics endpoint (WIRE §3); users' dashboards and alerts
are made of them.

The samples of a family stand together, so they are written column by column; and a few rows at a
time, so that not all of the text is in memory: that of 500 listeners with 10 members has 40 MB.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple

from amphora_agent.metrics.translate.exposition import (
    Kind,
    Sample,
    family,
    format_number,
    head,
    label_set,
)
from amphora_agent.model.status import Figures, InstanceReading, Scope, WorkerReading


class Form(Enum):
    """How haproxy's value becomes Octavia's. The value marks the source in the table."""

    #: Milliseconds become seconds.
    SECONDS = "/1000"
    #: One sample for each state, 1 for that which is.
    STATES = "?"
    #: One sample for each class of HTTP status; the column is the beginning of their names.
    STATUS_CLASSES = "*"
    AS_IS = ""


class Metric(NamedTuple):
    """A family. `source` is haproxy's name of it: of a column, or of a line of `show info`."""

    scope: Scope
    name: str
    kind: Kind
    source: str
    help_text: str
    form: Form


STATUS_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx", "other")

#: The states of each scope, and haproxy's words for them.
#: Partial: a load balancer and a memory pool have no state.
STATES: dict[Scope, dict[str, frozenset[str]]] = {
    Scope.LISTENER: {
        "DOWN": frozenset({"STOP", "PAUSED", "DOWN"}),
        "UP": frozenset({"OPEN", "FULL"}),
    },
    Scope.POOL: {"DOWN": frozenset({"DOWN"}), "UP": frozenset({"UP"})},
    Scope.MEMBER: {
        "DOWN": frozenset({"DOWN"}),
        "UP": frozenset({"UP", "no"}),  # "no check"
        "MAINT": frozenset({"MAINT"}),
        "DRAIN": frozenset({"DRAIN"}),
        "NOLB": frozenset({"NOLB"}),
    },
}


#: Below the scopes of metrics: name, source with the mark of its form, and help text. A name that
#: ends with `_total` is a counter, another one a gauge.
_TABLE = """\
[loadbalancer]
max_connections Maxconn Most connections allowed at one time.
current_connections CurrConns Connections now.
connections_total CumConns Connections so far.
requests_total CumReq Requests so far.
max_ssl_connections MaxSslConns Most TLS connections at one time.
current_ssl_connections CurrSslConns TLS connections now.
ssl_connections_total CumSslConns TLS connections so far.
current_connection_rate ConnRate New connections, a second.
limit_connection_rate ConnRateLimit Most new connections allowed in one second; 0 is any number.
max_connection_rate MaxConnRate Most new connections in one second.
current_session_rate SessRate New sessions, a second.
limit_session_rate SessRateLimit Most new sessions allowed in one second; 0 is any number.
max_session_rate MaxSessRate Most new sessions in one second.
current_ssl_rate SslRate New TLS connections, a second.
limit_ssl_rate SslRateLimit Most new TLS connections allowed in one second; 0 is any number.
max_ssl_rate MaxSslRate Most new TLS connections in one second.
current_frontend_ssl_key_rate SslFrontendKeyRate Keys computed for TLS with clients, a second.
max_frontend_ssl_key_rate SslFrontendMaxKeyRate Most keys computed for TLS with clients in one \
second.
frontend_ssl_reuse SslFrontendSessionReuse_pct Share of TLS sessions with clients that were \
resumed, percent.
current_backend_ssl_key_rate SslBackendKeyRate Keys computed for TLS with members, a second.
max_backend_ssl_key_rate SslBackendMaxKeyRate Most keys computed for TLS with members in one second.
ssl_cache_lookups_total SslCacheLookups Lookups in the cache of TLS sessions.
ssl_cache_misses_total SslCacheMisses Lookups that the cache of TLS sessions did not answer.
http_comp_bytes_in_total CompressBpsIn Bytes given to compression.
http_comp_bytes_out_total CompressBpsOut Bytes that compression gave.
limit_http_comp CompressBpsRateLim Most bytes a second that compression may give; 0 is any number.
listeners Listeners Sockets that accept connections.
dropped_logs_total DroppedLogs Log messages that were lost.
[memory_pool]
allocated_bytes PoolAlloc_bytes Memory in the memory pools, bytes.
used_bytes PoolUsed_bytes Memory of the pools in use, bytes.
failures_total PoolFailed Times that a memory pool had no memory.
[listener]
status status? State of the listener: 1 for that it is in.
limit_sessions slim Most sessions allowed at one time.
limit_session_rate rate_lim Most new sessions allowed in one second; 0 is any number.
connections_rate_max conn_rate_max Most new connections in one second.
connections_total conn_tot Connections so far.
request_errors_total ereq Requests that were not valid or broke off.
denied_connections_total dcon Connections denied by rules.
denied_sessions_total dses Sessions denied by rules.
http_requests_rate_max req_rate_max Most HTTP requests in one second.
http_responses_total hrsp_* HTTP responses to clients, by class of status.
intercepted_requests_total intercepted HTTP requests that the load balancer answered itself.
[listener pool member]
current_sessions scur Sessions now.
max_sessions smax Most sessions at one time.
sessions_total stot Sessions so far.
max_session_rate rate_max Most new sessions in one second.
bytes_in_total bin Bytes received from clients.
bytes_out_total bout Bytes sent to clients.
responses_denied_total dresp Responses denied by rules.
failed_header_rewriting_total wrew Headers that could not be rewritten.
[listener pool]
requests_denied_total dreq Requests denied by rules.
http_requests_total req_tot HTTP requests so far.
http_cache_lookups_total cache_lookups Lookups in the HTTP cache.
http_cache_hits_total cache_hits Lookups that the HTTP cache answered.
http_comp_bytes_in_total comp_in Bytes given to compression.
http_comp_bytes_out_total comp_out Bytes that compression gave.
http_comp_bytes_bypassed_total comp_byp Bytes that were to be compressed and were not: no \
processor time, or too much data.
http_comp_responses_total comp_rsp Responses that were compressed.
[pool]
status status? State of the pool: 1 for that it is in.
limit_sessions slim Sessions at which members get their full share; none is refused for it.
member_aborts_total srv_abrt Transfers that a member broke off.
active_members act Members that are up, without backups.
backup_members bck Backup members that are up.
http_responses_total hrsp_* HTTP responses of the members, by class of status.
[pool member]
last_session_seconds lastsess Seconds since the last session was given to a member; -1 when there \
was none.
current_queue qcur Requests that wait for a member now.
max_queue qmax Most requests that waited at one time.
connection_attempts_total connect Attempts to connect.
connection_reuses_total reuse Times that a connection was used again.
queue_time_average_seconds qtime/1000 Mean time in the queue, of the last 1024 connections or \
requests, in seconds.
connect_time_average_seconds ctime/1000 Mean time to connect to the member, of the last 1024 \
connections or requests, in seconds.
response_time_average_seconds rtime/1000 Mean time for the member's answer to begin, of the last \
1024 connections or requests, in seconds.
total_time_average_seconds ttime/1000 Mean time from the request to the end of the answer, of the \
last 1024 connections or requests, in seconds.
max_queue_time_seconds qtime_max/1000 Longest time in the queue, in seconds.
max_connect_time_seconds ctime_max/1000 Longest time to connect to the member, in seconds.
max_response_time_seconds rtime_max/1000 Longest time for the member's answer to begin, in seconds.
max_total_time_seconds ttime_max/1000 Longest time from the request to the end of the answer, in \
seconds.
connection_errors_total econ Connections that could not be made.
response_errors_total eresp Responses that were not valid or broke off.
retry_warnings_total wretr Times that a connection was tried again.
redispatch_warnings_total wredis Times that another member was tried instead.
client_aborts_total cli_abrt Transfers that the client broke off.
check_up_down_total chkdown Changes from up to down.
check_last_change_seconds lastchg Seconds since it last went up or down.
downtime_seconds_total downtime Seconds that it was down.
loadbalanced_total lbtot Times that a member was chosen.
[member]
status status? State of the member: 1 for that it is in.
limit_sessions slim Most sessions allowed at one time; none is any number.
queue_limit qlimit Most requests that may wait; none is any number.
server_aborts_total srv_abrt Transfers that the member broke off.
weight weight Weight in force.
check_failures_total chkfail Health checks that failed while it was up.
current_throttle throttle Share of its weight while it starts slowly, percent; none when it does \
not.
http_responses_total hrsp_* HTTP responses of the member, by class of status.
idle_connections_current srv_icur Idle connections kept for reuse.
idle_connections_limit src_ilim Most idle connections that are kept.
"""


def _read_table() -> Iterator[Metric]:
    scopes: list[Scope] = []
    for line in _TABLE.splitlines():
        if line.startswith("["):
            scopes = [Scope(word) for word in line.strip("[]").split()]
            continue
        name, source, help_text = line.split(" ", 2)
        form = next(form for form in Form if source.endswith(form.value))
        kind: Kind = "counter" if name.endswith("_total") else "gauge"
        for scope in scopes:
            full_name = f"octavia_{scope.value}_{name}"
            yield Metric(scope, full_name, kind, source.removesuffix(form.value), help_text, form)


METRICS = tuple(_read_table())

#: The columns of `show stat` that are needed.
COLUMNS = frozenset(
    source
    for metric in METRICS
    for source in (
        [f"{metric.source}{status}" for status in STATUS_CLASSES]
        if metric.form is Form.STATUS_CLASSES
        else [metric.source]
    )
)


#: What a reading tells of.
SCOPES = frozenset({Scope.LISTENER, Scope.POOL, Scope.MEMBER})

#: By haproxy's names, as everything that is translated.
_COLUMNS = ("pxname", "svname", "status", "scur", "stot", "bin", "bout")


def figures(readings: Iterable[InstanceReading]) -> list[Figures | None]:
    """Return the figures of each; None of one that was not read."""
    return [None if reading.current is None else _figures(reading.current) for reading in readings]


def _figures(current: WorkerReading) -> Figures:
    listeners: list[Sequence[str]] = []
    for name, listener in current.listeners.items():
        counted = listener.counters
        numbers = (listener.conns, counted.totconns, counted.rx, counted.tx)
        listeners.append((name, "FRONTEND", listener.status, *map(str, numbers)))
    nothing = ("",) * 4
    pools: list[Sequence[str]] = []
    members: list[Sequence[str]] = []
    for name, pool in current.pools.items():
        pools.append((name, "BACKEND", pool.status, *nothing))
        members += [(name, member, status, *nothing) for member, status in pool.members.items()]
    rows = {Scope.LISTENER: listeners, Scope.POOL: pools, Scope.MEMBER: members}
    return Figures({}, _COLUMNS, rows)


_OF_PROCESS = frozenset({Scope.LOADBALANCER, Scope.MEMORY_POOL})

#: Of several processes, these do not add up: the highest is told.
_HIGHEST = frozenset({"SslFrontendSessionReuse_pct"})


class Machine(NamedTuple):
    """How busy the amphora is, in percent."""

    cpu: float
    memory: float


#: Rows that are written at a time.
_SLICE = 500


class _Proxies(NamedTuple):
    """Rows of one scope of one instance, and for each what stands between the braces."""

    columns: dict[str, int]
    labels: list[str]
    rows: list[Sequence[str]]


def families(
    machine: Machine, instances: Sequence[Figures], scopes: Collection[Scope]
) -> Iterator[str]:
    """Yield the text of every metric of these scopes, also of those that have no samples now."""
    if Scope.LOADBALANCER in scopes:
        yield _write_machine(
            "cpu", "Load of the last minute over the number of processors, percent.", machine.cpu
        )
        yield _write_machine("memory", "Memory in use, percent.", machine.memory)
    proxies = {
        scope: [each for figures in instances for each in _slice_rows(scope, figures)]
        for scope in scopes
        if scope not in _OF_PROCESS
    }
    for metric in METRICS:
        if metric.scope in proxies:
            yield head(metric.name, metric.kind, metric.help_text)
            for each in proxies[metric.scope]:
                yield _write_samples(metric, each)
        elif metric.scope in scopes:
            yield family(
                metric.name, metric.kind, metric.help_text, _sum_processes(metric, instances)
            )


def _write_machine(name: str, help_text: str, value: float) -> str:
    return family(f"octavia_loadbalancer_{name}", "gauge", help_text, [Sample({}, round(value, 1))])


def _sum_processes(metric: Metric, instances: Sequence[Figures]) -> list[Sample]:
    values = [
        float(value) for figures in instances if (value := figures.process.get(metric.source))
    ]
    if not values:
        return []
    return [Sample({}, max(values) if metric.source in _HIGHEST else sum(values))]


def _slice_rows(scope: Scope, figures: Figures) -> Iterator[_Proxies]:
    all_rows = figures.rows.get(scope, [])
    columns = {name: place for place, name in enumerate(figures.columns)}
    for begin in range(0, len(all_rows), _SLICE):
        rows = all_rows[begin : begin + _SLICE]
        if scope is Scope.MEMBER:
            labels = [label_set({"pool": row[0], "member": row[1]}) for row in rows]
        else:
            labels = [label_set({scope.value: row[0]}) for row in rows]
        yield _Proxies(columns, labels, rows)


def _write_samples(metric: Metric, proxies: _Proxies) -> str:
    """Write the samples of a family. A figure that haproxy does not have (an older one,
    or of a proxy to which it does not apply) is no sample."""
    if metric.form is Form.STATUS_CLASSES:
        return "".join(
            _write_column(metric, proxies, f"{metric.source}{status}", f',code="{status}"')
            for status in STATUS_CLASSES
        )
    if metric.form is Form.STATES:
        return _write_states(metric, proxies)
    return _write_column(metric, proxies, metric.source, "")


def _write_column(metric: Metric, proxies: _Proxies, column: str, more: str) -> str:
    place = proxies.columns.get(column)
    if place is None:
        return ""
    name, pairs = metric.name, zip(proxies.labels, proxies.rows, strict=True)
    if metric.form is Form.SECONDS:
        return "".join(
            [
                f"{name}{{{labels}}} {format_number(int(row[place]) / 1000)}\n"
                for labels, row in pairs
                if row[place]
            ]
        )
    return "".join(
        [f"{name}{{{labels}{more}}} {row[place]}\n" for labels, row in pairs if row[place]]
    )


def _write_states(metric: Metric, proxies: _Proxies) -> str:
    place = proxies.columns.get(metric.source)
    if place is None:
        return ""
    name = metric.name
    lines = []
    for labels, row in zip(proxies.labels, proxies.rows, strict=True):
        word = row[place].partition(" ")[0].partition("(")[0]  # "UP 1/3", "MAINT (via a/b)"
        for state, words in STATES[metric.scope].items():
            lines.append(f'{name}{{{labels},state="{state}"}} {int(word in words)}\n')
    return "".join(lines)
