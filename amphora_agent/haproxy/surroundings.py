"""What of a configuration matters to one of its sections, but stands elsewhere.

A configuration has megabytes: each thing is looked for at most once, and only when it matters.
"""

import re
from functools import cached_property

from amphora_agent.haproxy import signs
from amphora_agent.haproxy.difference import defaults_of
from amphora_agent.haproxy.text import Block, Section, Texts

#: Each `.if` needs one, and it is the longer word, which is found faster.
_CONDITION = re.compile(r"""^[ \t"']*\.endif""", re.MULTILINE)
#: What speaks of a server elsewhere than in its own line: `use-server`, `track`, `srv_is_up(…)`.
_REFERENCE = re.compile(r"(?:use-server|\btrack\b|srv_\w+\()[^\n]*")
_SIGNS_OF_REFERENCES = ("use-server", "track", "srv_")


class Surroundings:
    """Of the sections of these texts."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._defaults: dict[str, Section | None] = {}

    @cached_property
    def has_conditions(self) -> bool:
        """Whether there is `.if`: then a line that is there need not count."""
        return any(
            signs.has(text, ".endif") and _CONDITION.search(text) for text in self._texts.values()
        )

    def defaults_of(self, block: Block) -> Section | None:
        """The `defaults` section in effect for a section."""
        if block.file in self._defaults and self._has_one_defaults:
            return self._defaults[block.file]
        found = defaults_of(self._texts, block)
        self._defaults[block.file] = found.section() if found else None
        return self._defaults[block.file]

    def refers_to(self, server: str) -> bool:
        """Whether something speaks of a server of this name."""
        return any(server in reference for reference in self._references)

    @cached_property
    def _has_one_defaults(self) -> bool:
        """Whether all sections after it, and none before it, have the same."""
        return sum(signs.count(text, "defaults") for text in self._texts.values()) == 1

    @cached_property
    def _references(self) -> list[str]:
        return [
            reference
            for text in self._texts.values()
            if any(signs.has(text, sign) for sign in _SIGNS_OF_REFERENCES)
            for reference in _REFERENCE.findall(text)
        ]
