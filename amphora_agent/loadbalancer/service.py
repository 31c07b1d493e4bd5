"""Load balancers of API 2.0: what is wanted of one is put, and the agent makes it so.

Everything about one is done under its lock, which the uploads of API 1.0 hold, too.
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

import msgspec

from amphora_agent.errors import Conflict, InvalidRequest, OperationFailed, PreconditionFailed
from amphora_agent.events import journal
from amphora_agent.haproxy.apply import Change, find_greatest
from amphora_agent.haproxy.process.takeover import Takeover
from amphora_agent.haproxy.runtime.socket import master_of
from amphora_agent.haproxy.service import Instances
from amphora_agent.keepalived.lvs.service import LvsListeners
from amphora_agent.loadbalancer.apply import Commitment
from amphora_agent.loadbalancer.certificates import check
from amphora_agent.loadbalancer.desired_state import choose_files, make_draft
from amphora_agent.loadbalancer.states import Record, State, States
from amphora_agent.loadbalancer.translate import status
from amphora_agent.model import validation
from amphora_agent.model.decode import Problem, decode
from amphora_agent.model.events import Caller, Operation
from amphora_agent.model.loadbalancer import LoadBalancer
from amphora_agent.model.resolved import ResolvedLoadBalancer, normalize, patch_pool, resolve
from amphora_agent.model.responses import (
    About,
    Given,
    LoadBalancerStatus,
    ProcessModel,
    ProcessPlan,
    Result,
    Summaries,
    Summary,
)
from amphora_agent.model.status import InstanceReading
from amphora_agent.paths import Layout, ObjectId, object_id

logger = logging.getLogger(__name__)

#: Seconds for haproxy's word about its members.
_ANSWER = 5.0


class Declared:
    """The rendered load balancers of an amphora.

    `readings` are those of UDP and SCTP listeners. `process_model` is the amphora's, for load
    balancers for which none was chosen.

    A request may have `matches`, the ETags of which the load balancer must have one, or "*" for any
    load balancer.
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
        self.states = States(layout, instances.store)
        self._commitment = Commitment(layout, self.states, instances, layer4)
        #: Last accepted request per load balancer: the digest of its body, the process model where
        #: it chose one, and the signature of the state that it led to.
        self._answered: dict[ObjectId, tuple[bytes, ProcessModel | None, str | None]] = {}

    # What there is

    def overview(self) -> Summaries:
        """Return every load balancer, sorted by id."""
        states = filter(None, map(self.states.state, self.states.ids()))
        return Summaries(tuple(map(_summarize, states)))

    def get(self, lb_id: ObjectId) -> tuple[bytes, str]:
        """Return a load balancer in JSON, without private keys, and its ETag.

        Raises:
            NotFound
        """
        state = self.states.existing(lb_id)
        return state.model(), state.record.etag

    def status(self, lb_id: ObjectId) -> LoadBalancerStatus:
        """Return how a load balancer is, with reasons.

        Raises:
            NotFound
        """
        state = self.states.existing(lb_id)
        statistics: dict[str, str | None] = {}
        for process in state.record.processes:
            socket = master_of(self._layout.rendered(process))
            try:
                statistics[process] = socket.command("@1 show stat", timeout=_ANSWER)
            except OperationFailed as error:
                logger.info("instance=%s does not tell of its members: %s", process, error)
                statistics[process] = None
        layer4 = self._readings() if state.record.layer4 else {}
        certificates = {name: kept.about for name, kept in state.record.certificates.items()}
        notes = status.find_notes(certificates, datetime.now(UTC))
        return status.find_status(_resolve_state(state), statistics, layer4, notes)

    # Changes

    def put(
        self,
        lb_id: ObjectId,
        body: bytes,
        by: Caller,
        *,
        matches: frozenset[str] | None = None,
        absent: bool = False,
        process_model: ProcessModel | None = None,
        dry_run: bool = False,
    ) -> Result:
        """Make the load balancer what `body` says. What is so already is not touched at all.

        `absent`: only if there is none yet. `process_model` is remembered for this load balancer,
        also by later calls without it.
        `dry_run`: say what would be done, and do nothing.

        Raises:
            InvalidRequest: with everything that is wrong. Nothing has changed.
            PreconditionFailed
            Conflict: another load balancer has its name, or listens where it is to listen.
            OperationFailed: it did not come up; what was there before is there again.
        """
        digest = hashlib.sha256(body).digest()
        with self._changing(lb_id, by, Operation.PUT, kept=not dry_run) as record:
            before = self.states.state(lb_id)
            if absent and before is not None:
                raise PreconditionFailed("It is there already", before.record.etag)
            _require_match(before, matches)
            asked = digest, process_model, self.states.signature(lb_id)
            again = self._answered.get(lb_id) == asked
            if before is not None and again and self._commitment.holds(lb_id, before):
                return _answer_nothing(lb_id, before, record, dry_run=dry_run)
            balancer = _decode_valid(lb_id, body)
            done = self._make(lb_id, balancer, before, process_model, record, dry_run=dry_run)
            if not dry_run:
                self._answered[lb_id] = digest, process_model, self.states.signature(lb_id)
            return done

    def patch(
        self,
        lb_id: ObjectId,
        body: bytes,
        by: Caller,
        *,
        pool_id: str,
        member_id: str | None = None,
        matches: frozenset[str] | None = None,
        dry_run: bool = False,
    ) -> Result:
        """Change one pool, or one member of it, by a JSON merge patch.

        Raises:
            NotFound: no such load balancer, pool or member.
            And as `put`.
        """
        patch = _decode_object(body)
        with self._changing(lb_id, by, Operation.PATCH, kept=not dry_run) as record:
            before = self.states.existing(lb_id)
            _require_match(before, matches)
            balancer = _decode_valid(lb_id, patch_pool(before.model(), pool_id, member_id, patch))
            return self._make(lb_id, balancer, before, None, record, dry_run=dry_run)

    def rollback(self, lb_id: ObjectId, generation: int | None, by: Caller) -> str:
        """Go back to a generation, by default to the one before the present one; say what was done.

        Raises:
            NotFound: no such load balancer or generation.
            OperationFailed: it did not come up any more; everything is as it was.
        """
        with self._changing(lb_id, by, Operation.ROLLBACK) as record:
            before = self.states.existing(lb_id)
            change_to = partial(self._change_to, lb_id, before)
            instance = self._layout.rendered(lb_id)
            return self._instances.application.roll_back(instance, generation, record, change_to)

    @contextlib.contextmanager
    def _change_to(self, lb_id: ObjectId, before: State, generation: int) -> Iterator[Change]:
        """Make the change to an earlier state."""
        again = self.states.numbered(lb_id, generation)
        balancer = _resolve_state(again)
        layer4 = {*again.record.layer4, *before.record.layer4}
        with self._claiming(lb_id, balancer, layer4):
            staged = self._commitment.with_parts(lb_id, again.record.processes, again.files)
            yield self._commitment.prepare(lb_id, again.record, staged, before)

    def delete(
        self,
        lb_id: ObjectId,
        by: Caller,
        *,
        matches: frozenset[str] | None = None,
        dry_run: bool = False,
    ) -> Result:
        """Stop a load balancer and remove all that there is of it; say what was done.

        Raises:
            NotFound, PreconditionFailed
        """
        with self._changing(lb_id, by, Operation.DELETE, kept=not dry_run):
            state = self.states.existing(lb_id)
            _require_match(state, matches)
            if not dry_run:
                self._commitment.end(lb_id, state)
                self.states.remove(lb_id)
                self._answered.pop(lb_id, None)
        processes = (*state.record.processes, *state.record.layer4)
        plans = [ProcessPlan(id=process, step="stop") for process in processes]
        return _answer(lb_id, state.record, state, plans, dry_run=dry_run)

    def give_way(self, lb_id: ObjectId, start: Callable[[Takeover], object]) -> None:
        """End a load balancer when the haproxy of an uploaded text, which `start` starts, serves in
        its place; whoever calls this holds its lock.

        Raises:
            What `start` raises; all is as it was then.
        """
        state = self.states.state(lb_id)
        if state is not None:
            self._commitment.give_way(lb_id, state, start)
            self.states.forget(lb_id)
            self._answered.pop(lb_id, None)

    # Certificates that are referred to

    def put_certificate(
        self, lb_id: ObjectId, name: str, pem: bytes, by: Caller, *, dry_run: bool = False
    ) -> tuple[About, bool]:
        """Check and store a certificate; return what it says, and True when there was none of that
        name. A load balancer that refers to it has it from its next PUT on.

        Raises:
            InvalidRequest: it cannot serve; the details say why.
        """
        with self._changing(lb_id, by, Operation.CERTIFICATE_PUT, kept=not dry_run) as record:
            record.words = [name]
            (checked,) = check([Given(name, pem.decode(errors="replace"))])
            if checked.about is None:
                raise InvalidRequest.from_problems([("body", checked.problem)])
            new = name not in self.states.certificates(lb_id)
            if not dry_run:
                self._answered.pop(lb_id, None)
                self.states.put_certificate(lb_id, name, checked.pem, checked.about)
            return checked.about, new

    def delete_certificate(
        self, lb_id: ObjectId, name: str, by: Caller, *, dry_run: bool = False
    ) -> About:
        """Forget one, and return what it says; load balancers that have it keep it until their next
        PUT.

        Raises:
            NotFound
        """
        with self._changing(lb_id, by, Operation.CERTIFICATE_DELETE, kept=not dry_run) as record:
            record.words = [name]
            about = self.states.certificate(lb_id, name)
            if not dry_run:
                self._answered.pop(lb_id, None)
                self.states.delete_certificate(lb_id, name)
            return about

    # Making it so

    def _make(
        self,
        lb_id: ObjectId,
        balancer: ResolvedLoadBalancer,
        before: State | None,
        chosen: ProcessModel | None,
        record: journal.ChangeRecord,
        *,
        dry_run: bool,
    ) -> Result:
        if chosen is None and before is not None:
            chosen = before.record.chosen
        model = chosen or self._process_model
        self._require_free(lb_id, balancer, model)
        stored = self.states.stored(lb_id)
        draft = make_draft(self._layout, self._instances, balancer, before, stored, model, chosen)
        if (
            before is not None
            and before.record.identity == draft.record.identity
            and self._commitment.holds(lb_id, before)
        ):
            return _answer_nothing(lb_id, before, record, dry_run=dry_run)
        made, kept, described = choose_files(draft, before)
        layer4 = {*draft.record.layer4, *(before.record.layer4 if before else ())}
        with self._claiming(lb_id, balancer, layer4):
            staged = self.states.stage(lb_id, made, kept, before, described, draft.model)
            change = self._commitment.prepare(lb_id, draft.record, staged, before)
            if dry_run:
                return _answer(lb_id, draft.record, before, change.foresee(), dry_run=True)
            plans = self._instances.application.carry_out(change, record) or ()
        for _, _, process, asked in draft.processes:
            self._instances.report_connections(process.id, asked, process.connection_limit)
        return _answer(lb_id, draft.record, before, plans, number=record.generation)

    def _require_free(
        self, lb_id: ObjectId, balancer: ResolvedLoadBalancer, model: ProcessModel
    ) -> None:
        """Check that nobody else has the names that instances are to have.

        Raises:
            Conflict
        """
        names = [listener.listener_id for listener in balancer.listeners if not listener.is_layer4]
        if model is not ProcessModel.LISTENER:
            names = []
        if lb_id in names:
            raise Conflict("Name is taken", f"listener {lb_id} has the load balancer's id")
        for name in (lb_id, *map(object_id, names)):
            if self.states.taken(name, lb_id):
                raise Conflict("Name is taken", f"there is another instance {name}")

    @contextlib.contextmanager
    def _claiming(
        self, lb_id: ObjectId, balancer: ResolvedLoadBalancer, layer4: Collection[ObjectId]
    ) -> Iterator[None]:
        """Claim the addresses of a load balancer, and a place for each listener, while a change is
        under way. `layer4` are its UDP and SCTP listeners, before and after.

        Raises:
            Conflict: another one listens there.
        """
        number = len(balancer.active_listeners)
        with (
            self._instances.listeners.counting(lb_id, number, own=layer4),
            self._instances.addresses.claiming(
                lb_id,
                balancer.claims,
                alone=True,
                more=lambda: self._layer4.list_claims(rendered_only=False),
            ),
        ):
            yield

    @contextlib.contextmanager
    def _changing(
        self, lb_id: ObjectId, by: Caller, operation: Operation, *, kept: bool = True
    ) -> Iterator[journal.ChangeRecord]:
        instance = self._layout.rendered(lb_id)
        with self._instances.changing(instance, by, operation) as record:
            record.kept = kept
            try:
                yield record
            finally:
                self.states.forget_empty(lb_id)


