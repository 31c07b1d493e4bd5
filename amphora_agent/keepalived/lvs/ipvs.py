"""Read the services of IPVS in a network namespace, by generic netlink (linux/ip_vs.h)."""

import errno
import functools
import socket
from collections.abc import Callable
from typing import Any

from amphora_agent.keepalived.config.lvs import Endpoint
from amphora_agent.keepalived.lvs.status import Destination, Service
from amphora_agent.kernel.generic import ctrlmsg, ipvsmsg
from amphora_agent.kernel.netlink_socket import Conversation, Request
from amphora_agent.model.status import Counters
from amphora_agent.namespace import Namespace

_NETLINK_GENERIC = 16
_CONTROLLER, _GET_FAMILY = 16, 3  # GENL_ID_CTRL, CTRL_CMD_GETFAMILY
_GET_SERVICE, _GET_DESTINATION = 4, 8
_PROTOCOLS = {17: "UDP", 132: "SCTP"}
_FAMILIES = frozenset({socket.AF_INET, socket.AF_INET6})


def reader(namespace: Namespace) -> Callable[[], list[Service]]:
    """Reads the `services` of a namespace."""
    return functools.partial(namespace.run, services)


def services() -> list[Service]:
    """All of UDP and SCTP that IPVS has in this thread's namespace; none when it is not loaded.

    Raises:
        OSError: the kernel refuses, or does not answer.
    """
    with Conversation(_NETLINK_GENERIC) as conversation:
        try:
            [answer] = conversation.get(family_request())
        except FileNotFoundError:
            return []
        family = answer.get_attr("CTRL_ATTR_FAMILY_ID")
        found = []
        for message in conversation.dump(services_request(family)):
            service = message.get_attr("IPVS_CMD_ATTR_SERVICE")
            if is_ours(service):
                try:
                    destinations = conversation.dump(destinations_request(family, service))
                except OSError as error:
                    if error.errno != errno.ESRCH:  # keepalived has taken it out just now
                        raise
                    continue
                found.append(service_of(service, destinations))
        return found


# Requests, and answers as our values


def family_request() -> Request:
    """For the number by which messages to IPVS go."""
    attributes = (("CTRL_ATTR_FAMILY_NAME", "IPVS"),)
    return Request(_CONTROLLER, ctrlmsg, {"cmd": _GET_FAMILY, "version": 1}, attributes)


def services_request(family: int) -> Request:
    return Request(family, ipvsmsg, {"cmd": _GET_SERVICE, "version": 1})


def destinations_request(family: int, service: Any) -> Request:
    """For those of a service that a message of the services' dump has told of."""
    names = ("AF", "PROTOCOL", "ADDR", "PORT")
    which = [(name, service.get_attr(name)) for name in (f"IPVS_SVC_ATTR_{each}" for each in names)]
    attributes = (("IPVS_CMD_ATTR_SERVICE", {"attrs": which}),)
    return Request(family, ipvsmsg, {"cmd": _GET_DESTINATION, "version": 1}, attributes)


def is_ours(service: Any) -> bool:
    """Whether it has an address and a protocol of ours; it may have a firewall's mark instead."""
    return (
        service.get_attr("IPVS_SVC_ATTR_PROTOCOL") in _PROTOCOLS
        and service.get_attr("IPVS_SVC_ATTR_AF") in _FAMILIES
        and service.get_attr("IPVS_SVC_ATTR_ADDR") is not None
    )


def service_of(service: Any, destinations: list[Any]) -> Service:
    """A service, of the messages of the dumps."""
    # Kernels before 4.1 have only the first, of 32 bits.
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
            _destination(message.get_attr("IPVS_CMD_ATTR_DEST")) for message in destinations
        ),
    )


def _destination(destination: Any) -> Destination:
    return Destination(
        Endpoint(
            destination.get_attr("IPVS_DEST_ATTR_ADDR"),
            destination.get_attr("IPVS_DEST_ATTR_PORT"),
        ),
        weight=destination.get_attr("IPVS_DEST_ATTR_WEIGHT"),
        active=destination.get_attr("IPVS_DEST_ATTR_ACTIVE_CONNS"),
        inactive=destination.get_attr("IPVS_DEST_ATTR_INACT_CONNS"),
    )
