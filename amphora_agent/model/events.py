"""Changes of the amphora as the record has them (who did what, and how it went), and alarms."""

import enum
import logging
from collections.abc import Iterable, Mapping, Sequence

import msgspec


class Caller(msgspec.Struct, frozen=True):
    """Who asks for a change: the common name of a client's certificate, with its serial number in
    hexadecimal digits and the client's IP address; or somebody without these."""

    name: str
    serial: str = ""
    address: str = ""

    def __str__(self) -> str:
        certificate = f" ({self.serial})" if self.serial else ""
        return f"{self.name}{certificate}" + (f" at {self.address}" if self.address else "")


#: The agent for itself, asked by nobody.
AGENT = Caller("agent")


def operator(uid: int, login: str = "") -> Caller:
    """Return who runs a command on the amphora: the user id of the login, and its name if any."""
    return Caller(f"operator {login} (uid {uid})" if login else f"operator (uid {uid})")


class Part(enum.Enum):
    """What kind of thing `Entry.subject` names."""

    #: A load balancer or a listener that has processes of its own, by its id.
    INSTANCE = "instance"
    #: An interface of the amphora, by its name or one of its addresses.
    INTERFACE = "interface"
    #: keepalived of ACTIVE_STANDBY.
    VRRP = "vrrp"
    #: The agent's own configuration and certificate.
    AGENT = "agent"
    #: A process that is kept alive, by its name for the supervisor.
    PROCESS = "process"


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
    PLUG_VIP = "plug vip"
    PLUG_NETWORK = "plug network"
    INTERFACE_UP = "interface up"
    INTERFACE_DOWN = "interface down"
    INTERFACE_RULES = "interface rules"
    CONFIGURATION = "configuration"
    AGENT_CERTIFICATE = "agent certificate"
    #: A process ended that should run.
    DEATH = "death"
    #: A worker that a reload had replaced hung, and was killed.
    HUNG_WORKER = "hung worker"
    #: haproxy's program is not there any more, or is there again.
    PROGRAM = "program"
    #: The amphora took or lost the VIPs of an ACTIVE_STANDBY pair.
    MASTERSHIP = "mastership"


class EntryResult(enum.Enum):
    DONE = "done"
    #: Done, by a reload: what was to be changed while it runs could not be.
    FELL_BACK = "fell back to a reload"
    #: It was not tried: what was asked for is wrong, or does not fit what is there.
    REFUSED = "refused"
    #: It was tried in vain: what was there before is there again.
    FAILED = "failed"
    #: Nobody asked for it.
    HAPPENED = "happened"


class Difference(msgspec.Struct, frozen=True, omit_defaults=True):
    """A value that changed. None stands for no value; of a secret, `SECRET` stands for any. `line`
    is that of the new value in its file, 0 where there is none."""

    name: str
    old: str | None
    new: str | None
    line: int = 0

    def __str__(self) -> str:
        shown = ("none" if value is None else value for value in (self.old, self.new))
        where = f", line {self.line}" if self.line else ""
        return f"{self.name}: {' -> '.join(shown)}{where}"


def compare(old: Mapping[str, str], new: Mapping[str, str]) -> list[Difference]:
    """Return the values by name that differ."""
    names = dict.fromkeys((*old, *new))
    return [
        Difference(name, old.get(name), new.get(name))
        for name in names
        if old.get(name) != new.get(name)
    ]


