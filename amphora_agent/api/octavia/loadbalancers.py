"""Load balancers: their configuration, and their life, which UDP and SCTP listeners share."""

from flask import Blueprint, Response
from flask.typing import ResponseReturnValue

from amphora_agent.api.octavia.body import LARGEST_CONFIGURATION, OK, body, etag
from amphora_agent.api.services import Services
from amphora_agent.errors import InvalidRequest
from amphora_agent.layout import object_id


def loadbalancers(services: Services) -> Blueprint:
    routes = Blueprint("loadbalancers", __name__)
    instances = services.instances

    @routes.put("/1.0/loadbalancer/<amphora_id>/<lb_id>/haproxy")
    def upload(amphora_id: str, lb_id: str) -> ResponseReturnValue:
        amphora, instance = object_id(amphora_id), object_id(lb_id)
        data = body(LARGEST_CONFIGURATION)
        instances.upload(instance, amphora, data)
        return OK, 202, etag(data)

    @routes.get("/1.0/loadbalancer/<lb_id>/haproxy")
    def configuration(lb_id: str) -> ResponseReturnValue:
        data = instances.configuration(object_id(lb_id))
        return Response(data, mimetype="text/plain", headers=etag(data))

    @routes.put("/1.0/loadbalancer/<lb_id>/<action>")
    def act(lb_id: str, action: str) -> ResponseReturnValue:
        which = object_id(lb_id)
        holder = services.lvs if services.lvs.holds(which) else instances
        actions = {"start": holder.start, "stop": holder.stop, "reload": holder.reload}
        if action not in actions:
            raise InvalidRequest("Invalid Request", f"Unknown action: {action}")
        details = actions[action](which)
        if action != "stop":
            services.network.announce_vips(single=services.settings.current().single)
        return {"message": "OK", "details": details}, 202

    @routes.delete("/1.0/listeners/<object_>")
    def delete(object_: str) -> ResponseReturnValue:
        which = object_id(object_)
        (services.lvs if services.lvs.holds(which) else instances).delete(which)
        return OK

    return routes
