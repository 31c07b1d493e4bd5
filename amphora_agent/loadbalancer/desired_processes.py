"""What a load balancer is to be: its processes, and the files that are rendered for them.

Files depend on nothing but the values that they are made of, so of a load balancer that was there
before only those are made whose values differ: their digests are kept.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import groupby
from typing import NamedTuple

import msgspec

from amphora_agent.haproxy.config import preflight
from amphora_agent.haproxy.runtime import config_dir
from amphora_agent.loadbalancer import render as loadbalancer_render
from amphora_agent.loadbalancer.render import Places
from amphora_agent.loadbalancer.translate import certificate_files, names, to_haproxy, to_lvs
from amphora_agent.loadbalancer.translate.to_haproxy import Process
from amphora_agent.model.addressing import Address
from amphora_agent.model.loadbalancer import LoadBalancer
from amphora_agent.model.resolved import ResolvedListener, ResolvedLoadBalancer
from amphora_agent.model.responses import ProcessModel
from amphora_agent.paths import PARTS

#: File descriptors that haproxy has for itself, and some.
_OTHERS = 200

_canonical = msgspec.json.Encoder(enc_hook=str, order="deterministic")

PlacesOf = Callable[[ResolvedLoadBalancer, str], Places]


class Wanted(NamedTuple):
    """One process. Its files are below `prefix` in those of the load balancer: "" or "<id>/".
    `listeners` are those that it serves, all of which are up."""

    id: str
    prefix: str
    places: Places
    vips: tuple[Address, ...]
    listeners: tuple[ResolvedListener, ...]


class Text(NamedTuple):
    """A file; `made` makes it. `mark` is a digest of what it is made of."""

    mark: str
    made: Callable[[], str]


def processes(
    balancer: ResolvedLoadBalancer, model: ProcessModel, places_of: PlacesOf
) -> tuple[Wanted, ...]:
    """The processes that a load balancer needs: none for nothing to listen at."""
    listeners, name = balancer.haproxy_listeners, balancer.id
    if not listeners:
        return ()
    if model is ProcessModel.LOADBALANCER:
        return (Wanted(name, "", places_of(balancer, name), balancer.vips, listeners),)
    return tuple(
        Wanted(
            listener.listener_id,
            f"{listener.listener_id}/",
            places_of(balancer, listener.listener_id),
            balancer.vips,
            (listener,),
        )
        for listener in listeners
    )


def _within(descriptors: int, process: Process) -> Process:
    """With no more connections than there can be: each takes two file descriptors, and every second
    one of them half a pipe (haproxy/config/preflight.py)."""
    sockets = sum(len(each.binds) for each in process.frontends)
    sockets += sum(len(each.servers) for each in process.backends if each.check)
    most = (descriptors - sockets - _OTHERS) * 2 // 5
    limit = max(1, min(process.connection_limit, most))
    return process._replace(
        connection_limit=limit,
        spare_pipes=preflight.choose_spare_pipes(limit, sockets, descriptors),
    )


def limits(processes: tuple[Wanted, ...], descriptors: int) -> dict[str, tuple[int, int]]:
    """Return for how many connections each process is configured, and how many it gets."""
    found = {}
    for each in processes:
        process = _process(each)
        given = _within(descriptors, process).connection_limit
        found[process.id] = (process.connection_limit, given)
    return found


def texts(processes: tuple[Wanted, ...], descriptors: int) -> dict[str, Text]:
    """All files that are rendered, for haproxy, by their names. Each process may have so many file
    descriptors: for more connections than these are for, haproxy would not start."""
    found = {}
    for each in processes:
        own = dict(_texts_of(_within(descriptors, _process(each)), each.places))
        configuration = [name for name in own if name.endswith(".cfg")]
        for part, inside in config_dir.group_into_parts(configuration).items():
            own[f"{PARTS}/{part}"] = _joined([own[name] for name in inside])
        found.update({f"{each.prefix}{name}": text for name, text in own.items()})
    return found


def _joined(texts: Sequence[Text]) -> Text:
    """One file of several."""
    return Text(
        _mark([text.mark for text in texts]), lambda: "".join(text.made() for text in texts)
    )


def _process(wanted: Wanted) -> Process:
    return to_haproxy.translate_process(wanted.id, wanted.vips, wanted.listeners)


def layer4_texts(balancer: ResolvedLoadBalancer, places: Places) -> dict[str, Text]:
    """The files for keepalived, by the ids of their listeners."""
    servers = [to_lvs.translate_virtual_server(balancer, each) for each in balancer.lvs_listeners]
    return {
        each.id: Text(_mark(each, places), partial(loadbalancer_render.render_layer4, each, places))
        for each in servers
    }


def _texts_of(process: Process, places: Places) -> Iterator[tuple[str, Text]]:
    where = _mark(places)
    head = process._replace(frontends=(), backends=())
    yield (
        names.PROCESS,
        Text(_mark(head, where), partial(loadbalancer_render.render_process, head, places)),
    )
    for listener in process.frontends:
        # A part has it, too.
        render = cache(partial(loadbalancer_render.render_listener, listener, places))
        yield names.listener(listener.id), Text(_mark(listener, where), render)
        if (allowed := listener.allowed) is not None:
            text = Text(_mark(allowed), partial(loadbalancer_render.render_allowed, allowed))
            yield names.allowed(listener.id), text
    for pool_id, found in groupby(process.backends, key=lambda backend: backend.pool_id):
        pools = tuple(found)
        render = cache(partial(loadbalancer_render.render_pool, pools, places))
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
    return _canonical.encode(certificate_files.without_keys(balancer))
