"""Processes that carry out orders and die by SIGKILL just before a given step.

A step is whatever changes something outside the process: a file, a directory, a lock, a program
started. Python itself tells of those before they happen, so none is forgotten that will be written
some day; calls of which it does not tell are wrapped (`Steps.wrap`). A file whose mode is being set
while it is open has just been written: who dies there has written half of it; and who dies before
opening one anew has emptied it.

    with CrashingProcess("tests.somewhere", directory) as crashing:
        crashing.do({"method": "restore"}, before=3)

The module is run as a program that has loaded everything once, and forks for each order:

    if __name__ == "__main__":
        serve(obey)
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

_REPOSITORY = Path(__file__).parents[1]

NEVER = 1_000_000

_CHANGES = frozenset(
    (
        *("os.chmod", "os.link", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"),
        "fcntl.flock",
    )
)


class Ending(NamedTuple):
    """How an order ended: the step before which the process died (None: it came to its end), and
    what it had said until then."""

    step: str | None
    said: list[Any]


class CrashingProcess:
    """Gives orders to a process of its own. For one thread at a time."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=_REPOSITORY,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> CrashingProcess:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate()

    def do(self, order: Any, *, before: int = NEVER) -> Ending:
        """Have an order (whatever JSON can express) carried out, up to the given step.

        Raises RuntimeError when it failed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([order, before]) + "\n")
        self._process.stdin.flush()
        status, step, said = json.loads(self._process.stdout.readline())
        if status not in (0, -signal.SIGKILL) or (status != 0 and step is None):
            raise RuntimeError(f"{str(order)[:200]} ended with {status}, before {step}")
        return Ending(step, said)


class Steps:
    """Counts steps, and dies before the one that was ordered."""

    def __init__(self, before: int, last_words: int) -> None:
        self._before = before
        self._last_words = last_words
        self._lock = threading.Lock()
        self._counting = False
        #: How many have begun.
        self.begun = 0
        #: What happens before the step that was ordered.
        self.fault: Callable[..., object] = die

    def say(self, what: Any) -> None:
        """Send a value that JSON can express to the one who gave the order."""
        os.write(self._last_words, json.dumps(["said", what]).encode() + b"\n")

    def begin(self, *what: object) -> None:
        """A step begins."""
        with self._lock:
            is_last = self._counting and self.begun == self._before
            self.begun += self._counting
            self._counting = self._counting and not is_last
        if is_last:
            words = " ".join(map(str, what))
            os.write(self._last_words, json.dumps(["step", words]).encode() + b"\n")
            self.fault(*what)

    def listen(self, is_step: Callable[[str, tuple[Any, ...]], bool]) -> None:
        """Count audit events that are steps."""

        def heard(event: str, arguments: tuple[Any, ...]) -> None:
            if self._counting and is_step(event, arguments):
                match event, arguments:
                    case ("subprocess.Popen", (_, argv, *_)):
                        self.begin(event, *argv)
                    case ("open", (str(path), _, flags)) if flags & os.O_TRUNC:
                        self.begin("open and empty", path)
                    case ("os.rename" | "os.link", (source, destination, *_)):
                        self.begin(event, source, destination)
                    case _:
                        self.begin(event, arguments[0])

        sys.addaudithook(heard)

    def wrap(self, owner: Any, name: str) -> None:
        """Count the calls of a method or function that raises no audit event."""
        function: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(function)
        def counted(*arguments: Any, **options: Any) -> Any:
            self.begin(name, *arguments[1:])
            return function(*arguments, **options)

        setattr(owner, name, counted)

    def start(self) -> None:
        """Begin to count steps."""
        self._counting = True


def die(*step: object) -> None:
    """Before a step, or in the middle of what led to it."""
    match step:
        case ("open and empty", str(path)):
            with contextlib.suppress(OSError):  # there is none, or none that can be emptied
                os.truncate(path, 0)
        case ("os.chmod", int(descriptor)):
            os.truncate(descriptor, os.fstat(descriptor).st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()  # it comes at once, to whatever thread


def changes_something(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an audit event is a step: it changes files or locks, or starts a program."""
    match event, arguments:
        case ("open", (str(path), _, flags)):
            opens_a_lock = path.endswith(".lock") and os.path.exists(path)
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            return writes and not opens_a_lock and path != os.devnull
        case ("open", (int(), mode, _)):
            return isinstance(mode, str) and "r" not in mode
        case ("os.mkdir", (path, *_)):
            return not os.path.exists(path)
        case ("subprocess.Popen", (_, argv, *_)):
            return "list" not in argv  # nft lists
    return event in _CHANGES


def serve(obey: Callable[[Any, Steps], None]) -> None:
    """Carry out the orders that come as lines of JSON, each in a process of its own.

    `obey` gets the order, and the steps to be counted.
    """
    for line in sys.stdin:
        order, before = json.loads(line)
        reading, last_words = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                obey(order, Steps(before, last_words))
            except BaseException:  # it must not go on as the parent would
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        os.close(last_words)
        with open(reading, "rb") as words:
            heard = [json.loads(each) for each in words]
        _, status = os.waitpid(child, 0)
        step = next((what for kind, what in heard if kind == "step"), None)
        said = [what for kind, what in heard if kind == "said"]
        print(json.dumps([os.waitstatus_to_exitcode(status), step, said]), flush=True)
