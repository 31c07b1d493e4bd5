"""Run commands that end by themselves: a check, a version, a control tool."""

import logging
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from amphora_agent.errors import OperationFailed

logger = logging.getLogger(__name__)

#: Characters kept of the output, and of its last line.
_MOST_OUTPUT = 64 * 1024
_LONGEST_WORDS = 200


@dataclass(frozen=True)
class Completed:
    """How a command ended. `output` is stdout and stderr in one, as on a terminal."""

    status: int
    output: str

    @property
    def succeeded(self) -> bool:
        return self.status == 0

    @property
    def last_words(self) -> str:
        """The beginning of the last line of the output: why a command has failed."""
        lines = self.output.strip().splitlines()[-1:] or ["it said nothing"]
        return lines[0][:_LONGEST_WORDS]


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    input: bytes = b"",
    most_output: int = _MOST_OUTPUT,
) -> Completed:
    """Run a command to its end. `timeout` is in seconds, `most_output` in characters.

    Raises:
        OperationFailed: it cannot be started, or it did not end in time and was killed.
    """
    try:
        finished = subprocess.run(
            argv,
            input=input,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    except OSError as error:
        raise OperationFailed(f"Cannot run {argv[0]}", str(error)) from error
    except subprocess.TimeoutExpired:
        raise OperationFailed(f"Cannot run {argv[0]}", f"no end after {timeout:g} s") from None
    output = finished.stdout.decode(errors="replace")[:most_output]
    return Completed(finished.returncode, output)