def _decode_valid(lb_id: ObjectId, body: bytes) -> ResolvedLoadBalancer:
    """Decode, validate and resolve the load balancer in a body.

    Raises:
        InvalidRequest: with everything that is wrong.
    """
    balancer = decode(body, LoadBalancer)
    wrong = list(validation.find_problems(balancer))
    if balancer.loadbalancer_id != lb_id:
        wrong.append(Problem("loadbalancer_id", f"is another than {lb_id}, the URL's"))
    if wrong:
        raise InvalidRequest.from_problems(wrong)
    return resolve(normalize(balancer, body))


def _resolve_state(state: State) -> ResolvedLoadBalancer:
    return resolve(decode(state.model(), LoadBalancer))


def _answer_nothing(
    lb_id: ObjectId, state: State, record: journal.ChangeRecord, *, dry_run: bool
) -> Result:
    """Return the answer where all is as it is wanted."""
    record.plan = "nothing"
    record.generation = state.number
    return _answer(lb_id, state.record, state, (), dry_run=dry_run)


def _decode_object(body: bytes) -> dict[str, object]:
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest.from_problems([("body", f"not a JSON object: {error}")]) from None


def _require_match(state: State | None, etags: frozenset[str] | None) -> None:
    """Raise PreconditionFailed unless the state has one of these ETags, if there are any."""
    if etags is None:
        return
    if state is None:
        raise PreconditionFailed("There is none")
    if "*" not in etags and state.record.etag not in etags:
        raise PreconditionFailed("It has changed since", f"its ETag is {state.record.etag}")


def _summarize(state: State) -> Summary:
    balancer = _resolve_state(state)
    return Summary(
        loadbalancer_id=balancer.id,
        etag=state.record.etag,
        process_model=state.record.process_model,
        generation=state.number,
        listeners=len(balancer.listeners),
        pools=len(balancer.pools),
    )


def _answer(
    lb_id: str,
    record: Record,
    before: State | None,
    plans: Sequence[ProcessPlan],
    *,
    dry_run: bool = False,
    number: int | None = None,
) -> Result:
    """Return the answer to a change, to the state `number` or to what was there before."""
    return Result(
        loadbalancer_id=lb_id,
        etag=record.etag,
        process_model=record.process_model,
        created=before is None,
        dry_run=dry_run,
        step=find_greatest([plan.step for plan in plans]),
        processes=tuple(plans),
        generation=number or (before.number if before else None),
    )
