"""Read the services of IPVS in a network namespace, by generic netlink (linux/ip_vs.h)."""

import errno
import functools
import socket
from collections.abc import Callable
from typing import Any

from amphora_agent.keepalived.config.lvs import Endpoint
from amphora_agent.keepalived.lvs.poller import Destination, Service
from amphora_agent.kernel.messages import import_generic_messages
from amphora_agent.kernel.netlink_socket import NetlinkRequest, NetlinkSocket
from amphora_agent.model.status import Counters
from amphora_agent.namespace import Namespace

_NETLINK_GENERIC = 16
_CONTROLLER, _GET_FAMILY = 16, 3  # GENL_ID_CTRL, CTRL_CMD_GETFAMILY
_GET_SERVICE, _GET_DESTINATION = 4, 8
_PROTOCOLS = {17: "UDP", 132: "SCTP"}
ctrlmsg, ipvsmsg = import_generic_messages()

_FAMILIES = frozenset({socket.AF_INET, socket.AF_INET6})


def reader(namespace: Namespace) -> Callable[[], list[Service]]:
    """Return a function that reads the services of a namespace."""
    return functools.partial(namespace.run, read_services)


def read_services() -> list[Service]:
    """Return the services of UDP and SCTP in this thread's namespace; none if IPVS is not loaded.

    Raises:
        OSError: the kernel refuses, or does not answer.
    """
    with NetlinkSocket(_NETLINK_GENERIC) as netlink:
        try:
            [answer] = netlink.get(_family_request())
        except FileNotFoundError:
            return []
        family = answer.get_attr("CTRL_ATTR_FAMILY_ID")
        services = []
        for message in netlink.dump(_services_request(family)):
            service = message.get_attr("IPVS_CMD_ATTR_SERVICE")
            if _is_supported(service):
                try:
                    destinations = netlink.dump(_destinations_request(family, service))
                except OSError as error:
                    if error.errno != errno.ESRCH:  # keepalived has just removed it
                        raise
                    continue
                services.append(_parse_service(service, destinations))
        return services


# Requests, and answers as values


def _family_request() -> NetlinkRequest:
    """Return the request for the message type of IPVS."""
    attributes = (("CTRL_ATTR_FAMILY_NAME", "IPVS"),)
    return NetlinkRequest(_CONTROLLER, ctrlmsg, {"cmd": _GET_FAMILY, "version": 1}, attributes)


def _services_request(family: int) -> NetlinkRequest:
    return NetlinkRequest(family, ipvsmsg, {"cmd": _GET_SERVICE, "version": 1})


def _destinations_request(family: int, service: Any) -> NetlinkRequest:
    """Return the request for the destinations of a service of the dump."""
    names = ("AF", "PROTOCOL", "ADDR", "PORT")
    key = [(name, service.get_attr(name)) for name in (f"IPVS_SVC_ATTR_{name}" for name in names)]
    attributes = (("IPVS_CMD_ATTR_SERVICE", {"attrs": key}),)
    return NetlinkRequest(family, ipvsmsg, {"cmd": _GET_DESTINATION, "version": 1}, attributes)


def _is_supported(service: Any) -> bool:
    """Return whether a service is UDP or SCTP at an address; others have a firewall's mark."""
    return (
        service.get_attr("IPVS_SVC_ATTR_PROTOCOL") in _PROTOCOLS
        and service.get_attr("IPVS_SVC_ATTR_AF") in _FAMILIES
        and service.get_attr("IPVS_SVC_ATTR_ADDR") is not None
    )


def _parse_service(service: Any, destinations: list[Any]) -> Service:
    # Kernels before 4.1 have only counters of 32 bits.
    stats = service.get_attr("IPVS_SVC_ATTR_STATS64") or service.get_attr("IPVS_SVC_ATTR_STATS")
    return Service(
        protocol=_PROTOCOLS[service.get_attr("IPVS_SVC_ATTR_PROTOCOL")],
        endpoint=Endpoint(
            service.get_attr("IPVS_SVC_ATTR_ADDR"), service.get_attr("IPVS_SVC_ATTR_PORT")
        ),
        counters=Counters(
            tx=stats.get_attr("IPVS_STATS_ATTR_OUTBYTES"),
            rx=stats.get_attr("IPVS_STATS_ATTR_INBYTES"),
            totconns=stats.get_attr("IPVS_STATS_ATTR_CONNS"),
            ereq=0,
        ),
        destinations=tuple(
            _parse_destination(message.get_attr("IPVS_CMD_ATTR_DEST")) for message in destinations
        ),
    )


def _parse_destination(destination: Any) -> Destination:
    return Destination(
        Endpoint(
            destination.get_attr("IPVS_DEST_ATTR_ADDR"),
            destination.get_attr("IPVS_DEST_ATTR_PORT"),
        ),
        weight=destination.get_attr("IPVS_DEST_ATTR_WEIGHT"),
        active=destination.get_attr("IPVS_DEST_ATTR_ACTIVE_CONNS"),
        inactive=destination.get_attr("IPVS_DEST_ATTR_INACT_CONNS"),
    )
