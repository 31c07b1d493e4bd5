"""`/2.0/instances`: what runs, since when, and what was changed. Nothing here changes anything."""

import msgspec
from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from amphora_agent.api.services import Services
from amphora_agent.errors import InvalidRequest
from amphora_agent.events.journal import MOST_ENTRIES
from amphora_agent.model.events.changes import Changes
from amphora_agent.model.status import InstanceList
from amphora_agent.paths import object_id

#: Entries of the record, unless asked for more or less.
_USUAL_ENTRIES = 100


def instances(services: Services) -> Blueprint:
    routes = Blueprint("instances", __name__)

    @routes.get("/2.0/instances")
    def overview() -> ResponseReturnValue:
        inventory = services.inventory
        return _json(InstanceList(tuple(inventory.overview()), inventory.other_alarms()))

    @routes.get("/2.0/instances/<instance_id>")
    def details(instance_id: str) -> ResponseReturnValue:
        return _json(services.inventory.details(object_id(instance_id)))

    @routes.get("/2.0/instances/<instance_id>/changes")
    def changes(instance_id: str) -> ResponseReturnValue:
        entries = services.inventory.changes(object_id(instance_id), _limit())
        return _json(Changes(tuple(entries)))

    return routes


def _limit() -> int:
    """How many entries are asked for.

    Raises:
        InvalidRequest: no number, or less than 1.
    """
    text = request.args.get("limit", str(_USUAL_ENTRIES))
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= 1):
        raise InvalidRequest("Invalid request", f"limit={text!r} is not a number from 1 on")
    return min(int(text), MOST_ENTRIES)


def _json(value: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(value), content_type="application/json")
