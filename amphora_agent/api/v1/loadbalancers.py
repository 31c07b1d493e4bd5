"""Load balancers: their configuration, their certificate files and their life."""

from collections.abc import Callable
from functools import partial

from flask import Blueprint, Response
from flask.typing import ResponseReturnValue

from amphora_agent.api.services import Services, caller
from amphora_agent.api.v1.http import LARGEST_CERTIFICATE, LARGEST_CONFIGURATION, OK, body, etag
from amphora_agent.errors import InvalidRequest
from amphora_agent.haproxy.process.takeover import Takeover
from amphora_agent.model.events import Operation, Part
from amphora_agent.paths import ObjectId, certificate_name, object_id


def certificates(services: Services) -> Blueprint:
    routes = Blueprint("certificates", __name__)
    # A name may come with slashes in it (percent-encoded): it is refused by name, not unknown.
    route = "/1.0/loadbalancer/<lb_id>/certificates/<rest:filename>"

    @routes.put(route)
    def put(lb_id: str, filename: str) -> ResponseReturnValue:
        instance, name = object_id(lb_id), certificate_name(filename)
        data = body(LARGEST_CERTIFICATE)
        services.instances.certificates.put(instance, name, data, by=caller())
        return OK, 200, etag(data)

    @routes.get(route)
    def get(lb_id: str, filename: str) -> ResponseReturnValue:
        md5 = services.instances.certificates.md5(object_id(lb_id), certificate_name(filename))
        return {"md5sum": md5}, 200, {"ETag": md5}

    @routes.delete(route)
    def delete(lb_id: str, filename: str) -> ResponseReturnValue:
        which, name = object_id(lb_id), certificate_name(filename)
        services.instances.certificates.delete(which, name, by=caller())
        return OK

    return routes


def loadbalancers(services: Services) -> Blueprint:
    routes = Blueprint("loadbalancers", __name__)
    instances, lvs = services.instances, services.lvs

    @routes.put("/1.0/loadbalancer/<amphora_id>/<lb_id>/haproxy")
    def upload(amphora_id: str, lb_id: str) -> ResponseReturnValue:
        amphora, instance = object_id(amphora_id), object_id(lb_id)
        data = body(LARGEST_CONFIGURATION)
        instances.upload(instance, amphora, data, caller())
        return OK, 202, etag(data)

    @routes.get("/1.0/loadbalancer/<lb_id>/haproxy")
    def configuration(lb_id: str) -> ResponseReturnValue:
        data = services.inventory.configuration(object_id(lb_id))
        return Response(data, mimetype="text/plain", headers=etag(data))

    def give_way(lb_id: ObjectId, start: Callable[[Takeover], object]) -> None:
        services.declared().give_way(lb_id, start)

    def recorded(name: str, act: Callable[[ObjectId], str], listener: ObjectId) -> str:
        with services.journal.change(Part.INSTANCE, listener, caller(), Operation(name)) as record:
            details = act(listener)
            record.words = [details]
        return details

    @routes.put("/1.0/loadbalancer/<lb_id>/<action>")
    def act(lb_id: str, action: str) -> ResponseReturnValue:
        which = object_id(lb_id)
        actions: dict[str, Callable[[ObjectId], str]]
        if lvs.holds(which):
            theirs = {"start": lvs.start, "stop": lvs.stop, "reload": lvs.reload}
            actions = {name: partial(recorded, name, act) for name, act in theirs.items()}
        else:
            begin = {"start": instances.start, "reload": instances.reload}
            actions = {
                name: partial(act, by=caller(), give_way=give_way) for name, act in begin.items()
            }
            actions["stop"] = partial(instances.stop, by=caller())
        if action not in actions:
            raise InvalidRequest("Invalid Request", f"Unknown action: {action}")
        details = actions[action](which)
        if action != "stop":
            services.network.announce_vips(single=services.settings.current().single)
        return {"message": "OK", "details": details}, 202

    @routes.delete("/1.0/listeners/<object_>")
    def delete(object_: str) -> ResponseReturnValue:
        which = object_id(object_)
        if lvs.holds(which):
            with services.journal.change(Part.INSTANCE, which, caller(), Operation.DELETE):
                lvs.delete(which)
        elif services.inventory.is_rendered(which):
            services.declared().delete(which, caller())
        else:
            instances.delete(which, by=caller())
        return OK

    return routes
