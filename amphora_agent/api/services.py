"""What the routes call."""

from dataclasses import dataclass

from amphora_agent.certificate import AgentCertificate
from amphora_agent.haproxy.instance import Instances
from amphora_agent.host import Host
from amphora_agent.network.plug import Network
from amphora_agent.settings import SettingsFile


@dataclass(frozen=True)
class Services:
    settings: SettingsFile
    instances: Instances
    network: Network
    host: Host
    certificate: AgentCertificate
