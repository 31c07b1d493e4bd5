"""Each line of what haproxy is given leads back to a line of one of 5,000 files."""

from pathlib import Path

from amphora_agent.haproxy.runtime import loaded_state
from amphora_agent.paths import PARTS
from amphora_agent.revisions.contents import Revisions
from tests.unit.haproxy.config.test_parts import NAMES


def test_d2_a_line_of_a_part_is_one_of_a_file(tmp_path: Path) -> None:
    texts = {name: f"# {name}\nbackend b{n}\n" + "\n" * (n % 3) for n, name in enumerate(NAMES)}
    revisions = Revisions(tmp_path / "revisions")
    rendered = revisions.keep({name: text.encode() for name, text in texts.items()})
    given = loaded_state.add_parts(revisions, rendered)
    for part, inside in loaded_state.group_into_parts(texts).items():
        lines = revisions.read(given[f"{PARTS}/{part}"].digest).decode().splitlines()
        assert sum(texts[name].count("\n") for name in inside) == len(lines)
        for number, line in enumerate(lines, 1):
            at = loaded_state.find_line(part, number, texts)
            assert at is not None
            assert texts[at[0]].splitlines()[at[1] - 1] == line
    last = loaded_state.group_into_parts(texts)[part][-1]
    end = texts[last].count("\n")
    said = f"[{tmp_path}/{PARTS}/{part}:{len(lines)}] : wrong; [{tmp_path}/{PARTS}/{part}:99999]"
    expected = f"[{tmp_path}/{last}:{end}] : wrong; [{tmp_path}/{PARTS}/{part}:99999]"
    assert loaded_state.translate_messages(tmp_path, texts, said) == expected
