"""Run the keepalived program, and keep what it reads in step with the configurations."""

import logging
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from amphora_agent import files
from amphora_agent.errors import InvalidRequest, OperationFailed
from amphora_agent.events.alarms import Alarms
from amphora_agent.keepalived.config import lvs, vrrp
from amphora_agent.keepalived.config.language import ConfigError, Rendered
from amphora_agent.model.events import AlarmKind
from amphora_agent.paths import Layout, LvsLayout, VrrpLayout
from amphora_agent.supervisor.contract import Supervisor
from amphora_agent.supervisor.processes import has_word, pid_in, run

logger = logging.getLogger(__name__)

KEEPALIVED = "/usr/sbin/keepalived"

#: The part of keepalived that runs, and the option for the pid file of its process.
Part = Literal["--check", "--vrrp"]
_CHILD_PID = {"--check": "--checkers_pid", "--vrrp": "--vrrp_pid"}

#: Seconds for keepalived's help, and for its check of a configuration.
_HELP_TIMEOUT, _CHECK_TIMEOUT = 10.0, 20.0

#: The exit status of the check when it printed anything at all.
SOMETHING_TO_SAY = 5

#: keepalived's reference to a line of its configuration.
_LINE = re.compile(r"\bLine (\d+)\b")
#: A complaint about a line.
_ABOUT_LINE = re.compile(r"\(.*Line \d+\)")
#: Advice about a line that keepalived uses all the same.
_ADVICE = re.compile(r"WARNING|Truncating|deprecated")
#: Complaints without a line with which it would not start, or would run no check.
_ABOUT_ALL = re.compile(
    r"missing '|Non-existent interface|Unknown interface|must be set|"
    r"Disabling track script|SECURITY"
)


# The program


def build_command(part: Part, paths: LvsLayout | VrrpLayout) -> tuple[str, ...]:
    """Return the command that runs keepalived in the foreground, with pid files of its own: the
    default ones belong to one keepalived of the whole machine."""
    bfd = ("--bfd_pid", str(paths.bfd_pid_file)) if _has_bfd_option() else ()
    return (
        *(KEEPALIVED, "--dont-fork", "--log-console", "--no-syslog", part),
        *("--use-file", str(paths.given)),
        *("--pid", str(paths.pid_file)),
        *(_CHILD_PID[part], str(paths.child_pid_file)),
        *bfd,
    )


@cache
def _has_bfd_option() -> bool:
    """Return whether keepalived has an option for the pid file of its BFD part.

    Releases from 2.3 on open that file though the part does not run, and its default place, /run,
    is read-only to the unit. A keepalived built without that part has no such option.
    """
    return "--bfd_pid" in run((KEEPALIVED, "--help"), timeout=_HELP_TIMEOUT).output


def is_running(paths: LvsLayout | VrrpLayout) -> bool:
    """Return whether keepalived runs. Its pid file may be from before this boot."""
    pid = pid_in(paths.pid_file)
    return pid is not None and has_word(pid, str(paths.given))


def stop_refused(supervisor: Supervisor, name: str) -> None:
    """Stop a process that must not be started any more; log a failure."""
    try:
        supervisor.stop(name)
    except OperationFailed as error:
        logger.error("%s: cannot be stopped: %s", name, error)


# Its check of a configuration


def require_usable(part: Part, staged: Path, given: Rendered, destination: Path) -> None:
    """Have keepalived check the text `given`, which is in the file `staged`.

    Raises:
        InvalidRequest: keepalived cannot use it; its complaints, with `destination` and the lines
            of the controller's configuration.
    """
    checked = run(
        (KEEPALIVED, "--config-test", part, "--use-file", str(staged)), timeout=_CHECK_TIMEOUT
    )
    complaints = find_complaints(checked.output, given.lines)
    if complaints or checked.status not in (0, SOMETHING_TO_SAY):
        text = "\n".join(complaints) or renumber(checked.output.strip(), given.lines)
        raise InvalidRequest("Invalid request", text.replace(str(staged), str(destination)))


def find_complaints(output: str, lines: Sequence[int]) -> list[str]:
    """Return the complaints that make a configuration unusable.

    The exit status alone does not tell: it counts advice as a failure, too, and old controllers
    write what keepalived advises against (`nopreempt` with `state MASTER`). That a pool that
    drains has no weight is no complaint either.

    Args:
        output: what keepalived's check printed.
        lines: the lines of the controller's configuration, as `Rendered` has them.
    """
    complaints = []
    for line in output.splitlines():
        about_line = _ABOUT_LINE.match(line) and not _ADVICE.search(line)
        if about_line or _ABOUT_ALL.search(line):
            complaints.append(renumber(line, lines))
    return list(dict.fromkeys(complaints))


def renumber(text: str, lines: Sequence[int]) -> str:
    """Replace keepalived's line numbers with those of the controller's configuration."""

    def replace(match: re.Match[str]) -> str:
        number = int(match[1])
        source = lines[number - 1] if 0 < number <= len(lines) else 0
        return f"Line {source}" if source else match[0]

    return _LINE.sub(replace, text)


# What it reads, written anew


def renew_all(layout: Layout, alarms: Alarms) -> None:
    """Write anew what every keepalived reads, before one is started at boot."""
    try:
        renew_vrrp(layout, alarms)
        for listener in layout.lvs_listeners():
            renew_lvs(layout, listener, alarms)
    except OSError as error:
        logger.error("cannot write anew what keepalived reads: %s", error)


def renew_vrrp(layout: Layout, alarms: Alarms) -> None:
    """Write what the keepalived of VRRP reads, or remove it and raise an alarm."""
    paths = layout.vrrp
    configuration = read_if_exists(paths.configuration)
    if configuration is None:
        return
    try:
        text = vrrp.rewrite(configuration, str(paths.check_script), str(paths.fifo)).text
    except ConfigError as error:
        files.remove(paths.given)
        _raise_alarm(alarms, str(paths.configuration), paths.configuration, error)
    else:
        files.provide(paths.given, text)
        alarms.clear_alarm(AlarmKind.KEEPALIVED_TEXT_REFUSED, str(paths.configuration))


def renew_lvs(layout: Layout, listener: LvsLayout, alarms: Alarms) -> None:
    """Write what a listener's keepalived was last told to read, or remove it and raise an alarm."""
    configuration = read_if_exists(listener.configuration)
    if configuration is None:
        return
    udp_check = str(layout.udp_check)
    given = read_if_exists(listener.given)
    refusal = None
    try:
        lvs.rewrite(configuration, udp_check)
    except ConfigError as error:
        refusal = error
    if given is not None:
        # keepalived may run with an earlier configuration than the one uploaded last.
        made_of_current = lvs.is_made_of(given, configuration)
        source = configuration if made_of_current else lvs.earlier_source(given)
        try:
            if source is not None:
                files.provide(listener.given, lvs.rewrite(source, udp_check).text)
        except ConfigError as error:
            files.remove(listener.given)
            refusal = refusal or error
    if refusal is None:
        alarms.clear_alarm(AlarmKind.KEEPALIVED_TEXT_REFUSED, listener.id)
    else:
        _raise_alarm(alarms, listener.id, listener.configuration, refusal)


def read_if_exists(path: Path) -> bytes | None:
    """Return the content of a file; None if there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _raise_alarm(alarms: Alarms, subject: str, path: Path, error: ConfigError) -> None:
    alarms.set_alarm(
        AlarmKind.KEEPALIVED_TEXT_REFUSED,
        subject,
        f"{path} is not allowed: {error}; keepalived is not started with it any more:"
        " upload another configuration",
    )
