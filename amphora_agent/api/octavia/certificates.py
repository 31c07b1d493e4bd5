"""The certificate files of a load balancer."""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from amphora_agent.api.caller import caller
from amphora_agent.api.octavia.body import LARGEST_CERTIFICATE, OK, body, etag
from amphora_agent.api.services import Services
from amphora_agent.layout import certificate_name, object_id


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
