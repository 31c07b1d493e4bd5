"""The metrics of a load balancer by Octavia's names, translated from haproxy's figures.

Names and types are those of Octavia's metrics endpoint (WIRE §3); users' dashboards and alerts
are made of them.

The samples of a family stand together, so they are written column by column; and a few rows at a
time, so that not all of the text is in memory: that of 500 listeners with 10 members has 40 MB.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import Enum, auto
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
    """How haproxy's value becomes Octavia's."""

    AS_IS = auto()
    #: Milliseconds become seconds.
    SECONDS = auto()
    #: One sample for each state, 1 for that which is.
    STATES = auto()
    #: One sample for each class of HTTP status; the column is the beginning of their names.
    STATUS_CLASSES = auto()


class Metric(NamedTuple):
    """A family. `source` is haproxy's name of it: of a column, or of a line of `show info`."""

    scope: Scope
    name: str
    kind: Kind
    source: str
    help_text: str
    form: Form = Form.AS_IS


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


def _gauge(name: str, source: str, help_text: str, form: Form = Form.AS_IS) -> Metric:
    return _metric(name, "gauge", source, help_text, form)


def _counter(name: str, source: str, help_text: str, form: Form = Form.AS_IS) -> Metric:
    return _metric(f"{name}_total", "counter", source, help_text, form)


def _metric(name: str, kind: Kind, source: str, help_text: str, form: Form) -> Metric:
    scope = next(scope for scope in Scope if name.startswith(f"{scope.value}_"))
    return Metric(scope, f"octavia_{name}", kind, source, help_text, form)


def _times(owner: str) -> tuple[Metric, ...]:
    last = "of the last 1024 connections or requests"
    whole, seconds = "from the request to the end of the answer", Form.SECONDS
    means = (
        ("queue_time", "qtime", "in the queue"),
        ("connect_time", "ctime", "to connect to the member"),
        ("response_time", "rtime", "for the member's answer to begin"),
        ("total_time", "ttime", whole),
    )
    return (
        *(
            _gauge(
                f"{owner}_{name}_average_seconds",
                source,
                f"Mean time {what}, {last}, in seconds.",
                seconds,
            )
            for name, source, what in means
        ),
        *(
            _gauge(
                f"{owner}_max_{name}_seconds",
                f"{source}_max",
                f"Longest time {what}, in seconds.",
                seconds,
            )
            for name, source, what in means
        ),
    )


def _responses(owner: str, whose: str) -> Metric:
    return _counter(
        f"{owner}_http_responses",
        "hrsp_",
        f"HTTP responses {whose}, by class of status.",
        Form.STATUS_CLASSES,
    )


def _cache_and_compression(owner: str) -> tuple[Metric, ...]:
    return (
        _counter(f"{owner}_http_cache_lookups", "cache_lookups", "Lookups in the HTTP cache."),
        _counter(f"{owner}_http_cache_hits", "cache_hits", "Lookups that the HTTP cache answered."),
        _counter(f"{owner}_http_comp_bytes_in", "comp_in", "Bytes given to compression."),
        _counter(f"{owner}_http_comp_bytes_out", "comp_out", "Bytes that compression gave."),
        _counter(
            f"{owner}_http_comp_bytes_bypassed",
            "comp_byp",
            "Bytes that were to be compressed and were not: no processor time, or too much data.",
        ),
        _counter(f"{owner}_http_comp_responses", "comp_rsp", "Responses that were compressed."),
    )


def _use(owner: str, limit: str) -> tuple[Metric, ...]:
    return (
        _gauge(f"{owner}_current_sessions", "scur", "Sessions now."),
        _gauge(f"{owner}_max_sessions", "smax", "Most sessions at one time."),
        _gauge(f"{owner}_limit_sessions", "slim", limit),
        _counter(f"{owner}_sessions", "stot", "Sessions so far."),
        _gauge(f"{owner}_max_session_rate", "rate_max", "Most new sessions in one second."),
        _counter(f"{owner}_bytes_in", "bin", "Bytes received from clients."),
        _counter(f"{owner}_bytes_out", "bout", "Bytes sent to clients."),
    )


def _balanced(owner: str) -> tuple[Metric, ...]:
    """Return what a pool has of all its members, and a member of itself."""
    return (
        _gauge(
            f"{owner}_last_session_seconds",
            "lastsess",
            "Seconds since the last session was given to a member; -1 when there was none.",
        ),
        _gauge(f"{owner}_current_queue", "qcur", "Requests that wait for a member now."),
        _gauge(f"{owner}_max_queue", "qmax", "Most requests that waited at one time."),
        _counter(f"{owner}_connection_attempts", "connect", "Attempts to connect."),
        _counter(f"{owner}_connection_reuses", "reuse", "Times that a connection was used again."),
        *_times(owner),
        _counter(f"{owner}_responses_denied", "dresp", "Responses denied by rules."),
        _counter(f"{owner}_connection_errors", "econ", "Connections that could not be made."),
        _counter(
            f"{owner}_response_errors", "eresp", "Responses that were not valid or broke off."
        ),
        _counter(f"{owner}_retry_warnings", "wretr", "Times that a connection was tried again."),
        _counter(
            f"{owner}_redispatch_warnings", "wredis", "Times that another member was tried instead."
        ),
        _counter(
            f"{owner}_failed_header_rewriting", "wrew", "Headers that could not be rewritten."
        ),
        _counter(f"{owner}_client_aborts", "cli_abrt", "Transfers that the client broke off."),
        _counter(f"{owner}_check_up_down", "chkdown", "Changes from up to down."),
        _gauge(
            f"{owner}_check_last_change_seconds",
            "lastchg",
            "Seconds since it last went up or down.",
        ),
        _counter(f"{owner}_downtime_seconds", "downtime", "Seconds that it was down."),
        _counter(f"{owner}_loadbalanced", "lbtot", "Times that a member was chosen."),
    )


