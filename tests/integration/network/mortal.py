"""Does what it is told to the network, in processes that die by SIGKILL just before a given step.

A step is whatever changes something: a request to the kernel, a setting of it, a file, a
directory, a lock, a program started. Python itself tells of all of them but the first, before they
happen, so none is forgotten that the agent will have some day.

    with Mortal(directory, namespace) as mortal:
        mortal.do(Order("restore"), before=3)

As a program it has the agent loaded, and forks for each order: a line of JSON on its standard
input, answered by one that says how it ended.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amphora_agent.commands import network_of
from amphora_agent.kernel.conversation import Conversation
from amphora_agent.layout import Layout
from amphora_agent.network import netns
from amphora_agent.network.leases import Leases
from amphora_agent.network.ports import Patience
from tests.integration.network.rig import layout_below

_REPOSITORY = Path(__file__).parents[3]

_NEVER = 1_000_000


@dataclass(frozen=True)
class Order:
    """A method of the network and what it is given; what is no text is a body, sent as JSON."""

    method: str
    arguments: Sequence[Any] = ()
    single: bool | None = True
    """None: the method does not ask."""


class Mortal:
    """Gives the orders, to a process of its own."""

    def __init__(self, directory: Path, namespace: str) -> None:
        command = [sys.executable, "-m", __name__, str(directory), namespace]
        self._process = subprocess.Popen(
            command, cwd=_REPOSITORY, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Mortal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate()

    def do(self, order: Order, *, before: int = _NEVER) -> str | None:
        """Returns the step before which it died; None when it came to its end.

        Raises RuntimeError when it failed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([asdict(order), before]) + "\n")
        self._process.stdin.flush()
        status, step = json.loads(self._process.stdout.readline())
        if status == 0:
            return None
        if status != -signal.SIGKILL:
            raise RuntimeError(f"{order} ended with {status}")
        return str(step)


class _Steps:
    """Counts steps, and dies before the one that was ordered."""

    def __init__(self, before: int, last_words: int) -> None:
        self._numbers = itertools.count()
        self._before = before
        self._last_words = last_words

    def begin(self, *what: object) -> None:
        if next(self._numbers) == self._before:
            os.write(self._last_words, " ".join(map(str, what)).encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def listen(self, event: str, arguments: tuple[Any, ...]) -> None:
        if _changes_something(event, arguments):
            self.begin(event, arguments[0])

    def wrap(self, owner: Any, name: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            self.begin(name, *arguments[1:])
            return function(*arguments, **options)

        setattr(owner, name, counted)


def _changes_something(event: str, arguments: tuple[Any, ...]) -> bool:
    match event, arguments:
        case ("open", (str(path), _, flags)):
            opens_a_lock = path.endswith(".lock") and os.path.exists(path)
            return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) and not opens_a_lock
        case ("os.mkdir", (path, *_)):
            return not os.path.exists(path)
        case ("subprocess.Popen", (_, argv, *_)):
            return "list" not in argv  # nft lists
    return event in ("os.rename", "os.remove", "os.link", "os.truncate", "fcntl.flock")


def _obey(layout: Layout, order: Order, steps: _Steps) -> None:
    network = network_of(
        layout,
        Leases(layout.leases),
        announce=lambda name, addresses: None,
        patience=Patience(port=0.0),
        pci_rescan=layout.base / "no-pci",
    )
    steps.wrap(Conversation, "change")
    # These are system calls without Python in between.
    steps.wrap(netns, "_mount")
    steps.wrap(netns, "_set_loopback_up")
    # nft has been started, and has not been told anything yet.
    steps.wrap(subprocess.Popen, "communicate")
    sys.addaudithook(steps.listen)
    arguments = [
        each if isinstance(each, str) else json.dumps(each).encode() for each in order.arguments
    ]
    options = {} if order.single is None else {"single": order.single}
    getattr(network, order.method)(*arguments, **options)


def main() -> None:
    # The agent does it when there is something to do for it, which takes a while.
    importlib.import_module("amphora_agent.network.reconcile")
    layout = layout_below(Path(sys.argv[1]), sys.argv[2])
    for line in sys.stdin:
        order, before = json.loads(line)
        words, last_words = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _obey(layout, Order(**order), _Steps(before, last_words))
            except BaseException:  # it must not go on as the parent would
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(last_words)
        with open(words, "rb") as reading:
            step = reading.read().decode()
        _, status = os.waitpid(child, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), step]), flush=True)


if __name__ == "__main__":
    main()
