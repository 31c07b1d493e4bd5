"""Requests about declared load balancers that need no haproxy: there is nothing to listen at."""

import json
from pathlib import Path
from typing import Any

import pytest

from amphora_agent.errors import InvalidRequest
from amphora_agent.events.alarms import Alarms
from amphora_agent.haproxy.process.binary import Haproxy
from amphora_agent.haproxy.service import Instances
from amphora_agent.keepalived.lvs.service import LvsListeners
from amphora_agent.loadbalancer import service
from amphora_agent.loadbalancer.service import Declared
from amphora_agent.model.events import AGENT
from amphora_agent.model.responses import ProcessModel, Result
from amphora_agent.paths import Layout, object_id
from amphora_agent.settings.reader import Settings
from amphora_agent.supervisor.embedded import EmbeddedSupervisor
from amphora_agent.wiring import make_journal

LB = object_id("lb")


@pytest.fixture
def declared(tmp_path: Path) -> Declared:
    settings = Settings(amphora_id="amphora", base_path=str(tmp_path / "base"))
    layout = Layout.of(settings, run=tmp_path / "run", namespace="none")
    supervisor = EmbeddedSupervisor(layout.processes, layout.run)
    haproxy = Haproxy(tmp_path / "no-haproxy", layout.run)
    journal, alarms = make_journal(layout), Alarms(layout.alarms)
    instances = Instances(layout, haproxy, supervisor, journal, alarms, group="nogroup")
    layer4 = LvsListeners(layout, supervisor, list, alarms)
    return Declared(layout, instances, layer4, dict, process_model=ProcessModel.LOADBALANCER)


def body(**more: Any) -> bytes:
    return json.dumps({"loadbalancer_id": LB, "vip_address": "192.0.2.1", **more}).encode()


def put(declared: Declared, content: bytes, **options: Any) -> Result:
    return declared.put(LB, content, AGENT, **options)


def undecodable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding is what must not happen, and has no other effect."""
    monkeypatch.setattr(service, "decode", lambda *_: pytest.fail("it was decoded"))


def test_repeated_request_is_not_decoded(
    declared: Declared, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = put(declared, body(name="a"))
    assert first.created
    undecodable(monkeypatch)
    for dry_run in (True, False):
        again = put(declared, body(name="a"), dry_run=dry_run)
        assert (again.step, again.etag, again.generation) == ("nothing", first.etag, 1)
        assert not again.created


def test_same_load_balancer_in_other_json_changes_nothing(declared: Declared) -> None:
    first = put(declared, body(name="a"))
    again = put(declared, json.dumps(json.loads(body(name="a")), indent=1).encode())
    assert (again.step, again.etag, again.generation) == ("nothing", first.etag, 1)


def test_request_counts_anew_after_another_one(declared: Declared) -> None:
    first, second = (put(declared, body(name=name)) for name in "ab")
    assert put(declared, body(name="b"), dry_run=True).generation == 2
    assert put(declared, body(name="a")).generation == 3
    assert put(declared, body(name="a"), process_model=ProcessModel.LISTENER).generation == 4
    assert put(declared, body(name="a")).generation == 4
    assert first.etag != second.etag


def test_request_counts_anew_after_a_rollback(declared: Declared) -> None:
    for name in "ab":
        put(declared, body(name=name))
    assert "now generation 3" in declared.rollback(LB, None, AGENT)
    again = put(declared, body(name="b"))
    assert again.generation == 4
    assert json.loads(declared.get(LB)[0])["name"] == "b"


def test_request_makes_a_deleted_load_balancer_again(declared: Declared) -> None:
    put(declared, body())
    declared.delete(LB, AGENT)
    assert put(declared, body()).created


def test_request_after_its_dry_run_is_carried_out(declared: Declared) -> None:
    put(declared, body(name="a"))
    put(declared, body(name="b"), dry_run=True)
    assert put(declared, body(name="b")).generation == 2


def test_wrong_request_is_refused_each_time(declared: Declared) -> None:
    put(declared, body(name="a"))
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="is another than lb"):
            put(declared, body(name="a", loadbalancer_id="other"))
