"""Records of ports survive; one that cannot be read is reported and left aside."""

from __future__ import annotations

import json
from ipaddress import ip_interface
from pathlib import Path

import pytest

from amphora_agent.model.addressing import parse_mac
from amphora_agent.model.decode import decode
from amphora_agent.model.plugging import NetworkPlug, PluggedVip
from amphora_agent.network.records import PortRecord, PortRecords

MAC = parse_mac("fa:16:3e:00:00:01")
NETWORK = decode(
    json.dumps(
        {
            "mac_address": MAC,
            "mtu": 1450,
            "fixed_ips": [{"ip_address": "fd02::5", "subnet_cidr": "fd02::/64"}],
        }
    ).encode(),
    NetworkPlug,
)
VIP = decode(
    json.dumps(
        {
            "vip": "10.1.0.5",
            "subnet_cidr": "10.1.0.0/24",
            "gateway": None,
            "mac_address": MAC,
            "vrrp_ip": "10.1.0.7",
            "additional_vips": [{"ip_address": "fd01::5", "subnet_cidr": "fd01::/64"}],
        }
    ).encode(),
    PluggedVip,
)


def record(name: str = "eth1", last: str = "01") -> PortRecord:
    return PortRecord(
        mac=parse_mac(f"fa:16:3e:00:00:{last}"),
        name=name,
        vip=VIP,
        network=NETWORK,
        owned=(ip_interface("10.1.0.7/24"), ip_interface("fd01::5/128")),
    )


def test_returns_the_record_that_was_put(tmp_path: Path) -> None:
    PortRecords(tmp_path / "interfaces").put(record())
    records = PortRecords(tmp_path / "interfaces")
    assert records.get(MAC) == record()
    assert [path.name for path in records.directory.iterdir()] == ["fa-16-3e-00-00-01.json"]


def test_returns_no_removed_record(tmp_path: Path) -> None:
    records = PortRecords(tmp_path)
    records.put(record())
    records.remove(MAC)
    records.remove(MAC)
    assert records.get(MAC) is None
    assert records.all() == []


def test_returns_nothing_without_a_directory(tmp_path: Path) -> None:
    assert PortRecords(tmp_path / "interfaces").all() == []


def test_skips_the_write_of_an_equal_record(tmp_path: Path) -> None:
    records = PortRecords(tmp_path)
    records.put(record())
    [path] = tmp_path.iterdir()
    before = path.stat().st_ino
    records.put(record())
    assert path.stat().st_ino == before


def test_returns_records_in_the_order_of_interfaces(tmp_path: Path) -> None:
    records = PortRecords(tmp_path)
    for name, last in (("eth10", "01"), ("eth2", "02"), ("eth1", "03")):
        records.put(record(name, last))
    assert [each.name for each in records.all()] == ["eth1", "eth2", "eth10"]


def test_reports_a_damaged_record_and_leaves_it_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = PortRecords(tmp_path)
    records.put(record())
    damaged = tmp_path / "fa-16-3e-00-00-02.json"
    damaged.write_bytes(b'{"mac": "fa:')
    (tmp_path / "eth1.json").write_bytes(b"of another program")
    assert records.all() == [record()]
    [line] = caplog.messages
    assert damaged.name in line
