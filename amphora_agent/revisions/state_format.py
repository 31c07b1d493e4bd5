"""The format of the state on disk: a number in the file `format` of the agent's directory.

The state is everything below `base_path`, and the records of ports. A format is a promise: an agent
that knows the number can take all of that over.

* 1: as agents left it that wrote no number.
* 2: the first with a number. The files have the form that they had in format 1.

An agent writes its own number before it changes anything, so files of a newer format are never
below an older number. What a newer format means is unknown: an agent that finds one changes nothing
there, and says so (decision 0042).
"""

import logging
from pathlib import Path

from amphora_agent import files
from amphora_agent.errors import Conflict, describe_os_error
from amphora_agent.events.alarms import Alarms
from amphora_agent.model.events import AlarmKind

logger = logging.getLogger(__name__)

#: The number that this agent writes, and that of a state without one.
CURRENT, WITHOUT_NUMBER = 2, 1
#: Bytes of the file that are read: a number has a few.
_LIMIT = 32


def require_known(path: Path) -> None:
    """Check that this agent knows the format of the state. `path` is the file of the number.

    Raises:
        Conflict: it does not, or the file cannot be read or has no number.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LIMIT)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _refuse(path, describe_os_error(error)) from error
    number = text.strip()
    is_number = number.isdigit() and len(text) < _LIMIT
    if not (is_number and WITHOUT_NUMBER <= int(number) <= CURRENT):
        raise _refuse(path, f"it says {text.decode(errors='replace').strip()!r}")


def _refuse(path: Path, reason: str) -> Conflict:
    return Conflict(
        "The state on disk has an unknown format",
        f"{path}: {reason}; this agent knows {WITHOUT_NUMBER} to {CURRENT} and changes nothing. "
        "Install the agent that wrote it, or one that is newer",
    )


def take_over(path: Path, alarms: Alarms) -> Conflict | None:
    """Mark the state as this agent's, before anything of it is changed.

    Return the refusal of all changes if its format is unknown: nothing is written then, and an
    alarm says so. A number that cannot be written is only logged; the next start tries again.
    """
    try:
        require_known(path)
    except Conflict as refusal:
        alarms.set_alarm(AlarmKind.UNKNOWN_FORMAT, str(path), str(refusal))
        return refusal
    alarms.clear_alarm(AlarmKind.UNKNOWN_FORMAT, str(path))
    try:
        files.provide(path, f"{CURRENT}\n".encode())
    except OSError as error:
        logger.error("%s: cannot be written: %s", path, describe_os_error(error))
    return None
