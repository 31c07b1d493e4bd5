"""The names of a load balancer's files, and values as haproxy reads them back."""

import re

#: What stands for itself, as one word, wherever it stands.
_PLAIN = re.compile(r"[0-9A-Za-z_./:@+=,-]+")


def word(value: object) -> str:
    """Quote a value as one word: haproxy reads exactly these characters.

    Inside single quotes nothing is special; a single quote itself is written between them.
    """
    text = str(value)
    if any(character < " " or character == "\x7f" for character in text):
        raise ValueError("a control character cannot be quoted")
    if _PLAIN.fullmatch(text):
        return text
    return "'" + text.replace("'", r"'\''") + "'"


def literal(value: object) -> str:
    """Quote a value where haproxy expects a log-format: nothing in it is a variable."""
    return word(str(value).replace("%", "%%"))


def certificate(name: str, purpose: str = "") -> str:
    """Name a certificate file of an object; without a purpose a listener's crt-list."""
    return f"{name}.{purpose}.pem" if purpose else f"{name}.pem"


def allowed(listener_id: str) -> str:
    """Name the file of the networks that may connect to a listener."""
    return f"{listener_id}.cidrs"


def listener(listener_id: str) -> str:
    return f"listener-{listener_id}.cfg"


def pool(pool_id: str) -> str:
    return f"pool-{pool_id}.cfg"


#: What the listeners of a process share.
PROCESS = "haproxy.cfg"
