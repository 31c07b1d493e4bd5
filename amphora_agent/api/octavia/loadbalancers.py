"""Load balancers: their configuration, and their life, which UDP and SCTP listeners share."""

from collections.abc import Callable
from functools import partial

from flask import Blueprint, Response
from flask.typing import ResponseReturnValue

from amphora_agent.api.caller import caller
from amphora_agent.api.octavia.body import LARGEST_CONFIGURATION, OK, body, etag
from amphora_agent.api.services import Services
from amphora_agent.errors import InvalidRequest
from amphora_agent.layout import ObjectId, object_id


def loadbalancers(services: Services) -> Blueprint:
    routes = Blueprint("loadbalancers", __name__)
    instances, lvs = services.instances, services.lvs

    @routes.put("/1.0/loadbalancer/<amphora_id>/<lb_id>/haproxy")
    def upload(amphora_id: str, lb_id: str) -> ResponseReturnValue:
        amphora, instance = object_id(amphora_id), object_id(lb_id)
        data = body(LARGEST_CONFIGURATION)

        def release(declared: ObjectId) -> None:
            services.declared().release(declared)

        instances.upload(instance, amphora, data, caller(), release)
        return OK, 202, etag(data)

    @routes.get("/1.0/loadbalancer/<lb_id>/haproxy")
    def configuration(lb_id: str) -> ResponseReturnValue:
        data = services.inventory.configuration(object_id(lb_id))
        return Response(data, mimetype="text/plain", headers=etag(data))

    @routes.put("/1.0/loadbalancer/<lb_id>/<action>")
    def act(lb_id: str, action: str) -> ResponseReturnValue:
        which = object_id(lb_id)
        actions: dict[str, Callable[[ObjectId], str]]
        if lvs.holds(which):
            actions = {"start": lvs.start, "stop": lvs.stop, "reload": lvs.reload}
        else:
            ours = {"start": instances.start, "stop": instances.stop, "reload": instances.reload}
            actions = {name: partial(act, by=caller()) for name, act in ours.items()}
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
            lvs.delete(which)
        elif services.inventory.is_declared(which):
            services.declared().delete(which, caller())
        else:
            instances.delete(which, by=caller())
        return OK

    return routes
