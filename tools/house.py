#!/usr/bin/env python3
"""Print figures that say how easily the code can be read and taken over.

tools/house.py [--against REVISION] [--details] [--json] [DIRECTORY]

DIRECTORY is a source tree, by default the one that this script is part of. With `--against`, the
figures of a revision of its git repository stand beside those of the tree. With `--details`, the
functions, modules and folders that were counted are named.

What is counted:

* A module is a file of the package amphora_agent; an `__init__.py` without code is none.
* A line of code has more than comments and docstrings. So is the length of a function counted,
  from `def` to its end. The body of a test is counted as it stands, from its first statement.
* An import counts wherever it stands, also in a function. A folder's own modules are those
  directly in it; an arrow is a folder with imports from another one; a folder is in a circle if
  arrows lead from it back to it.
* A repeated name is one of a public class or function at the top of several modules.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

PACKAGE = "amphora_agent"
BESIDE = ("lab", "tests", "benchmarks", "tools")
LONG = 40
CROWDED = 12
LABELS = 48

Function = ast.FunctionDef | ast.AsyncFunctionDef
NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


class Source(NamedTuple):
    """A Python file: its dotted name, its path, whether it is an `__init__.py`, what it has."""

    name: str
    path: str
    is_package: bool
    tree: ast.Module
    code: frozenset[int]

    @property
    def folder(self) -> str:
        return self.name if self.is_package else self.name.rpartition(".")[0]


class Figure(NamedTuple):
    """A figure of a tree, and the places that were counted, if they are few enough to be named."""

    label: str
    value: float
    places: tuple[str, ...] = ()


def find_docstring(node: ast.AST) -> ast.Expr | None:
    """Return the statement that is the docstring of a module, a class or a function."""
    if not isinstance(node, ast.Module | ast.ClassDef | Function) or not node.body:
        return None
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        return first if isinstance(first.value.value, str) else None
    return None


def number_code_lines(text: str, tree: ast.Module) -> frozenset[int]:
    """Return the numbers of the lines that have code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NOT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if docstring := find_docstring(node):
            lines.difference_update(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return frozenset(lines)


def read_sources(root: Path, directory: str) -> list[Source]:
    """Read all Python files of a directory of a source tree, in the order of their paths."""
    sources = []
    for path in sorted((root / directory).rglob("*.py")):
        text = path.read_text()
        tree = ast.parse(text)
        relative = path.relative_to(root)
        is_package = path.name == "__init__.py"
        parts = relative.parent.parts if is_package else relative.with_suffix("").parts
        code = number_code_lines(text, tree)
        sources.append(Source(".".join(parts), str(relative), is_package, tree, code))
    return sources


def find_functions(source: Source) -> Iterator[Function]:
    return (node for node in ast.walk(source.tree) if isinstance(node, Function))


def measure_function(source: Source, function: Function) -> int:
    """Return how many lines of code a function has, without its decorators."""
    return sum(function.lineno <= line <= (function.end_lineno or 0) for line in source.code)


def measure_body(function: Function) -> int:
    """Return how many lines the body of a function has as it stands, without the docstring."""
    body = function.body[1:] if find_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def find_long_functions(sources: Iterable[Source]) -> list[str]:
    lengths = [
        (measure_function(source, function), f"{source.path}:{function.lineno} {function.name}")
        for source in sources
        for function in find_functions(source)
    ]
    return [
        f"{place} ({length})" for length, place in sorted(lengths, reverse=True) if length > LONG
    ]


def find_long_tests(sources: Iterable[Source]) -> list[str]:
    lengths = [
        (measure_body(function), f"{source.path}:{function.lineno} {function.name}")
        for source in sources
        for function in find_functions(source)
        if function.name.startswith("test_")
    ]
    return [
        f"{place} ({length})" for length, place in sorted(lengths, reverse=True) if length > LONG
    ]


def name_imported(source: Source, node: ast.AST) -> Iterator[str]:
    """Yield the dotted names that a statement imports, which may be modules or what these have."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            levels = node.level - 1
            above = source.folder.split(".")[: -levels or None]
            base = ".".join([*above, *([base] if base else [])])
        yield from (f"{base}.{alias.name}" for alias in node.names)


def find_imports(sources: Sequence[Source]) -> dict[str, set[str]]:
    """Return for each file the files of the same package that it imports, by dotted names."""
    names = {source.name for source in sources}
    imports: dict[str, set[str]] = {source.name: set() for source in sources}
    for source in sources:
        for node in ast.walk(source.tree):
            for name in name_imported(source, node):
                found = name if name in names else name.rpartition(".")[0]
                if found in names and found != source.name:
                    imports[source.name].add(found)
    return imports


def find_arrows(sources: Sequence[Source], imports: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return for each folder the other folders whose modules its own modules import."""
    folders = {source.name: source.folder for source in sources}
    arrows: dict[str, set[str]] = {folder: set() for folder in folders.values()}
    for importer, imported in imports.items():
        arrows[folders[importer]].update(folders[name] for name in imported)
    return {folder: others - {folder} for folder, others in arrows.items()}


def find_reachable(arrows: Mapping[str, set[str]], start: str) -> set[str]:
    """Return the folders that arrows lead to, the first one only if they lead back."""
    reached: set[str] = set()
    waiting = list(arrows[start])
    while waiting:
        folder = waiting.pop()
        if folder not in reached:
            reached.add(folder)
            waiting.extend(arrows[folder])
    return reached


def find_circles(arrows: Mapping[str, set[str]]) -> list[str]:
    """Return the folders that lead back to themselves, and those that they do so with."""
    reachable = {folder: find_reachable(arrows, folder) for folder in arrows}
    return [
        f"{folder} with {', '.join(sorted(reached_back(reachable, folder)))}"
        for folder, reached in sorted(reachable.items())
        if folder in reached
    ]


def reached_back(reachable: Mapping[str, set[str]], folder: str) -> set[str]:
    """Return the other folders that a folder reaches and that reach it."""
    return {other for other in reachable[folder] if folder in reachable[other]} - {folder}


def find_single_imports(imports: Mapping[str, set[str]]) -> list[str]:
    """Return the modules that exactly one other imports, and which one."""
    importers: dict[str, list[str]] = defaultdict(list)
    for importer, imported in imports.items():
        for name in imported:
            importers[name].append(importer)
    return sorted(f"{name} by {by[0]}" for name, by in importers.items() if len(by) == 1)


def find_repeated(modules: Iterable[Source], *kinds: type[ast.AST]) -> list[str]:
    """Return public names of definitions that stand at the top of more than one module."""
    places: dict[str, set[str]] = defaultdict(set)
    for module in modules:
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef | Function) and isinstance(node, kinds):
                places[node.name].add(module.name)
    return sorted(
        f"{name}: {', '.join(sorted(where))}"
        for name, where in places.items()
        if len(where) > 1 and not name.startswith("_")
    )


