"""Does what it is told to the network, in processes that die by SIGKILL just before a given step.

Besides what `lab.crash_injection` counts, a step is a request to the kernel or a setting of it.

    with CrashingProcess(directory, namespace) as crashing:
        crashing.do(Order("restore"), before=3)
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amphora_agent import namespace
from amphora_agent.kernel.netlink_socket import NetlinkSocket
from amphora_agent.network.port_service import Patience
from amphora_agent.network.records import Leases
from amphora_agent.paths import Layout
from amphora_agent.wiring import make_network
from lab import crash_injection
from lab.crash_injection import NEVER, Steps, changes_something
from tests.integration.network.rig import layout_below


@dataclass(frozen=True)
class Order:
    """A method of the network and what it is given; what is no text is a body, sent as JSON."""

    method: str
    arguments: Sequence[Any] = ()
    single: bool | None = True
    """None: the method does not ask."""


class CrashingProcess:
    """Gives the orders, to a process of its own."""

    def __init__(self, directory: Path, namespace: str) -> None:
        self._crashing = crash_injection.CrashingProcess(__name__, str(directory), namespace)

    def __enter__(self) -> CrashingProcess:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._crashing.__exit__(*exc_info)

    def do(self, order: Order, *, before: int = NEVER) -> str | None:
        """Returns the step before which it died; None when it came to its end.

        Raises RuntimeError when it failed.
        """
        return self._crashing.do(asdict(order), before=before).step


def _obey(layout: Layout, order: Order, steps: Steps) -> None:
    network = make_network(
        layout,
        Leases(layout.leases),
        announce=lambda name, addresses: None,
        patience=Patience(port=0.0),
        pci_rescan=layout.base / "no-pci",
    )
    steps.wrap(NetlinkSocket, "change")
    # These are system calls without Python in between.
    steps.wrap(namespace, "_mount")
    steps.wrap(namespace, "_set_loopback_up")
    # nft has been started, and has not been told anything yet.
    steps.wrap(subprocess.Popen, "communicate")
    steps.listen(changes_something)
    arguments = [
        each if isinstance(each, str) else json.dumps(each).encode() for each in order.arguments
    ]
    options = {} if order.single is None else {"single": order.single}
    steps.start()
    getattr(network, order.method)(*arguments, **options)


def main() -> None:
    # The agent does it when there is something to do for it, which takes a while.
    importlib.import_module("amphora_agent.network.netlink.links")
    layout = layout_below(Path(sys.argv[1]), sys.argv[2])
    crash_injection.serve(lambda order, steps: _obey(layout, Order(**order), steps))


if __name__ == "__main__":
    main()
