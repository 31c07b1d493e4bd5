"""What it takes to get from the members of a running pool to those that are wanted.

A member that is new, or is back from maintenance, or has another address, gets nothing before its
first passed check. haproxy takes a member for healthy until it has failed. So it gets no weight
until haproxy has been told that it is stopping: that chooses it no more, and its checks, from the
first that passes, bring it up. Between any two of these commands haproxy may go on for any time.

But a client that a cookie or a table leads to a member that is stopping still gets there: in such
pools it is down instead, and as many checks must pass as after any failure.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from amphora_agent.haproxy.config import server_line
from amphora_agent.haproxy.config.parser import Directive, Section
from amphora_agent.haproxy.config.server_line import Doubtful, ServerLine
from amphora_agent.haproxy.replies.capabilities import Capabilities
from amphora_agent.haproxy.update import transaction
from amphora_agent.haproxy.update.runtime_change import (
    Change,
    Command,
    Finding,
    require_reload,
    server_command,
    shorten_list,
    show_name,
)

#: Algorithms that only look at the members that there are, in whatever order.
_UNORDERED = ("roundrobin", "leastconn", "random")
#: Those that spread by a hash: over a fixed map unless it is consistent.
_HASHING = ("source", "uri", "url_param", "hdr", "rdp-cookie", "hash")

#: What a version before 2.8 must be told for a member to reuse connections.
_POOLED = "pool-purge-delay 5s pool-max-conn -1"

_REGISTERED = (r"New server registered\.",)
_MOVED = (r"(?:IP|port) changed from .*|no need to change .*|nothing changed",)
_ANYTHING = (r"(?s:.*)",)


class _Pool(NamedTuple):
    """A backend, and what of its kind and its surroundings decides."""

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


def compare_servers(
    running: Section,
    wanted: Section,
    defaults: Section | None,
    refers_to: Callable[[str], bool],
    capabilities: Capabilities,
) -> list[Finding]:
    """What differs in the `server` lines of a backend whose other lines are the same.

    `defaults` is the section in effect for it, `refers_to` says whether something else in the
    configuration speaks of a server. At most one finding has a change: all commands, and one
    question for all of them.
    """
    pool = _pool([s for s in (defaults, wanted) if s is not None], refers_to, capabilities)
    before, after = _lines(running), _lines(wanted)
    if before is None or after is None:
        return [require_reload(f"{pool.words}: members changed", "a member is there twice")]
    found = [*_of_order(pool, before, after)]
    known = [_parsed(line) for line in before.values()]
    others = frozenset(option for each in known if each for option in each.unproven)
    steps: list[_Step] = []
    for name, line in after.items():
        if name not in before:
            steps.append(_added(pool, name, line, others))
    for name, line in after.items():
        if name in before and before[name].words != line.words:
            steps += _changed(pool, name, before[name], line, after)
    for name in before:
        if name not in after:
            steps.append(_removed(pool, name))
    found += (Finding(f"{pool.words}: {s.words}", reason=_reason(pool, s)) for s in steps)
    if steps and not any(each.reason for each in found):
        found = [Finding(_joined(pool, steps), _change(pool, steps))]
    return found


class _Step(NamedTuple):
    """What is to be done for one member: `expected` is how it must be then; with `because`,
    nothing of it can be done without a reload."""

    words: str
    name: str
    commands: tuple[Command, ...] = ()
    expected: ServerLine | None = None
    role_changed: bool = False
    because: str = ""


def _change(pool: _Pool, steps: Sequence[_Step]) -> Change:
    proof = [transaction.verify_servers(pool.name, {step.name: step.expected for step in steps})]
    roles = {s.name: s.expected.backup for s in steps if s.expected and s.role_changed}
    if roles:
        proof.append(transaction.verify_roles(pool.name, roles))
    return Change(
        words=_joined(pool, steps),
        commands=tuple(command for step in steps for command in step.commands),
        proof=tuple(proof),
    )


def _joined(pool: _Pool, steps: Sequence[_Step]) -> str:
    return f"{pool.words}: " + "; ".join(shorten_list([step.words for step in steps]))


def _reason(pool: _Pool, step: _Step) -> str:
    return f"{pool.words}: {step.words}: {step.because}" if step.because else ""


def _added(pool: _Pool, name: str, line: Directive, others: frozenset[tuple[str, str]]) -> _Step:
    words = f"member {show_name(name)} added"
    try:
        wanted = _understood(pool, line)
    except Doubtful as doubt:
        return _Step(words, name, because=str(doubt))
    words += f" ({wanted.endpoint}, weight {wanted.weight}{_marks(wanted)})"
    because = _no_addition(pool, wanted)
    if not because and (unproven := wanted.unproven - others):
        because = f"no member of it has {', '.join(sorted(key for key, _ in unproven))} like this"
    return _Step(words, name, _addition(pool, wanted), wanted, because=because)


def _no_addition(pool: _Pool, wanted: ServerLine) -> str:
    """Why a member cannot be added while haproxy runs; empty when it can."""
    if not pool.capabilities.add_servers:
        return "this version cannot add members"
    if pool.static:
        return "its algorithm has a fixed set of members"
    if pool.external_check and wanted.check:
        return "it is checked by a program"
    if wanted.cookie and not pool.capabilities.add_cookies:
        return "this version cannot add members with a cookie"
    if pool.sorts_backups and wanted.backup:
        return "the first backup counts"
    return ""


def _addition(pool: _Pool, wanted: ServerLine) -> tuple[Command, ...]:
    at = f"{pool.name}/{wanted.name}"
    arguments = wanted.arguments
    if not pool.capabilities.pools_connections:
        arguments = f"{arguments} {_POOLED}".lstrip()
    commands = []
    if pool.capabilities.delete_servers:
        # One of this name may have been removed and not be gone, because it was in use.
        commands.append(delete_server(pool.name, wanted.name))
    first_weight = 0 if wanted.check and not wanted.disabled else wanted.weight
    mark = " disabled" if wanted.disabled else ""
    line = f"{wanted.endpoint} weight {first_weight} {arguments}".rstrip() + mark
    commands.append(server_command("add server", at, line, success=_REGISTERED))
    if wanted.check:
        commands.append(server_command("enable health", at))
    if not wanted.disabled:
        commands.append(server_command("enable server", at))
        if wanted.check:
            commands.append(_unproven(pool, wanted))
            if wanted.weight:
                commands.append(server_command("set server", at, f"weight {wanted.weight}"))
    return tuple(commands)


def _unproven(pool: _Pool, wanted: ServerLine) -> Command:
    """Take a member that has not passed a check out of what haproxy chooses from.

    From "stopping" the first check that passes brings it up; from "down" as many as `rise`. Who
    persistence leads to a member gets there while it is "stopping".
    """
    once = dict(wanted.options).get("rise") == "1"
    state = "down" if pool.persistent and once else "stopping"
    return server_command("set server", f"{pool.name}/{wanted.name}", f"health {state}")


def _removed(pool: _Pool, name: str) -> _Step:
    words = f"member {show_name(name)} removed"
    if not server_line.is_name(name):
        return _Step(words, name, because="its name is not plain")
    if pool.refers_to(name):
        return _Step(words, name, because="something else speaks of it")
    commands = [server_command("set server", f"{pool.name}/{name}", "state maint")]
    if pool.capabilities.delete_servers:
        # While something uses it, it stays as it is: nothing new comes to it.
        commands.append(delete_server(pool.name, name))
    return _Step(words, name, tuple(commands))


def delete_server(backend: str, name: str) -> Command:
    """Forget a member that is in maintenance, if nothing uses it any more."""
    return server_command("del server", f"{backend}/{name}", success=_ANYTHING)


def _changed(
    pool: _Pool, name: str, before: Directive, after: Directive, lines: dict[str, Directive]
) -> Iterator[_Step]:
    """The step for a member that is written otherwise; none when it means the same."""
    try:
        running, wanted = _understood(pool, before), _understood(pool, after)
    except Doubtful as doubt:
        yield _Step(f"member {show_name(name)} changed", name, because=str(doubt))
        return
    if running == wanted:
        return
    words = f"member {show_name(name)}: {', '.join(_differences(running, wanted))}"
    if _fixed(running) != _fixed(wanted):
        yield _Step(words, name, because="haproxy reads it only when it starts")
    elif running.backup != wanted.backup:
        because = _no_other_role(pool, wanted, lines)
        yield _Step(words, name, _replacement(pool, wanted), wanted, True, because)
    elif running.weight != wanted.weight and pool.static:
        yield _Step(words, name, because="its algorithm has fixed weights")
    else:
        yield _Step(words, name, _adjustment(pool, running, wanted), wanted)


def _fixed(member: ServerLine) -> tuple[object, ...]:
    """What of a member cannot change while haproxy runs."""
    return member.check, member.cookie, member.options


def _adjustment(pool: _Pool, running: ServerLine, wanted: ServerLine) -> tuple[Command, ...]:
    at = f"{pool.name}/{wanted.name}"
    moved = (running.address, running.port) != (wanted.address, wanted.port)
    stays_enabled = not running.disabled and not wanted.disabled
    commands: list[Command] = []
    if wanted.disabled and not running.disabled:
        commands.append(server_command("set server", at, "state maint"))
    # The next check comes after an interval, and no command brings it forward. A member that comes
    # out of maintenance serves until then, and one failure takes it out.
    renewed = moved and stays_enabled and wanted.check
    if renewed:
        commands.append(server_command("set server", at, "state maint"))
    if moved:
        move = f"addr {wanted.address} port {wanted.port}"
        commands.append(server_command("set server", at, move, success=_MOVED))
    if running.weight != wanted.weight:
        commands.append(server_command("set server", at, f"weight {wanted.weight}"))
    if renewed or (running.disabled and not wanted.disabled):
        commands.append(server_command("set server", at, "state ready"))
    return tuple(commands)


def _no_other_role(pool: _Pool, wanted: ServerLine, lines: dict[str, Directive]) -> str:
    """Why a member cannot become a backup, or cease to be one, while haproxy runs.

    It has to go and come back, and is not there in the meantime: others must be.
    """
    if not pool.capabilities.delete_servers:
        return "this version cannot delete members"
    if because := _no_addition(pool, wanted):
        return because
    if pool.sorts_backups:
        return "the first backup counts"
    if pool.refers_to(wanted.name):
        return "something else speaks of it"
    others = (_parsed(line) for name, line in lines.items() if name != wanted.name)
    if not any(o and o.weight and not o.disabled and not o.backup for o in others):
        return "no other member could serve in the meantime"
    return ""


def _replacement(pool: _Pool, wanted: ServerLine) -> tuple[Command, ...]:
    at = f"{pool.name}/{wanted.name}"
    maintenance = server_command("set server", at, "state maint")
    gone, *rest = _addition(pool, wanted)
    return maintenance, gone._replace(success=(r"Server deleted\.",)), *rest


def _differences(running: ServerLine, wanted: ServerLine) -> Iterator[str]:
    if running.endpoint != wanted.endpoint:
        yield f"{running.endpoint} -> {wanted.endpoint}"
    if running.weight != wanted.weight:
        yield f"weight {running.weight} -> {wanted.weight}"
    if running.disabled != wanted.disabled:
        yield "disabled" if wanted.disabled else "enabled"
    if running.backup != wanted.backup:
        yield "becomes a backup" if wanted.backup else "is no backup any more"
    before, after = dict(running.options), dict(wanted.options)
    keywords = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    keywords |= {"check"} if running.check != wanted.check else set()
    keywords |= {"cookie"} if running.cookie != wanted.cookie else set()
    if keywords:
        yield f"{', '.join(sorted(keywords))} changed"


def _marks(wanted: ServerLine) -> str:
    return (", backup" if wanted.backup else "") + (", disabled" if wanted.disabled else "")


def _of_order(
    pool: _Pool, before: dict[str, Directive], after: dict[str, Directive]
) -> Iterator[Finding]:
    if [name for name in before if name in after] == [name for name in after if name in before]:
        return
    words = f"{pool.words}: members follow one another otherwise"
    backups = any("backup" in line.words for line in after.values())
    if pool.unordered and not (pool.sorts_backups and backups):
        yield Finding(words)
    else:
        yield require_reload(words, "their order counts")


def _lines(section: Section) -> dict[str, Directive] | None:
    """The `server` lines by name; None when one of them has none of its own."""
    lines = list(section.all("server"))
    by_name = {line.words[1]: line for line in lines if len(line.words) > 1}
    return by_name if len(by_name) == len(lines) else None


def _understood(pool: _Pool, line: Directive) -> ServerLine:
    if pool.default_server:
        raise Doubtful("default-server is in effect")
    return server_line.parse_server(line.words)


def _parsed(line: Directive) -> ServerLine | None:
    try:
        return server_line.parse_server(line.words)
    except Doubtful:
        return None


def _pool(
    sections: Sequence[Section], refers_to: Callable[[str], bool], capabilities: Capabilities
) -> _Pool:
    """Of a backend: the last section; what is in effect for it are those before."""
    name = sections[-1].name
    lines = [line.words for section in sections for line in section.directives]
    balance = _last(lines, "balance") or ("roundrobin",)
    algorithm = balance[0].partition("(")[0]
    consistent = (_last(lines, "hash-type") or ("map-based",))[0] == "consistent"
    allbackups = [w[0] != "no" for w in lines if "allbackups" in w]
    return _Pool(
        name=name,
        words=f"pool {show_name(name)}",
        unordered=algorithm in _UNORDERED,
        static=algorithm not in _UNORDERED and not (algorithm in _HASHING and consistent),
        default_server=any(words[0] == "default-server" for words in lines),
        external_check=any(word.startswith("external-check") for w in lines for word in w[:3]),
        sorts_backups=not (allbackups and allbackups[-1]),
        persistent=any(words[0] in ("cookie", "stick") for words in lines),
        capabilities=capabilities,
        refers_to=refers_to,
    )


def _last(lines: Iterable[tuple[str, ...]], keyword: str) -> tuple[str, ...]:
    """The arguments of the last such line, which is the one that counts."""
    found: tuple[str, ...] = ()
    for words in lines:
        if words[0] == keyword:
            found = words[1:]
    return found
