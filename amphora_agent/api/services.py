"""What the routes call."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amphora_agent.certificate import AgentCertificate
from amphora_agent.controller import ControllerApi
from amphora_agent.haproxy.instance import Instances
from amphora_agent.haproxy.inventory import Inventory
from amphora_agent.host import Host
from amphora_agent.keepalived.lvs import LvsListeners
from amphora_agent.keepalived.vrrp import Vrrp
from amphora_agent.metrics.agent import AgentMetrics
from amphora_agent.network.plug import Network
from amphora_agent.settings import SettingsFile

if TYPE_CHECKING:
    from amphora_agent.declarative.service import Declared


@dataclass(frozen=True)
class Services:
    """`declared` gives the service of the declared load balancers, made when it is first used."""

    settings: SettingsFile
    instances: Instances
    inventory: Inventory
    lvs: LvsListeners
    network: Network
    vrrp: Vrrp
    host: Host
    certificate: AgentCertificate
    metrics: AgentMetrics
    controller: ControllerApi
    declared: "Callable[[], Declared]"
