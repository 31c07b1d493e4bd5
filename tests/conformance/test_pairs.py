"""Two amphorae for one load balancer: what can be seen of it from one of them."""

from controller import loadbalancers
from controller.amphora import VIP, WEB1, WEB2, Amphora
from octavia.common import constants

from lab.backend import Backend
from lab.http import get
from lab.network import Namespace


def test_haproxy_answers_to_the_name_that_its_peers_know(
    amphora: Amphora, client: Namespace, webs: dict[str, Backend]
) -> None:
    """Stick tables are shared only by a haproxy that finds its own name among the peers: it then
    listens for the others."""
    balancer = amphora.serve()
    balancer.topology = constants.TOPOLOGY_ACTIVE_STANDBY
    other = loadbalancers.amphora(loadbalancers.new_id())
    other.vrrp_ip, other.load_balancer = "10.1.0.3", balancer
    balancer.amphorae.append(other)
    listener = loadbalancers.listener(balancer, "HTTP", 80)
    pool = loadbalancers.pool(listener, "HTTP", [(WEB1, 80), (WEB2, 80)])
    loadbalancers.persistence(pool, "SOURCE_IP")

    amphora.worker.update_one(balancer, amphora.model)

    served = {get(client, VIP, 80).json()["name"] for _ in range(4)}
    assert len(served) == 1
    client.connect(amphora.model.vrrp_ip, constants.HAPROXY_BASE_PEER_PORT).close()
