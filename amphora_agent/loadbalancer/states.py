"""The states of rendered load balancers.

A state is a revision with everything: what haproxy and keepalived read, the certificates, and the
load balancer itself. The live files of the committed state are in one directory, to which
`<id>/current` leads.

They are those of the one process of the load balancer, or there is one directory for each process;
then `<process>/current` leads there.
"""

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from amphora_agent import files
from amphora_agent.errors import NotFound
from amphora_agent.model.responses import About, ProcessModel
from amphora_agent.paths import LIVE, Layout, ObjectId, RenderedLayout, object_id
from amphora_agent.revisions import reading
from amphora_agent.revisions.contents import COMMITTED, Manifest, Revisions
from amphora_agent.revisions.store import RevisionStore

_MODEL, _RECORD = "model.json", "record.json"


class KeptCertificate(msgspec.Struct, frozen=True):
    """A certificate file of a state: digests of what came and of what it became, and what may be
    told of it."""

    given: str
    file: str
    about: About


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a state beside its files.

    `maker` is the version of the agent that wrote the files; another one may write others.
    `processes` are the instances of haproxy, `layer4` the listeners that keepalived serves. `marks`
    are digests of what rendered files are made of, by their names.
    """

    etag: str
    process_model: ProcessModel
    chosen: ProcessModel | None
    maker: str
    processes: tuple[ObjectId, ...]
    layer4: tuple[ObjectId, ...] = ()
    certificates: dict[str, KeptCertificate] = {}
    marks: dict[str, str] = {}

    @property
    def identity(self) -> tuple[str, str, ProcessModel | None]:
        """What a state must have in common with one that is wanted; its choice is remembered."""
        return self.etag, self.maker, self.chosen


class State:
    """A committed state, or an earlier one.

    Raises:
        ContentLost: not all of it can be read.
    """

    def __init__(self, revisions: Revisions, number: int, digest: str) -> None:
        self._revisions = revisions
        self.number = number
        self.digest = digest
        #: By their names.
        self.files = revisions.manifest(digest)
        self.record = msgspec.json.decode(self.content(_RECORD), type=Record)

    def model(self) -> bytes:
        """Return the load balancer in JSON, without private keys."""
        return self.content(_MODEL)

    def layer4(self, listener: str) -> bytes:
        """Return what keepalived is told of a listener."""
        return self.content(f"layer4/{listener}.conf")

    def content(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: there is no such file.
        """
        entry = self.files.get(name)
        if entry is None:
            raise FileNotFoundError(name)
        return self._revisions.read(entry.digest)


