"""Lines, words and sections are told apart as haproxy itself does: haproxy says what it has read.

An unknown keyword is quoted in its complaint, and so is an argument too many: these give the
first word of a line, and the third. The complaint names the section as well.
"""

import random
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from amphora_agent.haproxy.config.parser import SECTIONS, split_sections, split_words

#: Lines to a configuration. haproxy goes on after an error, but it says only so much.
_AT_ONCE = 40

SPECIAL = [
    r"kw\ x y",
    r"kw\.x",
    r"kw\x41x",
    r'kw"\x41 b"',
    r"kw'\x41 b'",
    r"kw\qx",
    r'kw"a\"b"',
    r'kw"a\qb"',
    r"kw'a\qb'",
    r"kw\'b",
    r"kw\"b",
    r"kw\#b",
    r"kw#b",
    r'kw"#b" # c',
    r"kw\tb",
    r"kw\$b",
    r'kw"\$b"',
    r"kw'$HOME'",
    r"kw$HOME",
    r'kw"a\ b"',
    r"kw\\b",
    r"kw\\\b",
    r'kw"a\'b"',
    "kw\u00a0b c",
    "kw\u2003b c",
    "kw\x1cb c",
    "kw\x85b c",
    "kw\x0bb",
    "kw\x0cb",
    "kw\rb",
    "kw\tb",
    'kw""x',
    "kw''",
    "kw'a'\"b\"c",
    "kw\\",
    r"kw\x00hidden",
    r'kw"\x00hidden"',
    r"kw\xc3\xa9b",
    r"kw\xe9b",
    "kw\udce9b",
    "kw\udcc3\\xa9b",
]


def random_lines(number: int) -> list[str]:
    """Lines of what matters in them, that begin with a word which haproxy does not know."""
    source = random.Random(number)
    pieces = ["a", "B", " ", "  ", "\t", "\\", "'", '"', "#", "\\x4", "\\x41", "\\n", ".", "é", "$"]
    return [
        "kw" + "".join(source.choice(pieces) for _ in range(source.randrange(1, 12)))
        for _ in range(400)
    ]


