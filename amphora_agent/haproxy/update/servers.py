"""Compare the servers of a running backend with the wanted ones, and plan the commands.

A server that is new, or back from maintenance, or has another address, gets no request before its
first passed check. haproxy takes a server for healthy until it has failed. So the server has no
weight until haproxy has been told that it is "stopping". In this state haproxy does not choose it,
and the first check that passes brings it up. Between any two commands haproxy may go on for any
time.

But a client that a cookie or a table leads to a server in state "stopping" still gets there. In
such backends the server is "down" instead, and as many checks must pass as after any failure.
"""

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

from amphora_agent.haproxy.config import server_line
from amphora_agent.haproxy.config.parser import Directive, Section
from amphora_agent.haproxy.config.server_line import Doubtful, ServerLine
from amphora_agent.haproxy.replies import Capabilities
from amphora_agent.haproxy.update import transaction
from amphora_agent.haproxy.update.transaction import (
    Command,
    Finding,
    RuntimeChange,
    require_reload,
    server_command,
    shorten_list,
    show_name,
)

#: Algorithms that look at the current servers only, in whatever order.
_UNORDERED = ("roundrobin", "leastconn", "random")
#: Algorithms that use a hash. The map of servers is fixed unless the hash is consistent.
_HASHING = ("source", "uri", "url_param", "hdr", "rdp-cookie", "hash")

#: What haproxy reads of a server only when it starts.
_FIXED = attrgetter("check", "cookie", "options")
#: What a version before 2.8 must be told for a server to reuse connections.
_POOLED = "pool-purge-delay 5s pool-max-conn -1"

_REGISTERED = (r"New server registered\.",)
_DELETED = (r"Server deleted\.",)
_MOVED = (r"(?:IP|port) changed from .*|no need to change .*|nothing changed",)
_ANYTHING = (r"(?s:.*)",)


class _Backend(NamedTuple):
    """A backend, and which settings of it, or in effect for it, decide what can change."""

    name: str
    words: str
    unordered: bool
    static: bool
    default_server: bool
    external_check: bool
    sorts_backups: bool
    persistent: bool
    capabilities: Capabilities
    refers_to: Callable[[str], bool]

    def set_server(self, name: str, arguments: str, success: tuple[str, ...] = ("",)) -> Command:
        return server_command("set server", f"{self.name}/{name}", arguments, success)

    def delete_server(self, name: str, success: tuple[str, ...] = _ANYTHING) -> Command:
        """Delete a server that is in maintenance. haproxy refuses while something uses it."""
        return server_command("del server", f"{self.name}/{name}", success=success)

    def parse(self, line: Directive) -> ServerLine:
        if self.default_server:
            raise Doubtful("default-server is in effect")
        return server_line.parse_server(line.words)


class _Step(NamedTuple):
    """What is done for one server. `expected` is the server afterwards, None for a removed one.
    `because` says why it takes a reload."""

    words: str
    name: str
    commands: tuple[Command, ...] = ()
    expected: ServerLine | None = None
    role_changed: bool = False
    because: str = ""


def compare_servers(
    running: Section,
    wanted: Section,
    defaults: Section | None,
    refers_to: Callable[[str], bool],
    capabilities: Capabilities,
) -> list[Finding]:
    """Return what differs in the `server` lines of a backend.

    `defaults` is the section in effect for it. `refers_to` says whether another line of the
    configuration names a server. At most one finding has a change: with all commands, and one
    question that verifies all of them.
    """
    sections = [section for section in (defaults, wanted) if section is not None]
    backend = _describe_backend(sections, refers_to, capabilities)
    before, after = _index_servers(running), _index_servers(wanted)
    if before is None or after is None:
        return [require_reload(f"{backend.words}: members changed", "a member is there twice")]
    findings = [*_compare_order(backend, before, after)]
    parsed = [server for line in before.values() if (server := _try_parse(line))]
    proven = frozenset(option for server in parsed for option in server.unproven)
    steps = [
        _add_server(backend, name, line, proven)
        for name, line in after.items()
        if name not in before
    ]
    for name, line in after.items():
        if name in before and before[name].words != line.words:
            steps += _change_server(backend, name, before[name], line, after)
    steps += [_remove_server(backend, name) for name in before if name not in after]
    for step in steps:
        words = f"{backend.words}: {step.words}"
        reason = f"{words}: {step.because}" if step.because else ""
        findings.append(Finding(words, reason=reason))
    if steps and not any(finding.reason for finding in findings):
        change = _join_steps(backend, steps)
        return [Finding(change.words, change)]
    return findings