def count_own_modules(modules: Iterable[Source]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for module in modules:
        counts[module.folder] += 1
    return counts


def name_places(label: str, places: Iterable[str]) -> Figure:
    named = tuple(places)
    return Figure(label, len(named), named)


def measure(root: Path) -> list[Figure]:
    """Return all figures of a source tree."""
    sources = read_sources(root, PACKAGE)
    modules = [source for source in sources if source.code or not source.is_package]
    lines = [len(module.code) for module in modules]
    lengths = [
        measure_function(module, function)
        for module in modules
        for function in find_functions(module)
    ]
    imports = find_imports(sources)
    arrows = find_arrows(sources, imports)
    own = count_own_modules(modules)
    crowded = [f"{folder} ({count})" for folder, count in sorted(own.items()) if count > CROWDED]
    beside = {directory: read_sources(root, directory) for directory in BESIDE}
    return [
        Figure("modules", len(modules)),
        Figure("lines of code", sum(lines)),
        *(
            Figure(f"lines of code in {directory}/", sum(len(source.code) for source in found))
            for directory, found in beside.items()
        ),
        Figure("lines of code of a module, median", statistics.median(lines or [0])),
        Figure("lines of code of a function, median", statistics.median(lengths or [0])),
        name_places(f"functions over {LONG} lines", find_long_functions(modules)),
        name_places("modules that one other imports", find_single_imports(imports)),
        Figure("folders", len(own)),
        name_places(f"folders with over {CROWDED} modules of their own", crowded),
        Figure("imports between folders: arrows", sum(map(len, arrows.values()))),
        name_places("imports between folders: in circles", find_circles(arrows)),
        name_places("classes of one name", find_repeated(modules, ast.ClassDef)),
        name_places(
            "functions of one name",
            find_repeated(modules, ast.FunctionDef, ast.AsyncFunctionDef),
        ),
        name_places(f"test bodies over {LONG} lines", find_long_tests(beside["tests"])),
    ]


def measure_revision(root: Path, revision: str) -> list[Figure]:
    """Return all figures of a revision of the git repository of a source tree."""
    archive = subprocess.run(
        ["git", "-C", root, "archive", revision], stdout=subprocess.PIPE, check=True
    ).stdout
    with tempfile.TemporaryDirectory() as directory:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(directory, filter="data")
        return measure(Path(directory))


def format_figures(columns: Mapping[str, Sequence[Figure]]) -> str:
    """Return a table with a column of figures for each tree."""
    widths = {title: max(len(title), 7) for title in columns}
    heading = "  ".join(title.rjust(width) for title, width in widths.items())
    lines = [f"{'':<{LABELS}}{heading}"]
    for row in zip(*columns.values(), strict=True):
        values = (
            f"{figure.value:{width},.12g}"
            for figure, width in zip(row, widths.values(), strict=True)
        )
        lines.append(f"{row[0].label:<{LABELS}}{'  '.join(values)}")
    return "\n".join(lines)


def format_details(figures: Iterable[Figure]) -> str:
    return "\n".join(
        "\n".join(["", f"{figure.label}:", *(f"  {place}" for place in figure.places)])
        for figure in figures
        if figure.places
    )


def as_json(columns: Mapping[str, Sequence[Figure]], *, details: bool) -> str:
    """Return the figures of each tree as JSON: values by label, or values and places."""
    return json.dumps(
        {
            title: {
                figure.label: {"value": figure.value, "places": figure.places}
                if details
                else figure.value
                for figure in figures
            }
            for title, figures in columns.items()
        },
        indent=2,
    )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Print figures of the code.")
    parser.add_argument("directory", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--against", metavar="REVISION", help="a revision to stand beside the tree")
    parser.add_argument("--details", action="store_true", help="name what was counted")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    columns = {}
    if options.against:
        columns[options.against] = measure_revision(options.directory, options.against)
    columns["tree"] = measure(options.directory)
    if options.json:
        print(as_json(columns, details=options.details))
    else:
        print(format_figures(columns))
        if options.details:
            print(format_details(columns["tree"]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
