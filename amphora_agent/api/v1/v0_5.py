"""API 0.5: one haproxy for each listener, under the listener's id (WIRE §2).

An instance does not care what its id is the id of. So the routes of 0.5 are those of 1.0, with
`listeners` where 1.0 says `loadbalancer`, and one of its own.
"""

from flask import Blueprint, Flask
from flask.typing import ResponseReturnValue

from amphora_agent.api.services import Services
from amphora_agent.api.v1.http import CURRENT, LEGACY
from amphora_agent.paths import object_id


def legacy(services: Services) -> Blueprint:
    """What only 0.5 has."""
    routes = Blueprint("legacy", __name__)

    @routes.get(f"/{LEGACY}/listeners/<listener_id>")
    def listener(listener_id: str) -> ResponseReturnValue:
        found = services.inventory.listener(object_id(listener_id))
        answer = found.status._asdict()
        if found.pools is not None:
            answer["pools"] = [
                {
                    "uuid": pool_id,
                    "status": pool.status,
                    "members": [{member: status} for member, status in pool.members.items()],
                }
                for pool_id, pool in found.pools.items()
            ]
        return answer

    return routes


def add_legacy_rules(app: Flask) -> None:
    """Let every route of 1.0 that `app` has be reached in 0.5 as well."""
    for rule in tuple(app.url_map.iter_rules()):
        if rule.rule.startswith(f"/{CURRENT}/"):
            path = rule.rule.removeprefix(f"/{CURRENT}/").replace("loadbalancer/", "listeners/", 1)
            methods = (rule.methods or set()) - {"HEAD", "OPTIONS"}
            app.add_url_rule(f"/{LEGACY}/{path}", endpoint=rule.endpoint, methods=methods)
