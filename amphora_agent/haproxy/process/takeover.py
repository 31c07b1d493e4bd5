"""One haproxy takes the place of another of the same load balancer: a rendered one (API 2.0) that
of an uploaded text, or the other way round.

Their files differ, so one master cannot load both. Both listen for a moment, as SO_REUSEPORT lets
them; when the new one serves, the old one ends by and by (decision 0021). The two have names and
master sockets of their own, and the statistics socket goes to the one that began last.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from amphora_agent import files
from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy import replies
from amphora_agent.haproxy.config import parser
from amphora_agent.haproxy.replies import read_information
from amphora_agent.haproxy.runtime import loaded_state
from amphora_agent.haproxy.runtime.final_counters import keeping_final_counters
from amphora_agent.haproxy.runtime.socket import MasterSocket, master_of
from amphora_agent.haproxy.update import server_state_file
from amphora_agent.haproxy.update.server_state_file import Told
from amphora_agent.paths import InstanceLayout, Layout, ObjectId, RenderedLayout
from amphora_agent.revisions import reading
from amphora_agent.revisions.contents import LOADED, ContentLost, Revisions
from amphora_agent.supervisor.contract import ProcessState, Supervisor

logger = logging.getLogger(__name__)

#: Seconds for one answer of a socket.
_ANSWER = 5.0


class Takeover:
    """The end of haproxies whose place others take. `end` is to be called when these serve."""

    def __init__(self, told: Sequence[Told], end: Callable[[], None]) -> None:
        self._told = told
        self.end = end

    @property
    def configuration(self) -> str:
        """Return what the haproxies that end have loaded."""
        return "\n".join(predecessor.configuration for predecessor in self._told)

    def states(self, wanted: str) -> str:
        """Return the state file for a haproxy that begins with a configuration: members have the
        states that they had in the haproxies that end. It may be read only where the controller
        wants it."""
        if not server_state_file.may_be_read(wanted):
            return server_state_file.NOTHING
        return server_state_file.inherit(self._told, wanted)


class Takeovers:
    """Lets one haproxy take the place of others. Who calls it holds the load balancer's lock."""

    def __init__(self, layout: Layout, supervisor: Supervisor) -> None:
        self._layout = layout
        self._supervisor = supervisor

    def predecessor(self, new: InstanceLayout) -> InstanceLayout | None:
        """Return the instance of the other kind with the same id, if its process is there."""
        other = self._layout.other_kind(new)
        if other.process == new.process and self._layout.instance(new.id).kind == new.kind:
            return None  # the name is that of the new one's own process
        stopped = self._supervisor.state(other.process) is ProcessState.STOPPED
        return None if stopped else other

    def tell_apart(self, new: InstanceLayout) -> None:
        """Give the process of an instance another name than that of the other kind has."""
        if new.process == self._layout.other_kind(new).process:
            files.point(new.second, new.kind)

    @contextlib.contextmanager
    def taking_over(self, lb_id: ObjectId, old: Sequence[InstanceLayout]) -> Iterator[Takeover]:
        """Around the start of what takes the place of `old`; these go on if that fails."""
        predecessors: list[Told] = []
        with contextlib.ExitStack() as held:
            keepers: list[Callable[[], None]] = []
            for instance in old:
                with contextlib.suppress(OperationFailed):  # it serves nobody, or cannot tell
                    master = master_of(instance)
                    pid = replies.read_workers(master.command("show proc", timeout=_ANSWER)).current
                    state = master.command(f"@!{pid} show servers state", timeout=_ANSWER)
                    predecessors.append(
                        Told(state, parser.join_texts(loaded_state.read_loaded(instance)))
                    )
                    keeping = keeping_final_counters(instance, pid, timeout=_ANSWER)
                    keepers.append(held.enter_context(keeping))
            socket = self._layout.uploaded(lb_id).stats_socket
            before = _name_backup(socket)
            before.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.link(socket, before)
            try:
                yield Takeover(predecessors, lambda: self._end(old, socket, keepers))
            except BaseException:  # also an end by force: the old ones go on
                _give_back(socket)
                raise
            before.unlink(missing_ok=True)

    def _end(
        self, old: Sequence[InstanceLayout], socket: Path, keepers: Sequence[Callable[[], None]]
    ) -> None:
        for instance in old:
            self._supervisor.retire(instance.process)
            instance.master_socket.unlink(missing_ok=True)
            if instance.stats_socket != socket or _is_same(socket, _name_backup(socket)):
                instance.stats_socket.unlink(missing_ok=True)
        for keep in keepers:
            keep()

    # After a kill

    def settle(self, instance: InstanceLayout) -> None:
        """End a takeover that a kill has interrupted: the rendered load balancer serves if all of
        it has come up, or the uploaded text has not; else the text goes on."""
        if not isinstance(instance, RenderedLayout) or self.predecessor(instance) is None:
            return
        uploaded = self._layout.uploaded(instance.id)
        winner: InstanceLayout
        processes = self._layout.processes_of(instance) or [instance]
        try:
            text_came_up = reading.loaded_digest(uploaded) is not None
            text_came_up = text_came_up and loaded_state.is_remembered(uploaded)
            all_came_up = all(loaded_state.is_remembered(process) for process in processes)
        except ContentLost:  # what cannot be read is as if it had not come up
            text_came_up, all_came_up = False, True
        if all_came_up or not text_came_up:
            logger.warning("instance=%s the uploaded text's haproxy ends", instance.id)
            self._supervisor.retire(uploaded.process)
            uploaded.master_socket.unlink(missing_ok=True)
            winner = instance
        else:
            logger.warning("instance=%s goes on with the uploaded text", instance.id)
            for process in processes:
                self._supervisor.forget(process.process)
                process.master_socket.unlink(missing_ok=True)
                Revisions.of(instance).drop(f"{LOADED}{process.id}")
                if process.id != instance.id:
                    files.remove_tree(process.directory)
            files.remove(instance.current)
            winner = uploaded
        socket = instance.stats_socket
        if not _answers(winner):
            _give_back(socket)
        _name_backup(socket).unlink(missing_ok=True)


def _name_backup(socket: Path) -> Path:
    """Return another name of a statistics socket, while somebody else may take its own."""
    return socket.with_name(f"{socket.name}.before")


def _give_back(socket: Path) -> None:
    before = _name_backup(socket)
    with contextlib.suppress(FileNotFoundError):
        os.replace(before, socket)
    before.unlink(missing_ok=True)  # two names of one socket: then replacing does nothing


def _is_same(one: Path, other: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return one.samefile(other)
    return False


def _answers(instance: InstanceLayout) -> bool:
    """Whether the statistics socket of an instance is that of its own worker."""
    try:
        now = replies.read_workers(master_of(instance).command("show proc", timeout=_ANSWER))
        reply = MasterSocket(instance.stats_socket).command("show info", timeout=_ANSWER)
        information = read_information(reply)
    except OperationFailed:
        return False
    return information.get("Pid") == str(now.current)
