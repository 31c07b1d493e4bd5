"""The body of `PUT /1.0/interface/{ip}/rules`: what may come in by a guarded interface.

The field names are the controller's.
"""

from typing import Annotated, Literal, TypeAlias

import msgspec

from amphora_agent.model.addressing import Network

Protocol = Literal["TCP", "UDP", "SCTP", "VRRP"]

_MOST_RULES = 10_000


class InterfaceRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Lets in what comes from `cidr`, None being anywhere. VRRP has no ports: `port` says
    nothing then."""

    protocol: Protocol
    cidr: Network | None
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]


#: One rule for each port of a listener and each network that may reach it.
InterfaceRules: TypeAlias = Annotated[
    tuple[InterfaceRule, ...], msgspec.Meta(max_length=_MOST_RULES)
]
