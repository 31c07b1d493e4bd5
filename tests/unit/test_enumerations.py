"""Every table of the agent that an enumeration is the key of has an entry for each member."""

import ast
import enum
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

import amphora_agent

#: The comment above a table that has no entry for some members; the reason follows.
_PARTIAL = "#: Partial: "


class Table(NamedTuple):
    """A mapping that a module assigns to one of its names."""

    place: str
    is_partial: bool
    missing: frozenset[str]


def _modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(amphora_agent.__path__, "amphora_agent."):
        if not found.name.endswith(".__main__"):
            yield importlib.import_module(found.name)


def _tables(module: ModuleType) -> Iterator[Table]:
    assert module.__file__
    source = Path(module.__file__).read_text()
    lines = source.split("\n")
    for statement in ast.parse(source).body:
        for name in _assigned(statement):
            value = getattr(module, name, None)
            if isinstance(value, Mapping) and value and (kind := _enumeration(value)):
                yield Table(
                    f"{module.__name__}.{name}",
                    _is_partial(lines[: statement.lineno - 1]),
                    frozenset(member.name for member in kind if member not in value),
                )


def _assigned(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case _:
            return []


def _enumeration(table: Mapping[object, object]) -> type[enum.Enum] | None:
    """Return the enumeration whose members are the keys of a table."""
    kinds = {type(key) for key in table}
    kind = kinds.pop()
    return kind if not kinds and issubclass(kind, enum.Enum) else None


def _is_partial(lines_above: list[str]) -> bool:
    for line in reversed(lines_above):
        if not line.startswith("#"):
            return False
        if line.startswith(_PARTIAL) and line != _PARTIAL.rstrip():
            return True
    return False


_TABLES = [table for module in _modules() for table in _tables(module)]


@pytest.mark.parametrize("table", _TABLES, ids=lambda table: table.place)
def test_table_has_an_entry_for_each_member_of_its_enumeration(table: Table) -> None:
    assert table.is_partial or not table.missing


def test_only_tables_that_lack_a_member_are_said_to_be_partial() -> None:
    assert [table.place for table in _TABLES if table.is_partial and not table.missing] == []
