"""Says of each model on standard input, one JSON body a line, what the agent finds wrong with it.

Run with the agent's own Python: its libraries are not in the environments of these tests.
"""

import json
import sys

from amphora_agent.declarative import layer4, rendering, view
from amphora_agent.errors import InvalidRequest
from amphora_agent.model import consistency
from amphora_agent.model.decode import decode
from amphora_agent.model.loadbalancer import LoadBalancer

PLACES = rendering.Places(
    loadbalancer_id="lb",
    project_id="project",
    configuration="/var/lib/octavia/lb/current",
    certificates="/var/lib/octavia/lb/current",
    stats_socket="/var/lib/octavia/lb.sock",
    state_file="/var/lib/octavia/lb/servers-state",
    ping_wrapper="/var/lib/octavia/ping-wrapper.sh",
    log="/dev/log",
    user="nobody",
    group="nogroup",
    hard_stop_after="1800s",
    max_reloads=0,
    namespace="amphora-haproxy",
    udp_check="/var/lib/octavia/lvs/check/udp_check.sh",
)


def answer(body: bytes) -> dict[str, object]:
    """`problems`, and what would be rendered: names of frontends, backends, keepalived's texts."""
    try:
        balancer = decode(body, LoadBalancer)
    except InvalidRequest as error:
        return {"problems": [error.details]}
    process = view.whole(balancer)
    rendering.render(process, PLACES)
    return {
        "problems": [str(problem) for problem in consistency.problems(balancer)],
        "frontends": [each.id for each in process.frontends],
        "backends": [each.id for each in process.backends],
        "layer4": {
            each.id: rendering.render_layer4(each, PLACES) for each in layer4.each(balancer)
        },
    }


if __name__ == "__main__":
    for line in sys.stdin.buffer:
        print(json.dumps(answer(line)))
