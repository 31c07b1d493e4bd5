"""A state that is to be: decided before anything is written."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from amphora_agent import __version__
from amphora_agent.haproxy.process import render
from amphora_agent.haproxy.service import Instances
from amphora_agent.loadbalancer import desired_processes
from amphora_agent.loadbalancer.certificates import resolve
from amphora_agent.loadbalancer.desired_processes import Text, Wanted
from amphora_agent.loadbalancer.render import Places
from amphora_agent.loadbalancer.states import Record, State, States
from amphora_agent.model.resolved import ResolvedLoadBalancer
from amphora_agent.model.responses import ProcessModel
from amphora_agent.paths import Layout, ObjectId, object_id
from amphora_agent.revisions.contents import digest_of

#: What the controllers' texts say of haproxy's surroundings (WIRE §3).
_LOG = "/run/rsyslog/octavia/log"


class Draft(NamedTuple):
    """`model` is the load balancer in JSON, without private keys; `layer4` are the texts for
    keepalived by listener, `certificates` all files of them, crt-lists too. `record` does not have
    the marks of texts yet."""

    model: bytes
    processes: tuple[Wanted, ...]
    layer4: Mapping[str, Text]
    certificates: Mapping[str, bytes]
    record: Record


class Files(NamedTuple):
    """The files of a state: those that are `made`, and those that are `kept` as they were; all by
    their names in it. `record` is complete."""

    made: Mapping[str, bytes]
    kept: tuple[str, ...]
    record: Record


class Drafts:
    """Makes them."""

    def __init__(self, layout: Layout, store: States, instances: Instances) -> None:
        self._layout = layout
        self._store = store
        self._instances = instances

    def of(
        self,
        lb_id: ObjectId,
        balancer: ResolvedLoadBalancer,
        before: State | None,
        model: ProcessModel,
        chosen: ProcessModel | None,
    ) -> Draft:
        """What this load balancer is to be, after the state `before`. `chosen` is the process model
        where it was asked for.

        Raises:
            InvalidRequest: a certificate is missing, or cannot serve.
        """
        processes = desired_processes.processes(balancer, model, self._places)
        certificates = resolve.resolve_certificates(
            balancer, processes, before, self._store.stored(lb_id)
        )
        layer4 = desired_processes.layer4_texts(balancer, self._places(balancer, lb_id))
        content = desired_processes.canonical(balancer.model)
        digests = {name: each.file for name, each in certificates.known.items()}
        return Draft(
            content,
            processes,
            layer4,
            certificates.files,
            Record(
                etag=desired_processes.etag(content, model, digests),
                process_model=model,
                chosen=chosen,
                maker=__version__,
                processes=tuple(each.id for each in processes),
                layer4=tuple(layer4),
                certificates=dict(certificates.known),
            ),
        )

    def files(self, draft: Draft, before: State | None) -> Files:
        """The files of a draft. What is made of the same values as in `before`, or has the same
        content, is kept."""
        made: dict[str, bytes] = {}
        kept: list[str] = []
        there = before.files if before else {}
        marks = before.record.marks if before and before.record.maker == __version__ else {}

        def add(name: str, content: bytes) -> None:
            if name in there and there[name].digest == digest_of(content):
                kept.append(name)
            else:
                made[name] = content

        texts = desired_processes.texts(draft.processes, self._instances.headroom.descriptors())
        for name, text in texts.items():
            if name in there and marks.get(name) == text.mark:
                kept.append(name)
            else:
                add(name, text.made().encode())
        for name, content in draft.certificates.items():
            add(name, content)
        for listener, text in draft.layer4.items():
            add(f"layer4/{listener}.conf", text.made().encode())
        marked = {name: text.mark for name, text in texts.items()}
        return Files(made, tuple(kept), msgspec.structs.replace(draft.record, marks=marked))

    def _places(self, balancer: ResolvedLoadBalancer, process: str) -> Places:
        instance = self._layout.rendered(object_id(process))
        return Places(
            loadbalancer_id=balancer.id,
            project_id=balancer.project_id,
            configuration=str(instance.current),
            certificates=str(instance.certificates),
            stats_socket=str(instance.stats_socket),
            state_file=str(instance.state),
            ping_wrapper=str(self._layout.ping_wrapper),
            log=_LOG,
            user=render.USER,
            group=self._instances.group,
            hard_stop_after=render.HARD_STOP_AFTER,
            first_check=render.FIRST_CHECK,
            max_reloads=render.MOST_RELOADS,
            namespace=self._layout.namespace.name,
            udp_check=str(self._layout.udp_check),
        )
