"""Render the templates of `haproxy_templates/` and `systemd/`: at the top of the source tree, and
beside the code once installed."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import jinja2

_HERE = Path(__file__).resolve().parent


def render(
    folder: str,
    name: str,
    *,
    filters: Mapping[str, Callable[..., str]] = MappingProxyType({}),
    **values: object,
) -> str:
    """Return the text of template `name` of `folder` with `values`; a missing value is an error.

    `filters` are functions that the template applies to values: the same ones at each call.
    """
    environment = _make_environment(folder)
    environment.filters.update(filters)
    return environment.get_template(name).render(**values)


def find_directory(folder: str) -> Path:
    """Return the directory of the templates of `folder`: in the package, or in the source tree."""
    installed = _HERE / folder
    return installed if installed.is_dir() else _HERE.parent / folder


@cache
def _make_environment(folder: str) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(find_directory(folder)),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - neither haproxy configuration nor units are HTML
    )
