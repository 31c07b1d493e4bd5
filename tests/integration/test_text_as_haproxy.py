"""Words are split as haproxy itself splits them: haproxy says what it has read.

An unknown keyword is quoted in its complaint, and so is an argument too many: these give the
first word of a line, and the fifth.
"""

import random
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from amphora_agent.haproxy.text import split

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
]


def random_lines(number: int) -> list[str]:
    """Lines of what matters in them, that begin with a word which haproxy does not know."""
    source = random.Random(number)
    pieces = ["a", "B", " ", "  ", "\t", "\\", "'", '"', "#", "\\x4", "\\x41", "\\n", ".", "é", "$"]
    return [
        "kw" + "".join(source.choice(pieces) for _ in range(source.randrange(1, 12)))
        for _ in range(400)
    ]


def read_by_haproxy(directory: Path, lines: Sequence[str]) -> dict[int, str]:
    """For each line the word that haproxy complains of; none for lines that it cannot split."""
    file = directory / "words.cfg"
    found = {}
    for begin in range(0, len(lines), _AT_ONCE):
        some = lines[begin : begin + _AT_ONCE]
        file.write_text("global\n" + "\n".join(some) + "\n", encoding="utf-8", newline="")
        said = subprocess.run(
            ["haproxy", "-c", "-f", str(file)],
            capture_output=True,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        ).stderr.decode(errors="surrogateescape")
        complaints = re.findall(
            r"words\.cfg:(\d+)\] : "
            r"(?:unknown keyword '(.*?)' in 'global' section"
            r"|'setenv' cannot handle unexpected argument '(.*?)'\.)\n",
            said,
            re.DOTALL,
        )
        for line, keyword, argument in complaints:
            found[begin + int(line) - 2] = keyword or argument
    return found


def as_bytes(word: str) -> bytes:
    """What haproxy prints of a word that we have read: a byte that was escaped is just that."""
    return word.encode("utf-8", errors="surrogateescape")


@pytest.mark.parametrize("seed", range(3))
def test_the_first_word_of_any_line(tmp_path: Path, seed: int) -> None:
    lines = random_lines(seed)
    read = read_by_haproxy(tmp_path, lines)
    assert len(read) > len(lines) / 4
    for number, word in read.items():
        assert as_bytes(split(lines[number])[0]) == as_bytes(word), lines[number]


def test_the_first_word_of_special_lines(tmp_path: Path) -> None:
    read = read_by_haproxy(tmp_path, SPECIAL)
    assert len(read) == len(SPECIAL)
    for number, word in read.items():
        assert as_bytes(split(SPECIAL[number])[0]) == as_bytes(word), SPECIAL[number]


def test_words_further_on_in_any_line(tmp_path: Path) -> None:
    lines = [f"setenv A B C {line}" for line in [*SPECIAL, *random_lines(7)]]
    read = read_by_haproxy(tmp_path, lines)
    assert len(read) > len(lines) / 4
    for number, word in read.items():
        assert as_bytes(split(lines[number])[4]) == as_bytes(word), lines[number]


def test_environment_variables_are_the_one_thing_that_is_left_as_written(tmp_path: Path) -> None:
    line = 'kw"$PATH"'
    (word,) = read_by_haproxy(tmp_path, [line]).values()
    assert word == "kw/usr/sbin:/usr/bin:/sbin:/bin"
    assert split(line) == ("kw$PATH",)
