"""What the agent itself has to say to haproxy, beside the controller's text."""

from amphora_agent import templates
from amphora_agent.haproxy.text import Config

#: What of a configuration must be parsed for `addition`.
KEYWORDS = frozenset({"group"})

_FOLDER = "haproxy_templates"


def addition(config: Config, group: str) -> str:
    """The second configuration file of an instance.

    The group is the agent's to add, since only the amphora knows its name (WIRE §3); a
    controller old enough to send one is left its own.
    """
    has_group = any(section.first("group") for section in config.of_kind("global"))
    return templates.render(_FOLDER, "agent.cfg.j2", group=None if has_group else group)


def check_addition() -> str:
    """What a configuration is checked with, so that a check does not need the memory of a start:
    haproxy takes the last value that it reads."""
    return templates.render(_FOLDER, "check.cfg.j2")


def ping_wrapper() -> str:
    """The program that checks the members of pools with a PING monitor."""
    return templates.render(_FOLDER, "ping-wrapper.sh.j2")
