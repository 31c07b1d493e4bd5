"""keepalived's text for VRRP: what it may say, what keepalived is given of it, what it answers."""

import re

#: A route whose next hop the controller calls a gateway (host routes, octavia 12 to 19).
_GATEWAY = re.compile(r"(?m)^(\s*\S+ dev \S+) gateway (?=\S)")

#: What the check needs: root runs it, and nobody else may be able to change it. It comes first: a
#: keepalived that reads its text again would not know the user yet, and leave the check out.
_ADDITION = """\
global_defs {
    script_user root
    enable_script_security
}
"""
_LINES_BEFORE = _ADDITION.count("\n")

_INSTANCE = re.compile(r"(?m)^\s*vrrp_instance\s")
#: What reads other files or runs programs.
_REACHING_OUT = re.compile(r"(?m)(?:^|[{}])[ \t]*((?:include|notify|script)\w*)\b[ \t]*(.*?)\s*$")

#: The exit status of keepalived's check when it has said anything at all.
SOMETHING_TO_SAY = 5

#: keepalived's complaint about a line of its text.
_ABOUT_LINE = re.compile(r"\(.*Line (\d+)\)")
#: What it does with such a line all the same.
_ADVICE = re.compile(r"WARNING|Truncating|deprecated")
#: Complaints without a line with which it would not start, or would run no check.
_ABOUT_ALL = re.compile(r"missing '|Non-existent interface|Disabling track script|SECURITY")


def objection(text: str, check_script: str) -> str | None:
    """Why a configuration is not for VRRP, or does more than that; None when it is in order.

    The controller's text runs one program, the agent's own check, and reads no other file.
    """
    if "\0" in text:
        return "the configuration has a NUL byte"
    if not _INSTANCE.search(text):
        return "the configuration has no vrrp_instance"
    for keyword, value in _REACHING_OUT.findall(text):
        if keyword != "script" or value.strip('"') != check_script:
            return f"{keyword} is not allowed here: {value}"
    return None


def given(text: str) -> str:
    """What keepalived reads instead of the controller's text.

    * The agent's addition comes before it.
    * Host routes say `gateway` for what keepalived calls `via`: it would leave them out.
    """
    return _ADDITION + _GATEWAY.sub(r"\1 via ", text)


def complaints(output: str) -> list[str]:
    """What keepalived's check of a `given` text (`-t`) says that makes it unusable.

    Its exit status alone does not tell: advice counts as a failure, too, and old controllers write
    what it advises against (`nopreempt` with `state MASTER`).
    """
    found = []
    for line in output.splitlines():
        about = _ABOUT_LINE.match(line)
        if about and not _ADVICE.search(line):
            number = int(about[1]) - _LINES_BEFORE
            found.append(f"{line[: about.start(1)]}{number}{line[about.end(1) :]}")
        elif _ABOUT_ALL.search(line):
            found.append(line)
    return list(dict.fromkeys(found))
