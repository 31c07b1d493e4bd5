"""`/2.0/loadbalancers/{id}/certificates`: certificates that load balancers refer to."""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from amphora_agent.api.caller import caller
from amphora_agent.api.declarative.requests import LARGEST_CERTIFICATE, answer
from amphora_agent.api.octavia.body import body
from amphora_agent.api.services import Services
from amphora_agent.layout import object_id


def certificates(services: Services) -> Blueprint:
    routes = Blueprint("declared_certificates", __name__)

    @routes.get("/2.0/loadbalancers/<lb_id>/certificates")
    def overview(lb_id: str) -> ResponseReturnValue:
        from amphora_agent.declarative.certificate_files import CertificateList

        found = services.declared().certificates(object_id(lb_id))
        return answer(CertificateList(found))

    @routes.put("/2.0/loadbalancers/<lb_id>/certificates/<name>")
    def put(lb_id: str, name: str) -> ResponseReturnValue:
        which = object_id(lb_id), object_id(name)
        new = services.declared().put_certificate(*which, body(LARGEST_CERTIFICATE), caller())
        return answer(services.declared().certificate(*which), 201 if new else 200)

    @routes.get("/2.0/loadbalancers/<lb_id>/certificates/<name>")
    def get(lb_id: str, name: str) -> ResponseReturnValue:
        return answer(services.declared().certificate(object_id(lb_id), object_id(name)))

    @routes.delete("/2.0/loadbalancers/<lb_id>/certificates/<name>")
    def delete(lb_id: str, name: str) -> ResponseReturnValue:
        services.declared().delete_certificate(object_id(lb_id), object_id(name), caller())
        return "", 204

    return routes
