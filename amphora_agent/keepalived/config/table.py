"""The table of what keepalived's configurations may contain: blocks, keywords, forms of values.

Everything else is refused, harmful or not. The table has what Octavia 0.8 to 19 writes, and what
the templates of API 2.0 add (docs/keepalived.md).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from amphora_agent.keepalived.config import forms
from amphora_agent.keepalived.config.forms import Form
from amphora_agent.keepalived.config.language import (
    ConfigError,
    KeepalivedDirective,
    Statement,
    quote_beginning,
)

#: Takes the words after a keyword, and returns them as keepalived shall read them.
Reader = Callable[[Sequence[str]], tuple[str, ...]]


@dataclass(frozen=True)
class Keyword:
    """What a keyword takes: values; in braces keywords (`block`) or lines of values (`entries`).

    repeats: it may occur more than once in its block; with other values each time if `distinct`.
    required: its block must have it.
    """

    values: Reader
    block: "Mapping[str, Keyword] | None" = None
    entries: Reader | None = None
    repeats: bool = False
    distinct: bool = False
    required: bool = False


def require_allowed(
    directives: Sequence[KeepalivedDirective], table: Mapping[str, Keyword]
) -> tuple[Statement, ...]:
    """Return the statements of a configuration.

    Raises:
        ConfigError: something in it is not in the table; names the first such line.
    """
    statements: list[Statement] = []
    seen: set[str] = set()
    named: set[tuple[str, ...]] = set()
    for directive in directives:
        if not directive.words:
            continue
        keyword = table.get(directive.keyword)
        if keyword is None:
            raise ConfigError(
                directive.line, f"{quote_beginning(directive.keyword)} is not allowed here"
            )
        if directive.keyword in seen and not keyword.repeats:
            raise ConfigError(directive.line, f"{directive.keyword} stands here twice")
        seen.add(directive.keyword)
        values = _read_values(directive, keyword.values, directive.words[1:])
        if keyword.distinct and (directive.keyword, *values) in named:
            repeated = " ".join((directive.keyword, *map(quote_beginning, values)))
            raise ConfigError(directive.line, f"{repeated} stands here twice")
        named.add((directive.keyword, *values))
        block = _require_block(directive, keyword)
        statements.append(Statement(directive.line, directive.keyword, values, block))
    return tuple(statements)


def _require_block(
    directive: KeepalivedDirective, keyword: Keyword
) -> tuple[Statement, ...] | None:
    wants_block = keyword.block is not None or keyword.entries is not None
    if (directive.block is not None) != wants_block:
        expected = "must have braces" if wants_block else "has no braces"
        raise ConfigError(directive.line, f"{directive.keyword} {expected}")
    if keyword.block is not None:
        statements = require_allowed(directive.block or (), keyword.block)
        present = {statement.keyword for statement in statements}
        for name, inner in keyword.block.items():
            if inner.required and name not in present:
                raise ConfigError(directive.line, f"{directive.keyword}: {name} is missing")
        return statements
    if keyword.entries is not None:
        lines = (line for line in directive.block or () if line.words)
        return tuple(_read_entry(line, keyword.entries) for line in lines)
    return None


def _read_entry(directive: KeepalivedDirective, reader: Reader) -> Statement:
    if directive.block is not None:
        raise ConfigError(directive.line, "a brace where none belongs")
    return Statement(directive.line, "", _read_values(directive, reader, directive.words))


def _read_values(
    directive: KeepalivedDirective, reader: Reader, words: Sequence[str]
) -> tuple[str, ...]:
    try:
        return reader(words)
    except ValueError as error:
        raise ConfigError(
            directive.line, f"{quote_beginning(directive.keyword)}: {error}"
        ) from None


# Readers


def words(*expected: Form) -> Reader:
    """Take one word for each form."""

    def read(given: Sequence[str]) -> tuple[str, ...]:
        if len(given) != len(expected):
            values = "one value" if len(expected) == 1 else f"{len(expected) or 'no'} values"
            raise ValueError(f"it takes {values}, not {len(given)}")
        return tuple(form(word) for form, word in zip(expected, given, strict=True))

    return read


def one_or_more(form: Form) -> Reader:
    """Take any number of words of one form, at least one."""

    def read(given: Sequence[str]) -> tuple[str, ...]:
        if not given:
            raise ValueError("a value is missing")
        return tuple(form(word) for word in given)

    return read


def first_of(form: Form) -> Reader:
    """Take the first word. keepalived ignores those after it."""

    def read(given: Sequence[str]) -> tuple[str, ...]:
        return words(form)(given[:1])

    return read


def options(first: Form, known: Mapping[str, Form | None]) -> Reader:
    """Take a word, then options, each at most once. One has a word of its form after it, or none.

    `gateway`, Octavia's word for a next hop, becomes `via`.
    """

    def read(given: Sequence[str]) -> tuple[str, ...]:
        if not given:
            raise ValueError("a value is missing")
        values = [first(given[0])]
        left = dict(known)
        rest = list(reversed(given[1:]))
        while rest:
            word = rest.pop()
            option = "via" if word == "gateway" else word
            if option not in left:
                raise ValueError(f"{quote_beginning(word)} is not allowed here")
            form = left.pop(option)
            values.append(option)
            if form is not None:
                if not rest:
                    raise ValueError(f"{option}: a value is missing")
                values.append(form(rest.pop()))
        return tuple(values)

    return read


def _read_rule(given: Sequence[str]) -> tuple[str, ...]:
    return (*words(forms.one_of("from", "to"))(given[:1]), *_RULE(given[1:]))


def _read_target(given: Sequence[str]) -> tuple[str, ...]:
    """Take the address and port of a virtual server, or the name of a group of them."""
    if tuple(given[:1]) == ("group",):
        return words(forms.one_of("group"), forms.name)(given)
    return _ENDPOINT(given)


def _destination(word: str) -> str:
    return word if word == "default" else forms.network(word)


_PORT = forms.number(1, 65535)
_ENDPOINT = words(forms.address, _PORT)
_ROUTING_TABLE = forms.number(1, 2**32 - 1)
_ROUTE = options(
    _destination,
    {
        "dev": forms.interface,
        "src": forms.address,
        "via": forms.address,
        "scope": forms.one_of("global", "host", "link", "site"),
        "table": _ROUTING_TABLE,
        "onlink": None,
    },
)
_RULE = options(forms.network, {"table": _ROUTING_TABLE, "priority": forms.number(1, 2**32 - 1)})

_FLAG = Keyword(words())
_NAMED = words(forms.name)
_COUNT = Keyword(words(forms.number(1, 2**31 - 1)))
#: keepalived counts microseconds in 32 bits in these places.
_SECONDS = Keyword(words(forms.nearest(1, 4294)))


# The tables


def vrrp(check_script: str) -> Mapping[str, Keyword]:
    """Return the table for VRRP. `check_script` is the one program that may be named."""
    script = {
        "script": Keyword(words(forms.program(check_script)), required=True),
        "interval": _SECONDS,
        "fall": _COUNT,
        "rise": _COUNT,
    }
    return {
        "vrrp_script": Keyword(_NAMED, block=script, repeats=True, distinct=True),
        "vrrp_instance": Keyword(_NAMED, block=_INSTANCE, repeats=True, distinct=True),
    }


_INSTANCE: Mapping[str, Keyword] = {
    "state": Keyword(words(forms.one_of("MASTER", "BACKUP"))),
    "interface": Keyword(words(forms.interface), required=True),
    "virtual_router_id": Keyword(words(forms.number(1, 255)), required=True),
    "priority": Keyword(words(forms.number(1, 255))),
    "nopreempt": _FLAG,
    "accept": _FLAG,
    "garp_master_refresh": Keyword(words(forms.number(0, 2**31 - 1))),
    "garp_master_refresh_repeat": Keyword(words(forms.nearest(1, 2**31 - 1))),
    "advert_int": Keyword(words(forms.number(1, 255))),
    "authentication": Keyword(
        words(),
        block={
            "auth_type": Keyword(words(forms.one_of("PASS", "AH")), required=True),
            "auth_pass": Keyword(words(forms.password), required=True),
        },
    ),
    "unicast_src_ip": Keyword(words(forms.address)),
    "unicast_peer": Keyword(words(), entries=words(forms.address)),
    "virtual_ipaddress": Keyword(words(), entries=words(forms.prefixed_address)),
    "virtual_ipaddress_excluded": Keyword(words(), entries=words(forms.prefixed_address)),
    "virtual_routes": Keyword(words(), entries=_ROUTE),
    "virtual_rules": Keyword(words(), entries=_read_rule),
    "track_script": Keyword(words(), entries=_NAMED),
}


def lvs(udp_check: str) -> Mapping[str, Keyword]:
    """Return the table for a UDP or SCTP listener. `udp_check` is the program that checks UDP
    members."""
    misc_check = {
        "misc_path": Keyword(words(forms.member_check(udp_check)), required=True),
        "misc_timeout": Keyword(words(forms.nearest(0, 4294))),
    }
    real_server = {
        "weight": Keyword(words(forms.number(0, 65535))),
        "uthreshold": Keyword(words(forms.number(0, 2**32 - 1))),
        **_RETRIES,
        "MISC_CHECK": Keyword(words(), block=misc_check),
        "TCP_CHECK": Keyword(words(), block=_CONNECTION),
        "HTTP_GET": Keyword(words(), block={**_CONNECTION, **_HTTP}),
    }
    virtual_server = {
        "lb_algo": Keyword(words(forms.one_of("rr", "wrr", "lc", "wlc", "sh"))),
        "sh-port": _FLAG,
        "lb_kind": Keyword(words(forms.one_of("NAT"))),
        "protocol": Keyword(words(forms.protocol)),
        "persistence_timeout": Keyword(words(forms.nearest(1, 31 * 86400))),
        "persistence_granularity": Keyword(words(forms.granularity)),
        "delay_loop": Keyword(words(forms.nearest(1, 2**31 - 1))),
        **_RETRIES,
        "real_server": Keyword(_ENDPOINT, block=real_server, repeats=True, distinct=True),
    }
    return {
        "net_namespace": Keyword(_NAMED),
        "virtual_server_group": Keyword(_NAMED, entries=_ENDPOINT, repeats=True, distinct=True),
        "virtual_server": Keyword(_read_target, block=virtual_server, repeats=True, distinct=True),
    }


_RETRIES = {
    "delay_before_retry": Keyword(words(forms.number(0, 2**31 - 1))),
    "retry": _COUNT,
}
_CONNECTION = {
    "connect_ip": Keyword(words(forms.address)),
    "connect_port": Keyword(words(_PORT)),
    "connect_timeout": _SECONDS,
}
_HTTP = {
    "http_protocol": Keyword(words(forms.one_of("1.0", "1.1"))),
    "url": Keyword(
        words(),
        repeats=True,
        block={
            "path": Keyword(first_of(forms.url), required=True),
            "status_code": Keyword(one_or_more(forms.statuses)),
            "virtualhost": Keyword(words(forms.host)),
        },
    ),
}