class States:
    """The states of the rendered load balancers of a layout. What changes one must hold its
    lock."""

    def __init__(self, layout: Layout, store: RevisionStore) -> None:
        self._layout = layout
        self._store = store

    def ids(self) -> list[ObjectId]:
        """Return the load balancers that there are, sorted."""
        return [
            instance.id
            for instance in reading.directories(self._layout)
            if isinstance(instance, RenderedLayout) and self.signature(instance.id) is not None
        ]

    def state(self, lb_id: ObjectId) -> State | None:
        """Return the committed state; None where there is no such load balancer."""
        digest = self.signature(lb_id)
        if digest is None:
            return None
        revisions = self.revisions(lb_id)
        numbers = [n for n in revisions.numbers() if revisions.reference(str(n)) == digest]
        return State(revisions, max(numbers, default=0), digest)

    def signature(self, lb_id: ObjectId) -> str | None:
        """Return what tells the committed state from others; None where there is none."""
        current = self._directory(lb_id) / "current"
        if not current.is_symlink() or current.readlink().parts[0] == "..":
            return None
        return self.revisions(lb_id).reference(COMMITTED)

    def revisions(self, lb_id: ObjectId) -> Revisions:
        """Return the contents and references of a load balancer."""
        return Revisions.of(self._layout.rendered(lb_id))

    def taken(self, process: str, lb_id: ObjectId) -> bool:
        """Return whether an instance of this name is not this load balancer's, but another's."""
        directory = self._layout.base / process
        if process == lb_id:
            # It may be the process of another one's listener.
            current = directory / "current"
            return current.is_symlink() and current.readlink().parts[0] == ".."
        if (directory / "current").is_symlink():
            return (directory / "current").readlink() != Path(_link(process, lb_id))
        return reading.exists(self._layout.uploaded(object_id(process)))

    def existing(self, lb_id: ObjectId) -> State:
        """Return the committed state.

        Raises:
            NotFound
        """
        state = self.state(lb_id)
        if state is None:
            raise NotFound("Loadbalancer Not Found", f"no load balancer {lb_id}")
        return state

    def numbered(self, lb_id: ObjectId, number: int) -> State:
        """Return a state that is kept.

        Raises:
            NotFound
        """
        digest = self._store.digest(self._layout.rendered(lb_id), number)
        return State(self.revisions(lb_id), number, digest)

    def numbers(self, lb_id: ObjectId) -> list[int]:
        """Return the states that can be gone back to, oldest first."""
        return self._store.numbers(self._layout.rendered(lb_id))

    def stage(
        self,
        lb_id: ObjectId,
        made: Mapping[str, bytes],
        kept: Collection[str],
        before: State | None,
        record: Record,
        model: bytes,
    ) -> Manifest:
        """Keep the files of a new state; return them. They are forgotten unless it is committed.

        `made` are the files that are new, by their names in it, `kept` those that are as in
        `before`.
        """
        new = {**made, _MODEL: model, _RECORD: msgspec.json.encode(record)}
        there = before.files if before else {}
        return {**{name: there[name] for name in kept}, **self.revisions(lb_id).keep(new)}

    def commit(self, lb_id: ObjectId, state: Manifest) -> State:
        """Make a staged state the load balancer's."""
        revisions, instance = self.revisions(lb_id), self._layout.rendered(lb_id)
        digest = revisions.keep_manifest(state)
        new = State(revisions, 0, digest)
        for process in new.record.processes:
            if process != lb_id:
                files.make_directory(self._layout.base / process)
                files.point(self._layout.base / process / "current", _link(process, lb_id))
        new.number = self._store.number(instance, digest) or 0
        self._store.commit(instance, state)
        files.point(instance.current, LIVE)
        return new

    def go_back(self, lb_id: ObjectId, before: State | None) -> None:
        """Commit the state from before again, and forget the one that is committed; without one
        before, there is no load balancer any more."""
        failed = self.state(lb_id)
        if before is None:
            self.forget(lb_id)
            return
        self._store.commit(self._layout.rendered(lb_id), before.files)
        if failed is not None and failed.number != before.number:
            self.revisions(lb_id).drop(str(failed.number))

    def forget(self, lb_id: ObjectId) -> None:
        """Forget a load balancer and its states."""
        instance = self._layout.rendered(lb_id)
        files.remove(instance.current)
        self._store.forget(instance)
        files.remove_tree(instance.live.parent)

    def remove(self, lb_id: ObjectId) -> None:
        """Remove all that there is of a load balancer at one instant: what is half removed nobody
        would ask to be removed again, and keys are in it."""
        files.remove_at_once(self._directory(lb_id))
        self._store.live.forget(lb_id)

    def forget_empty(self, lb_id: ObjectId) -> None:
        """Remove what was made for a load balancer that there is not, unless it is of use."""
        if self.signature(lb_id) is None:
            revisions = self.revisions(lb_id)
            if not revisions.is_used():
                files.remove_tree(revisions.directory)
            with contextlib.suppress(OSError):
                self._directory(lb_id).rmdir()

    # Certificates that were put beforehand

    def put_certificate(self, lb_id: ObjectId, name: str, pem: str, about: About) -> None:
        """Store a certificate that load balancers can refer to."""
        directory = self._certificates(lb_id)
        files.make_private_directory(directory)
        files.write(directory / f"{name}.pem", pem.encode())
        files.write(directory / f"{name}.json", msgspec.json.encode(about))

    def certificate(self, lb_id: ObjectId, name: str) -> About:
        """Return what may be told of a certificate that was put.

        Raises:
            NotFound
        """
        try:
            data = (self._certificates(lb_id) / f"{name}.json").read_bytes()
        except FileNotFoundError:
            raise NotFound("Certificate Not Found", f"no certificate {name}") from None
        return msgspec.json.decode(data, type=About)

    def certificates(self, lb_id: ObjectId) -> dict[str, About]:
        """Return what may be told of each certificate that was put, by name."""
        names = (path.stem for path in self._certificates(lb_id).glob("*.json"))
        return {name: self.certificate(lb_id, name) for name in sorted(names)}

    def stored(self, lb_id: ObjectId) -> dict[str, bytes]:
        """Return the certificates that were put, by name."""
        paths = self._certificates(lb_id).glob("*.pem")
        return {path.stem: path.read_bytes() for path in paths}

    def delete_certificate(self, lb_id: ObjectId, name: str) -> None:
        """Remove a certificate that was put, if it is there."""
        files.remove(self._certificates(lb_id) / f"{name}.json")
        files.remove(self._certificates(lb_id) / f"{name}.pem")

    def _directory(self, lb_id: ObjectId) -> Path:
        return self._layout.base / lb_id

    def _certificates(self, lb_id: ObjectId) -> Path:
        return self._directory(lb_id) / "certificates"


def _link(process: str, lb_id: ObjectId) -> str:
    """Return where the files of one of several processes are, seen from its own directory."""
    return f"../{lb_id}/current/{process}"
