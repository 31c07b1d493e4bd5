"""Declared load balancers: what is wanted of one is put, and the agent makes it so.

Everything about one is done under its lock, which the uploads of API 1.0 hold, too.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import msgspec

from amphora_agent import __version__, files
from amphora_agent.declarative import certificate_files, draft, merging, rendering, status
from amphora_agent.declarative.certificate_files import About, Given
from amphora_agent.declarative.draft import Certificates, LazyFiles, Text, Wanted
from amphora_agent.declarative.rendering import Places
from amphora_agent.declarative.store import KeptCertificate, Record, State, Store
from amphora_agent.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    OperationFailed,
    PreconditionFailed,
)
from amphora_agent.haproxy import journal, render, running
from amphora_agent.haproxy.acceptance import Candidate, Verdict
from amphora_agent.haproxy.activation import Outcome, master_of, process_name
from amphora_agent.haproxy.instance import Instances
from amphora_agent.haproxy.plan import Plan
from amphora_agent.haproxy.text import Texts
from amphora_agent.keepalived import lvs, lvs_observe
from amphora_agent.keepalived.lvs import LvsListeners
from amphora_agent.layout import InstanceLayout, Layout, ObjectId, object_id
from amphora_agent.model import consistency
from amphora_agent.model.changes import Caller, Operation
from amphora_agent.model.declared import (
    LoadBalancerStatus,
    ProcessModel,
    ProcessPlan,
    Result,
    Summaries,
    Summary,
)
from amphora_agent.model.decode import decode
from amphora_agent.model.loadbalancer import LoadBalancer
from amphora_agent.model.status import InstanceReading
from amphora_agent.namespace import Namespace
from amphora_agent.network import sysctl
from amphora_agent.processes.command import Completed
from amphora_agent.processes.supervisor import ProcessState

logger = logging.getLogger(__name__)

_STEPS = ("nothing", "runtime", "stop", "reload", "start")

#: What the controllers' texts say of haproxy's surroundings (WIRE §3).
_USER, _LOG = "nobody", "/run/rsyslog/octavia/log"
_MIGRATE = "net/ipv4/tcp_migrate_req"
#: Seconds for haproxy's word about its members.
_ANSWER = 5.0


class Precondition(NamedTuple):
    """What a request wants to meet: one of these states (None: any), or none at all."""

    matches: frozenset[str] | None = None
    absent: bool = False


ANYTHING = Precondition()


class _Draft(NamedTuple):
    """A state that is to be. `made` and `kept` are its files, new and as they are."""

    balancer: LoadBalancer
    processes: tuple[Wanted, ...]
    layer4: Mapping[str, Text]
    certificates: Mapping[str, bytes]
    record: Record


class _Prepared(NamedTuple):
    """A process of a staged state that may be committed."""

    instance: InstanceLayout
    texts: Texts
    staged: Path
    verdict: Verdict


class Declared:
    """The declared load balancers of an amphora.

    `readings` are those of UDP and SCTP listeners. `process_model` is the amphora's, for load
    balancers for which none was chosen.
    """

    def __init__(
        self,
        layout: Layout,
        instances: Instances,
        layer4: LvsListeners,
        readings: Callable[[], Mapping[str, InstanceReading]],
        *,
        process_model: ProcessModel,
    ) -> None:
        self._layout = layout
        self._instances = instances
        self._layer4 = layer4
        self._readings = readings
        self._process_model = process_model
        self._store = Store(layout)

    # What there is

    def overview(self) -> Summaries:
        """Every load balancer, sorted by id."""
        found = []
        for lb_id in self._store.ids():
            state = self._store.state(lb_id)
            if state is not None:
                found.append(_summary(lb_id, state))
        return Summaries(tuple(found))

    def get(self, lb_id: ObjectId) -> tuple[bytes, str]:
        """A load balancer in JSON, without private keys, and its ETag.

        Raises:
            NotFound
        """
        state = self._store.existing(lb_id)
        return state.model(), state.record.etag

    def holds(self, lb_id: ObjectId) -> bool:
        """Whether there is a declared load balancer of this id."""
        return self._store.state(lb_id) is not None

    def status(self, lb_id: ObjectId) -> LoadBalancerStatus:
        """How a load balancer is, with reasons.

        Raises:
            NotFound
        """
        state = self._store.existing(lb_id)
        balancer = decode(state.model(), LoadBalancer)
        said: dict[str, str | None] = {}
        for process in state.record.processes:
            socket = master_of(self._layout.declared(ObjectId(process)))
            try:
                said[process] = socket.command("@1 show stat", timeout=_ANSWER)
            except OperationFailed as error:
                logger.info("instance=%s does not tell of its members: %s", process, error)
                said[process] = None
        layer4 = self._readings() if state.record.layer4 else {}
        return status.of(balancer, said, layer4)

    # Changes

    def put(
        self,
        lb_id: ObjectId,
        body: bytes,
        by: Caller,
        *,
        precondition: Precondition = ANYTHING,
        process_model: ProcessModel | None = None,
        dry_run: bool = False,
    ) -> Result:
        """Make the load balancer what `body` says. What is so already is not touched at all.

        `process_model` is remembered for this load balancer, also by later calls without it.
        `dry_run`: say what would be done, and do nothing.

        Raises:
            InvalidRequest: with everything that is wrong. Nothing has changed.
            PreconditionFailed
            OperationFailed: it did not come up; what was there before is there again.
        """
        balancer = _decoded(lb_id, body)
        with self._changing(lb_id, by, Operation.PUT, kept=not dry_run) as record:
            before = self._store.state(lb_id)
            _require(before, precondition)
            return self._make(lb_id, balancer, before, process_model, record, dry_run=dry_run)

    def patch(
        self,
        lb_id: ObjectId,
        body: bytes,
        by: Caller,
        *,
        pool_id: str,
        member_id: str | None = None,
        precondition: Precondition = ANYTHING,
        dry_run: bool = False,
    ) -> Result:
        """Change one pool, or one member of it, by a JSON merge patch.

        Raises:
            NotFound: no such load balancer, pool or member.
            And as `put`.
        """
        patch = _json_object(body)
        with self._changing(lb_id, by, Operation.PATCH, kept=not dry_run) as record:
            before = self._store.existing(lb_id)
            _require(before, precondition)
            whole = msgspec.json.decode(before.model())
            if member_id is None:
                changed = merging.with_pool(whole, pool_id, patch)
            else:
                changed = merging.with_member(whole, pool_id, member_id, patch)
            balancer = _decoded(lb_id, msgspec.json.encode(changed))
            return self._make(lb_id, balancer, before, None, record, dry_run=dry_run)

    def rollback(self, lb_id: ObjectId, generation: int | None, by: Caller) -> str:
        """Go back to a generation, by default to the one before the present one; say what was done.

        Raises:
            NotFound: no such load balancer or generation.
            OperationFailed: it did not come up any more; everything is as it was.
        """
        with self._changing(lb_id, by, Operation.ROLLBACK) as record:
            before = self._store.existing(lb_id)
            if generation is None:
                earlier = [n for n in self._store.numbers(lb_id) if n < before.number]
                if not earlier:
                    raise NotFound("Generation Not Found", "there is none before the present one")
                generation = earlier[-1]
            wanted = self._store.numbered(lb_id, generation)
            record.words = [f"back to generation {generation}"]
            with self._store.copied(lb_id, wanted) as stage:
                prepared = self._prepare(wanted.record.processes, stage)
                self._commit(lb_id, stage, prepared, before, record)
        return f"Back to generation {generation}, which is now generation {record.generation}"

    def delete(self, lb_id: ObjectId, by: Caller, precondition: Precondition = ANYTHING) -> None:
        """Stop a load balancer and remove all that there is of it.

        Raises:
            NotFound, PreconditionFailed
        """
        with self._changing(lb_id, by, Operation.DELETE):
            state = self._store.existing(lb_id)
            _require(state, precondition)
            self._end_all(lb_id, state)
            files.remove(self._layout.base / lb_id / "current")
            files.remove_tree(self._layout.base / lb_id)

    def release(self, lb_id: ObjectId) -> None:
        """End a load balancer because an uploaded text takes its place; whoever calls this holds
        its lock."""
        state = self._store.state(lb_id)
        if state is not None:
            self._end_all(lb_id, state)
            instance = self._layout.declared(lb_id)
            files.remove(instance.current)
            for directory in (instance.generations, instance.last_good):
                files.remove_tree(directory)

    # Certificates that are referred to

    def put_certificate(self, lb_id: ObjectId, name: str, pem: bytes, by: Caller) -> bool:
        """Check and store a certificate; True when there was none of that name. A load balancer
        that refers to it has it from its next PUT on.

        Raises:
            InvalidRequest: it cannot serve; the details say why.
        """
        with self._changing(lb_id, by, Operation.CERTIFICATE_PUT) as record:
            record.words = [name]
            if b"-----BEGIN " not in pem:
                raise InvalidRequest.of([("body", "there is no PEM in it")])
            (checked,) = certificate_files.check([Given(name, pem.decode(errors="replace"))])
            if checked.about is None:
                raise InvalidRequest.of([("body", checked.problem)])
            return self._store.put_certificate(lb_id, name, checked.pem, checked.about)

    def certificate(self, lb_id: ObjectId, name: str) -> About:
        """What may be told of one. Raises NotFound."""
        return self._store.certificate(lb_id, name)

    def certificates(self, lb_id: ObjectId) -> dict[str, About]:
        return self._store.certificates(lb_id)

    def delete_certificate(self, lb_id: ObjectId, name: str, by: Caller) -> None:
        """Forget one; load balancers that have it keep it until their next PUT.

        Raises:
            NotFound
        """
        with self._changing(lb_id, by, Operation.CERTIFICATE_DELETE) as record:
            record.words = [name]
            self._store.delete_certificate(lb_id, name)

    # Making it so

    def _make(
        self,
        lb_id: ObjectId,
        balancer: LoadBalancer,
        before: State | None,
        chosen: ProcessModel | None,
        record: journal.Record,
        *,
        dry_run: bool,
    ) -> Result:
        if chosen is None and before is not None and before.record.chosen:
            chosen = ProcessModel(before.record.chosen)
        self._require_free(lb_id, balancer, chosen or self._process_model)
        wanted = self._draft(lb_id, balancer, before, chosen)
        if before is not None and self._is_so(lb_id, before, wanted.record):
            record.plan = "nothing"
            record.generation = before.number
            return _result(lb_id, wanted.record, before, (), dry_run=dry_run)
        texts = self._texts(wanted.processes)
        made, kept = _files(wanted, texts, before)
        marks = {name: text.mark for name, text in texts.items()}
        record_of_all = msgspec.structs.replace(wanted.record, marks=marks)
        model = draft.canonical(balancer)
        with self._store.staged(lb_id, made, kept, before, record_of_all, model) as stage:
            prepared = self._prepare(wanted.record.processes, stage)
            if dry_run:
                plans = self._foreseen(prepared, before, wanted)
                return _result(lb_id, wanted.record, before, plans, dry_run=True)
            plans = self._commit(lb_id, stage, prepared, before, record)
        return _result(lb_id, wanted.record, before, plans, number=record.generation)

    def _draft(
        self,
        lb_id: ObjectId,
        balancer: LoadBalancer,
        before: State | None,
        chosen: ProcessModel | None,
    ) -> _Draft:
        """What is to be on disk.

        Raises:
            InvalidRequest: a certificate is missing, or cannot serve.
        """
        model = chosen or self._process_model
        processes = draft.wanted(balancer, model, self._places)
        extracted = draft.extract(
            processes, self._certificates_before(before), self._store.stored(lb_id)
        )
        if extracted.problems:
            raise InvalidRequest.of(extracted.problems)
        contents, kept = self._checked(extracted, before)
        layer4 = draft.layer4_texts(balancer, self._places(balancer, lb_id))
        return _Draft(
            balancer,
            processes,
            layer4,
            {**contents, **extracted.lists},
            Record(
                etag=draft.etag(balancer, model, {name: k.file for name, k in kept.items()}),
                process_model=model,
                chosen=chosen,
                maker=__version__,
                processes=tuple(each.id for each in processes),
                layer4=tuple(layer4),
                certificates=kept,
            ),
        )

    def _require_free(self, lb_id: ObjectId, balancer: LoadBalancer, model: ProcessModel) -> None:
        """See that nobody else has the names that instances are to have.

        Raises:
            Conflict
        """
        names = [lb_id]
        for listener in balancer.listeners or ():
            name = listener.listener_id
            if consistency.is_layer4(listener):
                continue
            if model is ProcessModel.LISTENER:
                names.append(object_id(name))
                if name == lb_id:
                    raise Conflict("Name is taken", f"listener {name} has the load balancer's id")
        for name in names:
            if self._store.taken(name, lb_id):
                raise Conflict("Name is taken", f"there is another instance {name}")

    def _texts(self, processes: tuple[Wanted, ...]) -> dict[str, Text]:
        return draft.texts(processes, self._instances.headroom.descriptors())

    def _certificates_before(self, before: State | None) -> Callable[[str], Mapping[str, bytes]]:
        """The files of a process that a load balancer has now, for keys that do not come again. A
        load balancer whose process model changes has them elsewhere."""
        if before is None:
            return lambda prefix: {}
        places = ["", *(f"{process}/" for process in before.record.processes)]
        directories = [LazyFiles(before.directory / place / "certificates") for place in places]
        return lambda prefix: _FirstOf(
            (LazyFiles(before.directory / prefix / "certificates"), *directories)
        )

    def _checked(
        self, extracted: Certificates, before: State | None
    ) -> tuple[dict[str, bytes], dict[str, KeptCertificate]]:
        """The certificate files in order, and what is known of them. Those that are as before were
        checked before."""
        known = before.record.certificates if before else {}
        contents: dict[str, bytes] = {}
        kept: dict[str, KeptCertificate] = {}
        new: list[Given] = []
        for name, certificate in extracted.files.items():
            was = known.get(name)
            if was is not None and was.given == certificate.digest and before is not None:
                kept[name] = was
                contents[name] = (before.directory / name).read_bytes()
            else:
                new.append(certificate.given(name))
        wrong = []
        for checked in certificate_files.check(new):
            certificate = extracted.files[checked.name]
            if checked.about is None:
                wrong.append((certificate.path, checked.problem))
                continue
            content = checked.pem.encode()
            contents[checked.name] = content
            kept[checked.name] = KeptCertificate(
                certificate.digest, draft.digest(content), checked.about
            )
        if wrong:
            raise InvalidRequest.of(dict.fromkeys(wrong))
        return contents, kept

    def _is_so(self, lb_id: ObjectId, state: State, wanted: Record) -> bool:
        """Whether a committed state is what is wanted, has come up, and runs."""
        if (state.record.etag, state.record.maker) != (wanted.etag, wanted.maker):
            return False
        if state.record.chosen != wanted.chosen:
            return False  # it is to be remembered
        if self._left_over(lb_id, state.record) != ([], []):
            return False
        instances = [self._layout.declared(ObjectId(each)) for each in state.record.processes]
        return all(
            running.is_remembered(each) and master_of(each).listening() for each in instances
        ) and all(self._serves(ObjectId(each)) for each in state.record.layer4)

    def _left_over(self, lb_id: ObjectId, record: Record) -> tuple[list[str], list[str]]:
        """Processes of haproxy and listeners of keepalived that a load balancer has had and has no
        more; after a change, and after one that a kill cut off."""
        found = self._store.processes(lb_id) - {*record.processes}
        name = process_name(self._layout.declared(lb_id))
        stopped = ProcessState.STOPPED
        if lb_id not in record.processes and self._instances.supervisor.state(name) is not stopped:
            found.add(lb_id)
        mark = rendering.LAYER4_MARK.format(lb_id).encode()
        ours = (
            each.id
            for each in self._layout.lvs_listeners()
            if each.configuration.read_bytes().startswith(mark)
        )
        return sorted(found), [each for each in ours if each not in record.layer4]

    def _serves(self, listener: ObjectId) -> bool:
        """Whether keepalived serves a listener as it was told last."""
        layout = self._layout.lvs(listener)
        return lvs.runs(layout) and not lvs_observe.pending(layout)

    def _prepare(self, processes: Sequence[str], stage: Path) -> list[_Prepared]:
        """See that a staged state may be committed.

        Raises:
            InvalidRequest: haproxy refuses it.
        """
        found = []
        for process in processes:
            instance = self._layout.declared(ObjectId(process))
            staged = stage / process if (stage / process).is_dir() else stage
            texts = running.texts(sorted(staged.glob("*.cfg")))

            def check(
                some: Texts, staged: Path = staged, instance: InstanceLayout = instance
            ) -> Completed:
                return self._instances.haproxy.check_directory(some, staged, instance.current)

            candidate = Candidate(texts, texts.keys(), check)
            verdict = self._instances.acceptance.require(instance, candidate)
            found.append(_Prepared(instance, texts, staged, verdict))
        return found

    def _foreseen(
        self, prepared: Sequence[_Prepared], before: State | None, wanted: _Draft
    ) -> tuple[ProcessPlan, ...]:
        plans = [
            _plan(
                each.instance.id,
                self._instances.activation.foresee(each.instance, each.texts, each.staged),
            )
            for each in prepared
        ]
        for listener, text in wanted.layer4.items():
            committed = _layer4_text(before, listener)
            if committed != text.made().encode():
                plans.append(ProcessPlan(id=listener, step="reload" if committed else "start"))
        plans += _stopped(before, wanted.record)
        return tuple(plans)

    def _commit(
        self,
        lb_id: ObjectId,
        stage: Path,
        prepared: Sequence[_Prepared],
        before: State | None,
        record: journal.Record,
    ) -> tuple[ProcessPlan, ...]:
        """Commit a staged state and make the processes agree with it.

        Raises:
            OperationFailed: they do not; all is as before.
        """
        uploaded = self._layout.uploaded(lb_id)
        supersedes = before is None and uploaded.configuration.is_file()
        if supersedes:
            # It has the same name and the same sockets.
            self._instances.supervisor.stop(process_name(uploaded))
        state = self._store.commit(lb_id, stage)
        try:
            plans = [
                _outcome(each.instance.id, self._instances.activation.activate(each.instance))
                for each in prepared
            ]
            plans += self._serve_layer4(state, before)
        except BaseException:  # also an end by force: nothing may stay half-way
            self._go_back(lb_id, state, before)
            if supersedes:
                self._instances.activation.start(uploaded)
            raise
        for each in prepared:
            self._instances.acceptance.committed(each.instance, each.verdict)
        if supersedes:
            _remove_uploaded(uploaded)
        if before is not None:
            self._hand_over()
            self._end(*self._left_over(lb_id, state.record), keep=lb_id, by_and_by=True)
            plans += _stopped(before, state.record)
        self._tidy(lb_id)
        record.generation = state.number
        record.plan = _greatest(plans)
        record.reasons = [*chain.from_iterable(plan.reasons for plan in plans)]
        record.words += [*chain.from_iterable(plan.words for plan in plans)]
        record.fell_back = next((plan.fell_back for plan in plans if plan.fell_back), None)
        return tuple(plans)

    def _go_back(self, lb_id: ObjectId, state: State, before: State | None) -> None:
        self._store.go_back(lb_id, before)
        was = before.record if before else None
        new = set(state.record.processes) - set(was.processes if was else ())
        new_layer4 = set(state.record.layer4) - set(was.layer4 if was else ())
        self._end(sorted(new), sorted(new_layer4), keep=lb_id)
        if before is None:
            return
        for process in before.record.processes:
            try:
                self._instances.activation.activate(self._layout.declared(ObjectId(process)))
            except OperationFailed:
                logger.exception("instance=%s cannot go back", process)
        with contextlib.suppress(OperationFailed):
            self._serve_layer4(before, state)

    def _serve_layer4(self, state: State, before: State | None) -> list[ProcessPlan]:
        plans = []
        for listener in map(ObjectId, state.record.layer4):
            text = state.layer4(listener)
            was = _layer4_text(before, listener)
            if text == was and self._serves(listener):
                continue
            self._layer4.upload(listener, text)
            self._layer4.reload(listener)
            plans.append(ProcessPlan(id=listener, step="start" if was is None else "reload"))
        return plans

    def _end(
        self,
        processes: Sequence[str],
        layer4: Sequence[str],
        keep: ObjectId | None = None,
        *,
        by_and_by: bool = False,
    ) -> None:
        """Stop processes and forget them; the load balancer `keep` has more in its directory.
        `by_and_by`: let haproxy serve the connections that it has."""
        supervisor = self._instances.supervisor
        for process in processes:
            instance = self._layout.declared(ObjectId(process))
            if by_and_by:
                supervisor.retire(process_name(instance))
            else:
                supervisor.forget(process_name(instance))
            for socket in (instance.stats_socket, instance.master_socket):
                socket.unlink(missing_ok=True)
            self._instances.acceptance.forget(instance.id)
            if process == keep:
                for path in (instance.last_good, instance.final_counters):
                    files.remove_tree(path)
            else:
                files.remove_tree(instance.directory)
        for listener in layer4:
            self._layer4.delete(ObjectId(listener))

    def _end_all(self, lb_id: ObjectId, state: State) -> None:
        processes, layer4 = self._left_over(lb_id, state.record)
        self._end(
            [*state.record.processes, *processes], [*state.record.layer4, *layer4], keep=lb_id
        )

    def _hand_over(self) -> None:
        """Have the kernel give connections that wait at a socket that is closed to another one at
        the same address: that of the processes that begin, before others end. It can since 5.14."""
        with contextlib.suppress(OSError):
            Namespace(self._layout.namespace).run(lambda: sysctl.write(_MIGRATE, "1"))

    def _tidy(self, lb_id: ObjectId) -> None:
        state = self._store.state(lb_id)
        assert state is not None
        good = set()
        for process in state.record.processes:
            with contextlib.suppress(OSError):
                path = self._layout.declared(ObjectId(process)).good.readlink()
                good |= {int(part) for part in path.parts[-2:] if part.isdigit()}
        self._store.prune(lb_id, {state.number, *good})

    @contextlib.contextmanager
    def _changing(
        self, lb_id: ObjectId, by: Caller, operation: Operation, *, kept: bool = True
    ) -> Iterator[journal.Record]:
        instance = self._layout.declared(lb_id)
        with self._instances.changing(instance, by, operation) as record:
            record.kept = kept
            try:
                yield record
            finally:
                self._store.forget_empty(lb_id)

    def _places(self, balancer: LoadBalancer, process: str) -> Places:
        instance = self._layout.declared(object_id(process))
        return Places(
            loadbalancer_id=balancer.loadbalancer_id,
            project_id=balancer.project_id or "",
            configuration=str(instance.current),
            certificates=str(instance.certificates),
            stats_socket=str(instance.stats_socket),
            state_file=str(instance.state),
            ping_wrapper=str(self._layout.ping_wrapper),
            log=_LOG,
            user=_USER,
            group=self._instances.group,
            hard_stop_after=render.HARD_STOP_AFTER,
            max_reloads=render.MOST_RELOADS,
            namespace=self._layout.namespace.name,
            udp_check=str(self._layout.udp_check),
        )


class _FirstOf(Mapping[str, bytes]):
    """Several mappings as one; the first that has a name counts."""

    def __init__(self, some: Sequence[Mapping[str, bytes]]) -> None:
        self._some = some

    def __getitem__(self, name: str) -> bytes:
        for each in self._some:
            if name in each:
                return each[name]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter({name: None for each in self._some for name in each})

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _decoded(lb_id: ObjectId, body: bytes) -> LoadBalancer:
    """The load balancer in a body.

    Raises:
        InvalidRequest: with everything that is wrong.
    """
    try:
        balancer = decode(body, LoadBalancer)
    except InvalidRequest as error:
        path, separator, words = error.details.partition(": ")
        raise InvalidRequest.of([(path, words) if separator else ("body", path)]) from None
    wrong = list(consistency.problems(balancer))
    if balancer.loadbalancer_id != lb_id:
        wrong.append(consistency.Problem("loadbalancer_id", f"is another than {lb_id}, the URL's"))
    if wrong:
        raise InvalidRequest.of(wrong)
    return balancer


def _json_object(body: bytes) -> dict[str, object]:
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest.of([("body", f"not a JSON object: {error}")]) from None


def _require(state: State | None, precondition: Precondition) -> None:
    """Raises PreconditionFailed."""
    if precondition.absent and state is not None:
        raise PreconditionFailed("It is there already", state.record.etag)
    if precondition.matches is None:
        return
    if state is None:
        raise PreconditionFailed("There is none")
    if "*" not in precondition.matches and state.record.etag not in precondition.matches:
        raise PreconditionFailed("It has changed since", f"its ETag is {state.record.etag}")


def _files(
    wanted: _Draft, texts: Mapping[str, Text], before: State | None
) -> tuple[dict[str, bytes], list[str]]:
    """The files that are to be made, and those that are as they were."""
    made: dict[str, bytes] = {}
    kept: list[str] = []
    there = before.files() if before else {}
    marks = before.record.marks if before and before.record.maker == wanted.record.maker else {}

    def add(name: str, content: bytes) -> None:
        if name in there and files.has(there[name], content):
            kept.append(name)
        else:
            made[name] = content

    for name, text in texts.items():
        if name in there and marks.get(name) == text.mark:
            kept.append(name)
        else:
            add(name, text.made().encode())
    for name, content in wanted.certificates.items():
        add(name, content)
    for listener, text in wanted.layer4.items():
        add(f"layer4/{listener}.conf", text.made().encode())
    return made, kept


def _layer4_text(state: State | None, listener: str) -> bytes | None:
    """What keepalived was told of a listener."""
    try:
        return state.layer4(listener) if state else None
    except FileNotFoundError:
        return None


def _summary(lb_id: ObjectId, state: State) -> Summary:
    balancer = decode(state.model(), LoadBalancer)
    return Summary(
        loadbalancer_id=lb_id,
        etag=state.record.etag,
        process_model=ProcessModel(state.record.process_model),
        generation=state.number,
        listeners=len(balancer.listeners or ()),
        pools=len(consistency.pools(balancer)),
    )


def _result(
    lb_id: ObjectId,
    record: Record,
    before: State | None,
    plans: Sequence[ProcessPlan],
    *,
    dry_run: bool = False,
    number: int | None = None,
) -> Result:
    return Result(
        loadbalancer_id=lb_id,
        etag=record.etag,
        process_model=ProcessModel(record.process_model),
        created=before is None,
        dry_run=dry_run,
        step=_greatest(plans),
        processes=tuple(plans),
        generation=number or (before.number if before else None),
    )


def _greatest(plans: Sequence[ProcessPlan]) -> str:
    return max((plan.step for plan in plans), key=_STEPS.index, default="nothing")


def _plan(process: str, plan: Plan) -> ProcessPlan:
    return ProcessPlan(id=process, step=plan.step.value, reasons=plan.reasons, words=plan.words)


def _outcome(process: str, outcome: Outcome) -> ProcessPlan:
    return ProcessPlan(
        id=process,
        step=outcome.done.value,
        reasons=outcome.plan.reasons,
        words=outcome.plan.words,
        fell_back=outcome.fell_back,
    )


def _stopped(before: State | None, record: Record) -> list[ProcessPlan]:
    if before is None:
        return []
    gone = [each for each in before.record.processes if each not in record.processes]
    gone += [each for each in before.record.layer4 if each not in record.layer4]
    return [ProcessPlan(id=each, step="stop") for each in gone]


def _remove_uploaded(instance: InstanceLayout) -> None:
    """Remove what an uploaded text has left that was superseded."""
    for path in (instance.configuration, instance.addition, instance.peer, instance.rejected):
        files.remove(path)
    for path in instance.last_good.iterdir():
        if path.is_file() and not path.is_symlink() and path.suffix == ".cfg":
            files.remove(path)
    files.remove_tree(instance.last_good / "certificates")
    files.remove_tree(instance.certificates)
    for path in instance.generations.iterdir():
        if not (path / "record.json").exists():
            files.remove_tree(path)
