"""What the agent itself has to say to haproxy, beside the controller's text."""

import hashlib
from base64 import b64encode

from amphora_agent import templates
from amphora_agent.haproxy.text import Config

#: How long a worker that was replaced may serve its last connections, and how many further reloads
#: it may see: then haproxy ends it (docs/decisions/0017-bounded-old-workers.md).
HARD_STOP_AFTER = "1h"
MOST_RELOADS = 50

#: What of a configuration must be parsed for `addition`; one that has none of these words anywhere
#: need not be.
KEYWORDS = frozenset({"group", "hard-stop-after", "mworker-max-reloads"})

_FOLDER = "haproxy_templates"


def addition(config: Config, group: str) -> str:
    """The second configuration file of an instance.

    The group is the agent's to add, since only the amphora knows its name (WIRE §3). What the
    controller's text says itself is left to it: haproxy would take what it reads last.
    """
    said = {
        directive.words[0]
        for section in config.of_kind("global")
        for directive in section.directives
    }
    return templates.render(
        _FOLDER,
        "agent.cfg.j2",
        said=said,
        group=group,
        hard_stop_after=HARD_STOP_AFTER,
        most_reloads=MOST_RELOADS,
    )


def check_addition() -> str:
    """What a configuration is checked with, so that a check does not need the memory of a start:
    haproxy takes the last value that it reads."""
    return templates.render(_FOLDER, "check.cfg.j2")


def ping_wrapper() -> str:
    """The program that checks the members of pools with a PING monitor."""
    return templates.render(_FOLDER, "ping-wrapper.sh.j2")


def peer_name(amphora_id: str) -> str:
    """The name of this amphora among its peers, as the controller's text has it (WIRE §3)."""
    digest = hashlib.sha1(amphora_id.encode(), usedforsecurity=False).digest()
    name = b64encode(digest, b"_-").decode().rstrip("=")
    return f"x{name[1:]}" if name.startswith("-") else name
