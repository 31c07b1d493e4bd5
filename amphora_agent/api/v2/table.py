"""What there is below `/2.0`: each operation once, for the document that describes them."""

from typing import Any, NamedTuple

from amphora_agent.api.v2.http import DRY_RUN
from amphora_agent.model.events.changes import Changes
from amphora_agent.model.loadbalancer.responses import (
    About,
    CertificateList,
    LoadBalancerStatus,
    ProcessModel,
    Result,
    Summaries,
)
from amphora_agent.model.loadbalancer.types import LoadBalancer, Member, Pool
from amphora_agent.model.status import InstanceDetails, InstanceList


class Parameter(NamedTuple):
    """Beside those of the path. `schema` is JSON Schema."""

    name: str
    place: str
    schema: dict[str, Any]
    words: str


class Operation(NamedTuple):
    """`rule` is the route's. `takes` is a type in JSON, or a media type; `gives` the type of the
    answer, None for none, by its status. `refuses` are the statuses of errors."""

    method: str
    rule: str
    name: str
    words: str
    gives: dict[int, Any]
    takes: Any = None
    parameters: tuple[Parameter, ...] = ()
    refuses: tuple[int, ...] = ()
    etag: bool = False


_ETAGS = {"type": "string", "examples": ['"4f1c…"', "*"]}
_IF_MATCH = Parameter(
    "If-Match", "header", _ETAGS, "Only if the load balancer has one of these ETags; *: if it is."
)
_IF_NONE_MATCH = Parameter(
    "If-None-Match", "header", {"type": "string", "const": "*"}, "Only if there is none yet."
)
_DRY_RUN = Parameter(
    "dry_run",
    "query",
    {"type": "string", "enum": list(DRY_RUN), "default": "0"},
    "1 or true: refuse what would be refused, say what would be done, and do nothing.",
)
_PROCESS_MODEL = Parameter(
    "process_model",
    "query",
    {"type": "string", "enum": [str(each) for each in ProcessModel]},
    "How the listeners share processes from now on; without it, as it is, or as it is set for the "
    "amphora.",
)
_LIMIT = Parameter(
    "limit",
    "query",
    {"type": "integer", "minimum": 1, "maximum": 999_999_999, "default": 100},
    "How many entries at most.",
)

#: The type of a JSON merge patch (RFC 7396) of an object: any of its fields, or null.
MERGE_PATCH = "application/merge-patch+json"
PEM = "application/x-pem-file"

_BALANCER = "/2.0/loadbalancers/<lb_id>"
_CERTIFICATE = f"{_BALANCER}/certificates/<name>"
_POOL = f"{_BALANCER}/pools/<pool_id>"
_CHANGED = (400, 404, 409, 412, 413, 500)

OPERATIONS = (
    Operation("GET", "/2.0", "root", "What there is.", {200: dict[str, Any]}),
    Operation(
        "GET", "/2.0/openapi.json", "openapi", "This document.", {200: dict[str, Any]}
    ),
    Operation(
        "GET", "/2.0/loadbalancers", "listLoadBalancers", "All load balancers that were put.",
        {200: Summaries},
    ),
    Operation(
        "PUT", _BALANCER, "putLoadBalancer",
        "Make a load balancer what the body says, with the least disturbance. What is so already "
        "is not touched. The keys of certificates that the amphora has need not come again.",
        {200: Result, 201: Result}, LoadBalancer,
        (_IF_MATCH, _IF_NONE_MATCH, _DRY_RUN, _PROCESS_MODEL), (400, 409, 412, 413, 500), True,
    ),
    Operation(
        "GET", _BALANCER, "getLoadBalancer", "A load balancer as it was put, without private keys.",
        {200: LoadBalancer}, refuses=(400, 404), etag=True,
    ),
    Operation(
        "DELETE", _BALANCER, "deleteLoadBalancer",
        "Stop a load balancer and remove it, with its certificates and its history.",
        {200: Result, 204: None}, parameters=(_IF_MATCH, _DRY_RUN), refuses=(400, 404, 412, 500),
    ),
    Operation(
        "GET", f"{_BALANCER}/status", "getStatus",
        "How a load balancer and all its parts are, and why.",
        {200: LoadBalancerStatus}, refuses=(400, 404),
    ),
    Operation(
        "PATCH", _POOL, "patchPool", "Change a pool.",
        {200: Result}, (MERGE_PATCH, Pool), (_IF_MATCH, _DRY_RUN), _CHANGED, True,
    ),
    Operation(
        "PATCH", f"{_POOL}/members/<member_id>", "patchMember", "Change a member of a pool.",
        {200: Result}, (MERGE_PATCH, Member), (_IF_MATCH, _DRY_RUN), _CHANGED, True,
    ),
    Operation(
        "GET", f"{_BALANCER}/certificates", "listCertificates",
        "The certificates that a load balancer can refer to.",
        {200: CertificateList}, refuses=(400,),
    ),
    Operation(
        "PUT", _CERTIFICATE, "putCertificate",
        "Store a certificate with its key and chain, certificates of authorities, or revocation "
        "lists, for load balancers whose references end in this name.",
        {200: About, 201: About}, (PEM, None), (_DRY_RUN,), refuses=(400, 413, 500),
    ),
    Operation(
        "GET", _CERTIFICATE, "getCertificate", "What a certificate says; never its key.",
        {200: About}, refuses=(400, 404),
    ),
    Operation(
        "DELETE", _CERTIFICATE, "deleteCertificate", "Forget a certificate.",
        {200: About, 204: None}, parameters=(_DRY_RUN,), refuses=(400, 404, 500),
    ),
    Operation(
        "GET", "/2.0/instances", "listInstances", "All haproxies that are to run.",
        {200: InstanceList},
    ),
    Operation(
        "GET", "/2.0/instances/<instance_id>", "getInstance", "One of them, with its processes.",
        {200: InstanceDetails}, refuses=(400, 404),
    ),
    Operation(
        "GET", "/2.0/instances/<instance_id>/changes", "listChanges",
        "What was changed, when, by whom and how it went; the newest first.",
        {200: Changes}, parameters=(_LIMIT,), refuses=(400, 404),
    ),
)  # fmt: skip


def query_names(method: str, rule: str) -> frozenset[str]:
    """The names that the query of an operation may have."""
    asked = "GET" if method == "HEAD" else method
    return frozenset(
        parameter.name
        for operation in OPERATIONS
        if (operation.method, operation.rule) == (asked, rule)
        for parameter in operation.parameters
        if parameter.place == "query"
    )