#: What a record says of a secret value.
SECRET = "(secret)"  # noqa: S105  # this is no secret, it stands in the place of one


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of the amphora's record.

    `id` rises by one from entry to entry, also over restarts; 0 is an entry of an agent that had no
    ids. `part` and `subject` say what it is about. `at` is when it was over, in UTC by RFC 3339.
    `words` say what changed, `differences` the values that did, old and new; `plan` how it was to
    be carried out ("nothing", "runtime", "reload", "start"; empty when there was nothing to plan)
    and `reasons` why so. `because` says why the result is another than "done". `generation` is
    the one that the instance runs since, where one came up.
    """

    id: int = 0
    at: str
    who: Caller
    part: Part = Part.INSTANCE
    subject: str = ""
    operation: Operation
    result: EntryResult
    milliseconds: float
    words: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()
    plan: str = ""
    reasons: tuple[str, ...] = ()
    because: str = ""
    generation: int | None = None


class Changes(msgspec.Struct, frozen=True):
    """Newest first."""

    changes: tuple[Entry, ...]


_TITLES = ("id", "when", "who", "subject", "what", "plan", "result", "ms", "gen")
#: Columns that hold numbers, which stand at the right.
_NUMBERS = frozenset({"id", "ms", "gen"})
_FORMATS = ["{:>{}}" if title in _NUMBERS else "{:<{}}" for title in _TITLES]


def table(entries: Sequence[Entry]) -> list[str]:
    """Return lines: one row for each entry, the words and the reasons below it."""
    rows = [_TITLES, *(_format_row(entry) for entry in entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row, entry in zip(rows, (None, *entries), strict=True):
        cells = map(str.format, _FORMATS, row, widths)
        lines.append("  ".join(cells).rstrip())
        if entry is not None:
            lines += _format_details(entry)
    return lines


def _format_row(entry: Entry) -> tuple[str, ...]:
    return (
        str(entry.id) if entry.id else "-",
        entry.at,
        str(entry.who),
        f"{entry.part.value} {entry.subject}".strip(),
        entry.operation.value,
        entry.plan or "-",
        entry.result.value,
        f"{entry.milliseconds:.1f}",
        "-" if entry.generation is None else str(entry.generation),
    )


def _format_details(entry: Entry) -> Iterable[str]:
    yield from (f"    {words}" for words in entry.words)
    yield from (f"    {difference}" for difference in entry.differences)
    yield from (f"    {entry.plan}, for: {reason}" for reason in entry.reasons)
    if entry.because:
        for number, line in enumerate(entry.because.splitlines()):
            yield f"    {'because: ' if number == 0 else '         '}{line}"


class AlarmKind(enum.StrEnum):
    """What is wrong. The value is the label of the metric `amphora_agent_alarm`."""

    #: The agent's certificate would not be accepted by the controller.
    AGENT_CERTIFICATE = "agent-certificate"
    #: The agent's certificate, or what it trusts, cannot be used or would not be accepted.
    AGENT_TLS = "agent-tls"
    #: A client's certificate does not say what it is for.
    CLIENT_CERTIFICATE = "client-certificate"
    #: The agent's configuration cannot be used; the one before it is.
    CONFIGURATION = "configuration"
    #: What heartbeats have told of counters cannot be written down.
    COUNTERS_NOT_SAVED = "counters-not-saved"
    #: A certificate, a CA or a revocation list expires soon, or has expired.
    EXPIRY = "expiry"
    #: A haproxy has fewer descriptors than the connections that it is configured for need.
    FEWER_CONNECTIONS = "fewer-connections"
    #: A file that haproxy loads was changed by hand.
    FILE_EDITED = "file-edited"
    #: A configuration of keepalived on disk has something that is not allowed.
    KEEPALIVED_TEXT_REFUSED = "keepalived-text-refused"
    #: haproxy is there and its master does not answer.
    MASTER_SILENT = "master-silent"
    #: The embedded supervisor cannot write or remove a file of a process.
    PROCESS_FILE_REFUSED = "process-file-refused"
    #: haproxy's program is not there, or cannot be run.
    PROGRAM_MISSING = "program-missing"
    #: The record of what happened cannot be written.
    RECORD_UNWRITTEN = "record-unwritten"
    #: The controllers' revocation list cannot be used.
    REVOCATION_LIST = "revocation-list"
    #: The kernel lacks or refuses a setting of the traffic's namespace.
    SETTING = "setting"
    #: haproxy is there and its worker does not answer.
    SILENT = "silent"
    #: No heartbeat can tell of so many listeners.
    TOO_MANY_LISTENERS = "too-many-listeners"
    #: A newer agent has left state whose format this one does not know.
    UNKNOWN_FORMAT = "unknown-format"
    #: What was committed does not load: the last good files run instead.
    WENT_BACK = "went-back"


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """A condition that lasts.

    `subject` is what it is about: the id of a load balancer or listener, a path, or "agent".
    `level` is `ERROR` or `WARNING`, `since` the first second (UTC, since 1970) of the condition.
    """

    kind: str
    subject: str
    text: str
    level: str = logging.getLevelName(logging.ERROR)
    since: float
