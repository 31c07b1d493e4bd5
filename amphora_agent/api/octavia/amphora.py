"""The agent's own certificate and configuration."""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from amphora_agent.api.octavia.body import LARGEST_CERTIFICATE, LARGEST_JSON, OK, body, etag
from amphora_agent.api.services import Services
from amphora_agent.errors import OperationFailed
from amphora_agent.settings import SettingsError


def amphora(services: Services) -> Blueprint:
    routes = Blueprint("amphora", __name__)

    @routes.put("/1.0/certificate")
    def certificate() -> ResponseReturnValue:
        data = body(LARGEST_CERTIFICATE)
        services.certificate.replace(data)
        return OK, 202, etag(data)

    @routes.put("/1.0/config")
    def config() -> ResponseReturnValue:
        data = body(LARGEST_JSON)
        try:
            services.settings.replace(data)
        except SettingsError as error:
            message = "Unable to update amphora-agent configuration."
            raise OperationFailed(message, error.details) from None
        return OK, 202

    return routes
