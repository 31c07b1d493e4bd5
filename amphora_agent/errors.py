"""Errors that travel from where they are found to whoever asked.

Each carries a short `message` and the `details` a person needs: the two members of the JSON
body that the controller reads. The HTTP status belongs to `api/`, which maps classes to it.
"""

import errno
from collections.abc import Iterable


class AgentError(Exception):
    """Something the agent was asked for cannot be done; nothing was changed."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(f"{message}: {details}" if details else message)
        self.message = message
        self.details = details


class InvalidRequest(AgentError):
    """The request itself is wrong: sending it again will not help. `problems` are, where they are
    known one by one, the places in its body and what is wrong with each."""

    problems: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, problems: Iterable[tuple[str, str]]) -> "InvalidRequest":
        """Of several problems at once."""
        found = tuple((path, words) for path, words in problems)
        error = cls("Invalid request", "; ".join(f"{path}: {words}" for path, words in found))
        error.problems = found
        return error


class TooLarge(InvalidRequest):
    """The body of the request is larger than it may be."""


class NotFound(AgentError):
    """The object that the request names does not exist."""


class Conflict(AgentError):
    """The request contradicts what is there."""


class PreconditionFailed(AgentError):
    """The object is in another state than the request is meant for."""


class Unavailable(AgentError):
    """It cannot be done now; a little later it can."""


class OperationFailed(AgentError):
    """The request was right, carrying it out failed; what was there before still is."""


def describe_os_error(error: OSError) -> str:
    """What the system refused, with the file that it is about, and what may help."""
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
