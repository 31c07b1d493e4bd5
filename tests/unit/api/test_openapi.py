"""The document of `/2.0` says what there is: no more, no less, and what the types say."""

import json
from pathlib import Path
from typing import Any

from flask import Flask

from amphora_agent.api import openapi, v2
from amphora_agent.model.loadbalancer import ListenerProtocol

DOCUMENT: dict[str, Any] = json.loads(openapi.write_document())


def test_document_has_every_route_and_no_other() -> None:
    app = Flask(__name__, static_folder=None)
    for blueprint in v2.BLUEPRINTS:
        app.register_blueprint(blueprint)
    known = {
        (method, rule.rule.replace("<", "{").replace(">", "}"))
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in ("HEAD", "OPTIONS")
    }
    described = {
        (method.upper(), path)
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
    }
    assert described == known


def test_document_is_the_one_in_docs() -> None:
    written = Path(__file__).parents[3] / "docs" / "openapi.json"
    assert written.read_bytes() == openapi.write_document(), "make openapi"


def test_schemas_have_constants_and_patterns() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["ListenerProtocol"]["enum"] == sorted(ListenerProtocol)
    assert schemas["LoadBalancer"]["additionalProperties"] is False
    assert "pattern" in schemas["Pool"]["properties"]["pool_id"]


def test_every_reference_leads_somewhere() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    text = openapi.write_document().decode()
    for part in text.split('"$ref": "')[1:]:
        reference = part.partition('"')[0]
        assert reference.removeprefix("#/components/schemas/") in schemas, reference
