"""The keepalived program, and what its check of a text says."""

import logging
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from amphora_agent import files
from amphora_agent.events.alarms import Alarms
from amphora_agent.keepalived.config import lvs, vrrp
from amphora_agent.keepalived.config.parser import ConfigError
from amphora_agent.model.events.alarms import AlarmKind
from amphora_agent.paths import Layout, LvsLayout
from amphora_agent.supervisor.command import run

logger = logging.getLogger(__name__)

#: The exit status of the check when it has said anything at all.
SOMETHING_TO_SAY = 5

#: keepalived's words about a line of its text.
_LINE = re.compile(r"\bLine (\d+)\b")
#: A complaint about a line.
_ABOUT_LINE = re.compile(r"\(.*Line \d+\)")
#: What keepalived does with such a line all the same.
_ADVICE = re.compile(r"WARNING|Truncating|deprecated")
#: Complaints without a line with which it would not start, or would run no check.
_ABOUT_ALL = re.compile(
    r"missing '|Non-existent interface|Unknown interface|must be set|"
    r"Disabling track script|SECURITY"
)


def complaints(output: str, lines: Sequence[int]) -> list[str]:
    """Return what the check says that makes a text unusable; `lines` are those of the controller's
    text, as `Rendered` has them.

    Its exit status alone does not tell: advice counts as a failure, too, and old controllers write
    what it advises against (`nopreempt` with `state MASTER`).
    """
    found = []
    for line in output.splitlines():
        about_line = _ABOUT_LINE.match(line) and not _ADVICE.search(line)
        if about_line or _ABOUT_ALL.search(line):
            found.append(renumber(line, lines))
    return list(dict.fromkeys(found))


def renumber(words: str, lines: Sequence[int]) -> str:
    """Return keepalived's words about its text with the lines of the controller's text."""

    def replaced(match: re.Match[str]) -> str:
        number = int(match[1])
        known = lines[number - 1] if 0 < number <= len(lines) else 0
        return f"Line {known}" if known else match[0]

    return _LINE.sub(replaced, words)


KEEPALIVED = "/usr/sbin/keepalived"

#: Seconds for its help.
_PATIENCE = 10.0


def bfd_pid_option(file: Path) -> tuple[str, ...]:
    """Return the option that names the pid file of keepalived's BFD part.

    Releases from 2.3 on open that file though the part does not run, and its usual place, /run, is
    read-only to the unit. A keepalived built without that part has no such option.
    """
    return ("--bfd_pid", str(file)) if _knows_bfd() else ()


@cache
def _knows_bfd() -> bool:
    return "--bfd_pid" in run((KEEPALIVED, "--help"), timeout=_PATIENCE).output


def renew_all(layout: Layout, alarms: Alarms) -> None:
    """Renew what every keepalived reads, before one is started at boot."""
    try:
        renew_vrrp(layout, alarms)
        for listener in layout.lvs_listeners():
            renew_lvs(layout, listener, alarms)
    except OSError as error:
        logger.error("what keepalived reads cannot be written anew: %s", error)


def renew_vrrp(layout: Layout, alarms: Alarms) -> None:
    """Write what the keepalived of VRRP reads, or remove it and raise an alarm."""
    paths = layout.vrrp
    configuration = _content(paths.configuration)
    if configuration is None:
        return
    try:
        text = vrrp.read(configuration, str(paths.check_script), str(paths.fifo)).text
    except ConfigError as error:
        files.remove(paths.given)
        _refuse(alarms, str(paths.configuration), paths.configuration, error)
    else:
        files.provide(paths.given, text)
        alarms.clear_alarm(AlarmKind.KEEPALIVED_TEXT_REFUSED, str(paths.configuration))


def renew_lvs(layout: Layout, listener: LvsLayout, alarms: Alarms) -> None:
    """Write what a listener's keepalived was told last, or remove it and raise an alarm."""
    configuration = _content(listener.configuration)
    if configuration is None:
        return
    udp_check = str(layout.udp_check)
    given = _content(listener.given)
    # What was uploaded, and what keepalived was told of before, if that is another text.
    source = None if given is None else lvs.earlier_source(given)
    if given is not None and lvs.made_of(given, configuration):
        source = configuration
    refused = None
    if source is not None:
        try:
            files.provide(listener.given, lvs.read(source, udp_check).text)
        except ConfigError as error:
            files.remove(listener.given)
            refused = error
    try:
        lvs.read(configuration, udp_check)
    except ConfigError as error:
        refused = error
    if refused is None:
        alarms.clear_alarm(AlarmKind.KEEPALIVED_TEXT_REFUSED, listener.id)
    else:
        _refuse(alarms, listener.id, listener.configuration, refused)


def _refuse(alarms: Alarms, subject: str, path: Path, error: ConfigError) -> None:
    alarms.set_alarm(
        AlarmKind.KEEPALIVED_TEXT_REFUSED,
        subject,
        f"{path} is not allowed: {error}; keepalived is not started with it any more:"
        " upload another configuration",
    )


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
