#!/usr/bin/env python3
"""Print what stands between a route and its first effect, as a reader has to follow it.

tools/count_calls.py [--against REVISION] [--stacks]

An agent of the tree, and one of a revision of its git repository, get the same requests, and record
which functions of the package they call. The first effect is a file that gets its name, or a change
that the kernel is asked for. It needs root and haproxy.

* calls: calls of functions of the package between the two, of all that the route has called
* functions, modules: how many different ones these are
* depth: how many functions wait for each other at the effect; `--stacks` names them
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from amphora_agent.client.v2 import DeclarativeClient  # noqa: E402  (the path is set above)
from benchmarks.testbed import VIP, Balancer, Testbed, make_testbed  # noqa: E402
from lab.plug_bodies import vip_plug  # noqa: E402
from tests.builders import bodies  # noqa: E402

TRACER = Path(__file__).resolve().with_name("call_tracer")
STARTER = """\
#!/bin/sh
PYTHONPATH={tracer}:{tree} TRACED_PACKAGE={tree}/amphora_agent TRACE_FILE={trace} \\
exec {python} -P -m amphora_agent "$@"
"""
_PLUGGED, _CIDR, _GATEWAY, _VRRP_IP = (
    "203.0.113.10",
    "203.0.113.0/24",
    "203.0.113.1",
    "203.0.113.11",
)


class Passage(NamedTuple):
    """What a request passed from its route to its first effect; `stack` from the outside in."""

    request: str
    calls: int
    functions: int
    modules: int
    stack: tuple[str, ...]


def send_requests(testbed: Testbed, read_passage: Callable[[str], Passage]) -> list[Passage]:
    """Upload, plug and put; the first upload and put only load what the agent loads late."""
    controller = testbed.controller
    balancer = Balancer.of(1, 2, monitored=True)
    for weight in (1, 2):
        text = balancer.text(testbed.agent.base_path, weight=weight)
        controller.upload_haproxy(balancer.id, text)
        upload = read_passage("upload")
    network = testbed.lab.namespace("network")
    cable = testbed.lab.cable(network, "vip", testbed.lab.host, f"calls-{os.getpid()}")
    body = vip_plug(cable.mac_b, subnet=_CIDR, gateway=_GATEWAY, vrrp_ip=_VRRP_IP)
    controller.plug_vip(_PLUGGED, body)
    plug = read_passage("plug VIP")
    agent, pki = testbed.agent, testbed.agent.pki
    with closing(
        DeclarativeClient(agent.url, agent.amphora_id, pki.controller_pem, pki.server_ca)
    ) as client:
        for port in (8001, 8002):
            listener = bodies.listener(protocol_port=port)
            model = bodies.balancer(listener, loadbalancer_id=balancer.id[::-1], vip_address=VIP)
            client.put(model)
            put = read_passage("PUT 2.0")
    return [upload, plug, put]


def trace_tree(tree: Path, directory: Path) -> list[Passage]:
    """Start an agent of a source tree, and return what the requests passed in it."""
    trace, program = directory / "trace", directory / "amphora-agent"
    starter = STARTER.format(tracer=TRACER, tree=tree, trace=trace, python=sys.executable)
    program.write_text(starter)
    program.chmod(0o755)
    os.environ["AMPHORA_AGENT"] = str(program)
    haproxy = shutil.which("haproxy")
    if haproxy is None:
        sys.exit("cannot count calls: there is no haproxy; install it")

    def read_passage(request: str) -> Passage:
        effect = json.loads(trace.read_text().splitlines()[-1])["effects"][0]
        figures = (effect["calls"], effect["functions"], effect["modules"])
        return Passage(request, *figures, tuple(effect["stack"]))

    with make_testbed(Path(haproxy)) as testbed:
        return send_requests(testbed, read_passage)


def trace_revision(revision: str, directory: Path) -> list[Passage]:
    tree = directory / "tree"
    tree.mkdir()
    archive = subprocess.run(
        ["git", "-C", ROOT, "archive", revision], stdout=subprocess.PIPE, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(tree, filter="data")
    return trace_tree(tree, directory)


def format_passages(columns: Mapping[str, list[Passage]], *, stacks: bool) -> str:
    lines = [f"{'':<24}{'calls':>8}{'functions':>11}{'modules':>9}{'depth':>7}"]
    for name, passages in columns.items():
        for request, calls, functions, modules, stack in passages:
            row = f"{calls:>8}{functions:>11}{modules:>9}{len(stack):>7}"
            lines.append(f"{request + ', ' + name:<24}{row}")
            lines += [f"    {function}" for function in stack if stacks]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Count calls between routes and their effects.")
    parser.add_argument("--against", metavar="REVISION", help="a revision to stand beside the tree")
    parser.add_argument("--stacks", action="store_true", help="name the functions of the depth")
    options = parser.parse_args()
    columns = {}
    for name in [options.against, "tree"] if options.against else ["tree"]:
        with tempfile.TemporaryDirectory() as directory:
            place = Path(directory)
            columns[name] = (
                trace_tree(ROOT, place) if name == "tree" else trace_revision(name, place)
            )
    print(format_passages(columns, stacks=options.stacks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