METRICS: tuple[Metric, ...] = (
    # show info
    _gauge("loadbalancer_max_connections", "Maxconn", "Most connections allowed at one time."),
    _gauge("loadbalancer_current_connections", "CurrConns", "Connections now."),
    _counter("loadbalancer_connections", "CumConns", "Connections so far."),
    _counter("loadbalancer_requests", "CumReq", "Requests so far."),
    _gauge("loadbalancer_max_ssl_connections", "MaxSslConns", "Most TLS connections at one time."),
    _gauge("loadbalancer_current_ssl_connections", "CurrSslConns", "TLS connections now."),
    _counter("loadbalancer_ssl_connections", "CumSslConns", "TLS connections so far."),
    _gauge("loadbalancer_current_connection_rate", "ConnRate", "New connections, a second."),
    _gauge(
        "loadbalancer_limit_connection_rate",
        "ConnRateLimit",
        "Most new connections allowed in one second; 0 is any number.",
    ),
    _gauge(
        "loadbalancer_max_connection_rate", "MaxConnRate", "Most new connections in one second."
    ),
    _gauge("loadbalancer_current_session_rate", "SessRate", "New sessions, a second."),
    _gauge(
        "loadbalancer_limit_session_rate",
        "SessRateLimit",
        "Most new sessions allowed in one second; 0 is any number.",
    ),
    _gauge("loadbalancer_max_session_rate", "MaxSessRate", "Most new sessions in one second."),
    _gauge("loadbalancer_current_ssl_rate", "SslRate", "New TLS connections, a second."),
    _gauge(
        "loadbalancer_limit_ssl_rate",
        "SslRateLimit",
        "Most new TLS connections allowed in one second; 0 is any number.",
    ),
    _gauge("loadbalancer_max_ssl_rate", "MaxSslRate", "Most new TLS connections in one second."),
    _gauge(
        "loadbalancer_current_frontend_ssl_key_rate",
        "SslFrontendKeyRate",
        "Keys computed for TLS with clients, a second.",
    ),
    _gauge(
        "loadbalancer_max_frontend_ssl_key_rate",
        "SslFrontendMaxKeyRate",
        "Most keys computed for TLS with clients in one second.",
    ),
    _gauge(
        "loadbalancer_frontend_ssl_reuse",
        "SslFrontendSessionReuse_pct",
        "Share of TLS sessions with clients that were resumed, percent.",
    ),
    _gauge(
        "loadbalancer_current_backend_ssl_key_rate",
        "SslBackendKeyRate",
        "Keys computed for TLS with members, a second.",
    ),
    _gauge(
        "loadbalancer_max_backend_ssl_key_rate",
        "SslBackendMaxKeyRate",
        "Most keys computed for TLS with members in one second.",
    ),
    _counter(
        "loadbalancer_ssl_cache_lookups", "SslCacheLookups", "Lookups in the cache of TLS sessions."
    ),
    _counter(
        "loadbalancer_ssl_cache_misses",
        "SslCacheMisses",
        "Lookups that the cache of TLS sessions did not answer.",
    ),
    _counter("loadbalancer_http_comp_bytes_in", "CompressBpsIn", "Bytes given to compression."),
    _counter("loadbalancer_http_comp_bytes_out", "CompressBpsOut", "Bytes that compression gave."),
    _gauge(
        "loadbalancer_limit_http_comp",
        "CompressBpsRateLim",
        "Most bytes a second that compression may give; 0 is any number.",
    ),
    _gauge("loadbalancer_listeners", "Listeners", "Sockets that accept connections."),
    _counter("loadbalancer_dropped_logs", "DroppedLogs", "Log messages that were lost."),
    _gauge("memory_pool_allocated_bytes", "PoolAlloc_bytes", "Memory in the memory pools, bytes."),
    _gauge("memory_pool_used_bytes", "PoolUsed_bytes", "Memory of the pools in use, bytes."),
    _counter("memory_pool_failures", "PoolFailed", "Times that a memory pool had no memory."),
    # show stat: frontends
    _gauge("listener_status", "status", "State of the listener: 1 for that it is in.", Form.STATES),
    *_use("listener", "Most sessions allowed at one time."),
    _gauge(
        "listener_limit_session_rate",
        "rate_lim",
        "Most new sessions allowed in one second; 0 is any number.",
    ),
    _gauge("listener_connections_rate_max", "conn_rate_max", "Most new connections in one second."),
    _counter("listener_connections", "conn_tot", "Connections so far."),
    _counter("listener_requests_denied", "dreq", "Requests denied by rules."),
    _counter("listener_responses_denied", "dresp", "Responses denied by rules."),
    _counter("listener_request_errors", "ereq", "Requests that were not valid or broke off."),
    _counter("listener_denied_connections", "dcon", "Connections denied by rules."),
    _counter("listener_denied_sessions", "dses", "Sessions denied by rules."),
    _counter("listener_failed_header_rewriting", "wrew", "Headers that could not be rewritten."),
    _gauge("listener_http_requests_rate_max", "req_rate_max", "Most HTTP requests in one second."),
    _counter("listener_http_requests", "req_tot", "HTTP requests so far."),
    _responses("listener", "to clients"),
    _counter(
        "listener_intercepted_requests",
        "intercepted",
        "HTTP requests that the load balancer answered itself.",
    ),
    *_cache_and_compression("listener"),
    # show stat: backends
    _gauge("pool_status", "status", "State of the pool: 1 for that it is in.", Form.STATES),
    *_use("pool", "Sessions at which members get their full share; none is refused for it."),
    *_balanced("pool"),
    _counter("pool_requests_denied", "dreq", "Requests denied by rules."),
    _counter("pool_member_aborts", "srv_abrt", "Transfers that a member broke off."),
    _gauge("pool_active_members", "act", "Members that are up, without backups."),
    _gauge("pool_backup_members", "bck", "Backup members that are up."),
    _counter("pool_http_requests", "req_tot", "HTTP requests so far."),
    _responses("pool", "of the members"),
    *_cache_and_compression("pool"),
    # show stat: servers
    _gauge("member_status", "status", "State of the member: 1 for that it is in.", Form.STATES),
    *_use("member", "Most sessions allowed at one time; none is any number."),
    *_balanced("member"),
    _gauge("member_queue_limit", "qlimit", "Most requests that may wait; none is any number."),
    _counter("member_server_aborts", "srv_abrt", "Transfers that the member broke off."),
    _gauge("member_weight", "weight", "Weight in force."),
    _counter("member_check_failures", "chkfail", "Health checks that failed while it was up."),
    _gauge(
        "member_current_throttle",
        "throttle",
        "Share of its weight while it starts slowly, percent; none when it does not.",
    ),
    _responses("member", "of the member"),
    _gauge("member_idle_connections_current", "srv_icur", "Idle connections kept for reuse."),
    _gauge("member_idle_connections_limit", "src_ilim", "Most idle connections that are kept."),
)

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
        yield _machine(
            "cpu", "Load of the last minute over the number of processors, percent.", machine.cpu
        )
        yield _machine("memory", "Memory in use, percent.", machine.memory)
    proxies = {
        scope: [each for figures in instances for each in _proxies(scope, figures)]
        for scope in scopes
        if scope not in _OF_PROCESS
    }
    for metric in METRICS:
        if metric.scope in proxies:
            yield head(metric.name, metric.kind, metric.help_text)
            for each in proxies[metric.scope]:
                yield _lines(metric, each)
        elif metric.scope in scopes:
            yield family(metric.name, metric.kind, metric.help_text, _of_process(metric, instances))


