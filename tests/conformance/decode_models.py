"""Says of each model on standard input, one JSON body a line, what the agent finds wrong with it.

Run as a module, with the agent's own Python: its libraries are not in the environments of these
tests.
"""

import json
import sys

from amphora_agent.errors import InvalidRequest
from amphora_agent.loadbalancer import render
from amphora_agent.model import validation
from amphora_agent.model.decode import decode
from amphora_agent.model.loadbalancer import LoadBalancer
from lab import rendered
from tests.builders.places import PLACES


def answer(body: bytes) -> dict[str, object]:
    """`problems`, and what would be rendered: names of frontends, backends, keepalived's texts."""
    try:
        balancer = decode(body, LoadBalancer)
    except InvalidRequest as error:
        return {"problems": [error.details]}
    process = rendered.translate_whole(balancer)
    rendered.render(process, PLACES)
    return {
        "problems": [str(problem) for problem in validation.find_problems(balancer)],
        "frontends": [each.id for each in process.frontends],
        "backends": [each.id for each in process.backends],
        "layer4": {
            each.id: render.render_layer4(each, PLACES).made()
            for each in rendered.translate_layer4(balancer)
        },
    }


if __name__ == "__main__":
    for line in sys.stdin.buffer:
        print(json.dumps(answer(line)))
