"""A health monitor, as haproxy or keepalived carries it out."""

from typing import NamedTuple

from amphora_agent.model.loadbalancer import HttpMethod, MonitorType, Pool
from amphora_agent.model.meaning import is_up

#: Octavia's default (`max_retries_down`).
_FALL = 3


class Check(NamedTuple):
    """Times in seconds, `rise` and `fall` in checks. `method`, `path` and `expected` are "" for
    what is not of HTTP."""

    type: MonitorType
    timeout: int
    delay: int
    rise: int
    fall: int
    method: str
    path: str
    version: str
    host: str
    expected: str


def of(pool: Pool) -> Check | None:
    """None for members that nobody checks."""
    monitor = pool.healthmonitor
    if not monitor or not is_up(monitor):
        return None
    http = monitor.type in (MonitorType.HTTP, MonitorType.HTTPS)
    return Check(
        type=monitor.type,
        timeout=monitor.timeout,
        delay=monitor.delay,
        rise=monitor.max_retries,
        fall=monitor.max_retries_down or _FALL,
        method=str(monitor.http_method or HttpMethod.GET) if http else "",
        path=(monitor.url_path or "/") if http else "",
        version=f"{monitor.http_version:.1f}" if monitor.http_version else "1.0",
        host=monitor.domain_name or "",
        expected=(monitor.expected_codes or "200") if http else "",
    )
