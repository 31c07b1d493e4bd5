"""Sample expressions, formats and ACLs: of what they may be made."""

import re

from amphora_agent.haproxy import policy_table as table
from amphora_agent.haproxy.policy_bounds import QUOTING, Bounds
from amphora_agent.haproxy.policy_table import Kind
from amphora_agent.haproxy.policy_words import refused

#: Where an expression begins in a format.
_FORMATTED = re.compile(r"(?<!%)(?:%%)*%(?:\([^)]*\))?(?:\{[^}]*\})?\[")
_NAME = re.compile(r"[\w.+-]+")
#: Functions that reach beyond the connection.
_FAR = re.compile(r"(?<![\w.])((?:env|map(?:_\w+)?|jwt_verify)(?=\()|ssl_[fb]c_session_key)")


def check_acl(words: tuple[str, ...], bounds: Bounds) -> None:
    """An ACL from its expression on. Its patterns are taken as they are."""
    if not words:
        return
    _check_functions(words[0], bounds)
    check_expression(words[0])
    position = 1
    while position < len(words) and words[position].startswith("-"):
        flag = words[position]
        if flag == "--":
            return
        if flag == "-f":
            bounds.check_own_file(flag, (*words, "")[position + 1])
        # Any other flag is haproxy's to refuse.
        position += 1 + table.ACL_FLAGS.get(flag, 0)


def check_expressions(words: tuple[str, ...], bounds: Bounds) -> None:
    """All of a line that is not an ACL: formats with `%[…]`, conditions, functions."""
    position = 0
    condition = False
    while position < len(words):
        word = words[position]
        position += 1
        if condition and word.lstrip("!") == "{":
            end = next((i for i in range(position, len(words)) if words[i] == "}"), len(words))
            check_acl(words[position:end], bounds)
            position = end
            continue
        condition = condition or word in ("if", "unless")
        if "(" in word or "_" in word:
            _check_functions(word, bounds)
        if "%" in word:
            for found in _FORMATTED.finditer(word):
                check_expression(word[found.end() :], end="]")


def _check_functions(word: str, bounds: Bounds) -> None:
    """Those that reach beyond the connection, wherever they stand in a word."""
    for found in _FAR.finditer(word):
        name = found[1]
        if name == "env":
            raise refused("env()", table.REFUSED["env"])
        if name.endswith("_key"):
            raise refused(name, "it tells the keys of connections")
        inside = word[found.end() + 1 :].partition(")")[0].split(",")
        if name.startswith("map"):
            bounds.check_own_file(f"{name}()", inside[0])
            continue
        # jwt_verify(algorithm,key): a secret, or the file of one.
        if QUOTING.search(word, found.end()):
            raise refused(f"{name}() with quotes")
        for argument in inside[1:]:
            if "/" in argument:
                bounds.check_file(f"{name}()", argument, Kind.CERTIFICATE)


def check_expression(text: str, end: str = "") -> None:
    """Whether a sample expression consists of known fetches and converters."""
    known = table.FETCHES
    position = 0
    while position < len(text) and not (end and text[position] == end):
        name = _NAME.match(text, position)
        if name is None or name[0] not in known:
            word = name[0] if name else text[position:]
            raise refused(word, table.REFUSED.get(word, "the policy does not know this expression"))
        position = name.end()
        if text[position : position + 1] == "(":
            position = _closed(text, position + 1)
        if text[position : position + 1] == ",":
            position += 1
        known = table.CONVERTERS


def _closed(text: str, position: int) -> int:
    """Behind the parenthesis that ends what began at `position`."""
    quote = ""
    while position < len(text):
        character = text[position]
        position += 1
        if character == "\\" and quote != "'":
            position += 1
        elif quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character == ")":
            break
    return position
