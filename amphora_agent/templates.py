"""Templates: `haproxy_templates/` and `systemd/`, top level in the source, beside the code once
installed."""

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
    """The text of template `name` of `folder` with `values`; a missing value is an error.

    `filters` are the functions that the template can apply to values: the same ones at each call.
    """
    environment = _environment(folder)
    environment.filters.update(filters)
    return environment.get_template(name).render(**values)


def directory(folder: str) -> Path:
    """Where the templates of `folder` are: in the package, or in the source tree."""
    installed = _HERE / folder
    return installed if installed.is_dir() else _HERE.parent / folder


@cache
def _environment(folder: str) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(directory(folder)),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - neither haproxy configuration nor units are HTML
    )
