"""Commands that end by themselves: a check, a version, a control tool."""

import logging
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from amphora_agent.errors import OperationFailed

logger = logging.getLogger(__name__)

#: What is kept of a command's words, in characters; the controller's log is not for novels.
_MOST_OUTPUT = 64 * 1024


@dataclass(frozen=True)
class Completed:
    """How a command ended. `output` is stdout and stderr together, as a terminal shows them."""

    status: int
    output: str

    @property
    def succeeded(self) -> bool:
        return self.status == 0


def run(argv: Sequence[str], *, timeout: float) -> Completed:
    """Run a command to its end, with no input. `timeout` is in seconds.

    Raises:
        OperationFailed: it cannot be started, or it did not end in time (it is killed then).
    """
    try:
        finished = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    except OSError as error:
        raise OperationFailed(f"Cannot run {argv[0]}", str(error)) from error
    except subprocess.TimeoutExpired:
        raise OperationFailed(f"Cannot run {argv[0]}", f"no end after {timeout:g} s") from None
    output = finished.stdout.decode(errors="replace")[:_MOST_OUTPUT]
    return Completed(finished.returncode, output)
