"""The routes below `/2.0`: load balancers as Octavia models them, their certificates, instances.

The modules that make a load balancer are loaded at its first request: an amphora whose controller
sends texts never loads them.
"""

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from amphora_agent.api.http import (
    LARGEST_CERTIFICATE,
    LARGEST_CONFIGURATION,
    LARGEST_PATCH,
    answer,
    find_choice,
    find_etags,
    read_body,
    wants_absence,
    wants_dry_run,
)
from amphora_agent.api.services import caller, services
from amphora_agent.errors import InvalidRequest
from amphora_agent.events.journal import MOST_ENTRIES
from amphora_agent.model.events import Changes
from amphora_agent.model.responses import CertificateList, ProcessModel, Result
from amphora_agent.model.status import InstanceList
from amphora_agent.paths import ObjectId, object_id

_PROCESS_MODELS = {str(model): model for model in ProcessModel}
#: Entries of the record, unless asked for more or less.
_USUAL_ENTRIES = 100


#: `GET /2.0`, what there is, and `GET /2.0/openapi.json`, in all detail.
document = Blueprint("document", __name__)


@document.get("/2.0")
def describe() -> ResponseReturnValue:
    from amphora_agent.api.openapi import describe_briefly

    return answer(describe_briefly())


@document.get("/2.0/openapi.json")
def describe_completely() -> ResponseReturnValue:
    from amphora_agent.api.openapi import write_document

    return answer(write_document())


certificates = Blueprint("declared_certificates", __name__)


@certificates.get("/2.0/loadbalancers/<lb_id>/certificates")
def list_certificates(lb_id: str) -> ResponseReturnValue:
    return answer(CertificateList(services.declared().states.certificates(object_id(lb_id))))


@certificates.put("/2.0/loadbalancers/<lb_id>/certificates/<name>", endpoint="put")
def put_certificate(lb_id: str, name: str) -> ResponseReturnValue:
    which = object_id(lb_id), object_id(name)
    dry_run = wants_dry_run()
    about, new = services.declared().put_certificate(
        *which, read_body(LARGEST_CERTIFICATE), caller(), dry_run=dry_run
    )
    return answer(about, 201 if new and not dry_run else 200)


@certificates.get("/2.0/loadbalancers/<lb_id>/certificates/<name>")
def get_certificate(lb_id: str, name: str) -> ResponseReturnValue:
    return answer(services.declared().states.certificate(object_id(lb_id), object_id(name)))


@certificates.delete("/2.0/loadbalancers/<lb_id>/certificates/<name>", endpoint="delete")
def delete_certificate(lb_id: str, name: str) -> ResponseReturnValue:
    dry_run = wants_dry_run()
    about = services.declared().delete_certificate(
        object_id(lb_id), object_id(name), caller(), dry_run=dry_run
    )
    return answer(about) if dry_run else ("", 204)


loadbalancers = Blueprint("declared", __name__)


@loadbalancers.get("/2.0/loadbalancers")
def list_loadbalancers() -> ResponseReturnValue:
    return answer(services.declared().overview())


@loadbalancers.put("/2.0/loadbalancers/<lb_id>", endpoint="put")
def put_loadbalancer(lb_id: str) -> ResponseReturnValue:
    done = services.declared().put(
        object_id(lb_id),
        read_body(LARGEST_CONFIGURATION),
        caller(),
        matches=find_etags(),
        absent=wants_absence(),
        process_model=find_choice("process_model", _PROCESS_MODELS, None),
        dry_run=wants_dry_run(),
    )
    return _answer_change(done)


@loadbalancers.get("/2.0/loadbalancers/<lb_id>")
def get_loadbalancer(lb_id: str) -> ResponseReturnValue:
    content, etag = services.declared().get(object_id(lb_id))
    return answer(content, etag=etag)


@loadbalancers.delete("/2.0/loadbalancers/<lb_id>", endpoint="delete")
def delete_loadbalancer(lb_id: str) -> ResponseReturnValue:
    done = services.declared().delete(
        object_id(lb_id), caller(), matches=find_etags(), dry_run=wants_dry_run()
    )
    return answer(done) if done.dry_run else ("", 204)


@loadbalancers.get("/2.0/loadbalancers/<lb_id>/status")
def get_status(lb_id: str) -> ResponseReturnValue:
    return answer(services.declared().status(object_id(lb_id)))


@loadbalancers.patch("/2.0/loadbalancers/<lb_id>/pools/<pool_id>")
def patch_pool(lb_id: str, pool_id: str) -> ResponseReturnValue:
    return _patch(object_id(lb_id), pool_id, None)


@loadbalancers.patch("/2.0/loadbalancers/<lb_id>/pools/<pool_id>/members/<member_id>")
def patch_member(lb_id: str, pool_id: str, member_id: str) -> ResponseReturnValue:
    return _patch(object_id(lb_id), pool_id, member_id)


def _patch(lb_id: ObjectId, pool_id: str, member_id: str | None) -> ResponseReturnValue:
    done = services.declared().patch(
        lb_id,
        read_body(LARGEST_PATCH),
        caller(),
        pool_id=pool_id,
        member_id=member_id,
        matches=find_etags(),
        dry_run=wants_dry_run(),
    )
    return _answer_change(done)


def _answer_change(done: Result) -> ResponseReturnValue:
    if not done.dry_run and done.step in ("reload", "start"):
        services.network.announce_vips(single=services.settings.current().single)
    created = done.created and not done.dry_run
    return answer(done, 201 if created else 200, etag="" if done.dry_run else done.etag)


#: Routes that tell what runs, since when, and what was changed. None changes anything.
instances = Blueprint("instances", __name__)


@instances.get("/2.0/instances")
def list_instances() -> ResponseReturnValue:
    inventory = services.inventory
    return answer(InstanceList(tuple(inventory.overview()), inventory.other_alarms()))


@instances.get("/2.0/instances/<instance_id>")
def get_instance(instance_id: str) -> ResponseReturnValue:
    return answer(services.inventory.details(object_id(instance_id)))


@instances.get("/2.0/instances/<instance_id>/changes")
def list_changes(instance_id: str) -> ResponseReturnValue:
    entries = services.inventory.changes(object_id(instance_id), _limit())
    return answer(Changes(tuple(entries)))


def _limit() -> int:
    """Return how many entries are asked for.

    Raises:
        InvalidRequest: no number, or less than 1.
    """
    text = request.args.get("limit", str(_USUAL_ENTRIES))
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= 1):
        raise InvalidRequest("Invalid request", f"limit={text!r} is not a number from 1 on")
    return min(int(text), MOST_ENTRIES)


#: All routes below `/2.0`.
BLUEPRINTS = (document, loadbalancers, certificates, instances)
