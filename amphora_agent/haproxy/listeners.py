"""Which of Octavia's objects a configuration holds."""

from typing import NamedTuple

from amphora_agent.haproxy.text import Config, Section

#: The controller adds a frontend for the agent's own use to a load balancer with a PROMETHEUS
#: listener; it is nobody's listener (WIRE §3).
INTERNAL_PREFIX = "prometheus-exporter-internal"

#: What of a configuration must be parsed for `listeners`.
KEYWORDS = frozenset({"bind", "mode"})


class Listener(NamedTuple):
    """A listener by its id; `type` as `GET /1.0/listeners` names it."""

    id: str
    type: str


def listeners(config: Config) -> tuple[Listener, ...]:
    """The listeners of a configuration: its frontends, in order."""
    return tuple(
        Listener(frontend.name, _type(frontend))
        for frontend in config.of_kind("frontend")
        if not frontend.name.startswith(INTERNAL_PREFIX)
    )


#: What of a configuration must be parsed for `pools`.
POOL_KEYWORDS = frozenset({"server"})


def pools(config: Config) -> dict[str, tuple[str, ...]]:
    """The members of each pool, by `<pool id>:<listener id>`: its backends and their servers."""
    return {
        backend.name: tuple(server.words[1] for server in backend.all("server"))
        for backend in config.of_kind("backend")
        if not backend.name.startswith(INTERNAL_PREFIX)
    }


def _type(frontend: Section) -> str:
    # Controllers before 4.1 name the certificates themselves.
    if any({"crt-list", "crt"} & set(bind.words) for bind in frontend.all("bind")):
        return "TERMINATED_HTTPS"
    mode = frontend.first("mode")
    return "TCP" if mode is not None and mode.words[1:2] == ("tcp",) else "HTTP"
