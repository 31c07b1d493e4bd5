"""Where the files of a rendered process are."""

from amphora_agent.loadbalancer.render import Places

BASE = "/var/lib/octavia"
CURRENT = f"{BASE}/lb/current"
PLACES = Places(
    loadbalancer_id="lb",
    project_id="project",
    configuration=CURRENT,
    certificates=CURRENT,
    stats_socket=f"{BASE}/lb.sock",
    state_file=f"{BASE}/lb/servers-state",
    ping_wrapper=f"{BASE}/ping-wrapper.sh",
    log="/run/rsyslog/octavia/log",
    user="nobody",
    group="nogroup",
    hard_stop_after="1800s",
    max_reloads=3,
    first_check=100,
    namespace="amphora-haproxy",
    udp_check=f"{BASE}/lvs/check/udp_check.sh",
)
