"""keepalived's language: what is read of a text, and what is refused before any table is asked."""

import pytest

from amphora_agent.keepalived.config.language import (
    LONGEST_LINE,
    ConfigError,
    KeepalivedDirective,
    parse,
)


def tree(directives: tuple[KeepalivedDirective, ...]) -> list[object]:
    """Words, and for a block a list behind them; comments as they are."""
    found: list[object] = []
    for each in directives:
        found.append(each.comment or " ".join(each.words))
        if each.block is not None:
            found.append(tree(each.block))
    return found


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a b\nc\n", ["a b", "c"]),
        ("a\t b\v\fc\rd\r\n", ["a b c d"]),
        ("\v a\r\r\r\n", ["a"]),
        ('a "b c"d e"f"', ["a b c d e f"]),
        ('a ""', ["a "]),
        ("a b # c\na!b\na#b\n", ["a b", "a", "a"]),
        ('a "b # c ! d" e', ["a b # c ! d e"]),
        ("  # about x \n!not about\na", ["# about x", "a"]),
        ("a{b}c", ["a", ["b"], "c"]),
        ("a { b { c } }", ["a", ["b", ["c"]]]),
        ("a\n{\nb\n}\n", ["a", ["b"]]),
        ("a # {\n# {\n{ b }", ["a", ["b"], "# {"]),
        ('a "{" b "}"', ["a { b }"]),
        ("a {}", ["a", []]),
        ("path /{x}/y}", ["path /{x}/y}"]),
        ("url { path /x\n}", ["url", ["path /x"]]),
        ("a path}".replace("}", "{}"), ["a path", []]),
        ("a \xa0b\x85c \u2028d", ["a \xc2\xa0b\xc2\x85c \xe2\x80\xa8d"]),
        ("", []),
    ],
)
def test_a_text_is_read_as_keepalived_reads_it(text: str, read: list[object]) -> None:
    assert tree(parse(text.encode())) == read


def test_bytes_that_are_no_text_are_characters_like_any_other() -> None:
    assert parse(b"a \xff\xfe")[0].words == ("a", "\xff\xfe")


def test_lines_are_counted() -> None:
    lines = [each.line for each in parse(b"a {\nb\n}\n\n# c\nd { e }\n")]
    assert lines == [1, 5, 6]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x\n$A=b", "line 2: $A=b: macros"),
        ("a { $A }", "line 1: $A: macros"),
        ("${A}", "macros"),
        ("@one a", "conditions"),
        ("@^one a", "conditions"),
        ("a { @one b }", "conditions"),
        ('"@one" a', "conditions"),
        ("~SEQ(x, 2) a", "repetition"),
        ("~LST(x, 2) a", "repetition"),
        *((f"\n{word} /etc/x", f"line 2: {word} is not allowed: it reads other files")
          for word in ("include", "includer", "includem", "includew", "includeb", "includea")),
        ('"include" /etc/x', "reads other files"),
        ("a {include /etc/x\n}", "reads other files"),
        ("\vinclude /etc/x", "reads other files"),
        ("a b\\", "a backslash"),
        ("a b\\\nc", "line 1: a backslash"),
        ("a \\# b", "a backslash"),
        ('a "b\\" c"', "a backslash"),
        ('a "b', "a quote is not closed"),
        ("a\0b", "a NUL byte"),
        ("# \0", "a NUL byte"),
        ("a\x1bb", "a control character"),
        ("a\x7f", "a control character"),
        ("}", "closes what was not opened"),
        ("a }", "closes what was not opened"),
        ("{", "a brace where none belongs"),
        ("a { } { }", "a brace where none belongs"),
        ("a {\n{ b }", "line 2: a brace where none belongs"),
        ("a {\n", "a brace is not closed"),
        ("a {" * 9, "too many braces"),
        ("\n" + "a" * (LONGEST_LINE + 1), "line 2: the line is longer"),
        ("#" * 2000, "the line is longer"),
    ],
)  # fmt: skip
def test_refuses_text_that_keepalived_would_read_otherwise(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(text.encode())
    assert reason in str(refused.value)


def test_refuses_a_comment_longer_than_the_buffer_of_keepalived() -> None:
    """keepalived would read a line of its own there."""
    with pytest.raises(ConfigError, match="longer"):
        parse(b"#" + b" " * (LONGEST_LINE + 1) + b"include /etc/passwd")
