"""Instances: upload, start, stop, reload, delete (DESIGN §4, the life of a change).

What is on disk under an instance's real names is always one complete configuration that haproxy
has accepted. `last-good` holds links to the files with which haproxy last came up; a start or a
reload that fails puts them back.
"""

import hashlib
import logging
import threading
import time
from base64 import b64encode
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from amphora_agent import files
from amphora_agent.errors import InvalidRequest, NotFound, OperationFailed
from amphora_agent.haproxy import binds, ports, render, server_state, text, workers
from amphora_agent.haproxy.observe import keep_final_counters, listener_index
from amphora_agent.haproxy.plan import Step, plan
from amphora_agent.haproxy.process import Haproxy
from amphora_agent.haproxy.socket import MasterSocket, NoAnswer, NotListening
from amphora_agent.haproxy.workers import Workers
from amphora_agent.layout import CertificateName, InstanceLayout, Layout, ObjectId
from amphora_agent.namespace import Namespace
from amphora_agent.processes.supervisor import ProcessSpec, ProcessState, Supervisor

logger = logging.getLogger(__name__)

#: Seconds for a start or a reload to come up; the controller waits 60 for its answer.
_PATIENCE = 50.0
#: Seconds for one answer of a socket.
_ANSWER = 5.0
#: Seconds between two looks at something that is coming up.
_PAUSE = 0.002


class _Refused(OperationFailed):
    """A reload that failed; the details say why, in haproxy's words."""


class ListenerStatus(NamedTuple):
    """A row of `GET /1.0/listeners`."""

    status: str
    uuid: str
    type: str