def _machine(name: str, help_text: str, value: float) -> str:
    return family(f"octavia_loadbalancer_{name}", "gauge", help_text, [Sample({}, round(value, 1))])


def _of_process(metric: Metric, instances: Sequence[Figures]) -> list[Sample]:
    values = [
        float(value) for figures in instances if (value := figures.process.get(metric.source))
    ]
    if not values:
        return []
    return [Sample({}, max(values) if metric.source in _HIGHEST else sum(values))]


def _proxies(scope: Scope, figures: Figures) -> Iterator[_Proxies]:
    all_rows = figures.rows.get(scope, [])
    columns = {name: place for place, name in enumerate(figures.columns)}
    for begin in range(0, len(all_rows), _SLICE):
        rows = all_rows[begin : begin + _SLICE]
        if scope is Scope.MEMBER:
            labels = [label_set({"pool": row[0], "member": row[1]}) for row in rows]
        else:
            labels = [label_set({scope.value: row[0]}) for row in rows]
        yield _Proxies(columns, labels, rows)


def _lines(metric: Metric, proxies: _Proxies) -> str:
    """Samples of a family. A figure that haproxy does not have (an older one, or of a proxy
    to which it does not apply) is no sample."""
    if metric.form is Form.STATUS_CLASSES:
        return "".join(
            _column(metric, proxies, f"{metric.source}{status}", f',code="{status}"')
            for status in STATUS_CLASSES
        )
    if metric.form is Form.STATES:
        return _states(metric, proxies)
    return _column(metric, proxies, metric.source, "")


def _column(metric: Metric, proxies: _Proxies, column: str, more: str) -> str:
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


def _states(metric: Metric, proxies: _Proxies) -> str:
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
