"""Changes of instances, as they are written down: who, what, how it went."""

import enum

import msgspec


class Caller(msgspec.Struct, frozen=True):
    """Who asks for a change: the common name of a client's certificate, with its serial number in
    hexadecimal digits; or somebody without one."""

    name: str
    serial: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.serial})" if self.serial else self.name


#: The agent for itself, asked by nobody.
AGENT = Caller("agent")


def operator(uid: int) -> Caller:
    """Who runs a command on the amphora."""
    return Caller(f"operator (uid {uid})")


class Operation(enum.Enum):
    UPLOAD = "upload"
    RELOAD = "reload"
    START = "start"
    STOP = "stop"
    DELETE = "delete"
    CERTIFICATE_PUT = "certificate put"
    CERTIFICATE_DELETE = "certificate delete"
    ROLLBACK = "rollback"
    PUT = "put"
    PATCH = "patch"


class Result(enum.Enum):
    DONE = "done"
    #: Done, by a reload: what was to be changed while it runs could not be.
    FELL_BACK = "fell back to a reload"
    #: It was not tried: what was asked for is wrong, or does not fit what is there.
    REFUSED = "refused"
    #: It was tried in vain: what was there before is there again.
    FAILED = "failed"


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of an instance's journal.

    `at` is when it was over, in UTC by RFC 3339. `words` say what changed, `plan` how it was to
    be carried out ("nothing", "runtime", "reload", "start"; empty when there was nothing to plan)
    and `reasons` why so. `because` says why the result is another than "done". `generation` is
    the one that the instance runs since, where one came up.
    """

    at: str
    who: Caller
    operation: Operation
    result: Result
    milliseconds: float
    words: tuple[str, ...] = ()
    plan: str = ""
    reasons: tuple[str, ...] = ()
    because: str = ""
    generation: int | None = None


class Changes(msgspec.Struct, frozen=True):
    """Newest first."""

    changes: tuple[Entry, ...]
