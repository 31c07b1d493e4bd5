"""The states of declared load balancers on disk.

A state is a directory `<id>/generations/<n>` with everything: what haproxy and keepalived read, the
certificates, and the load balancer itself. It is made beside the others, files that are as before
by hard links, and becomes the committed one by one rename: of the symbolic link `<id>/current`. A
kill at any instant leaves the old or the new. A state is never changed after it was made.

Below `current` are the files of the one process of the load balancer, or one directory for each
process; then `<process>/current` leads there.
"""

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import msgspec

from amphora_agent import files
from amphora_agent.declarative.certificate_files import About
from amphora_agent.errors import NotFound
from amphora_agent.layout import Layout, ObjectId, object_id

_MODEL, _RECORD = "model.json", "record.json"
#: A state that is forgotten, of which the next one is made: nearly all files in it are the same.
_SPARE = ".spare"
#: States that are kept to go back to, the committed one among them.
_MOST = 10

#: For so many new files, syncing everything costs less than syncing each.
_MANY = 16


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
    process_model: str
    chosen: str | None
    maker: str
    processes: tuple[str, ...]
    layer4: tuple[str, ...] = ()
    certificates: dict[str, KeptCertificate] = {}
    marks: dict[str, str] = {}


class State:
    """A committed state, or an earlier one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.number = int(directory.name)
        self.record = msgspec.json.decode((directory / _RECORD).read_bytes(), type=Record)

    def model(self) -> bytes:
        """The load balancer in JSON, without private keys."""
        return (self.directory / _MODEL).read_bytes()

    def layer4(self, listener: str) -> bytes:
        """What keepalived is told of a listener."""
        return (self.directory / "layer4" / f"{listener}.conf").read_bytes()

    @cached_property
    def inodes(self) -> Mapping[str, int]:
        """Its files, by their names in its directory."""
        return files.inodes_below(self.directory)


class Store:
    """The declared load balancers of a layout. What changes one must hold its lock."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def ids(self) -> list[ObjectId]:
        """The load balancers that there are, sorted."""
        found = self._layout.base.glob(f"*/current/{_MODEL}")
        return sorted(object_id(path.parent.parent.name) for path in found)

    def state(self, lb_id: ObjectId) -> State | None:
        """The committed state; None where there is no such load balancer."""
        current = self._directory(lb_id) / "current"
        try:
            return State(self._directory(lb_id) / current.readlink())
        except OSError:
            return None

    def signature(self, lb_id: ObjectId) -> object:
        """That of the committed state; None where there is none."""
        return files.signature(self._directory(lb_id) / "current" / _RECORD)

    def processes(self, lb_id: ObjectId) -> set[str]:
        """The processes that have directories of their own in this load balancer, or had."""
        return {
            path.name
            for path in self._layout.base.iterdir()
            # It may lead nowhere any more.
            if (path / "current").is_symlink()
            and (path / "current").readlink() == Path(_link(path.name, lb_id))
        }

    def taken(self, process: str, lb_id: ObjectId) -> bool:
        """Whether an instance of this name is somebody else's than this load balancer's."""
        directory = self._layout.base / process
        if process == lb_id:
            # It may be the process of another one's listener.
            current = directory / "current"
            return current.is_symlink() and not str(current.readlink()).startswith("generations/")
        if (directory / "current").is_symlink():
            return (directory / "current").readlink() != Path(_link(process, lb_id))
        return (directory / "haproxy.cfg").exists()

    def existing(self, lb_id: ObjectId) -> State:
        """The committed state.

        Raises:
            NotFound
        """
        state = self.state(lb_id)
        if state is None:
            raise NotFound("Loadbalancer Not Found", f"no load balancer {lb_id}")
        return state

    def numbered(self, lb_id: ObjectId, number: int) -> State:
        """A state that is kept.

        Raises:
            NotFound
        """
        try:
            return State(self._generations(lb_id) / str(number))
        except FileNotFoundError:
            raise NotFound("Generation Not Found", f"no generation {number}") from None

    def numbers(self, lb_id: ObjectId) -> list[int]:
        """The states that are kept, oldest first."""
        with contextlib.suppress(FileNotFoundError):
            names = (path.name for path in self._generations(lb_id).iterdir())
            return sorted(int(name) for name in names if name.isascii() and name.isdigit())
        return []

    @contextlib.contextmanager
    def staged(
        self,
        lb_id: ObjectId,
        made: Mapping[str, bytes],
        kept: Collection[str],
        before: State | None,
        record: Record,
        model: bytes,
    ) -> Iterator[Path]:
        """A directory with a new state, which is gone after the block unless it was committed.

        `made` are the files that are new, by their names in it, `kept` those that are as in
        `before`.
        """
        files.make_private_directory(self._generations(lb_id))
        with self._scratch(lb_id) as stage:
            everything = {**made, _MODEL: model, _RECORD: msgspec.json.encode(record)}
            source, inodes = (before.directory, before.inodes) if before else (stage, {})
            files.link_all(source, stage, {name: inodes[name] for name in kept})
            _make_directories(stage, everything)
            each = len(everything) < _MANY
            for name, data in everything.items():
                files.fill(stage / name, data, sync=each)
            if not each:
                files.sync_everything()
            yield stage

    @contextlib.contextmanager
    def copied(self, lb_id: ObjectId, state: State) -> Iterator[Path]:
        """A directory with a state as it was, staged anew."""
        with self._scratch(lb_id) as stage:
            files.link_all(state.directory, stage, state.inodes)
            yield stage

    def commit(self, lb_id: ObjectId, stage: Path) -> State:
        """Make a staged state the load balancer's."""
        number = max(self.numbers(lb_id), default=0) + 1
        generation = self._generations(lb_id) / str(number)
        files.publish(stage, generation)
        state = State(generation)
        for process in state.record.processes:
            if process != lb_id:
                files.make_directory(self._layout.base / process)
                link = self._layout.base / process / "current"
                files.point(link, _link(process, lb_id))
        self._point(lb_id, generation)
        return state

    def go_back(self, lb_id: ObjectId, before: State | None) -> None:
        """Commit the state from before again, and forget the one that is committed; without one
        before, there is no load balancer any more."""
        failed = self.state(lb_id)
        if before is not None:
            self._point(lb_id, before.directory)
        else:
            files.remove(self._directory(lb_id) / "current")
        if failed is not None and (before is None or failed.number != before.number):
            files.retire_tree(failed.directory)

    def prune(self, lb_id: ObjectId, used: Collection[int] = ()) -> None:
        """Forget states that are too many, and what a killed agent left; not those `used`."""
        for number in self.numbers(lb_id)[:-_MOST]:
            if number not in used:
                files.spare_tree(self._generations(lb_id) / str(number), self._spare(lb_id))
        files.sweep(self._generations(lb_id), deep=False)

    def forget_empty(self, lb_id: ObjectId) -> None:
        """Remove directories that were made for a load balancer, and have nothing in them."""
        for directory in (self._generations(lb_id), self._directory(lb_id)):
            with contextlib.suppress(OSError):
                directory.rmdir()

    # Certificates that were put beforehand

    def put_certificate(self, lb_id: ObjectId, name: str, pem: str, about: About) -> bool:
        """Store one; True when there was none of that name."""
        directory = self._certificates(lb_id)
        files.make_private_directory(directory)
        new = not (directory / f"{name}.pem").exists()
        files.write(directory / f"{name}.pem", pem.encode())
        files.write(directory / f"{name}.json", msgspec.json.encode(about))
        return new

    def certificate(self, lb_id: ObjectId, name: str) -> About:
        """What may be told of one.

        Raises:
            NotFound
        """
        try:
            data = (self._certificates(lb_id) / f"{name}.json").read_bytes()
        except FileNotFoundError:
            raise NotFound("Certificate Not Found", f"no certificate {name}") from None
        return msgspec.json.decode(data, type=About)

    def certificates(self, lb_id: ObjectId) -> dict[str, About]:
        """All of them, by name."""
        names = (path.stem for path in self._certificates(lb_id).glob("*.json"))
        return {name: self.certificate(lb_id, name) for name in sorted(names)}

    def stored(self, lb_id: ObjectId) -> dict[str, bytes]:
        """Their files, by name."""
        found = self._certificates(lb_id).glob("*.pem")
        return {path.stem: path.read_bytes() for path in found}

    def delete_certificate(self, lb_id: ObjectId, name: str) -> None:
        """Remove one. Raises NotFound."""
        self.certificate(lb_id, name)
        files.remove(self._certificates(lb_id) / f"{name}.json")
        files.remove(self._certificates(lb_id) / f"{name}.pem")

    def _point(self, lb_id: ObjectId, generation: Path) -> None:
        files.point(self._directory(lb_id) / "current", f"generations/{generation.name}")

    def _directory(self, lb_id: ObjectId) -> Path:
        return self._layout.base / lb_id

    def _generations(self, lb_id: ObjectId) -> Path:
        return self._directory(lb_id) / "generations"

    def _spare(self, lb_id: ObjectId) -> Path:
        return self._generations(lb_id) / _SPARE

    def _scratch(self, lb_id: ObjectId) -> contextlib.AbstractContextManager[Path]:
        """A directory to make a state in: of a spare one, or empty."""
        return files.scratch_directory(self._generations(lb_id), self._spare(lb_id))

    def _certificates(self, lb_id: ObjectId) -> Path:
        return self._directory(lb_id) / "certificates"


def _link(process: str, lb_id: ObjectId) -> str:
    """Where the files of one of several processes are, as seen from the directory of its own."""
    return f"../{lb_id}/current/{process}"


def _make_directories(top: Path, names: Iterable[str]) -> None:
    for directory in sorted({name.rpartition("/")[0] for name in names} - {""}):
        for path in (*reversed(Path(directory).parents), Path(directory)):
            (top / path).mkdir(mode=0o700, exist_ok=True)