def _join_steps(backend: _Backend, steps: Sequence[_Step]) -> RuntimeChange:
    expected = {step.name: step.expected for step in steps}
    proof = [transaction.verify_servers(backend.name, expected)]
    roles = {s.name: s.expected.backup for s in steps if s.expected and s.role_changed}
    if roles:
        proof.append(transaction.verify_roles(backend.name, roles))
    words = "; ".join(shorten_list([step.words for step in steps]))
    commands = tuple(command for step in steps for command in step.commands)
    return RuntimeChange(f"{backend.words}: {words}", commands, tuple(proof))


def _add_server(
    backend: _Backend, name: str, line: Directive, proven: frozenset[tuple[str, str]]
) -> _Step:
    """`proven` are options that the running haproxy has taken for another server."""
    words = f"member {show_name(name)} added"
    try:
        wanted = backend.parse(line)
    except Doubtful as doubt:
        return _Step(words, name, because=str(doubt))
    marks = (", backup" if wanted.backup else "") + (", disabled" if wanted.disabled else "")
    words += f" ({wanted.endpoint}, weight {wanted.weight}{marks})"
    because = _explain_no_addition(backend, wanted)
    if not because and (unproven := wanted.unproven - proven):
        because = f"no member of it has {', '.join(sorted(key for key, _ in unproven))} like this"
    return _Step(words, name, _plan_addition(backend, wanted), wanted, because=because)


def _explain_no_addition(backend: _Backend, wanted: ServerLine) -> str:
    """Return why a server cannot be added while haproxy runs; empty when it can."""
    if not backend.capabilities.add_servers:
        return "this version cannot add members"
    if backend.static:
        return "its algorithm has a fixed set of members"
    if backend.external_check and wanted.check:
        return "it is checked by a program"
    if wanted.cookie and not backend.capabilities.add_cookies:
        return "this version cannot add members with a cookie"
    if backend.sorts_backups and wanted.backup:
        return "the first backup counts"
    return ""


def _plan_addition(backend: _Backend, wanted: ServerLine) -> tuple[Command, ...]:
    path = f"{backend.name}/{wanted.name}"
    arguments = wanted.arguments
    if not backend.capabilities.pools_connections:
        arguments = f"{arguments} {_POOLED}".lstrip()
    commands = []
    if backend.capabilities.delete_servers:
        # A removed server of this name may still exist, because it was in use.
        commands.append(backend.delete_server(wanted.name))
    first_weight = 0 if wanted.check and not wanted.disabled else wanted.weight
    mark = " disabled" if wanted.disabled else ""
    line = f"{wanted.endpoint} weight {first_weight} {arguments}".rstrip() + mark
    commands.append(server_command("add server", path, line, _REGISTERED))
    if wanted.check:
        commands.append(server_command("enable health", path))
    if not wanted.disabled:
        commands.append(server_command("enable server", path))
        if wanted.check:
            # From "stopping" the first check that passes brings a server up; from "down" as many
            # as `rise`. Persistence still leads clients to a server that is "stopping".
            rises_at_once = dict(wanted.options).get("rise") == "1"
            state = "down" if backend.persistent and rises_at_once else "stopping"
            commands.append(backend.set_server(wanted.name, f"health {state}"))
            if wanted.weight:
                commands.append(backend.set_server(wanted.name, f"weight {wanted.weight}"))
    return tuple(commands)


def _remove_server(backend: _Backend, name: str) -> _Step:
    words = f"member {show_name(name)} removed"
    if not server_line.is_name(name):
        return _Step(words, name, because="its name is not plain")
    if backend.refers_to(name):
        return _Step(words, name, because="something else speaks of it")
    commands = [backend.set_server(name, "state maint")]
    if backend.capabilities.delete_servers:
        # While something uses it, it stays in maintenance and gets no new connection.
        commands.append(backend.delete_server(name))
    return _Step(words, name, tuple(commands))


def _change_server(
    backend: _Backend, name: str, before: Directive, after: Directive, lines: dict[str, Directive]
) -> Iterator[_Step]:
    """Yield the step for a server whose line differs; none when both lines mean the same."""
    try:
        running, wanted = backend.parse(before), backend.parse(after)
    except Doubtful as doubt:
        yield _Step(f"member {show_name(name)} changed", name, because=str(doubt))
        return
    if running == wanted:
        return
    words = f"member {show_name(name)}: {', '.join(_describe_differences(running, wanted))}"
    if _FIXED(running) != _FIXED(wanted):
        yield _Step(words, name, because="haproxy reads it only when it starts")
    elif running.backup != wanted.backup:
        because = _explain_no_replacement(backend, wanted, lines)
        yield _Step(words, name, _plan_replacement(backend, wanted), wanted, True, because)
    elif running.weight != wanted.weight and backend.static:
        yield _Step(words, name, because="its algorithm has fixed weights")
    else:
        yield _Step(words, name, _plan_adjustment(backend, running, wanted), wanted)


