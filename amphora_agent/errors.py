"""Errors that a request, or a command, is answered with.

Each has a short `message` and the `details` that a person needs: the two members of the JSON body
that the controller reads. `api/` maps the classes to HTTP statuses.
"""

import errno
from collections.abc import Iterable


class AgentError(Exception):
    """A request cannot be carried out; nothing was changed."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(f"{message}: {details}" if details else message)
        self.message = message
        self.details = details


class InvalidRequest(AgentError):
    """The request itself is wrong: sending it again will not help. `problems` are places in its
    body and what is wrong with each, if these are known one by one."""

    problems: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_problems(cls, problems: Iterable[tuple[str, str]]) -> "InvalidRequest":
        """Make one error of several problems: places in the body, and what is wrong with each."""
        listed = tuple(problems)
        error = cls("Invalid request", "; ".join(f"{path}: {words}" for path, words in listed))
        error.problems = listed
        return error


class TooLarge(InvalidRequest):
    """The body of the request is larger than it may be."""


class NotFound(AgentError):
    """The object that the request names does not exist."""


class Conflict(AgentError):
    """The request contradicts the present state."""


class PreconditionFailed(AgentError):
    """The object is in another state than the request is meant for."""


class Unavailable(AgentError):
    """The request cannot be carried out now; a little later it can."""


class OperationFailed(AgentError):
    """The request was right, and carrying it out failed; the state is as before."""


def describe_os_error(error: OSError) -> str:
    """Return what the system refused, with the name of the file, and what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return f"the system refuses: {reason}"
    files = " -> ".join(str(name) for name in (error.filename, error.filename2) if name)
    help_ = f"; {_HELP[error.errno]}" if error.errno in _HELP else ""
    return f"cannot use {files}: {reason}{help_}"


_HELP = {
    errno.EACCES: "run it as root",
    errno.EPERM: "run it as root",
    errno.ENOSPC: "make room on the disk",
    errno.EROFS: "the disk must be writable",
}
