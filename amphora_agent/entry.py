"""The frame of all commands: whatever goes wrong is one line and an exit status.

A command returns its own status, or raises. 0 is success, 1 that it could not be done, 2 a wrong
command line, 130 an interruption. AMPHORA_AGENT_TRACEBACK=1 shows where an error came from.
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
    """In the place of an output that was closed before this program began."""

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
        _tell(name, "interrupted")
        status = _INTERRUPTED
    except Exception as error:  # the last resort of a command: its user gets a sentence
        if os.environ.get(_TRACEBACK):
            raise
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            status = 0
        else:
            _tell(name, _sentence(error))
            status = _FAILED
    status = _flush(name, status)
    if _is_command():  # what is done is done: an end by Python's own last steps would deny it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return status


def _nobody_reads() -> bool:
    """Whether who read the output has enough of it (`| head`)."""
    if isinstance(sys.stdout, _Closed) or sys.stdout.closed:
        return False
    import select

    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _flush(name: str, status: int) -> int:
    """Write what is left of the output; an output that cannot be written is a failure."""
    if isinstance(sys.stdout, _Closed):
        if sys.stdout.was_missed and not status:
            _tell(name, "cannot write the output: it is closed")
            status = _FAILED
        return status
    try:
        sys.stdout.flush()
        return status
    except OSError as error:
        nobody_reads = _nobody_reads()
        # What is left goes nowhere, also what Python writes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if nobody_reads:
            return status
        _tell(name, f"cannot write the output: {error.strerror}")
        return status or _FAILED


def _tell(name: str, words: str) -> None:
    say(f"{name}: {words}")


def say(line: str) -> None:
    """Write a line to standard error, if there is anybody to read it."""
    if sys.stderr is None:
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:  # there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _sentence(error: Exception) -> str:
    """What went wrong, in one line."""
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
    """Let Ctrl-C be a KeyboardInterrupt from now on: the command has something to undo."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    # No exception: raised while a library is being loaded it would be a traceback, or a crash.
    with contextlib.suppress(OSError):
        os.write(2, f"{os.path.basename(sys.argv[0])}: interrupted\n".encode())
    os._exit(_INTERRUPTED)


def _occupy_standard_descriptors() -> None:
    """A file that is opened must not become the output of whoever is started."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free


def _leave_at_interrupt() -> None:
    """Let Ctrl-C end this program at once, from its first import on; whatever it does may be killed
    at any moment. A program that only imports this package keeps its own way."""
    # What is ignored stays so: a shell has started this in the background.
    if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def _is_command() -> bool:
    """Return whether this program is one of the agent's commands."""
    directory, name = os.path.split(sys.argv[0])
    ours = name.startswith(("amphora-", "prometheus-proxy", "haproxy-vrrp-check"))
    return ours or (name == "__main__.py" and os.path.basename(directory) == "amphora_agent")


# At import: what is imported next may take a second.
if _is_command():
    _occupy_standard_descriptors()
_leave_at_interrupt()
