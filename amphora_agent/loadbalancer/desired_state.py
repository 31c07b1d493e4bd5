"""Decide what a load balancer is to be, before anything is written: its processes, its certificates
and its files.

Files depend on nothing but the values that they are made of, so of a load balancer that was there
before only those are made whose values differ: their digests are kept.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import msgspec

from amphora_agent import __version__
from amphora_agent.haproxy.config import preflight
from amphora_agent.haproxy.process import render as haproxy_render
from amphora_agent.haproxy.runtime import loaded_state
from amphora_agent.haproxy.service import Instances
from amphora_agent.loadbalancer.certificates import resolve_certificates
from amphora_agent.loadbalancer.render import (
    CANONICAL,
    Places,
    Text,
    WantedProcess,
    join_texts,
    render_layer4,
    render_process,
)
from amphora_agent.loadbalancer.states import Record, State
from amphora_agent.loadbalancer.translate.certificate_files import without_keys
from amphora_agent.loadbalancer.translate.to_haproxy import Process, translate_process
from amphora_agent.loadbalancer.translate.to_lvs import translate_virtual_server
from amphora_agent.model.resolved import ResolvedLoadBalancer
from amphora_agent.model.responses import ProcessModel
from amphora_agent.paths import PARTS, Layout, ObjectId
from amphora_agent.revisions.contents import digest_of

#: What the controllers' texts say of haproxy's surroundings (WIRE §3).
_LOG = "/run/rsyslog/octavia/log"
#: File descriptors that haproxy has for itself, and some.
_OTHERS = 200


class Draft(NamedTuple):
    """`model` is the load balancer in JSON, without private keys; `layer4` are the texts for
    keepalived by listener, `certificates` all files of them, crt-lists too. `record` does not have
    the marks of texts yet."""

    model: bytes
    processes: tuple[WantedProcess, ...]
    layer4: Mapping[ObjectId, Text]
    certificates: Mapping[str, bytes]
    record: Record


class Files(NamedTuple):
    """The files of a state: those that are `made`, and those that are `kept` as they were; all by
    their names in it. `record` is complete."""

    made: Mapping[str, bytes]
    kept: tuple[str, ...]
    record: Record


def make_draft(
    layout: Layout,
    instances: Instances,
    balancer: ResolvedLoadBalancer,
    before: State | None,
    stored: Mapping[str, bytes],
    model: ProcessModel,
    chosen: ProcessModel | None,
) -> Draft:
    """Decide what this load balancer is to be, after the state `before`. `stored` are certificates
    that were put beforehand; `chosen` is the process model where it was asked for.

    Raises:
        InvalidRequest: a certificate is missing, or cannot serve.
    """
    choose_places = partial(_choose_places, layout, instances.group, balancer)
    descriptors = instances.headroom.descriptors()
    processes = tuple(_choose_processes(balancer, model, choose_places, descriptors))
    resolved = resolve_certificates(balancer, processes, before, stored)
    places = choose_places(balancer.id)
    layer4 = {
        ObjectId(listener.listener_id): render_layer4(
            translate_virtual_server(balancer, listener), places
        )
        for listener in balancer.lvs_listeners
    }
    content = CANONICAL.encode(without_keys(balancer.model))
    digests = CANONICAL.encode(
        {name: certificate.file for name, certificate in resolved.known.items()}
    )
    # What tells this load balancer from every other one.
    identity = hashlib.sha256(b"\0".join((content, str(model).encode(), digests)))
    record = Record(
        etag=identity.hexdigest()[:32],
        process_model=model,
        chosen=chosen,
        maker=__version__,
        processes=tuple(ObjectId(wanted.process.id) for wanted in processes),
        layer4=tuple(layer4),
        certificates=dict(resolved.known),
    )
    return Draft(content, processes, layer4, resolved.files, record)


def choose_files(draft: Draft, before: State | None) -> Files:
    """Return the files of a draft. What is made of the same values as in `before`, or has the same
    content, is kept."""
    there = before.files if before else {}
    marks = before.record.marks if before and before.record.maker == __version__ else {}
    texts = {f"layer4/{listener}.conf": text for listener, text in draft.layer4.items()}
    for wanted in draft.processes:
        texts |= _render_files(wanted)
    made = dict(draft.certificates)
    kept = []
    for name, text in texts.items():
        if name in there and marks.get(name) == text.mark:
            kept.append(name)
        else:
            made[name] = text.made().encode()
    for name in [name for name in made if name in there]:
        if there[name].digest == digest_of(made[name]):
            kept.append(name)
            del made[name]
    marked = {name: text.mark for name, text in texts.items()}
    return Files(made, tuple(kept), msgspec.structs.replace(draft.record, marks=marked))


def _choose_processes(
    balancer: ResolvedLoadBalancer,
    model: ProcessModel,
    choose_places: Callable[[str], Places],
    descriptors: int,
) -> Iterator[WantedProcess]:
    """Yield the processes that a load balancer needs: none for nothing to listen at."""
    listeners = balancer.haproxy_listeners
    served = {balancer.id: listeners} if listeners else {}
    if model is ProcessModel.LISTENER:
        served = {listener.listener_id: (listener,) for listener in listeners}
    for name, served_listeners in served.items():
        process = translate_process(name, balancer.vips, served_listeners)
        prefix = f"{name}/" if model is ProcessModel.LISTENER else ""
        yield WantedProcess(
            prefix,
            choose_places(name),
            _limit_connections(process, descriptors),
            process.connection_limit,
        )


def _limit_connections(process: Process, descriptors: int) -> Process:
    """Return a process with no more connections than there are file descriptors for, with which
    haproxy starts: each takes two, and every second one half a pipe (haproxy/config/preflight.py).
    """
    sockets = sum(len(frontend.binds) for frontend in process.frontends)
    sockets += sum(len(backend.servers) for backend in process.backends if backend.check)
    most = (descriptors - sockets - _OTHERS) * 2 // 5
    limit = max(1, min(process.connection_limit, most))
    return process._replace(
        connection_limit=limit,
        spare_pipes=preflight.choose_spare_pipes(limit, sockets, descriptors),
    )


def _render_files(wanted: WantedProcess) -> dict[str, Text]:
    """Return all files that are rendered for one haproxy, and the parts that it is given, by their
    names in the state."""
    texts = dict(render_process(wanted.process, wanted.places))
    configuration = [name for name in texts if name.endswith(".cfg")]
    for part, names in loaded_state.group_into_parts(configuration).items():
        texts[f"{PARTS}/{part}"] = join_texts([texts[name] for name in names])
    return {f"{wanted.prefix}{name}": text for name, text in texts.items()}


def _choose_places(
    layout: Layout, group: str, balancer: ResolvedLoadBalancer, process: str
) -> Places:
    instance = layout.rendered(ObjectId(process))
    return Places(
        loadbalancer_id=balancer.id,
        project_id=balancer.project_id,
        configuration=str(instance.current),
        certificates=str(instance.certificates),
        stats_socket=str(instance.stats_socket),
        state_file=str(instance.state),
        ping_wrapper=str(layout.ping_wrapper),
        log=_LOG,
        user=haproxy_render.USER,
        group=group,
        hard_stop_after=haproxy_render.HARD_STOP_AFTER,
        first_check=haproxy_render.FIRST_CHECK,
        max_reloads=haproxy_render.MOST_RELOADS,
        namespace=layout.namespace.name,
        udp_check=str(layout.udp_check),
    )
