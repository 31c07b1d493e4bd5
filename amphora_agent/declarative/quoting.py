"""Values as haproxy reads them back (configuration manual, 2.2 "Quoting and escaping")."""

import re

#: What stands for itself, as one word, wherever it stands.
_PLAIN = re.compile(r"[0-9A-Za-z_./:@+=,-]+")


def word(value: object) -> str:
    """`value` as one word: haproxy reads exactly these characters.

    Inside single quotes nothing is special; a single quote itself is written between them.
    """
    text = str(value)
    if any(character < " " or character == "\x7f" for character in text):
        raise ValueError("a control character cannot be quoted")
    if _PLAIN.fullmatch(text):
        return text
    return "'" + text.replace("'", r"'\''") + "'"


def literal(value: object) -> str:
    """The same where haproxy expects a log-format: nothing in it is a variable."""
    return word(str(value).replace("%", "%%"))
