"""What the agent itself has to say to haproxy, beside the controller's text."""

import hashlib
from base64 import b64encode

from amphora_agent import templates
from amphora_agent.haproxy.config import parser, word_counts
from amphora_agent.haproxy.config.preflight import Limits
from amphora_agent.haproxy.policy import compat, table

#: How long a worker that was replaced may serve its last connections, and how many further reloads
#: it may see: then haproxy ends it (docs/decisions/0017-bounded-old-workers.md).
HARD_STOP_AFTER = "1h"
MOST_RELOADS = 50

#: Milliseconds until a new member is checked for the first time. haproxy would wait for up to an
#: interval, at a start for as long as the checks are spread over.
FIRST_CHECK = 100

#: The user that haproxy's workers run as.
USER = table.USER

#: Statements of `global` that the agent adds where the controller's text has none.
KEYWORDS = frozenset(
    {"group", "hard-stop-after", "max-spread-checks", "mworker-max-reloads", "user"}
)

_FOLDER = "haproxy_templates"


def addition(configuration: str, group: str, limits: Limits) -> str:
    """Return the second configuration file of an instance.

    Only the amphora knows the name of the group (WIRE §3). Without a user haproxy's worker would
    stay root. A statement that the controller's text has itself is left to it.
    """
    return templates.render(
        _FOLDER,
        "agent.cfg.j2",
        said=_said(configuration),
        separated=compat.read_joined_statements(configuration),
        limits=limits,
        user=USER,
        group=group,
        first_check=FIRST_CHECK,
        hard_stop_after=HARD_STOP_AFTER,
        most_reloads=MOST_RELOADS,
    )


def _said(configuration: str) -> frozenset[str]:
    """Return those of `KEYWORDS` that the `global` sections have.

    Large configurations are uploaded for every change. Controllers write `global` first, and
    nearly always that section alone answers.
    """
    first = next((b for b in parser.split_file("", configuration) if b.kind == "global"), None)
    if first is None:
        return frozenset()
    said = _keywords_in(first.text)
    if any(word_counts.has_word(configuration, keyword) for keyword in KEYWORDS - said):
        said = _keywords_in(configuration)
    return said


def _keywords_in(configuration: str) -> frozenset[str]:
    return frozenset(
        directive.words[0]
        for section in parser.parse_config(configuration, KEYWORDS).of_kind("global")
        for directive in section.directives
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