def _plan_adjustment(
    backend: _Backend, running: ServerLine, wanted: ServerLine
) -> tuple[Command, ...]:
    moved = (running.address, running.port) != (wanted.address, wanted.port)
    # The next check comes after an interval, and no command brings it forward. A server that comes
    # out of maintenance serves until then, and one failure takes it out.
    renewed = moved and wanted.check and not running.disabled and not wanted.disabled
    changes: list[tuple[str, tuple[str, ...]]] = []
    if renewed or (wanted.disabled and not running.disabled):
        changes.append(("state maint", ("",)))
    if moved:
        changes.append((f"addr {wanted.address} port {wanted.port}", _MOVED))
    if running.weight != wanted.weight:
        changes.append((f"weight {wanted.weight}", ("",)))
    if renewed or (running.disabled and not wanted.disabled):
        changes.append(("state ready", ("",)))
    return tuple(backend.set_server(wanted.name, *change) for change in changes)


def _explain_no_replacement(
    backend: _Backend, wanted: ServerLine, lines: dict[str, Directive]
) -> str:
    """Return why a server cannot become a backup, or active, while haproxy runs.

    The server is deleted and added again; meanwhile another usable server must exist.
    """
    if not backend.capabilities.delete_servers:
        return "this version cannot delete members"
    if because := _explain_no_addition(backend, wanted):
        return because
    if backend.sorts_backups:
        return "the first backup counts"
    if backend.refers_to(wanted.name):
        return "something else speaks of it"
    others = (_try_parse(line) for name, line in lines.items() if name != wanted.name)
    if not any(o and o.weight and not o.disabled and not o.backup for o in others):
        return "no other member could serve in the meantime"
    return ""


def _plan_replacement(backend: _Backend, wanted: ServerLine) -> tuple[Command, ...]:
    maintenance = backend.set_server(wanted.name, "state maint")
    _, *addition = _plan_addition(backend, wanted)
    return maintenance, backend.delete_server(wanted.name, _DELETED), *addition


def _describe_differences(running: ServerLine, wanted: ServerLine) -> Iterator[str]:
    if running.endpoint != wanted.endpoint:
        yield f"{running.endpoint} -> {wanted.endpoint}"
    if running.weight != wanted.weight:
        yield f"weight {running.weight} -> {wanted.weight}"
    if running.disabled != wanted.disabled:
        yield "disabled" if wanted.disabled else "enabled"
    if running.backup != wanted.backup:
        yield "becomes a backup" if wanted.backup else "is no backup any more"
    keywords = {keyword for keyword, _ in {*running.options} ^ {*wanted.options}}
    keywords |= {"check"} if running.check != wanted.check else set()
    keywords |= {"cookie"} if running.cookie != wanted.cookie else set()
    if keywords:
        yield f"{', '.join(sorted(keywords))} changed"


def _compare_order(
    backend: _Backend, before: dict[str, Directive], after: dict[str, Directive]
) -> Iterator[Finding]:
    if [name for name in before if name in after] == [name for name in after if name in before]:
        return
    words = f"{backend.words}: members follow one another otherwise"
    has_backups = any("backup" in line.words for line in after.values())
    if backend.unordered and not (backend.sorts_backups and has_backups):
        yield Finding(words)
    else:
        yield require_reload(words, "their order counts")


def _index_servers(section: Section) -> dict[str, Directive] | None:
    """Return the `server` lines by name; None when one has no name or that of another."""
    lines = list(section.all("server"))
    by_name = {line.words[1]: line for line in lines if len(line.words) > 1}
    return by_name if len(by_name) == len(lines) else None


def _try_parse(line: Directive) -> ServerLine | None:
    try:
        return server_line.parse_server(line.words)
    except Doubtful:
        return None


def _describe_backend(
    sections: Sequence[Section], refers_to: Callable[[str], bool], capabilities: Capabilities
) -> _Backend:
    """Describe the last section; those before it are in effect for it."""
    name = sections[-1].name
    lines = [line.words for section in sections for line in section.directives]
    # Of several lines with a keyword the last one counts.
    arguments = {words[0]: words[1:] for words in lines}
    algorithm = (arguments.get("balance") or ("roundrobin",))[0].partition("(")[0]
    consistent = (arguments.get("hash-type") or ("map-based",))[0] == "consistent"
    allbackups = [words[0] != "no" for words in lines if "allbackups" in words]
    return _Backend(
        name=name,
        words=f"pool {show_name(name)}",
        unordered=algorithm in _UNORDERED,
        static=algorithm not in _UNORDERED and not (algorithm in _HASHING and consistent),
        default_server="default-server" in arguments,
        external_check=any(word.startswith("external-check") for w in lines for word in w[:3]),
        sorts_backups=not (allbackups and allbackups[-1]),
        persistent="cookie" in arguments or "stick" in arguments,
        capabilities=capabilities,
        refers_to=refers_to,
    )