def complaints(program: Path, directory: Path, *texts: str) -> str:
    """What haproxy says of these files, 0.cfg and so on."""
    command = [str(program), "-c"]
    for number, text in enumerate(texts):
        file = directory / f"{number}.cfg"
        file.write_bytes(text.encode(errors="surrogateescape"))
        command += ["-f", str(file)]
    done = subprocess.run(
        command, capture_output=True, check=False, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    return done.stderr.decode(errors="surrogateescape")


def read_by_haproxy(program: Path, directory: Path, lines: Sequence[str]) -> dict[int, str]:
    """For each line the word that haproxy complains of; none for lines that it cannot split."""
    found = {}
    for begin in range(0, len(lines), _AT_ONCE):
        some = lines[begin : begin + _AT_ONCE]
        said = re.findall(
            r"0\.cfg:(\d+)\] : "
            r"(?:unknown keyword '(.*?)' in 'global' section"
            r"|'maxconn' cannot handle unexpected argument '(.*?)'\.)\n",
            complaints(program, directory, "global\n" + "\n".join(some) + "\n"),
            re.DOTALL,
        )
        for line, keyword, argument in said:
            found[begin + int(line) - 2] = keyword or argument
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_first_word_of_any_line(program: Path, tmp_path: Path, seed: int) -> None:
    lines = random_lines(seed)
    read = read_by_haproxy(program, tmp_path, lines)
    assert len(read) > len(lines) / 4
    for number, word in read.items():
        assert split_words(lines[number])[0] == word, lines[number]


def test_the_first_word_of_special_lines(program: Path, tmp_path: Path) -> None:
    read = read_by_haproxy(program, tmp_path, SPECIAL)
    assert len(read) == len(SPECIAL)
    for number, word in read.items():
        assert split_words(SPECIAL[number])[0] == word, SPECIAL[number]


def test_words_further_on_in_any_line(program: Path, tmp_path: Path) -> None:
    lines = [f"maxconn 5 {line}" for line in [*SPECIAL, *random_lines(7)]]
    read = read_by_haproxy(program, tmp_path, lines)
    assert len(read) > len(lines) / 4
    for number, word in read.items():
        assert split_words(lines[number])[2] == word, lines[number]


def test_environment_variables_are_the_one_thing_that_is_left_as_written(
    program: Path, tmp_path: Path
) -> None:
    line = 'kw"$PATH"'
    (word,) = read_by_haproxy(program, tmp_path, [line]).values()
    assert word == "kw/usr/sbin:/usr/bin:/sbin:/bin"
    assert split_words(line) == ("kw$PATH",)


@pytest.mark.parametrize(
    "lines",
    [
        ["kw1\\", "kw2\\", "kw3"],
        ["kw1 'a", "kw2' b", 'kw3 "a', 'kw4" b', "kw5"],
        ["kw1 a\\", "kw2 # b\\", "kw3"],
        ["kw1\r", "kw2\u2028kw", "kw3\x85kw", "kw4\vkw", "kw5\x1ekw"],
        ["# a\\", "kw2", "# 'b", "kw4'"],
        # At a NUL the line ends, and haproxy stops reading.
        ["kw1", "kw2\0 a"],
    ],
)
def test_a_line_ends_at_its_newline(program: Path, tmp_path: Path, lines: list[str]) -> None:
    text = "\n".join(["global", *lines])
    (block,) = split_sections({"f": text})
    read = {line.line - 2: line.words[0] for line in block.lines() if line.words}
    said = read_by_haproxy(program, tmp_path, lines)
    # It does not read words from a line with an open quote, but goes on with the next.
    assert said.keys() == {place for place in read if place >= 0 and "'" not in lines[place]} - {
        place for place, line in enumerate(lines) if '"' in line
    }
    assert all(read[place] == word for place, word in said.items())


HEADERS = [
    "global", "  global", "glo'bal'", '"global"', "glob\\x61l", "\t\rglobal # x", "global\\x00x",
    "globals", "global\\ ", "xglobal", '"" global', "\\x00global", "\u2028global", "#global",
    "defaults", "defaults d{}", "'defaults' d{}", "default\\x73", "frontend f{}", "front'end' f{}",
    " frontend\tf{}#", "backend b{}", "'b'ackend b{}", "frontend\\x20f{}", "userlist u{}",
    "'peers' p{}", ".if 1\n.endif", "[scope]", "cache c{}", "resolvers r{}",
]  # fmt: skip


def text_of_sections(number: int) -> str:
    """What may begin a section, with words between them that no section knows."""
    source = random.Random(number)
    lines = [
        source.choice(HEADERS).format(place) if source.random() < 0.6 else "kw"
        for place in range(_AT_ONCE)
    ]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("seed", range(6))
def test_sections_begin_where_haproxy_sees_them(program: Path, tmp_path: Path, seed: int) -> None:
    text = text_of_sections(seed)
    said = complaints(program, tmp_path, text)
    seen = dict(re.findall(r"0\.cfg:(\d+)\][ :]+unknown keyword 'kw' (?:in '?(\S+?)'? )?", said))
    ours = {
        str(directive.line): block.kind
        for block in split_sections({"f": text})
        for directive in block.section().directives
        if directive.words == ("kw",)
    }
    # Some sections it calls otherwise in some versions.
    kinds = {"users": "userlist"}
    assert {line: kinds.get(kind, kind) for line, kind in seen.items()} == ours


def test_no_section_goes_on_in_the_next_file(program: Path, tmp_path: Path) -> None:
    texts = {"0.cfg": "global\n kw\n", "1.cfg": "kw\nglobal\n kw\n"}
    said = complaints(program, tmp_path, *texts.values())
    assert re.findall(r"(\d\.cfg:\d+)\][ :]+unknown keyword 'kw' (.*)\.?\n", said) == [
        ("0.cfg:2", "in 'global' section"),
        ("1.cfg:1", "out of section."),
        ("1.cfg:3", "in 'global' section"),
    ]
    assert [(block.file, block.line, block.kind) for block in split_sections(texts)] == [
        ("0.cfg", 1, "global"),
        ("1.cfg", 1, ""),
        ("1.cfg", 2, "global"),
    ]


def test_the_keywords_of_sections_are_all_that_a_haproxy_knows(
    program: Path, tmp_path: Path
) -> None:
    words = set(re.findall(rb"(?<=\0)[a-z][a-z_-]{3,15}(?=\0)", program.read_bytes()))
    candidates = sorted({word.decode() for word in words} | SECTIONS)
    known = {
        word
        for begin in range(0, len(candidates), _AT_ONCE)
        for word in sections_among(program, tmp_path, candidates[begin : begin + _AT_ONCE])
    }
    # A line may begin with "default", too, but no section does.
    assert known - {"default"} <= SECTIONS
    later = {"crt-store", "log-profile", "traces"}
    assert known >= SECTIONS - later - {"program"}


def sections_among(program: Path, directory: Path, words: Sequence[str]) -> list[str]:
    """The words that haproxy takes for more than a keyword out of place."""
    said = complaints(program, directory, *(f"{word}\n" for word in words))
    refused = set(re.findall(r"unknown keyword '(\S+)' out of section", said))
    left = [word for word in words if word not in refused]
    if len(left) <= 1:
        return left
    # An error may have been the last that it looked at.
    middle = len(left) // 2
    return [
        *sections_among(program, directory, left[:middle]),
        *sections_among(program, directory, left[middle:]),
    ]
