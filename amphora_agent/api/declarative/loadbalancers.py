"""`/2.0/loadbalancers`: load balancers as Octavia models them, and parts of them."""

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from amphora_agent.api.caller import caller
from amphora_agent.api.declarative.requests import (
    LARGEST_BALANCER,
    LARGEST_PATCH,
    answer,
    flag,
    matches,
    raw,
    wants_absence,
)
from amphora_agent.api.octavia.body import body
from amphora_agent.api.services import Services
from amphora_agent.errors import InvalidRequest
from amphora_agent.layout import ObjectId, object_id
from amphora_agent.model.declared import ProcessModel, Result


def loadbalancers(services: Services) -> Blueprint:
    routes = Blueprint("declared", __name__)

    @routes.get("/2.0/loadbalancers")
    def overview() -> ResponseReturnValue:
        return answer(services.declared().overview())

    @routes.put("/2.0/loadbalancers/<lb_id>")
    def put(lb_id: str) -> ResponseReturnValue:
        from amphora_agent.declarative.service import Precondition

        done = services.declared().put(
            object_id(lb_id),
            body(LARGEST_BALANCER),
            caller(),
            precondition=Precondition(matches(), wants_absence()),
            process_model=_process_model(),
            dry_run=flag("dry_run"),
        )
        return _done(done)

    @routes.get("/2.0/loadbalancers/<lb_id>")
    def get(lb_id: str) -> ResponseReturnValue:
        content, etag = services.declared().get(object_id(lb_id))
        return raw(content, etag=etag)

    @routes.delete("/2.0/loadbalancers/<lb_id>")
    def delete(lb_id: str) -> ResponseReturnValue:
        from amphora_agent.declarative.service import Precondition

        services.declared().delete(object_id(lb_id), caller(), Precondition(matches()))
        return "", 204

    @routes.get("/2.0/loadbalancers/<lb_id>/status")
    def status(lb_id: str) -> ResponseReturnValue:
        return answer(services.declared().status(object_id(lb_id)))

    @routes.patch("/2.0/loadbalancers/<lb_id>/pools/<pool_id>")
    def patch_pool(lb_id: str, pool_id: str) -> ResponseReturnValue:
        return patch(object_id(lb_id), pool_id, None)

    @routes.patch("/2.0/loadbalancers/<lb_id>/pools/<pool_id>/members/<member_id>")
    def patch_member(lb_id: str, pool_id: str, member_id: str) -> ResponseReturnValue:
        return patch(object_id(lb_id), pool_id, member_id)

    def patch(lb_id: ObjectId, pool_id: str, member_id: str | None) -> ResponseReturnValue:
        from amphora_agent.declarative.service import Precondition

        done = services.declared().patch(
            lb_id,
            body(LARGEST_PATCH),
            caller(),
            pool_id=pool_id,
            member_id=member_id,
            precondition=Precondition(matches()),
            dry_run=flag("dry_run"),
        )
        return _done(done)

    def _done(done: Result) -> ResponseReturnValue:
        if not done.dry_run and done.step in ("reload", "start"):
            services.network.announce_vips(single=services.settings.current().single)
        created = done.created and not done.dry_run
        return answer(done, 201 if created else 200, etag="" if done.dry_run else done.etag)

    return routes


def _process_model() -> ProcessModel | None:
    """Which process model is chosen.

    Raises:
        InvalidRequest
    """
    value = request.args.get("process_model")
    if value is None:
        return None
    try:
        return ProcessModel(value)
    except ValueError:
        words = f"{value!r} is not one of {', '.join(ProcessModel)}"
        raise InvalidRequest.of([("process_model", words)]) from None
