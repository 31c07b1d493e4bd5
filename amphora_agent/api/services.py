"""The services that routes call, and the caller of the present request."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from flask import current_app, request
from werkzeug.local import LocalProxy

from amphora_agent.agent.host import Host
from amphora_agent.agent.reconfiguration import NOBODY, Peer, Reconfiguration
from amphora_agent.agent.settings_file import ControllerApi, SettingsFile
from amphora_agent.agent.trust import AgentAuthorities, AgentCertificate
from amphora_agent.errors import Conflict
from amphora_agent.events.journal import Journal
from amphora_agent.haproxy.certificate_expiry import ExpiryWatch
from amphora_agent.haproxy.service import Instances
from amphora_agent.haproxy.status import Inventory
from amphora_agent.keepalived.lvs.service import LvsListeners
from amphora_agent.keepalived.vrrp.service import Vrrp
from amphora_agent.metrics.agent import AgentMetrics
from amphora_agent.model.events import Caller
from amphora_agent.network.service import Network

#: The caller's name in the environment of a request, which the worker sets.
KEY = "amphora_agent.caller"
#: The same for the function that returns the client's end of the connection.
PEER = "amphora_agent.peer"


def caller() -> Caller:
    """Return the client, by the certificate that its connection proved."""
    who: Caller = request.environ[KEY]
    return who


def peer() -> Peer:
    """Return the client's end of the request's connection."""
    give: Callable[[], Peer] = request.environ.get(PEER, lambda: NOBODY)
    return give()


if TYPE_CHECKING:
    from amphora_agent.loadbalancer.service import Declared

Made = TypeVar("Made")


class MadeOnce(Generic[Made]):
    """A value that the first call makes; concurrent first calls get the same one.

    `lock` is held while `make` runs. What `make` raises is raised, and the next call tries again.
    """

    def __init__(
        self, make: Callable[[], Made], lock: AbstractContextManager[object] | None = None
    ) -> None:
        self._make = make
        self._lock = lock or threading.Lock()
        self._made: list[Made] = []

    def __call__(self) -> Made:
        if not self._made:
            with self._lock:
                if not self._made:
                    self._made.append(self._make())
        return self._made[0]


@dataclass(frozen=True)
class Services:
    """All services. `declared` returns that of API 2.0, which its first use makes. `refusal` is why
    nothing of the state on disk may be changed."""

    settings: SettingsFile
    reconfiguration: Reconfiguration
    instances: Instances
    journal: Journal
    inventory: Inventory
    lvs: LvsListeners
    network: Network
    vrrp: Vrrp
    host: Host
    certificate: AgentCertificate
    authorities: AgentAuthorities
    expiry: ExpiryWatch
    metrics: AgentMetrics
    controller: ControllerApi
    declared: "Callable[[], Declared]"
    refusal: Conflict | None = None


#: The name of its services among the extensions of an application.
EXTENSION = "amphora_agent"

#: The services of the application that the present request is for.
services = cast(Services, LocalProxy(lambda: current_app.extensions[EXTENSION]))
