"""What a load balancer is to be on disk: decided before anything is written.

Files depend on nothing but the values that they are made of, so of a load balancer that was there
before only those are made whose values differ: their digests are kept.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import msgspec

from amphora_agent.declarative import certificates, layer4, names, rendering, view
from amphora_agent.declarative.certificate_files import Given, Purpose
from amphora_agent.declarative.rendering import Places
from amphora_agent.declarative.view import Process
from amphora_agent.haproxy import pem
from amphora_agent.model import consistency
from amphora_agent.model.consistency import Problem
from amphora_agent.model.declared import ProcessModel
from amphora_agent.model.loadbalancer import LoadBalancer

#: Of what certificates are, by the last word of their files' names.
_PURPOSES = {"ca": Purpose.AUTHORITIES, "crl": Purpose.REVOCATIONS}

#: File descriptors that haproxy has for itself, and some.
_OTHERS = 200

_canonical = msgspec.json.Encoder(enc_hook=str, order="deterministic")

PlacesOf = Callable[[LoadBalancer, str], Places]


class Wanted(NamedTuple):
    """One process. Its files are below `prefix` in those of the load balancer: "" or "<id>/".
    `balancer` is the part of the load balancer that it serves."""

    id: str
    prefix: str
    places: Places
    balancer: LoadBalancer


class Text(NamedTuple):
    """A file; `made` makes it. `mark` is a digest of what it is made of."""

    mark: str
    made: Callable[[], str]


def wanted(balancer: LoadBalancer, model: ProcessModel, places_of: PlacesOf) -> tuple[Wanted, ...]:
    """The processes that a load balancer needs: none for nothing to listen at."""
    up = view.is_up(balancer)
    listeners = [
        listener
        for listener in balancer.listeners or ()
        if up and view.is_up(listener) and not consistency.is_layer4(listener)
    ]
    name = balancer.loadbalancer_id
    if not listeners:
        return ()
    if model is ProcessModel.LOADBALANCER:
        return (Wanted(name, "", places_of(balancer, name), balancer),)
    return tuple(
        Wanted(
            listener.listener_id,
            f"{listener.listener_id}/",
            places_of(balancer, listener.listener_id),
            msgspec.structs.replace(balancer, listeners=(listener,)),
        )
        for listener in listeners
    )


def _within(descriptors: int, process: Process) -> Process:
    """With no more connections than there can be: each takes two file descriptors, and every second
    one of them half a pipe (haproxy/preflight.py)."""
    sockets = sum(len(each.binds) for each in process.frontends)
    sockets += sum(len(each.servers) for each in process.backends if each.check)
    most = (descriptors - sockets - _OTHERS) * 2 // 5
    return process._replace(connection_limit=max(1, min(process.connection_limit, most)))


def texts(processes: tuple[Wanted, ...], descriptors: int) -> dict[str, Text]:
    """All files that are rendered, for haproxy, by their names. Each process may have so many file
    descriptors: for more connections than these are for, haproxy would not start."""
    found = {}
    for each in processes:
        whole = view.whole(each.balancer) if not each.prefix else next(view.each(each.balancer))
        for name, text in _texts_of(_within(descriptors, whole), each.places):
            found[f"{each.prefix}{name}"] = text
    return found


def layer4_texts(balancer: LoadBalancer, places: Places) -> dict[str, Text]:
    """The files for keepalived, by the ids of their listeners."""
    return {
        each.id: Text(_mark(each, places), partial(rendering.render_layer4, each, places))
        for each in layer4.each(balancer)
    }


def _texts_of(process: Process, places: Places) -> Iterator[tuple[str, Text]]:
    where = _mark(places)
    head = process._replace(frontends=(), backends=())
    yield names.PROCESS, Text(_mark(head, where), partial(rendering.render_process, head, places))
    for listener in process.frontends:
        render = partial(rendering.render_listener, listener, places)
        yield names.listener(listener.id), Text(_mark(listener, where), render)
        if (allowed := listener.allowed) is not None:
            text = Text(_mark(allowed), partial(rendering.render_allowed, allowed))
            yield names.allowed(listener.id), text
    for pool_id, found in groupby(process.backends, key=lambda backend: backend.pool_id):
        pools = tuple(found)
        render = partial(rendering.render_pool, pools, places)
        yield names.pool(pool_id), Text(_mark(pools, where), render)


def _mark(*values: object) -> str:
    return hashlib.sha256(_canonical.encode(values)).hexdigest()[:32]


class Certificate(NamedTuple):
    """A file as it came: `digest` is that of what is in it, however it is written."""

    content: bytes
    digest: str
    purpose: Purpose
    path: str

    def given(self, name: str) -> Given:
        return Given(name, self.content.decode(errors="replace"), self.purpose)


class Certificates(NamedTuple):
    """Those of all processes, by their names in the load balancer's directory; `lists` are
    crt-lists."""

    files: dict[str, Certificate]
    lists: dict[str, bytes]
    problems: tuple[Problem, ...]


def extract(
    processes: tuple[Wanted, ...],
    before: Callable[[str], Mapping[str, bytes]],
    stored: Mapping[str, bytes],
) -> Certificates:
    """The certificates that processes need. `before` gives the files that a process has now, by its
    prefix."""
    found: dict[str, Certificate] = {}
    lists: dict[str, bytes] = {}
    problems: dict[Problem, None] = {}
    for each in processes:
        directory = each.places.certificates
        extracted = certificates.extract(
            each.balancer, directory, before=before(each.prefix), stored=stored
        )
        problems.update(dict.fromkeys(extracted.problems))
        for name, content in extracted.files.items():
            full = f"{each.prefix}certificates/{name}"
            if content.startswith(f"{directory}/".encode()):
                lists[full] = content
            else:
                purpose = name.removesuffix(".pem").rpartition(".")[2].rpartition("-")[2]
                path = extracted.paths.get(name, name)
                found[full] = Certificate(
                    content, _digest(content), _PURPOSES.get(purpose, Purpose.CERTIFICATE), path
                )
    return Certificates(found, lists, tuple(problems))


def etag(balancer: LoadBalancer, model: ProcessModel, digests: Mapping[str, str]) -> str:
    """What tells this load balancer from every other one; `digests` are those of its certificate
    files."""
    content = (canonical(balancer), str(model).encode(), _canonical.encode(digests))
    return hashlib.sha256(b"\0".join(content)).hexdigest()[:32]


def canonical(balancer: LoadBalancer) -> bytes:
    """A load balancer in JSON, without private keys: the same bytes for the same one."""
    return _canonical.encode(certificates.without_keys(balancer))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest(content: bytes) -> str:
    try:
        blocks = pem.blocks(content.decode("ascii", errors="replace"))
    except pem.Unreadable:
        return digest(content)
    return digest(b"".join(f"{block.label}\n".encode() + block.content for block in blocks))


class LazyFiles(Mapping[str, bytes]):
    """The files of a directory by name, read when asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __getitem__(self, name: str) -> bytes:
        try:
            return (self._directory / name).read_bytes()
        except OSError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return (path.name for path in self._directory.glob("*"))

    def __len__(self) -> int:
        return sum(1 for _ in self)
