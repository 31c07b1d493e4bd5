"""The routes below `/2.0`: load balancers as Octavia models them, their certificates, instances.

What a load balancer is made of is loaded when it is asked for: an amphora of a controller that
sends texts never does.
"""

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from amphora_agent.api.http import (
    LARGEST_CERTIFICATE,
    LARGEST_CONFIGURATION,
    LARGEST_PATCH,
    answer,
    body,
    find_choice,
    matches,
    wants_absence,
    wants_dry_run,
)
from amphora_agent.api.services import Services, caller
from amphora_agent.errors import InvalidRequest
from amphora_agent.events.journal import MOST_ENTRIES
from amphora_agent.model.events import Changes
from amphora_agent.model.responses import CertificateList, ProcessModel, Result
from amphora_agent.model.status import InstanceList
from amphora_agent.paths import ObjectId, object_id

_PROCESS_MODELS = {str(model): model for model in ProcessModel}
#: Entries of the record, unless asked for more or less.
_USUAL_ENTRIES = 100


def blueprints(services: Services) -> tuple[Blueprint, ...]:
    """Return all routes below `/2.0`."""
    return document(), loadbalancers(services), certificates(services), instances(services)


def document() -> Blueprint:
    """`GET /2.0`, what there is, and `GET /2.0/openapi.json`, in all detail."""
    routes = Blueprint("document", __name__)

    @routes.get("/2.0")
    def overview() -> ResponseReturnValue:
        from amphora_agent.api.openapi import describe_briefly

        return answer(describe_briefly())

    @routes.get("/2.0/openapi.json")
    def complete() -> ResponseReturnValue:
        from amphora_agent.api.openapi import write_document

        return answer(write_document())

    return routes


def certificates(services: Services) -> Blueprint:
    routes = Blueprint("declared_certificates", __name__)

    @routes.get("/2.0/loadbalancers/<lb_id>/certificates")
    def overview(lb_id: str) -> ResponseReturnValue:
        return answer(CertificateList(services.declared().states.certificates(object_id(lb_id))))

    @routes.put("/2.0/loadbalancers/<lb_id>/certificates/<name>")
    def put(lb_id: str, name: str) -> ResponseReturnValue:
        which = object_id(lb_id), object_id(name)
        dry_run = wants_dry_run()
        about, new = services.declared().put_certificate(
            *which, body(LARGEST_CERTIFICATE), caller(), dry_run=dry_run
        )
        return answer(about, 201 if new and not dry_run else 200)

    @routes.get("/2.0/loadbalancers/<lb_id>/certificates/<name>")
    def get(lb_id: str, name: str) -> ResponseReturnValue:
        return answer(services.declared().states.certificate(object_id(lb_id), object_id(name)))

    @routes.delete("/2.0/loadbalancers/<lb_id>/certificates/<name>")
    def delete(lb_id: str, name: str) -> ResponseReturnValue:
        dry_run = wants_dry_run()
        about = services.declared().delete_certificate(
            object_id(lb_id), object_id(name), caller(), dry_run=dry_run
        )
        return answer(about) if dry_run else ("", 204)

    return routes


def loadbalancers(services: Services) -> Blueprint:
    routes = Blueprint("declared", __name__)

    @routes.get("/2.0/loadbalancers")
    def overview() -> ResponseReturnValue:
        return answer(services.declared().overview())

    @routes.put("/2.0/loadbalancers/<lb_id>")
    def put(lb_id: str) -> ResponseReturnValue:
        done = services.declared().put(
            object_id(lb_id),
            body(LARGEST_CONFIGURATION),
            caller(),
            matches=matches(),
            absent=wants_absence(),
            process_model=find_choice("process_model", _PROCESS_MODELS, None),
            dry_run=wants_dry_run(),
        )
        return _done(done)

    @routes.get("/2.0/loadbalancers/<lb_id>")
    def get(lb_id: str) -> ResponseReturnValue:
        content, etag = services.declared().get(object_id(lb_id))
        return answer(content, etag=etag)

    @routes.delete("/2.0/loadbalancers/<lb_id>")
    def delete(lb_id: str) -> ResponseReturnValue:
        done = services.declared().delete(
            object_id(lb_id), caller(), matches=matches(), dry_run=wants_dry_run()
        )
        return answer(done) if done.dry_run else ("", 204)

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
        done = services.declared().patch(
            lb_id,
            body(LARGEST_PATCH),
            caller(),
            pool_id=pool_id,
            member_id=member_id,
            matches=matches(),
            dry_run=wants_dry_run(),
        )
        return _done(done)

    def _done(done: Result) -> ResponseReturnValue:
        if not done.dry_run and done.step in ("reload", "start"):
            services.network.announce_vips(single=services.settings.current().single)
        created = done.created and not done.dry_run
        return answer(done, 201 if created else 200, etag="" if done.dry_run else done.etag)

    return routes


def instances(services: Services) -> Blueprint:
    """Routes that tell what runs, since when, and what was changed. None changes anything."""
    routes = Blueprint("instances", __name__)

    @routes.get("/2.0/instances")
    def overview() -> ResponseReturnValue:
        inventory = services.inventory
        return answer(InstanceList(tuple(inventory.overview()), inventory.other_alarms()))

    @routes.get("/2.0/instances/<instance_id>")
    def details(instance_id: str) -> ResponseReturnValue:
        return answer(services.inventory.details(object_id(instance_id)))

    @routes.get("/2.0/instances/<instance_id>/changes")
    def changes(instance_id: str) -> ResponseReturnValue:
        entries = services.inventory.changes(object_id(instance_id), _limit())
        return answer(Changes(tuple(entries)))

    return routes


def _limit() -> int:
    """Return how many entries are asked for.

    Raises:
        InvalidRequest: no number, or less than 1.
    """
    text = request.args.get("limit", str(_USUAL_ENTRIES))
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= 1):
        raise InvalidRequest("Invalid request", f"limit={text!r} is not a number from 1 on")
    return min(int(text), MOST_ENTRIES)
