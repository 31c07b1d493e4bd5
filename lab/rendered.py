"""All files of one haproxy process, as the agent makes them one by one."""

from collections.abc import Iterator, Mapping

from amphora_agent.loadbalancer.render import Places, render_process
from amphora_agent.loadbalancer.translate import to_haproxy, to_lvs
from amphora_agent.loadbalancer.translate.to_haproxy import Process
from amphora_agent.loadbalancer.translate.to_lvs import VirtualServer
from amphora_agent.model.loadbalancer import LoadBalancer
from amphora_agent.model.resolved import resolve


def translate_whole(balancer: LoadBalancer) -> Process:
    """Return the one process of a load balancer whose listeners share it."""
    resolved = resolve(balancer)
    return to_haproxy.translate_process(resolved.id, resolved.vips, resolved.haproxy_listeners)


def translate_each(balancer: LoadBalancer) -> Iterator[Process]:
    """Yield the processes of a load balancer whose listeners have one each."""
    resolved = resolve(balancer)
    for listener in resolved.haproxy_listeners:
        yield to_haproxy.translate_process(listener.listener_id, resolved.vips, (listener,))


def translate_layer4(balancer: LoadBalancer) -> Iterator[VirtualServer]:
    """Yield the UDP and SCTP listeners of a load balancer in keepalived's terms."""
    resolved = resolve(balancer)
    return (to_lvs.translate_virtual_server(resolved, each) for each in resolved.lvs_listeners)


def render(process: Process, places: Places) -> Mapping[str, str]:
    """Return the files of the configuration directory by name."""
    return {name: text.made() for name, text in render_process(process, places)}
