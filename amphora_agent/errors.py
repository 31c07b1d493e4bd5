"""Errors that travel from where they are found to whoever asked.

Each carries a short `message` and the `details` a person needs: the two members of the JSON
body that the controller reads. The HTTP status belongs to `api/`, which maps classes to it.
"""


class AgentError(Exception):
    """Something the agent was asked for cannot be done; nothing was changed."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(f"{message}: {details}" if details else message)
        self.message = message
        self.details = details


class InvalidRequest(AgentError):
    """The request itself is wrong: sending it again will not help."""


class NotFound(AgentError):
    """The object that the request names does not exist."""


class Conflict(AgentError):
    """The request contradicts what is there."""


class OperationFailed(AgentError):
    """The request was right, carrying it out failed; what was there before still is."""
