"""Certificates on their way to a load balancer: what is given, and what is known of it."""

import enum
import sys
from collections.abc import Sequence

import msgspec

from amphora_agent.errors import OperationFailed
from amphora_agent.processes.command import run

#: Run as a program: see there.
_CHECK = "amphora_agent.declarative.certificate_check"
#: Seconds: a quarter of one to load the libraries, and a millisecond a certificate.
_PATIENCE = 45.0
#: Characters that the answer may have: all that was given, and what is said of it.
_MOST_OUTPUT = 64 << 20


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


def check(given: Sequence[Given]) -> list[Checked]:
    """What there is to say of each, in order.

    Raises:
        OperationFailed: the check itself failed.
    """
    if not given:
        return []
    done = run(
        (sys.executable, "-m", _CHECK),
        timeout=_PATIENCE,
        input=msgspec.json.encode(given),
        most_output=_MOST_OUTPUT,
    )
    if not done.succeeded:
        # What it says could have a key in it.
        last = done.output.strip().splitlines()[-1:] or ["no words"]
        raise OperationFailed("Cannot check certificates", last[0][:200])
    return msgspec.json.decode(done.output, type=list[Checked])
