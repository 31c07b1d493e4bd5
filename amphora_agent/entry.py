"""Run a command so that any failure is one line and an exit status.

A command returns its status, or raises. 0 is success, 1 a failure, 2 a wrong command line, 130 an
interruption. AMPHORA_AGENT_TRACEBACK=1 shows where an error came from.
"""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

#: Set to show the traceback of an error.
_TRACEBACK = "AMPHORA_AGENT_TRACEBACK"

_FAILED, _INTERRUPTED = 1, 130


class _Closed(io.TextIOBase):
    """Stands for an output that was closed before this program began."""

    was_missed = False

    def write(self, text: str) -> int:
        self.was_missed = True
        return len(text)


def run(name: str, command: Callable[[], int | None]) -> int:
    """Run a command; return the exit status, and say in one line what went wrong."""
    if sys.stdout is None:
        sys.stdout = _Closed()
    try:
        status = command() or 0
    except SystemExit as ending:  # of the command line's parser, or of a worker
        status = ending.code if isinstance(ending.code, int) else int(bool(ending.code))
    except KeyboardInterrupt:
        say(f"{name}: interrupted")
        status = _INTERRUPTED
    except Exception as error:  # the last resort of a command: its user gets one line
        if os.environ.get(_TRACEBACK):
            raise
        if isinstance(error, BrokenPipeError) and _has_lost_its_reader():
            status = 0
        else:
            say(f"{name}: {_describe(error)}")
            status = _FAILED
    status = _flush(name, status)
    if _is_command():  # all is done: an interruption of Python's own last steps would deny it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return status


def _has_lost_its_reader() -> bool:
    """Return whether the reader of the output has closed it (`| head`)."""
    if isinstance(sys.stdout, _Closed) or sys.stdout.closed:
        return False
    import select

    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _flush(name: str, status: int) -> int:
    """Write the rest of the output; an output that cannot be written is a failure."""
    if isinstance(sys.stdout, _Closed):
        if sys.stdout.was_missed and not status:
            say(f"{name}: cannot write the output: it is closed")
            status = _FAILED
        return status
    try:
        sys.stdout.flush()
        return status
    except OSError as error:
        nobody_reads = _has_lost_its_reader()
        # The rest goes nowhere, also what Python writes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if nobody_reads:
            return status
        say(f"{name}: cannot write the output: {error.strerror}")
        return status or _FAILED


def say(line: str) -> None:
    """Write a line to standard error, if it is open."""
    if sys.stderr is None:
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:  # nobody reads it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _describe(error: Exception) -> str:
    """Return what went wrong, in one line."""
    from amphora_agent.errors import AgentError, describe_os_error

    if isinstance(error, AgentError):
        return str(error)
    if isinstance(error, OSError):
        return describe_os_error(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    text = " ".join(str(error).split())
    return f"a defect of the agent: {type(error).__name__}: {text} ({_TRACEBACK}=1 shows more)"


def catch_interrupts() -> None:
    """Turn Ctrl-C into a KeyboardInterrupt from now on: the command must undo its change."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    # No exception: raised while a library is loaded it would be a traceback, or a crash.
    with contextlib.suppress(OSError):
        os.write(2, f"{os.path.basename(sys.argv[0])}: interrupted\n".encode())
    os._exit(_INTERRUPTED)


def _occupy_standard_descriptors() -> None:
    """Open the closed ones of 0 to 2: a file must not become the output of a child process."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


def _is_command() -> bool:
    """Return whether this program is one of the agent's commands."""
    directory, name = os.path.split(sys.argv[0])
    ours = name.startswith(("amphora-", "prometheus-proxy", "haproxy-vrrp-check"))
    return ours or (name == "__main__.py" and os.path.basename(directory) == "amphora_agent")


# At import: the next imports may take a second. A program that only imports this package keeps its
# own handler.
if _is_command():
    _occupy_standard_descriptors()
    # Ctrl-C ends the program at once: a kill at any moment is safe. An ignored signal stays
    # ignored: a shell has started this in the background.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
