"""A reboot: everything is as before, and the controller need not say a word."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lab.backend import Backend
from lab.dhcp import DhcpServer
from lab.heartbeats import HeartbeatReceiver
from lab.http import get
from lab.listeners import http_listener
from lab.network import Cable, Lab
from lab.nspawn import Machine
from lab.pki import AmphoraPki
from lab.waiting import until
from tests.systemd.conftest import (
    AMPHORA,
    CONTROLLER,
    HEARTBEAT_KEY,
    HEARTBEAT_PORT,
    HTTP,
    VIP,
    WEBS,
    ControllerClient,
    DeclaredBalancer,
    DriverClient,
    LoadBalancer,
    amphora,
    member_plug,
    vip_plug,
)

OTHER = http_listener("other", port=81, members=[(WEBS["web1"], 80)])


class Port(NamedTuple):
    """Of the amphora; and the addresses at the other end of its cable."""

    mac: str
    addresses: tuple[str, ...]


PORTS = {
    "controller": Port("fa:16:3e:00:00:01", (f"{CONTROLLER}/24",)),
    "client": Port("fa:16:3e:00:00:02", ("10.1.0.1/24", "2001:db8:1::1/64")),
    "servers": Port("fa:16:3e:00:00:03", tuple(f"{web}/24" for web in WEBS.values())),
    "leasing": Port("fa:16:3e:00:00:04", ("10.3.0.1/24",)),
}
LEASED = "10.3.0.50"


class Site:
    """An amphora whose ports are there before it boots, and what is at their other ends."""

    def __init__(self, lab: Lab, machine: Machine, pki: AmphoraPki) -> None:
        self.machine = machine
        self.ends = {name: lab.namespace(f"{name}-of-site") for name in PORTS}
        self.client = self.ends["client"]
        self._lab = lab
        self._pki = pki
        self._cables: dict[str, Cable] = {}

    def plug(self, *names: str, called: str) -> None:
        """Lay the cables to these ports, called by that name with a number."""
        for number, name in enumerate(names):
            port, end, ifname = PORTS[name], self.ends[name], f"{called}{number}"
            self._cables[name] = self._lab.cable(
                end, "eth0", self.machine.namespace, ifname, mac_b=port.mac
            )
            end.address("eth0", *port.addresses)
            if name == "controller":
                self.machine.namespace.address(ifname, f"{AMPHORA}/24")

    def unplug(self, *names: str) -> None:
        """Also those that lead to a namespace that is gone: the kernel takes its time with them."""
        for name in names:
            self._cables.pop(name).unplug()

    def reboot(self, *names: str, called: str) -> None:
        """With these ports only."""
        self.machine.stop()
        self.unplug(*self._cables)
        self.plug(*names, called=called)
        self.machine.start(timeout=60)

    def api(self) -> ControllerClient:
        return ControllerClient(self.ends["controller"], self._pki)

    def driver(self) -> DriverClient:
        return DriverClient(self.ends["controller"], self._pki)

    def heartbeats(self) -> HeartbeatReceiver:
        return self.ends["controller"].inside(
            lambda: HeartbeatReceiver(HEARTBEAT_KEY, address=CONTROLLER, port=HEARTBEAT_PORT)
        )


@pytest.fixture(scope="module")
def second(lab: Lab, layers: list[Path], pki: AmphoraPki, machine: Machine) -> Iterator[Machine]:
    """A machine of our own, that may go down; not booted yet."""
    made = amphora(lab, "second", layers, pki)
    yield made
    made.close()


@pytest.fixture(scope="module")
def site(lab: Lab, second: Machine, pki: AmphoraPki) -> Iterator[Site]:
    """Booted, and plugged: the VIP, another one of the other family, the members, and a network
    whose addresses are leased."""
    with ExitStack() as ending:
        made = Site(lab, second, pki)
        made.plug(*PORTS, called="ens")
        second.start()
        with made.api() as api:
            other_vip = {
                "ip_address": "2001:db8:1::5",
                "subnet_cidr": "2001:db8:1::/64",
                "gateway": "2001:db8:1::1",
                "host_routes": [{"destination": "2001:db8:9::/48", "nexthop": "2001:db8:1::9"}],
            }
            body = vip_plug(PORTS["client"].mac) | {"additional_vips": [other_vip]}
            api.plug_vip(VIP, body)
            api.plug_network(member_plug(PORTS["servers"].mac))
            directory = lab.directory()
            leasing = made.ends["leasing"]
            ending.enter_context(DhcpServer(leasing, "eth0", LEASED, LEASED, directory=directory))
            api.plug_network({"mac_address": PORTS["leasing"].mac})
        for name, address in WEBS.items():
            ending.enter_context(Backend(made.ends["servers"], name, [f"{address}:80"]))
        yield made


@pytest.fixture(scope="module")
def balancer(site: Site) -> LoadBalancer:
    with site.api() as api:
        made = LoadBalancer(site.machine, api)
        made.push()
    return made


@pytest.fixture(scope="module")
def declared(site: Site) -> DeclaredBalancer:
    with closing(site.driver()) as driver:
        made = DeclaredBalancer(site.machine, driver, http_port=90, tcp_port=91)
        made.put("listener")
    return made


@pytest.fixture(scope="module")
def before(site: Site, balancer: LoadBalancer, declared: DeclaredBalancer) -> dict[str, list[str]]:
    """The network as the controller has had it made."""
    until(lambda: "tentative" not in str(network(site.machine)), "the kernel has settled")
    return network(site.machine)


@pytest.fixture(scope="module")
def rebooted(site: Site, before: dict[str, list[str]]) -> Site:
    """Without a cable to its controller."""
    site.reboot("leasing", "servers", "client", called="enp")
    return site


def test_traffic_is_served_when_the_machine_is_up(rebooted: Site) -> None:
    failed = rebooted.machine.output("systemctl", "list-units", "--failed", "--no-legend")
    assert (rebooted.machine.state(), failed) == ("running", "")
    assert get(rebooted.client, VIP, 80).status == 200


def test_the_network_is_what_it_was(rebooted: Site, before: dict[str, list[str]]) -> None:
    with suppress(TimeoutError):
        # The kernel adds what it adds to an interface in its own time.
        until(lambda: network(rebooted.machine) == before, "the network of before")
    assert network(rebooted.machine) == before
    assert any(VIP in line for line in before["rules"])
    assert any(VIP in line and '"table": "1"' in line for line in before["routes"])
    assert any("masquerade" in line for line in before["nftables"])
    assert any(LEASED in line for line in before["addresses"])


def test_nothing_is_left_to_be_done(rebooted: Site) -> None:
    said = rebooted.machine.output("amphora-agent", "network", "plan")
    assert said == "nothing to do: the network is as it was plugged"


def test_so_is_that_of_a_load_balancer_that_was_put(
    rebooted: Site, declared: DeclaredBalancer
) -> None:
    assert declared.units() == dict.fromkeys(declared.instances("listener"), "active")
    for port in (declared.http_port, declared.tcp_port):
        assert get(rebooted.client, VIP, port).status == 200


def test_traffic_was_served_before_the_agent_was(
    rebooted: Site, balancer: LoadBalancer, declared: DeclaredBalancer
) -> None:
    agent = rebooted.machine.properties("amphora-agent.service")
    for haproxy in (balancer.properties(), *map(declared.properties, declared.units())):
        served = int(haproxy["ActiveEnterTimestampMonotonic"])
        assert 0 < served < int(agent["ExecMainStartTimestampMonotonic"])


def test_the_controller_finds_all_as_it_left_it(
    rebooted: Site, balancer: LoadBalancer, declared: DeclaredBalancer
) -> None:
    rebooted.plug("controller", called="late")
    with rebooted.heartbeats() as heartbeats, rebooted.api() as api:
        listeners = {HTTP.id, declared.http, declared.tcp}
        heartbeats.wait_for(lambda heartbeat: heartbeat.listeners.keys() == listeners)
        assert {row["uuid"]: row["status"] for row in api.listeners()} == dict.fromkeys(
            listeners, "ACTIVE"
        )
        assert api.interface("2001:db8:1::5") == "eth1"


def test_what_was_put_is_as_it_was_put(rebooted: Site, declared: DeclaredBalancer) -> None:
    with closing(rebooted.driver()) as declared.driver:
        assert declared.put()["step"] == "nothing"
        assert declared.driver.status(declared.id)["operating_status"] == "ONLINE"
        declared.driver.delete(declared.id)
    assert declared.left() == []


def test_what_is_missing_keeps_nothing_else_away(rebooted: Site, balancer: LoadBalancer) -> None:
    """A port that is not there, and a load balancer that cannot start."""
    with rebooted.api() as api:
        broken = LoadBalancer(rebooted.machine, api)
        broken.push(OTHER)
        broken.commit("nonsense\n", loaded=True)

        rebooted.reboot("controller", "client", called="eno")

    with rebooted.api() as api:
        assert [(row["uuid"], row["status"]) for row in api.listeners()] == [(HTTP.id, "ACTIVE")]
        rebooted.client.connect(VIP, 80).close()
        until(lambda: broken.properties()["NRestarts"] != "0", "it is tried again")
        api.delete(broken.id)


def test_a_port_that_comes_late_is_seen_to_when_the_agent_starts(
    rebooted: Site, balancer: LoadBalancer
) -> None:
    rebooted.plug("servers", called="late")
    rebooted.machine.run(["systemctl", "restart", "amphora-agent"])
    until(lambda: get(rebooted.client, VIP, 80).status == 200, "traffic")


def test_an_interface_goes_down_and_up_as_one_says(rebooted: Site, balancer: LoadBalancer) -> None:
    rebooted.machine.run(["amphora-interface", "down", "eth2"])
    down = rebooted.machine.output("ip", "-netns", "amphora-haproxy", "link", "show", "up")
    rebooted.machine.run(["amphora-interface", "up", "eth2"])

    assert "eth2" not in down
    assert get(rebooted.client, VIP, 80).status == 200


def test_a_namespace_that_is_lost_is_made_anew(rebooted: Site, balancer: LoadBalancer) -> None:
    """By its unit: what the agent would make nobody else would see."""
    with rebooted.api() as api:
        api.delete(balancer.id)
        rebooted.machine.run(["ip", "netns", "delete", "amphora-haproxy"])
        rebooted.unplug("client")
        rebooted.plug("client", called="anew")
        api.plug_vip(VIP, vip_plug(PORTS["client"].mac))
        assert api.interface(VIP) == "eth1"
    assert VIP in rebooted.machine.output("ip", "-netns", "amphora-haproxy", "address")


def network(machine: Machine) -> dict[str, list[str]]:
    """All that there is in the traffic's namespace, in whatever order it was made."""

    def inside(*command: str) -> str:
        return machine.output("ip", "netns", "exec", "amphora-haproxy", *command)

    def listed(*arguments: str) -> list[Any]:
        return [
            {**row, "family": family} if isinstance(row, dict) else row
            for family in ("-4", "-6")
            for row in json.loads(inside("ip", family, "-json", *arguments))
        ]

    found: dict[str, list[Any]] = {
        "links": [
            [link["ifname"], link.get("address"), link["mtu"], link["operstate"]]
            for link in json.loads(inside("ip", "-json", "link"))
        ],
        "addresses": [
            [link["ifname"], address]
            for link in json.loads(inside("ip", "-json", "address"))
            for address in link["addr_info"]
        ],
        "routes": listed("route", "show", "table", "all"),
        "rules": listed("rule"),
        "settings": inside(
            *("sysctl", "--all", "--pattern"),
            r"^net\.(ipv4\.ip_forward|ipv[46]\.conf|netfilter\.nf_conntrack_(max|buckets))",
        ).splitlines(),
        "nftables": [
            line.partition(" # handle")[0] for line in inside("nft", "list", "ruleset").splitlines()
        ],
    }
    return {kind: sorted(json.dumps(row) for row in rows) for kind, rows in found.items()}
