"""Who the present request is from."""

from flask import request

from amphora_agent.model.changes import Caller

#: Its name in the environment of a request, where the worker puts it.
KEY = "amphora_agent.caller"


def caller() -> Caller:
    """The client, by the certificate that its connection proved."""
    who: Caller = request.environ[KEY]
    return who
