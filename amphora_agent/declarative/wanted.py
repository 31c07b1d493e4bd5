"""What a load balancer is to be: its processes, and the files that are rendered for them.

Files depend on nothing but the values that they are made of, so of a load balancer that was there
before only those are made whose values differ: their digests are kept.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import groupby
from typing import NamedTuple

import msgspec

from amphora_agent.declarative import certificates, layer4, names, rendering, view
from amphora_agent.declarative.rendering import Places
from amphora_agent.declarative.view import Process
from amphora_agent.model import meaning
from amphora_agent.model.declared import ProcessModel
from amphora_agent.model.loadbalancer import LoadBalancer

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


def processes(
    balancer: LoadBalancer, model: ProcessModel, places_of: PlacesOf
) -> tuple[Wanted, ...]:
    """The processes that a load balancer needs: none for nothing to listen at."""
    up = meaning.is_up(balancer)
    listeners = [
        listener
        for listener in balancer.listeners or ()
        if up and meaning.is_up(listener) and not meaning.is_layer4(listener)
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


def etag(balancer: bytes, model: ProcessModel, digests: Mapping[str, str]) -> str:
    """What tells this load balancer, in canonical JSON, from every other one; `digests` are those
    of its certificate files."""
    content = (balancer, str(model).encode(), _canonical.encode(digests))
    return hashlib.sha256(b"\0".join(content)).hexdigest()[:32]


def canonical(balancer: LoadBalancer) -> bytes:
    """A load balancer in JSON, without private keys: the same bytes for the same one."""
    return _canonical.encode(certificates.without_keys(balancer))