class Instances:
    """All instances of the amphora. Changes of one instance are made one after another; reads
    wait for nobody."""

    def __init__(
        self,
        layout: Layout,
        haproxy: Haproxy,
        supervisor: Supervisor,
        *,
        group: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layout = layout
        self._haproxy = haproxy
        self._supervisor = supervisor
        self._group = group
        self._clock = clock
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._index = listener_index()

    # Configuration

    def upload(self, instance_id: ObjectId, amphora_id: ObjectId, configuration: bytes) -> None:
        """Check a configuration and make it the instance's; what runs is not touched.

        Raises:
            InvalidRequest: haproxy refuses it; the details are haproxy's own words.
        """
        instance = self._layout.instance(instance_id)
        if b"\0" in configuration:
            raise InvalidRequest("Invalid request", "the configuration has a NUL byte")
        parsed = text.parse(configuration.decode(errors="replace"), render.KEYWORDS)
        addition = render.addition(parsed, self._group).encode()
        peer = peer_name(amphora_id)
        with (
            self._locks[instance_id],
            files.Staged(instance.configuration, configuration, files.PRIVATE) as staged,
            files.Staged(instance.addition, addition, files.PRIVATE) as staged_addition,
        ):
            checked = self._haproxy.check((staged.path, staged_addition.path), peer)
            if not checked.succeeded:
                files.write(instance.rejected, configuration)
                words = checked.output.replace(str(staged.path), str(instance.configuration))
                raise InvalidRequest("Invalid request", words.strip())
            # A kill between these leaves an addition that is mended when the agent starts.
            if not _has(instance.addition, addition):
                staged_addition.commit()
            if not _has(instance.peer, peer.encode()):
                files.write(instance.peer, peer.encode())
            staged.commit()
        logger.info("instance=%s change=upload bytes=%d", instance_id, len(configuration))

    def configuration(self, instance_id: ObjectId) -> bytes:
        """The configuration as it was sent.

        Raises:
            NotFound
        """
        return self._existing(instance_id).configuration.read_bytes()

    def listeners(self) -> list[ListenerStatus]:
        """Every listener of every instance; ACTIVE, OFFLINE (stopped) or ERROR (died)."""
        rows = []
        for instance in self._layout.instances():
            status = self._status(instance)
            for listener in self._index.of(instance.configuration):
                rows.append(ListenerStatus(status, listener.id, listener.type))
        return rows

    def running(self) -> int:
        """How many instances run."""
        return sum(_master(instance).listening() for instance in self._layout.instances())

    def haproxy_version(self) -> str:
        return self._haproxy.capabilities().version

    # Life

    def start(self, instance_id: ObjectId) -> str:
        """Start an instance, unless it runs; return the sentence for the controller.

        Raises:
            NotFound, OperationFailed
        """
        with self._locks[instance_id]:
            instance = self._existing(instance_id)
            if not _master(instance).listening():
                self._start(instance)
        return f"Configuration file is valid\nhaproxy daemon for {instance_id} started"

    def reload(self, instance_id: ObjectId) -> str:
        """Make the instance run what is committed; return the sentence for the controller.

        Raises:
            NotFound
            OperationFailed: it did not come up; the details are haproxy's own words, the last
                good configuration is back in place, and what ran before still serves.
        """
        started = self._clock()
        with self._locks[instance_id]:
            instance = self._existing(instance_id)
            decided = plan(running=_master(instance).listening())
            logger.info(
                "instance=%s plan=%s why=%r", instance_id, decided.step.value, decided.reason
            )
            if decided.step is Step.START:
                self._start(instance)
                answer = f"Configuration file is valid\nhaproxy daemon for {instance_id} started"
            else:
                self._reload(instance)
                answer = f"Listener {instance_id} reloaded"
        milliseconds = (self._clock() - started) * 1000
        logger.info("instance=%s change=%s ms=%.0f", instance_id, decided.step.value, milliseconds)
        return answer

    def stop(self, instance_id: ObjectId) -> str:
        """Stop an instance until it is started again; return the sentence for the controller."""
        with self._locks[instance_id]:
            instance = self._existing(instance_id)
            self._supervisor.stop(_process_name(instance))
        return f"Listener {instance_id} stopped"

    def delete(self, instance_id: ObjectId) -> None:
        """Stop an instance and remove all its files. Nothing happens when there is none."""
        instance = self._layout.instance(instance_id)
        with self._locks[instance_id]:
            self._supervisor.forget(_process_name(instance))
            for socket in (instance.stats_socket, instance.master_socket):
                socket.unlink(missing_ok=True)
            files.remove_tree(instance.certificates)
            files.remove_tree(instance.directory)
        logger.info("instance=%s change=delete", instance_id)

    def adopt(self) -> None:
        """Bring what an earlier agent left into order; before anything else is called."""
        files.sweep(self._layout.base)
        files.sweep(self._layout.certificates)
        for instance in self._layout.instances():
            parsed = text.parse(_text(instance.configuration), render.KEYWORDS)
            addition = render.addition(parsed, self._group).encode()
            if not _has(instance.addition, addition):
                files.write(instance.addition, addition)
        self._supervisor.adopt()

    def resume(self) -> None:
        """Bring back to life what should run and does not."""
        self._supervisor.resume()

    # Certificates

    def put_certificate(self, instance_id: ObjectId, name: CertificateName, data: bytes) -> None:
        """Store a certificate file of an instance; haproxy reads it at the next reload."""
        with self._locks[instance_id]:
            files.make_private_directory(self._layout.certificates / instance_id)
            files.write(self._layout.certificate(instance_id, name), data)

    def certificate_md5(self, instance_id: ObjectId, name: CertificateName) -> str:
        """The hex MD5 of a certificate file, by which the controller knows it.

        Raises:
            NotFound
        """
        try:
            data = self._layout.certificate(instance_id, name).read_bytes()
        except FileNotFoundError:
            raise NotFound(
                "Certificate Not Found", f"No certificate with filename: {name}"
            ) from None
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    def delete_certificate(self, instance_id: ObjectId, name: CertificateName) -> None:
        """Remove a certificate file; nothing happens when there is none."""
        with self._locks[instance_id]:
            files.remove(self._layout.certificate(instance_id, name))

    # How it is done

    def _existing(self, instance_id: ObjectId) -> InstanceLayout:
        instance = self._layout.instance(instance_id)
        if not instance.configuration.is_file():
            raise NotFound("Loadbalancer Not Found", f"No loadbalancer with UUID: {instance_id}")
        return instance

    def _status(self, instance: InstanceLayout) -> str:
        if _master(instance).listening():
            return "ACTIVE"
        state = self._supervisor.state(_process_name(instance))
        return "OFFLINE" if state is ProcessState.STOPPED else "ERROR"

    def _start(self, instance: InstanceLayout) -> None:
        name = _process_name(instance)
        was_wanted = self._supervisor.state(name) is not ProcessState.STOPPED
        mark = self._supervisor.mark(name)
        files.remove(instance.state)  # of an earlier life: its members have lived on since
        files.make_directory(self._layout.run)
        spec = self._spec(instance)
        try:
            self._supervisor.start(spec)
            self._await_worker(instance, after=None)
        except OperationFailed as error:
            words = self._supervisor.output(name, mark).strip()
            self._supervisor.stop(name)
            if self._restore(instance) and was_wanted:
                self._supervisor.start(spec)
            raise OperationFailed("Error starting haproxy", words or str(error)) from error
        self._remember_good(instance)

    def _reload(self, instance: InstanceLayout) -> None:
        name = _process_name(instance)
        socket = _master(instance)
        mark = self._supervisor.mark(name)
        try:
            self._require_ports(instance)
            before = workers.parse(socket.command("show proc", timeout=_ANSWER))
            self._save_state(instance, socket, before)
            reply = socket.command("reload", timeout=_PATIENCE)
            if reply.startswith("Success=0"):
                raise _Refused("haproxy refused", reply.partition("--\n")[2].strip())
            self._await_worker(instance, after=before)
        except OperationFailed as error:
            words = self._supervisor.output(name, mark).strip()
            self._restore(instance)
            if isinstance(error, _Refused):
                words = error.details
            raise OperationFailed("Error reloading haproxy", words or str(error)) from error
        self._remember_good(instance)

    def _require_ports(self, instance: InstanceLayout) -> None:
        """See that haproxy can listen wherever it does not listen yet."""
        running = instance.last_good / instance.configuration.name
        if running.exists():
            new = binds.added(_text(instance.configuration), _text(running))
            try:
                ports.require(Namespace(self._layout.namespace), new, self._clock)
            except OperationFailed as error:
                raise _Refused(error.message, error.details) from error

    def _save_state(self, instance: InstanceLayout, socket: MasterSocket, now: Workers) -> None:
        """What must come through a reload: the members' states, and the counters so far.

        A worker that cannot tell them any more is all the more in need of a reload.
        """
        if now.current is None:
            files.remove(instance.state)
            return
        wanted = text.parse(_text(instance.configuration), server_state.KEYWORDS)
        try:
            state = server_state.NOTHING
            if server_state.is_read(wanted):
                shown = socket.command(f"@!{now.current} show servers state", timeout=_ANSWER)
                state = server_state.carry_over(shown, wanted)
            files.write(instance.state, state.encode())
            keep_final_counters(instance, now.current, timeout=_ANSWER)
        except OperationFailed as error:
            files.remove(instance.state)
            logger.warning("instance=%s nothing saved for the reload: %s", instance.id, error)

    def _await_worker(self, instance: InstanceLayout, after: Workers | None) -> None:
        """Wait until a worker serves that was not there `after`.

        Raises:
            OperationFailed: haproxy said that it failed, ended, or took too long.
        """
        socket = _master(instance)
        deadline = self._clock() + _PATIENCE
        look_at = 0.0
        while self._clock() < deadline:
            try:
                now = workers.parse(socket.command("show proc", timeout=_ANSWER))
                if after is not None and now.failed and now.reloads > after.reloads:
                    raise OperationFailed("haproxy could not load the configuration")
                if now.current is not None and (after is None or now.current != after.current):
                    # A worker answers from the loop that accepts connections.
                    socket.command(f"@!{now.current} show version", timeout=_ANSWER)
                    return
            except (NotListening, NoAnswer):
                # Not yet, or a master of 2.6 that executes itself anew. Or it is dead.
                if self._clock() >= look_at:
                    look_at = self._clock() + 0.1
                    if self._supervisor.state(_process_name(instance)) is not ProcessState.RUNNING:
                        raise OperationFailed("haproxy ended") from None
            time.sleep(_PAUSE)
        raise OperationFailed("haproxy did not come up", f"no new worker in {_PATIENCE:g} s")

    def _spec(self, instance: InstanceLayout) -> ProcessSpec:
        peer = instance.peer.read_text()
        return ProcessSpec(
            name=_process_name(instance),
            description=f"HAProxy of load balancer {instance.id}",
            template="haproxy.service.j2",
            argv=self._haproxy.command(instance, peer, notify=self._supervisor.notified),
            namespace=self._layout.namespace,
        )

    def _remember_good(self, instance: InstanceLayout) -> None:
        good = instance.last_good
        files.mirror(instance.certificates, good / "certificates")
        files.keep_as(instance.addition, good / instance.addition.name)
        files.keep_as(instance.configuration, good / instance.configuration.name)

    def _restore(self, instance: InstanceLayout) -> bool:
        """Put the last good files back; without any, the instance has no configuration again."""
        good = instance.last_good
        files.keep_as(instance.configuration, instance.rejected)
        if not (good / instance.configuration.name).exists():
            files.remove(instance.configuration)
            return False
        files.mirror(good / "certificates", instance.certificates)
        files.keep_as(good / instance.addition.name, instance.addition)
        files.keep_as(good / instance.configuration.name, instance.configuration)
        logger.warning("instance=%s went back to the last good configuration", instance.id)
        return True


def peer_name(amphora_id: str) -> str:
    """The name of this amphora among its peers, as the controller's text has it (WIRE §3)."""
    digest = hashlib.sha1(amphora_id.encode(), usedforsecurity=False).digest()
    name = b64encode(digest, b"_-").decode().rstrip("=")
    return f"x{name[1:]}" if name.startswith("-") else name


def _text(configuration: Path) -> str:
    return configuration.read_text(errors="replace")


def _process_name(instance: InstanceLayout) -> str:
    return f"haproxy-{instance.id}"


def _master(instance: InstanceLayout) -> MasterSocket:
    return MasterSocket(instance.master_socket)


def _has(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False
