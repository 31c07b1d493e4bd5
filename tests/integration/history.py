"""What tests of the history share: the commands, and configurations that differ a little."""

import json
import re
import subprocess
from typing import Any

from tests.integration.amphora import WEB_PORTS, Amphora, LoadBalancer


def run(amphora: Amphora, *words: str) -> "subprocess.CompletedProcess[str]":
    """A command of the agent, with the agent's options."""
    return subprocess.run(
        [*amphora.agent.command(), *words], capture_output=True, text=True, check=False
    )


def rollback(balancer: LoadBalancer, *generation: str) -> str:
    """Go back, successfully; what the command said."""
    done = run(balancer.amphora, "rollback", balancer.id, *generation)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def told(amphora: Amphora, lb_id: str) -> list[dict[str, Any]]:
    """The journal as the command tells it, newest first."""
    done = run(amphora, "history", lb_id, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def push_only(balancer: LoadBalancer, web: str) -> None:
    """Have one member, which differs from two, or from the other, by nothing but that."""
    (other,) = (port for number, port in enumerate(WEB_PORTS, 1) if web != f"web{number}")
    lines = _text(balancer).splitlines(keepends=True)
    _push(balancer, "".join(line for line in lines if f":{other} " not in line))


def push_weighted(balancer: LoadBalancer, weight: int) -> None:
    """Have members of this weight, which differs from another by nothing but that."""
    _push(balancer, re.sub(r" weight \d+", f" weight {weight}", _text(balancer)))


def _text(balancer: LoadBalancer) -> str:
    balancer.version = -1  # it counts, and makes each text a little different
    return balancer.text()


def _push(balancer: LoadBalancer, text: str) -> None:
    balancer.amphora.api.upload_haproxy(balancer.id, text)
    balancer.reload()
