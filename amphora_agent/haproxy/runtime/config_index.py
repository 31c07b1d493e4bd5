"""Keep what configurations have, so that they are parsed again only when they change."""

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Generic, TypeVar

from amphora_agent import files
from amphora_agent.haproxy.config import parser, queries
from amphora_agent.haproxy.config.parser import Config, Texts
from amphora_agent.haproxy.runtime import loaded_state
from amphora_agent.paths import InstanceLayout, ObjectId
from amphora_agent.revisions.contents import ContentLost

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ConfigIndex(Generic[T]):
    """Keep what `find` finds in the configuration of each instance; look again only when its files
    change. `keywords` are the directives that `find` needs.
    """

    def __init__(self, find: Callable[[Config], T], keywords: Collection[str]) -> None:
        self._find = find
        self._keywords = keywords
        self._known: dict[ObjectId, tuple[object, T]] = {}

    def find_committed(self, instance: InstanceLayout) -> T:
        """Return what the committed files have. If there are none, parse an empty configuration."""
        found = self._look(instance, loaded_state.digest_committed, loaded_state.read_committed)
        return self._find(parser.parse_config("")) if found is None else found

    def find_loaded(self, instance: InstanceLayout) -> T | None:
        """Return what the files have with which haproxy last came up; None when it never did."""
        return self._look(instance, loaded_state.digest_loaded, loaded_state.read_loaded)

    def _look(
        self,
        instance: InstanceLayout,
        sign: Callable[[InstanceLayout], object],
        read: Callable[[InstanceLayout], Texts],
    ) -> T | None:
        known = self._known.get(instance.id)
        try:
            signature = sign(instance)
        except ContentLost as error:
            logger.error("instance=%s its configuration cannot be read: %s", instance.id, error)
            return known[1] if known else None
        if known is None or not signature or known[0] != signature:
            try:
                content = parser.join_texts(read(instance))
            except FileNotFoundError:
                self._known.pop(instance.id, None)
                return None
            except ContentLost:
                # A listener that nobody can read must still be told of.
                return known[1] if known else self._find(parser.parse_config(_live_text(instance)))
            # Names go into messages, which must be UTF-8.
            content = content.encode(errors="surrogateescape").decode(errors="replace")
            known = signature, self._find(parser.parse_config(content, self._keywords))
            self._known[instance.id] = known
        return known[1]


def _live_text(instance: InstanceLayout) -> str:
    """Return what the live files of an instance say, whoever wrote it."""
    found = []
    for path in instance.texts_below(instance.directory):
        with contextlib.suppress(FileNotFoundError):
            found.append(files.text(path))
    return "\n".join(found).encode(errors="surrogateescape").decode(errors="replace")


def index_listeners() -> ConfigIndex[tuple[queries.ListenerType, ...]]:
    """Keep the listeners of each configuration."""
    return ConfigIndex(queries.list_listeners, queries.LISTENER_KEYWORDS)


def index_pools() -> ConfigIndex[Mapping[str, tuple[str, ...]]]:
    """Keep the pools of each configuration, with the names of their members."""
    return ConfigIndex(queries.list_pools, queries.POOL_KEYWORDS)
