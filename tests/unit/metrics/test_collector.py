"""What is asked anew and what is not."""

from collections.abc import Collection

import pytest

from amphora_agent.errors import OperationFailed
from amphora_agent.metrics.endpoint import FRESH, Collector
from amphora_agent.metrics.translate.octavia import Machine
from amphora_agent.model.status import Figures, Scope
from tests.builders.samples import parsed, values

ALL = frozenset(Scope)
LISTENERS = frozenset({Scope.LISTENER})
CONNECTIONS = "octavia_loadbalancer_current_connections"


class Instances:
    """Each answer is one connection more than the one before."""

    def __init__(self) -> None:
        self.asked: list[Collection[Scope]] = []
        self.answers: list[Figures | None] | None = None

    def read_figures(
        self, scopes: Collection[Scope], columns: Collection[str], *, timeout: float
    ) -> list[Figures | None]:
        assert 0 < timeout < 5  # the controller's text waits so long
        self.asked.append(scopes)
        if self.answers is not None:
            return self.answers
        return [Figures({"CurrConns": str(len(self.asked))}, (), {})]


class Bed:
    def __init__(self) -> None:
        self.now = 100.0
        self.instances = Instances()
        self.collector = Collector(self.instances, lambda: Machine(1, 2), lambda: self.now)

    def connections(self) -> float:
        families = parsed(self.collector.collect(ALL))
        return values(families[CONNECTIONS])[()]


@pytest.fixture
def bed() -> Bed:
    return Bed()


def test_figures_are_good_for_a_second_and_no_longer(bed: Bed) -> None:
    assert bed.connections() == 1
    bed.now += FRESH - 0.001
    assert bed.connections() == 1
    bed.now += 0.001
    assert bed.connections() == 2


def test_figures_of_more_scopes_serve_fewer(bed: Bed) -> None:
    list(bed.collector.collect(ALL))
    list(bed.collector.collect(LISTENERS))
    assert bed.instances.asked == [ALL]


def test_figures_of_fewer_scopes_do_not_serve_more(bed: Bed) -> None:
    list(bed.collector.collect(LISTENERS))
    list(bed.collector.collect(ALL))
    assert bed.instances.asked == [LISTENERS, ALL]


def test_silence_is_remembered_as_long_as_an_answer(bed: Bed) -> None:
    """A haproxy that hangs costs its time once a second, however many scrape."""
    bed.instances.answers = [None]
    for _ in range(3):
        with pytest.raises(OperationFailed, match="answers"):
            bed.collector.collect(ALL)
    assert len(bed.instances.asked) == 1
    bed.now += FRESH
    bed.instances.answers = None
    assert bed.connections() == 2


def test_collects_from_an_instance_that_answers_beside_a_silent_one(bed: Bed) -> None:
    bed.instances.answers = [None, Figures({"CurrConns": "5"}, (), {})]
    assert bed.connections() == 5


def test_an_amphora_without_load_balancers_tells_of_its_machine(bed: Bed) -> None:
    bed.instances.answers = []
    families = parsed(bed.collector.collect(ALL))
    assert values(families["octavia_loadbalancer_cpu"]) == {(): 1}
    assert families[CONNECTIONS].samples == []


def test_drops_old_figures(bed: Bed) -> None:
    list(bed.collector.collect(ALL))
    bed.collector.forget()
    assert bed.collector._known
    bed.now += FRESH
    bed.collector.forget()
    assert not bed.collector._known
