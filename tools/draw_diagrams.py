#!/usr/bin/env python3
"""Draw docs/diagrams/*.svg from the texts beside them, or check that they are current.

    tools/draw_diagrams.py            write packages.dot from the imports, draw every *.dot
    tools/draw_diagrams.py --check    say what is not current; needs no graphviz

Each drawing says from which text it was made, and its own digest: a text that changed and a drawing
that was edited are both found without drawing again.
"""

import ast
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIAGRAMS = ROOT / "docs" / "diagrams"
PACKAGE = "amphora_agent"
#: The drawing that is made of the imports, not of a text that a person has written.
PACKAGES = "packages.dot"

Edges = frozenset[tuple[str, str]]

_MARK = re.compile(r"\n<!-- made from (\S+), sha256 ([0-9a-f]{64}); drawing ([0-9a-f]{64}) -->\n\Z")
_EDGE = re.compile(r"^ *(\w+) -> (\w+)", re.MULTILINE)
_HEAD = """\
// Made from the imports by `make diagrams`: edits are overwritten.
// An arrow leads from a package to one that it imports. Left out: what longer ways show, and the
// modules beside the packages.
digraph packages {
    graph [fontname="sans-serif" rankdir=TB nodesep=0.3 ranksep=0.45]
    node [fontname="sans-serif" fontsize=11 shape=box style="rounded,filled" fillcolor="#eef3fb"]
    edge [color="#55606e" arrowsize=0.7]
"""


def draw(source: Path) -> str:
    """Return the SVG of a text, with the mark that says what it was made from.

    Raises:
        subprocess.CalledProcessError: graphviz does not accept the text.
    """
    done = subprocess.run(
        ["dot", "-Tsvg", source], check=True, stdout=subprocess.PIPE, encoding="utf-8"
    )
    body = done.stdout.rstrip("\n")
    mark = f"<!-- made from {source.name}, sha256 {_digest(source.read_text())}"
    return f"{body}\n{mark}; drawing {_digest(body)} -->\n"


def find_outdated(directory: Path) -> Iterator[str]:
    """Say of each text whose drawing is missing, older than the text, or edited."""
    for source in sorted(directory.glob("*.dot")):
        drawing = source.with_suffix(".svg")
        if not drawing.exists():
            yield f"{drawing.name} is missing"
            continue
        text = drawing.read_text()
        mark = _MARK.search(text)
        if mark is None:
            yield f"{drawing.name} does not say what it was made from"
        elif mark.group(1, 2) != (source.name, _digest(source.read_text())):
            yield f"{source.name} has changed since {drawing.name} was drawn"
        elif mark[3] != _digest(text[: mark.start()]):
            yield f"{drawing.name} was edited; edit {source.name} instead"


def read_imports(root: Path) -> dict[str, set[str]]:
    """Return which packages directly below `root` each of them imports."""
    names = {found.parent.name for found in root.glob("*/__init__.py")}
    imports: dict[str, set[str]] = {name: set() for name in names}
    for name in names:
        for module in (root / name).rglob("*.py"):
            for imported in _imported_names(ast.parse(module.read_text())):
                package, _, rest = imported.partition(".")
                other = rest.partition(".")[0]
                if package == root.name and other in names - {name}:
                    imports[name].add(other)
    return imports


def _imported_names(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names of what a module imports; `from a import b` may mean `a.b`."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                yield from (alias.name for alias in aliases)
            case ast.ImportFrom(module=str(module), names=aliases, level=0):
                yield from (f"{module}.{alias.name}" for alias in aliases)


def reduce_imports(imports: Mapping[str, set[str]]) -> Edges:
    """Return the imports that no longer way shows. import-linter sees that there are no circles."""
    reached: dict[str, set[str]] = {}

    def reach(name: str) -> set[str]:
        if name not in reached:
            reached[name] = imports[name].union(*map(reach, imports[name]))
        return reached[name]

    return frozenset(
        (name, other)
        for name, others in imports.items()
        for other in others
        if not any(other in reach(between) for between in others - {other})
    )


def read_edges(text: str) -> Edges:
    """Return the arrows that a text in graphviz's language draws."""
    return frozenset((found[1], found[2]) for found in _EDGE.finditer(text))


def describe_packages(root: Path) -> str:
    """Return the text of the drawing of all packages below `root`, each with its docstring."""
    imports = read_imports(root)
    lines = []
    for name in sorted(imports):
        module = ast.parse((root / name / "__init__.py").read_text())
        first = (ast.get_docstring(module) or "").partition("\n")[0].rstrip(".")
        lines.append(f"    {name} [label={_label(name, first)}]")
    lines += [f"    {name} -> {other}" for name, other in sorted(reduce_imports(imports))]
    return _HEAD + "\n".join(lines) + "\n}\n"


def _label(name: str, words: str) -> str:
    broken = re.sub(r"(.{24}\S*) ", r"\1<br/>", _escape(words))
    return f'<<b>{name}/</b><br/><font point-size="9">{broken}</font>>'


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("`", "")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def check() -> Iterator[str]:
    """Say what is not current: drawings, and the text that is made from the imports."""
    drawn = read_edges((DIAGRAMS / PACKAGES).read_text())
    real = reduce_imports(read_imports(ROOT / PACKAGE))
    yield from (f"{PACKAGES} draws {a} -> {b}: it is not imported" for a, b in sorted(drawn - real))
    yield from (f"{PACKAGES} does not draw {a} -> {b}" for a, b in sorted(real - drawn))
    yield from find_outdated(DIAGRAMS)


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        problems = list(check())
        for problem in problems:
            print(f"docs/diagrams: {problem}; run `make diagrams`", file=sys.stderr)
        return int(bool(problems))
    if arguments:
        print(__doc__, file=sys.stderr)
        return 2
    (DIAGRAMS / PACKAGES).write_text(describe_packages(ROOT / PACKAGE))
    for source in sorted(DIAGRAMS.glob("*.dot")):
        source.with_suffix(".svg").write_text(draw(source))
        print(f"docs/diagrams/{source.stem}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
