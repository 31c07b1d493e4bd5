"""What must be seen to before a supervisor starts a haproxy again: after a crash, at a boot.

The files that haproxy opens are to be those that are committed. And when these have never come up
and do not load, the last good ones are committed again: with a certificate that was uploaded and
does not fit, haproxy would never come back.

Under systemd this is a program that haproxy's unit runs first:

    python -m amphora_agent.haproxy.restart BASE CERTIFICATES RUN PROGRAM ID
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from amphora_agent import files
from amphora_agent.errors import AgentError
from amphora_agent.events.alarms import Alarms
from amphora_agent.haproxy.process.binary import Haproxy
from amphora_agent.model.events import AlarmKind
from amphora_agent.paths import InstanceLayout, Layout, object_id
from amphora_agent.revisions import reading, state_format
from amphora_agent.revisions.live import LiveFiles
from amphora_agent.revisions.store import RevisionStore

logger = logging.getLogger(__name__)

#: Characters of haproxy's words in an alarm.
_MOST_WORDS = 500


class Restarts:
    """Prepares the restarts of instances. Nothing is raised: a start is tried in any case."""

    def __init__(
        self, layout: Layout, haproxy: Haproxy, store: RevisionStore, alarms: Alarms
    ) -> None:
        self._layout = layout
        self._haproxy = haproxy
        self._store = store
        self._alarms = alarms

    def prepare(self, instance: InstanceLayout) -> None:
        """Put committed files back where they were edited; go back when they do not load."""
        try:
            state_format.require_known(self._layout.format)
            # Whoever holds the lock may be awaiting this start.
            self._store.live.check(instance, alone=False)
            if self._is_doubtful(instance):
                with files.locked_if_free(self._layout.instance_lock(instance.id)) as free:
                    if free and self._is_doubtful(instance):
                        self._require_loadable(instance)
        except (AgentError, OSError) as error:
            logger.error("instance=%s starts as it is: %s", instance.id, error)

    def _is_doubtful(self, instance: InstanceLayout) -> bool:
        """Whether what is committed has never come up, and something else has."""
        loaded = reading.loaded_digest(instance)
        committed = reading.committed_digest(instance)
        return instance.goes_back_alone and loaded is not None and committed != loaded

    def _require_loadable(self, instance: InstanceLayout) -> None:
        """See that haproxy takes what is committed, or go back."""
        checked = self._haproxy.check_files(instance, reading.committed(instance) or {})
        if not checked.succeeded and self._store.restore(instance):
            report_going_back(self._alarms, instance, checked.output)


def report_going_back(alarms: Alarms, instance: InstanceLayout, words: str) -> None:
    """Raise the alarm that a start went back to the last good files. The next files that come up
    end it."""
    excerpt = words.strip().replace("\n", " | ")[:_MOST_WORDS]
    alarms.set_alarm(
        AlarmKind.WENT_BACK,
        instance.id,
        "cannot start with the committed files: the last good files run instead; upload files that"
        f" load. haproxy says: {excerpt}",
    )


def main(arguments: Sequence[str]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    base, certificates, run, program, name = arguments
    layout = Layout(
        base=Path(base),
        certificates=Path(certificates),
        run=Path(run),
        network=Path(),
        namespace=Path(),
        units=Path(),
    )
    alarms = Alarms(layout.alarms)
    store = RevisionStore(LiveFiles(alarms))
    restarts = Restarts(layout, Haproxy(Path(program), layout.run), store, alarms)
    restarts.prepare(layout.instance(object_id(name)))


if __name__ == "__main__":
    main(sys.argv[1:])
