"""The forms of the heartbeat, by version (WIRE §6).

| version | counters | pools | signature | of controllers |
|---|---|---|---|---|
| 3 | increases | beside listeners | hexadecimal | from 7.0 |
| 2 | since the beginning | beside listeners | hexadecimal | 4.1 to 6 |
| 1 | since the beginning | in their listener | hexadecimal | 1.0 to 4.0 |
| 0 | since the beginning | in their listener | binary | 0.8 to 0.10 |

Controllers before 4.1 expect every listener, also one that is disabled: it has an instance, whose
configuration has no frontend.
"""

from collections.abc import Mapping
from typing import Any

LATEST = 3
#: From here on counters are increases.
INCREASES = 3
#: From here on pools stand beside the listeners, and disabled listeners are left out.
FLAT = 2
#: From here on the message tells its version, and its signature is in hexadecimal digits.
NUMBERED = 1

#: The version that goes with a version of the API.
OF_API = {"0.5": 1, "1.0": LATEST}


def shaped(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message with `pools` by `<pool id>:<listener id>`, in the form of its version `ver`."""
    version = message["ver"]
    if version >= FLAT:
        return message
    listeners = {
        listener_id: {**listener, "pools": {}}
        for listener_id, listener in message["listeners"].items()
    }
    for key, pool in message["pools"].items():
        pool_id, _, listener_id = key.rpartition(":")
        if listener_id in listeners:  # not one that haproxy still has, and the configuration not
            listeners[listener_id]["pools"][pool_id] = pool
    absent = {"pools"} if version >= NUMBERED else {"pools", "ver"}
    head = {name: value for name, value in message.items() if name not in absent}
    return {**head, "listeners": listeners}
