"""Instances: upload, start, stop, reload, delete (docs/architecture.md, the life of a change).

What is on disk under an instance's real names is always one complete configuration that haproxy
has accepted.
"""

import hashlib
import logging
import threading
import time
from base64 import b64encode
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from amphora_agent import files
from amphora_agent.errors import InvalidRequest, NotFound
from amphora_agent.haproxy import mend, render, text
from amphora_agent.haproxy.activation import Activation, master_of, process_name
from amphora_agent.haproxy.listeners import Listener
from amphora_agent.haproxy.mend import Mended
from amphora_agent.haproxy.observe import Observer, listener_index
from amphora_agent.haproxy.plan import Step, plan
from amphora_agent.haproxy.process import Haproxy
from amphora_agent.haproxy.socket import NoAnswer, NotListening
from amphora_agent.layout import CertificateName, InstanceLayout, Layout, ObjectId
from amphora_agent.model.status import ListenerStatus, PoolReading
from amphora_agent.processes.supervisor import ProcessState, Supervisor

logger = logging.getLogger(__name__)

#: Seconds for one answer of a socket.
_ANSWER = 5.0


class OneListener(NamedTuple):
    """A listener with an instance of its own; `pools` by id, None when haproxy does not tell."""

    status: ListenerStatus
    pools: Mapping[str, PoolReading] | None


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
        self._activation = Activation(layout, haproxy, supervisor, clock)
        self._index = listener_index()
        self._observer = Observer(layout, clock)

    # Configuration

    def upload(self, instance_id: ObjectId, amphora_id: ObjectId, configuration: bytes) -> None:
        """Check a configuration and make it the instance's; what runs is not touched.

        Raises:
            InvalidRequest: haproxy refuses it; the details are haproxy's own words.
        """
        instance = self._layout.instance(instance_id)
        if b"\0" in configuration:
            raise InvalidRequest("Invalid request", "the configuration has a NUL byte")
        mended = mend.configuration(configuration)
        parsed = text.parse(mended.content.decode(errors="replace"), render.KEYWORDS)
        addition = render.addition(parsed, self._group).encode()
        peer = peer_name(amphora_id)
        with (
            self._locks[instance_id],
            files.Staged(instance.configuration, mended.content, files.PRIVATE) as staged,
            files.Staged(instance.addition, addition, files.PRIVATE) as staged_addition,
        ):
            checked = self._haproxy.check((staged.path, staged_addition.path), peer)
            if not checked.succeeded:
                files.write(instance.rejected, configuration)
                words = checked.output.replace(str(staged.path), str(instance.configuration))
                raise InvalidRequest("Invalid request", words.strip())
            # A kill between these leaves an addition that is mended when the agent starts.
            if not files.has(instance.addition, addition):
                staged_addition.commit()
            files.provide(instance.peer, peer.encode())
            staged.commit()
        _log(mended, instance_id, instance.configuration.name)
        logger.info("instance=%s change=upload bytes=%d", instance_id, len(configuration))

    def configuration(self, instance_id: ObjectId) -> bytes:
        """The configuration as it was sent.

        Raises:
            NotFound
        """
        content = self._existing(instance_id).configuration.read_bytes()
        return mend.configuration_as_sent(content)

    def listeners(self) -> list[ListenerStatus]:
        """Every listener of every instance; ACTIVE, OFFLINE (stopped) or ERROR (died)."""
        rows = []
        for instance in self._layout.instances():
            status = self._status(instance)
            for listener in self._index.of(instance.configuration):
                rows.append(ListenerStatus(status, listener.id, listener.type))
        return rows

    def listener(self, listener_id: ObjectId) -> OneListener:
        """The listener whose instance this is, with what haproxy says of its pools.

        Raises:
            NotFound
        """
        instance = self._existing(listener_id)
        (known,) = self._index.of(instance.configuration)[:1] or (Listener(listener_id, ""),)
        status = ListenerStatus(self._status(instance), known.id, known.type)
        try:
            pools = self._observer.pools(instance, timeout=_ANSWER)
        except (NotListening, NoAnswer) as error:
            logger.info("instance=%s pools unknown: %s", listener_id, error)
            pools = None
        return OneListener(status, pools)

    def running(self) -> int:
        """How many instances run."""
        return sum(master_of(instance).listening() for instance in self._layout.instances())

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
            if not self._activation.runs(instance):
                self._activation.start(instance)
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
            decided = plan(running=self._activation.runs(instance))
            logger.info(
                "instance=%s plan=%s why=%r", instance_id, decided.step.value, decided.reason
            )
            if decided.step is Step.START:
                self._activation.start(instance)
                answer = f"Configuration file is valid\nhaproxy daemon for {instance_id} started"
            else:
                self._activation.reload(instance)
                answer = f"Listener {instance_id} reloaded"
        milliseconds = (self._clock() - started) * 1000
        logger.info("instance=%s change=%s ms=%.0f", instance_id, decided.step.value, milliseconds)
        return answer

    def stop(self, instance_id: ObjectId) -> str:
        """Stop an instance until it is started again; return the sentence for the controller."""
        with self._locks[instance_id]:
            instance = self._existing(instance_id)
            self._supervisor.stop(process_name(instance))
            # Without it whoever asks knows at once that nobody will answer.
            instance.master_socket.unlink(missing_ok=True)
        return f"Listener {instance_id} stopped"

    def delete(self, instance_id: ObjectId) -> None:
        """Stop an instance and remove all its files. Nothing happens when there is none."""
        instance = self._layout.instance(instance_id)
        with self._locks[instance_id]:
            self._supervisor.forget(process_name(instance))
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
            files.provide(instance.addition, addition)
        files.provide(self._layout.ping_wrapper, render.ping_wrapper().encode(), files.PROGRAM)
        self._supervisor.adopt()

    def resume(self) -> None:
        """Bring back to life what should run and does not."""
        self._supervisor.resume()

    # Certificates

    def put_certificate(self, instance_id: ObjectId, name: CertificateName, data: bytes) -> None:
        """Store a certificate file of an instance; haproxy reads it at the next reload."""
        mended = mend.certificate(data)
        with self._locks[instance_id]:
            files.make_private_directory(self._layout.certificates / instance_id)
            files.write(self._layout.certificate(instance_id, name), mended.content)
        _log(mended, instance_id, name)

    def certificate_md5(self, instance_id: ObjectId, name: CertificateName) -> str:
        """The hex MD5 of a certificate file as it was sent, by which the controller knows it.

        Raises:
            NotFound
        """
        try:
            data = self._layout.certificate(instance_id, name).read_bytes()
        except FileNotFoundError:
            raise NotFound(
                "Certificate Not Found", f"No certificate with filename: {name}"
            ) from None
        sent = mend.certificate_as_sent(data)
        return hashlib.md5(sent, usedforsecurity=False).hexdigest()

    def delete_certificate(self, instance_id: ObjectId, name: CertificateName) -> None:
        """Remove a certificate file; nothing happens when there is none."""
        with self._locks[instance_id]:
            files.remove(self._layout.certificate(instance_id, name))

    def _existing(self, instance_id: ObjectId) -> InstanceLayout:
        instance = self._layout.instance(instance_id)
        if not instance.configuration.is_file():
            raise NotFound("Loadbalancer Not Found", f"No loadbalancer with UUID: {instance_id}")
        return instance

    def _status(self, instance: InstanceLayout) -> str:
        if master_of(instance).listening():
            return "ACTIVE"
        match self._supervisor.state(process_name(instance)):
            case ProcessState.STOPPED:
                return "OFFLINE"
            case ProcessState.FAILED:
                return "ERROR"
            case ProcessState.RUNNING:
                # Coming up; or a master of 2.6 that executes itself anew while its worker serves.
                return "ACTIVE" if instance.master_socket.exists() else "OFFLINE"


def peer_name(amphora_id: str) -> str:
    """The name of this amphora among its peers, as the controller's text has it (WIRE §3)."""
    digest = hashlib.sha1(amphora_id.encode(), usedforsecurity=False).digest()
    name = b64encode(digest, b"_-").decode().rstrip("=")
    return f"x{name[1:]}" if name.startswith("-") else name


def _log(mended: Mended, instance_id: ObjectId, file: str) -> None:
    for change in mended.changes:
        logger.warning("instance=%s file=%s mended for haproxy: %s", instance_id, file, change)


def _text(configuration: Path) -> str:
    return configuration.read_text(errors="replace")
