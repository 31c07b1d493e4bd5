"""Answers of API 2.0 about load balancers: what was done, what there is, and what is wrong."""

import enum
from typing import Annotated

import msgspec


class Purpose(enum.Enum):
    CERTIFICATE = "certificate"
    AUTHORITIES = "authorities"
    REVOCATIONS = "revocations"


class Given(msgspec.Struct, frozen=True):
    """A PEM as it came. Without a purpose, what is in it decides."""

    name: str
    pem: str
    purpose: Purpose | None = None


class About(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What may be told of a file: of the first certificate in it, which counts, or the first
    revocation list. Times are UTC by RFC 3339, the fingerprint is the SHA-256 of its content."""

    purpose: Purpose
    subject: str
    issuer: str = ""
    names: tuple[str, ...] = ()
    not_before: str
    not_after: str
    fingerprint: str
    chain: tuple[str, ...] = ()


class CertificateList(msgspec.Struct, frozen=True):
    """By name."""

    certificates: dict[str, About]


class Checked(msgspec.Struct, frozen=True):
    """`problem` is why it cannot serve; else `pem` is the file in order: the certificate, its key,
    and each certificate that issued the one before."""

    name: str
    problem: str = ""
    pem: str = ""
    about: About | None = None


class ProcessModel(enum.StrEnum):
    """How listeners share processes: one haproxy for the load balancer, or one for each."""

    LISTENER = "listener"
    LOADBALANCER = "loadbalancer"


class ProcessPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a process takes, or has taken: `step` is "nothing", "runtime" (commands to the running
    haproxy), "reload", "start", "stop" or "replace" (a second haproxy starts beside that of an
    uploaded text, which ends by and by); `reasons` say why it is no lesser one, `words` what
    differs. `fell_back` says why a reload took the place of commands."""

    id: str
    step: str
    reasons: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    fell_back: str | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a change has done, or would do. `step` is the greatest of the processes'; a UDP or
    SCTP listener is a process, too."""

    loadbalancer_id: str
    etag: str
    process_model: ProcessModel
    created: bool
    dry_run: bool
    step: str
    processes: tuple[ProcessPlan, ...]
    generation: int | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A load balancer in a list."""

    loadbalancer_id: str
    etag: str
    process_model: ProcessModel
    generation: int
    listeners: int
    pools: int


class Summaries(msgspec.Struct, frozen=True):
    loadbalancers: tuple[Summary, ...]


class OperatingStatus(enum.StrEnum):
    """Octavia's constants."""

    DEGRADED = "DEGRADED"
    DRAINING = "DRAINING"
    ERROR = "ERROR"
    NO_MONITOR = "NO_MONITOR"
    OFFLINE = "OFFLINE"
    ONLINE = "ONLINE"


class MemberStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`reason` says why: what the last health check has found, in haproxy's words."""

    member_id: str
    operating_status: OperatingStatus
    reason: str = ""


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    pool_id: str
    operating_status: OperatingStatus
    reason: str = ""
    members: tuple[MemberStatus, ...] = ()


class ListenerStatus(msgspec.Struct, frozen=True, kw_only=True):
    listener_id: str
    operating_status: OperatingStatus
    reason: str = ""
    connections: int = 0


class LoadBalancerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a load balancer is: as bad as the worst of it that is meant to work."""

    loadbalancer_id: str
    operating_status: OperatingStatus
    reason: str = ""
    listeners: tuple[ListenerStatus, ...] = ()
    pools: tuple[PoolStatus, ...] = ()


class WrongPlace(msgspec.Struct, frozen=True):
    """A place in a request, and what is wrong there."""

    path: Annotated[str, msgspec.Meta(examples=["listeners[2].l7policies[0].rules[1].value"])]
    message: str


class ProblemDetails(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request was refused (RFC 9457). `errors` has everything that is wrong with it."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[WrongPlace, ...] = ()
