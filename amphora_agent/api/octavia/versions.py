"""The versions of the API, and which one a request is in."""

from flask import request

CURRENT = "1.0"
#: Controllers before 4.1 know no other.
LEGACY = "0.5"


def spoken() -> str | None:
    """The version that the present request is in; None when its path has none."""
    first = request.path.split("/", 2)[1]
    return first if first in (CURRENT, LEGACY) else None
