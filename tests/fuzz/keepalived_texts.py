"""Texts for keepalived: values as Octavia sends them, written in every way that keepalived reads.

A text is a tree: words, and for a block what is in its braces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn


class Node(NamedTuple):
    """A directive, or a comment with a line of its own."""

    words: tuple[str, ...]
    block: tuple[Node, ...] | None = None
    comment: str = ""


def node(*words: object, block: Sequence[Node] | None = None) -> Node:
    return Node(tuple(map(str, words)), None if block is None else tuple(block))


V4 = st.integers(1, 250).map(lambda number: f"10.1.0.{number}")
V6 = st.integers(1, 0xFFFF).map(lambda number: f"2001:db8::{number:x}")
NAMES = st.from_regex(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,20}", fullmatch=True)
PASSWORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='"$\\'))
SOME = st.booleans()


def _number(least: int, most: int) -> st.SearchStrategy[int]:
    return st.sampled_from(sorted({least, least + 1, (least + most) // 2, most})) | st.integers(
        least, most
    )


@st.composite
def vrrp(draw: DrawFn, check_script: str) -> tuple[Node, ...]:
    """The values of a text for VRRP."""
    check = draw(NAMES)
    script = node(
        *("vrrp_script", check),
        block=[
            node("script", check_script),
            node("interval", draw(_number(1, 4294))),
            node("fall", draw(_number(1, 2**31 - 1))),
            node("rise", draw(_number(1, 2**31 - 1))),
        ],
    )
    lines = [
        node("interface", "eth1"),
        node("virtual_router_id", draw(_number(1, 255))),
        node("priority", draw(_number(1, 254))),
        node("nopreempt"),
        *([node("accept")] if draw(SOME) else []),
        node("garp_master_refresh", draw(_number(0, 2**31 - 1))),
        node("garp_master_refresh_repeat", draw(_number(1, 2**31 - 1))),
        node("advert_int", draw(_number(1, 255))),
        node("unicast_src_ip", "10.1.0.254"),
        _authentication(draw),
        node("unicast_peer", block=[node(each) for each in draw(_some(V4))]),
        *_addresses(draw),
        node("track_script", block=[node(check)]),
    ]
    instance = node("vrrp_instance", draw(NAMES), block=draw(st.permutations(lines)))
    return (script, instance)


def _some(values: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(values, min_size=1, max_size=3, unique=True)


def _authentication(draw: DrawFn) -> Node:
    password = draw(PASSWORDS.filter(lambda word: 0 < len(word) <= 8 and word not in ("{", "}")))
    return node("authentication", block=[node("auth_type", "PASS"), node("auth_pass", password)])


def _addresses(draw: DrawFn) -> list[Node]:
    fours, sixes = draw(_some(V4)), draw(_some(V6))
    routes, rules = [], []
    for address, length, gateway in (
        *((each, 24, "10.1.0.251") for each in fours),
        *((each, 64, "2001:db8::ffff:1") for each in sixes),
    ):
        table = ("table", draw(_number(1, 2**32 - 1)))
        network = "10.1.0.0" if length == 24 else "2001:db8::"
        routes += [
            node(f"{network}/{length}", "dev", "eth1", "src", address, "scope", "link", *table),
            node("default", "via", gateway, "dev", "eth1", "onlink", *table),
        ]
        priority = draw(_number(1, 2**32 - 1))
        whole = 32 if length == 24 else 128
        rules.append(node("from", f"{address}/{whole}", *table, "priority", priority))
    return [
        node("virtual_ipaddress", block=[node(each) for each in fours]),
        node("virtual_ipaddress_excluded", block=[node(each) for each in sixes]),
        node("virtual_routes", block=draw(st.permutations(routes))),
        node("virtual_rules", block=rules),
    ]


@st.composite
def lvs(draw: DrawFn, udp_check: str) -> tuple[Node, ...]:
    """The values of a text for a UDP or SCTP listener."""
    found: list[Node] = []
    protocol = draw(st.sampled_from(["UDP", "SCTP"]))
    for version, addresses in draw(st.permutations([(4, V4), (6, V6)])):
        name = f"ipv{version}-group"
        port = draw(_number(1, 65535))
        members = draw(_some(addresses))
        algorithm = [node("lb_algo", draw(st.sampled_from(["wrr", "lc", "sh"])))]
        if algorithm[0].words[1] == "sh" and draw(SOME):
            algorithm.append(node("sh-port"))
        settings = [
            node("lb_kind", "NAT"),
            node("protocol", protocol),
            node("persistence_timeout", draw(_number(1, 31 * 86400))),
            node("delay_loop", draw(_number(1, 2**31 - 1))),
            node("delay_before_retry", draw(_number(0, 2**31 - 1))),
            node("retry", draw(_number(1, 2**31 - 1))),
        ]
        servers = [each for member in members for each in draw(_member(member, udp_check))]
        virtual = [*algorithm, *draw(st.permutations(settings)), *servers]
        endpoints = draw(_some(addresses))
        found += [
            node("virtual_server_group", name, block=[node(each, port) for each in endpoints]),
            node("virtual_server", "group", name, block=virtual),
        ]
    return tuple(found)


@st.composite
def _member(draw: DrawFn, address: str, udp_check: str) -> tuple[Node, ...]:
    port = draw(_number(1, 65535))
    connection = [
        node("connect_ip", address),
        node("connect_port", draw(_number(1, 65535))),
        node("connect_timeout", draw(_number(1, 4294))),
    ]
    sctp = f"amphora-health-checker sctp -t {draw(_number(0, 99))}"
    misc = [
        node("misc_path", f"{draw(st.sampled_from([udp_check, sctp]))} {address} {port}"),
        node("misc_timeout", draw(_number(0, 4294))),
    ]
    path = draw(st.sampled_from(["/", "/a?b=c&d=e", "/a#b!c", "/{a}", "/$a;b=$(c)", "/\xe9"]))
    codes = draw(st.lists(st.sampled_from(["200", "204", "301-302"]), min_size=1, unique=True))
    url = node("url", block=[node("path", path), node("status_code", *sorted(codes))])
    checks = [
        node("MISC_CHECK", block=misc),
        node("TCP_CHECK", block=connection),
        node("HTTP_GET", block=[url, *connection]),
    ]
    lines = [
        node("weight", draw(_number(0, 65535))),
        node("uthreshold", draw(_number(0, 2**32 - 1))),
        *draw(st.sampled_from([[each] for each in checks] + [[]])),
    ]
    return (
        Node((), comment="# Configuration for Member m"),
        node("real_server", address, port, block=draw(st.permutations(lines))),
    )


# Writing

_BLANKS = st.text(" \t\v\f\r", max_size=3)
_BLANK = st.text(" \t\v\f\r", min_size=1, max_size=3)
_COMMENTS = st.sampled_from(["# include /x {", '!a " b } \\#', "#", "# \xff \xa0"])
#: What keepalived splits in a way of its own: there, quotes do not end a word.
_COMMANDS = frozenset({"script", "misc_path"})
_NEEDS_QUOTES = frozenset(' {}#!"')


@st.composite
def written(draw: DrawFn, tree: Sequence[Node]) -> bytes:
    """A text in one of the ways in which it can be written."""
    text = _written_block(draw, tree)
    return text.encode("latin-1")


def _written_block(draw: DrawFn, tree: Sequence[Node]) -> str:
    pieces: list[str] = []
    for each in tree:
        if each.comment:
            # The comment before a member's block says which it is.
            pieces.append(f"{_ended(draw)}{each.comment}\n")
            continue
        pieces.append(draw(_BLANKS) + _written_words(draw, each.words))
        if each.block is None:
            pieces.append(_ended(draw))
            continue
        pieces.append(draw(st.sampled_from(["", " ", "\n", "# {\n", "\r\n\t"])) + "{")
        pieces.append(draw(st.sampled_from(["", "\n", " \v", "! }\r\n"])))
        pieces.append(_written_block(draw, each.block))
        pieces.append("}" + draw(st.sampled_from(["", "\n", " ", "#\n", "\r\n"])))
    return "".join(pieces)


def _ended(draw: DrawFn) -> str:
    """The end of a line, after it a comment or nothing."""
    comment = draw(_COMMENTS) if draw(SOME) else ""
    return draw(_BLANKS) + comment + draw(st.sampled_from(["\n", "\r\n", "\n\n", "\n\t\n"]))


def _written_words(draw: DrawFn, words: Sequence[str]) -> str:
    command = words[0] in _COMMANDS
    text, after_quote = "", False
    for number, word in enumerate(words):
        quoted = bool(_NEEDS_QUOTES & set(word)) or (draw(SOME) and not (command and not number))
        if number:
            glued = (quoted or after_quote) and not command
            text += draw(_BLANKS) if glued else draw(_BLANK)
        text += f'"{word}"' if quoted else word
        after_quote = quoted
    return text
