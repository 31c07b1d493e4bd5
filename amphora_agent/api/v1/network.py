"""Plugging: the interfaces of the amphora."""

from collections.abc import Iterator
from contextlib import contextmanager

from flask import Blueprint
from flask.typing import ResponseReturnValue

from amphora_agent.api.services import Services, caller
from amphora_agent.api.v1.http import LARGEST_JSON, OK, body
from amphora_agent.events.journal import ChangeRecord
from amphora_agent.model.events import Operation, Part, compare


def network(services: Services) -> Blueprint:
    routes = Blueprint("network", __name__)
    plugging = services.network

    @contextmanager
    def changing(subject: str, operation: Operation) -> Iterator[ChangeRecord]:
        with services.journal.change(Part.INTERFACE, subject, caller(), operation) as record:
            before = plugging.describe()
            yield record
            record.differences = compare(before, plugging.describe())

    @routes.post("/1.0/plug/vip/<vip>")
    def plug_vip(vip: str) -> ResponseReturnValue:
        single = services.settings.current().single
        data = body(LARGEST_JSON)
        with changing(vip, Operation.PLUG_VIP) as record:
            details = plugging.plug_vip(vip, data, single=single)
            record.words = [details]
        return {"message": "OK", "details": details}, 202

    @routes.post("/1.0/plug/network")
    def plug_network() -> ResponseReturnValue:
        single = services.settings.current().single
        data = body(LARGEST_JSON)
        with changing("", Operation.PLUG_NETWORK) as record:
            details = plugging.plug_network(data, single=single)
            record.subject, record.words = details.rpartition(" ")[2], [details]
        return {"message": "OK", "details": details}, 202

    @routes.get("/1.0/interface/<address>")
    def interface(address: str) -> ResponseReturnValue:
        return {"message": "OK", "interface": plugging.interface_of(address)}

    @routes.put("/1.0/interface/<address>/rules")
    def rules(address: str) -> ResponseReturnValue:
        data = body(LARGEST_JSON)
        with changing(address, Operation.INTERFACE_RULES):
            plugging.set_rules(address, data)
        return OK

    return routes
