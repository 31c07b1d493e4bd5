"""Prints the values of every enumeration that the agent decodes, as JSON.

Run as a module, with the agent's own Python: its libraries are not in the environments of these
tests.
"""

import enum
import importlib
import inspect
import json
import pkgutil

from amphora_agent import model


def enumerations() -> dict[str, list[str]]:
    """Return the values of every enumeration of strings in the model, by the names of classes."""
    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(model.__path__, f"{model.__name__}.")
    ]
    return {
        name: sorted(kind)
        for module in modules
        for name, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, enum.StrEnum) and kind is not enum.StrEnum
    }


if __name__ == "__main__":
    print(json.dumps(enumerations()))
