"""Replies of haproxy in short, and the text of metrics read by Prometheus' own client."""

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from amphora_agent.haproxy import replies
from amphora_agent.metrics.translate.octavia import COLUMNS, Machine, families
from amphora_agent.model.status import Figures, Scope

HEADER = "# pxname,svname,scur,slim,bin,status,qtime,hrsp_2xx,hrsp_other,last_chk,"
INFO = "Name: HAProxy\nVersion: 2.6.12\nCurrConns: 7\nSslFrontendSessionReuse_pct: 40"


def row(proxy: str, service: str, **columns: str) -> str:
    """A row of `show stat`; columns that are not given are empty."""
    values = {"pxname": proxy, "svname": service, **columns}
    columns_in_order = HEADER.removeprefix("# ").rstrip(",").split(",")
    return "".join(f"{values.get(name, '')}," for name in columns_in_order)


def stat(*rows: str) -> str:
    return "\n".join((HEADER, *rows))


def parse(info: str, stat: str) -> Figures:
    """With all columns that are needed."""
    return replies.read_figures(info, stat, COLUMNS)


def parsed(texts: Iterable[str]) -> dict[str, Metric]:
    """The families of a text, by the names that are in the text."""
    text = "".join(texts)
    found = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = family
    # One that is in two places would be counted twice.
    assert len(found) == text.count("# TYPE ") == text.count("# HELP ")
    return found


def told(*instances: Figures, scopes: Iterable[Scope] = Scope) -> dict[str, Metric]:
    return parsed(families(Machine(12.34, 56.78), instances, frozenset(scopes)))


def values(family: Metric) -> dict[tuple[str, ...], float]:
    """The value of each sample by its labels' values, in the order of the text."""
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}
