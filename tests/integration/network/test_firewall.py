"""The firewall in the kernel: what passes, what does not, and that the table is what was asked for.

    client ──── eth1 amphora eth2 ──── member

The kernel in the middle forwards, as IPVS needs it.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings

from amphora_agent.errors import OperationFailed
from amphora_agent.namespace import Namespace
from amphora_agent.network.namespace_reconciler import Nftables
from amphora_agent.network.plan.firewall_rules import Port, Ruleset, build_ruleset
from lab.network import Lab
from lab.network import Namespace as LabNamespace
from tests.interface_rules import ports_lists, rule

VRRP, SCTP = 112, 132


@dataclass(frozen=True)
class Addresses:
    """Of one family. The VIP is a second address of the amphora's eth1, as the agent gives it."""

    client: str
    amphora: str
    vip: str
    inside: str
    member: str
    clients: str
    others: str


FAMILIES = {
    "IPv4": Addresses(
        client="10.1.0.1",
        amphora="10.1.0.7",
        vip="10.1.0.5",
        inside="10.2.0.5",
        member="10.2.0.1",
        clients="10.1.0.0/29",
        others="10.1.0.8/29",
    ),
    "IPv6": Addresses(
        client="fd01::1",
        amphora="fd01::7",
        vip="fd01::5",
        inside="fd02::5",
        member="fd02::1",
        clients="fd01::/125",
        others="fd01::8/125",
    ),
}
IPV4, IPV6 = FAMILIES.values()


@pytest.fixture(params=FAMILIES)
def at(request: pytest.FixtureRequest) -> Addresses:
    return FAMILIES[request.param]


class Ground:
    def __init__(self, lab: Lab) -> None:
        self.client = lab.namespace("client")
        self.amphora = lab.namespace("amphora")
        self.member = lab.namespace("member")
        lab.cable(self.client, "card", self.amphora, "eth1")
        lab.cable(self.member, "card", self.amphora, "eth2")
        self.amphora.forward()
        for of_family, length in ((IPV4, 24), (IPV6, 64)):
            self.client.address("card", f"{of_family.client}/{length}")
            self.member.address("card", f"{of_family.member}/{length}")
            self.amphora.address("eth1", f"{of_family.amphora}/{length}")
            self.amphora.address("eth2", f"{of_family.inside}/{length}")
            whole = ["dev", "eth1", "preferred_lft", "0", "nodad"]
            host = 128 if of_family is IPV6 else 32
            self.amphora.ip("address", "add", f"{of_family.vip}/{host}", *whole)
            self.client.route("default", via=of_family.amphora)
            self.member.route("default", via=of_family.inside)
        self.nftables = Nftables(Namespace(self.amphora.path))

    def apply(self, *ports: Port) -> Ruleset:
        made = build_ruleset(ports)
        self.nftables.replace(made)
        return made

    def nft(self, *arguments: str, stdin: str | None = None) -> str:
        return self.amphora.run(["nft", *arguments], stdin=stdin).stdout

    def counters(self, table: str) -> dict[str, int]:
        listing = json.loads(self.nft("--json", "list", "counters", "table", "inet", table))
        found = [each["counter"] for each in listing["nftables"] if "counter" in each]
        return {counter["name"]: counter["packets"] for counter in found}


@pytest.fixture(name="laid", scope="module")
def _laid() -> Iterator[Ground]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with Lab(f"fw{os.getpid()}") as lab:
        yield Ground(lab)


@pytest.fixture
def ground(laid: Ground) -> Iterator[Ground]:
    yield laid
    laid.nft("flush", "ruleset")


# What is sent and what comes


def opened(
    namespace: LabNamespace, address: str, port: int = 0, *, raw: int | None = None
) -> socket.socket:
    """A socket for datagrams with an address of the namespace, or a raw one of a protocol."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_DGRAM if raw is None else socket.SOCK_RAW
    made = namespace.inside(lambda: socket.socket(family, kind, raw or 0))
    made.bind((address, port))
    made.settimeout(10)
    return made


def listening(namespace: LabNamespace, address: str, port: int) -> socket.socket:
    made = namespace.make_socket(address)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    made.listen()
    return made


def connects(source: LabNamespace, address: str, port: int) -> bool:
    with source.connect(address, port):
        return True


def gets_no_answer(source: LabNamespace, address: str, port: int) -> bool:
    """Whether a connection is met with silence: a ping that is sent later is answered before."""
    with source.make_socket(address) as trying:
        trying.setblocking(False)
        trying.connect_ex((address, port))
        pass_by(source, address)
        return not select.select([], [trying], [], 0)[1]


def pings(source: LabNamespace, address: str) -> bool:
    return source.run(["ping", "-c1", "-W2", address], check=False).returncode == 0


def pass_by(source: LabNamespace, address: str) -> None:
    """Return when what was sent to `address` before has come in, or never will."""
    assert pings(source, address)


def is_empty(inbox: socket.socket) -> bool:
    return not select.select([inbox], [], [], 0)[0]


def sctp_init(sport: int, dport: int) -> bytes:
    """The first packet of an association (RFC 9260)."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 1, 65535, 1, 1, 1)
    return struct.pack("!HHII", sport, dport, 0, 0) + chunk


def without_header(packet: bytes, address: str) -> bytes:
    """IPv4's raw sockets get the header too."""
    return packet if ":" in address else packet[20:]


def watch_port_80(ground: Ground) -> None:
    """Let a table of somebody else's count the TCP packets of port 80 that come in and go out."""
    ground.nft(
        "-f",
        "-",
        stdin="""
        table inet watch {
            counter in_tracked {}
            counter in_untracked {}
            counter out_tracked {}
            counter out_untracked {}
            chain input {
                type filter hook input priority 10
                tcp dport 80 ct state untracked counter name in_untracked
                tcp dport 80 ct state != untracked counter name in_tracked
            }
            chain output {
                type filter hook output priority 10
                tcp sport 80 ct state untracked counter name out_untracked
                tcp sport 80 ct state != untracked counter name out_tracked
            }
        }
        """,
    )


# Every interface


@pytest.mark.parametrize("guarded", [False, True], ids=["open", "guarded"])
def test_udp_leaves_with_the_address_of_the_interface(
    ground: Ground, at: Addresses, guarded: bool
) -> None:
    with opened(ground.amphora, at.vip) as vip, opened(ground.client, at.client, 53) as inbox:
        vip.sendto(b"before", (at.client, 53))
        assert inbox.recvfrom(99)[1][0] == at.vip

    ground.apply(Port("eth1", () if guarded else None))
    with opened(ground.amphora, at.vip) as vip, opened(ground.client, at.client, 53) as inbox:
        vip.sendto(b"after", (at.client, 53))
        message, sender = inbox.recvfrom(99)
        assert (message, sender[0]) == (b"after", at.amphora)
        inbox.sendto(b"answer", sender)
        assert vip.recv(99) == b"answer"


def test_sctp_leaves_with_the_address_of_the_interface(ground: Ground, at: Addresses) -> None:
    # Raw packets: not every kernel has sockets for SCTP.
    ground.apply(Port("eth1"))
    with (
        opened(ground.amphora, at.vip, raw=SCTP) as vip,
        opened(ground.client, at.client, raw=SCTP) as inbox,
    ):
        vip.sendto(sctp_init(1000, 9), (at.client, 0))
        assert inbox.recvfrom(999)[1][0] == at.amphora


@pytest.mark.parametrize("guarded", [False, True], ids=["open", "guarded"])
def test_tcp_leaves_with_its_own_address(ground: Ground, at: Addresses, guarded: bool) -> None:
    ground.apply(Port("eth1", () if guarded else None))
    with listening(ground.client, at.client, 80) as listener:
        with ground.amphora.make_socket(at.vip) as made:
            made.bind((at.vip, 0))
            made.settimeout(10)
            made.connect((at.client, 80))
        connection, sender = listener.accept()
        connection.close()
        assert sender[0] == at.vip


def test_tcp_of_an_open_interface_is_not_tracked(ground: Ground, at: Addresses) -> None:
    ground.apply(Port("eth1"))
    watch_port_80(ground)
    with listening(ground.amphora, at.vip, 80):
        assert connects(ground.client, at.vip, 80)
    counted = ground.counters("watch")
    assert counted["in_untracked"] > 0
    assert counted["out_untracked"] > 0
    assert counted["in_tracked"] == counted["out_tracked"] == 0


def test_tcp_of_a_guarded_interface_is_tracked(ground: Ground, at: Addresses) -> None:
    ground.apply(Port("eth1", (rule("TCP", 80),)), Port("eth2"))
    watch_port_80(ground)
    with listening(ground.amphora, at.vip, 80):
        assert connects(ground.client, at.vip, 80)
    counted = ground.counters("watch")
    assert counted["in_tracked"] > 0
    assert counted["out_tracked"] > 0
    assert counted["in_untracked"] == counted["out_untracked"] == 0


# A guarded interface


def test_nothing_comes_in_without_a_rule(ground: Ground, at: Addresses) -> None:
    with listening(ground.amphora, at.vip, 80), opened(ground.amphora, at.vip, 53) as inbox:
        ground.apply(Port("eth1", ()))
        assert gets_no_answer(ground.client, at.vip, 80)
        with opened(ground.client, at.client) as sender:
            sender.sendto(b"unasked", (at.vip, 53))
            pass_by(ground.client, at.vip)
            assert is_empty(inbox)

        ground.apply(Port("eth1"))
        assert connects(ground.client, at.vip, 80)
        with opened(ground.client, at.client) as sender:
            sender.sendto(b"welcome", (at.vip, 53))
            assert inbox.recv(99) == b"welcome"


def test_a_rule_lets_its_port_in_and_no_other(ground: Ground, at: Addresses) -> None:
    ground.apply(Port("eth1", (rule("TCP", 80), rule("TCP", 443), rule("UDP", 81))))
    with (
        listening(ground.amphora, at.vip, 80),
        listening(ground.amphora, at.vip, 81),
        listening(ground.amphora, at.vip, 443),
    ):
        assert connects(ground.client, at.vip, 80)
        assert connects(ground.client, at.vip, 443)
        assert gets_no_answer(ground.client, at.vip, 81)


def test_a_rule_lets_its_sources_in_and_no_others(ground: Ground, at: Addresses) -> None:
    with listening(ground.amphora, at.vip, 80), listening(ground.amphora, at.vip, 81):
        ground.apply(Port("eth1", (rule("TCP", 80, at.clients), rule("TCP", 81, at.others))))
        assert connects(ground.client, at.vip, 80)
        assert gets_no_answer(ground.client, at.vip, 81)


def test_a_network_of_one_family_lets_nobody_of_the_other_in(ground: Ground) -> None:
    for at, everyone_else in ((IPV4, "::/0"), (IPV6, "0.0.0.0/0")):
        with listening(ground.amphora, at.vip, 80):
            ground.apply(Port("eth1", (rule("TCP", 80, everyone_else),)))
            assert gets_no_answer(ground.client, at.vip, 80)


def test_udp_and_sctp_come_in_by_their_rules(ground: Ground, at: Addresses) -> None:
    ground.apply(Port("eth1", (rule("UDP", 53, at.clients), rule("SCTP", 9))))
    with (
        opened(ground.client, at.client) as sender,
        opened(ground.amphora, at.vip, 53) as inbox,
        opened(ground.amphora, at.vip, 54) as other,
    ):
        sender.sendto(b"no", (at.vip, 54))
        sender.sendto(b"yes", (at.vip, 53))
        message, source = inbox.recvfrom(99)
        assert message == b"yes"
        assert is_empty(other)
        inbox.sendto(b"answer", source)
        assert sender.recv(99) == b"answer"
    with (
        opened(ground.client, at.client, raw=SCTP) as sender,
        opened(ground.amphora, at.vip, raw=SCTP) as inbox,
    ):
        sender.sendto(sctp_init(1000, 8), (at.vip, 0))
        sender.sendto(sctp_init(1000, 9), (at.vip, 0))
        arrived = without_header(inbox.recv(999), at.vip)
        assert arrived[:4] == struct.pack("!HH", 1000, 9)


def test_vrrp_comes_in_only_with_a_rule(ground: Ground, at: Addresses) -> None:
    with (
        opened(ground.client, at.client, raw=VRRP) as sender,
        opened(ground.amphora, at.amphora, raw=VRRP) as inbox,
    ):
        for refusing in ((), (rule("VRRP", 112, at.others),), (rule("TCP", 112),)):
            ground.apply(Port("eth1", refusing))
            sender.sendto(b"advertisement", (at.amphora, 0))
            pass_by(ground.client, at.amphora)
            assert is_empty(inbox)
        for accepting in (rule("VRRP", 112, at.clients), rule("VRRP", 1)):
            ground.apply(Port("eth1", (accepting,)))
            sender.sendto(b"advertisement", (at.amphora, 0))
            assert without_header(inbox.recv(99), at.amphora) == b"advertisement"


def test_neighbours_find_it_and_it_answers_pings(ground: Ground, at: Addresses) -> None:
    ground.apply(Port("eth1", ()))
    for namespace, ifname in ((ground.client, "card"), (ground.amphora, "eth1")):
        namespace.ip("neighbour", "flush", "dev", ifname)
    assert pings(ground.client, at.vip)
    assert pings(ground.amphora, at.client)


@pytest.mark.parametrize(
    ("at", "protocol", "wanted"),
    [
        pytest.param(IPV4, socket.IPPROTO_ICMP, {3, 8, 11, 12}, id="IPv4"),
        pytest.param(IPV6, socket.IPPROTO_ICMPV6, {1, 2, 3, 4, 128, 130, 134, 135, 136}, id="IPv6"),
    ],
)
def test_of_icmp_comes_in_what_is_needed(
    ground: Ground, at: Addresses, protocol: int, wanted: set[int]
) -> None:
    ground.apply(Port("eth1", ()))
    with (
        opened(ground.client, at.client, raw=protocol) as sender,
        opened(ground.amphora, at.vip, raw=protocol) as inbox,
    ):
        for kind in [*sorted({*range(256)} - wanted), *sorted(wanted)]:
            # With a wrong checksum the kernel would not take it for what it is. (It computes that
            # of ICMPv6 itself.)
            checksum = 0xFFFF - (kind << 8)
            sender.sendto(struct.pack("!BBHI", kind, 0, checksum, 0), (at.vip, 0))
        arrived: set[int] = set()
        while not wanted <= arrived:
            arrived.add(without_header(inbox.recv(999), at.vip)[0])
        assert arrived == wanted


def test_answers_of_dhcp_servers_come_in(ground: Ground) -> None:
    ground.apply(Port("eth1", ()))
    with (
        opened(ground.client, IPV4.client, 67) as server,
        opened(ground.client, IPV4.client, 66) as somebody,
        opened(ground.amphora, IPV4.amphora, 68) as inbox,
    ):
        somebody.sendto(b"no answer", (IPV4.amphora, 68))
        server.sendto(b"answer", (IPV4.amphora, 68))
        assert inbox.recv(99) == b"answer"


def test_answers_of_dhcpv6_servers_come_in(ground: Ground) -> None:
    ground.apply(Port("eth1", ()))
    with (
        opened(ground.client, "::") as server,
        opened(ground.client, IPV6.client) as somebody,
        opened(ground.amphora, "::", 546) as inbox,
    ):
        somebody.sendto(b"from elsewhere", (IPV6.amphora, 546))
        card = ground.client.inside(lambda: socket.if_nametoindex("card"))
        server.sendto(b"answer", (link_local_of(ground.amphora, "eth1"), 546, 0, card))
        assert inbox.recv(99) == b"answer"


def link_local_of(namespace: LabNamespace, ifname: str) -> str:
    [link] = json.loads(namespace.ip("-json", "-6", "address", "show", "dev", ifname))
    [address] = [each["local"] for each in link["addr_info"] if each["scope"] == "link"]
    return str(address)


def test_answers_to_what_went_out_come_in(ground: Ground, at: Addresses) -> None:
    ground.apply(Port("eth1", ()))
    with listening(ground.client, at.client, 80):
        assert connects(ground.amphora, at.client, 80)
    with (
        opened(ground.amphora, at.amphora) as asking,
        opened(ground.client, at.client, 53) as answering,
    ):
        asking.sendto(b"question", (at.client, 53))
        answering.sendto(b"answer", answering.recvfrom(99)[1])
        assert asking.recv(99) == b"answer"


def test_the_amphora_reaches_itself(ground: Ground, at: Addresses) -> None:
    ground.apply(Port("eth1", ()), Port("eth2", ()))
    with listening(ground.amphora, at.vip, 80):
        assert connects(ground.amphora, at.vip, 80)


def test_an_open_interface_beside_a_guarded_one_is_open(ground: Ground, at: Addresses) -> None:
    ground.apply(Port("eth1", ()), Port("eth2"))
    with listening(ground.amphora, at.inside, 80), listening(ground.member, at.member, 80):
        assert connects(ground.member, at.inside, 80)
        assert connects(ground.amphora, at.member, 80)


def test_an_interface_that_nobody_plugged_is_guarded_beside_a_guarded_one(
    ground: Ground, at: Addresses
) -> None:
    ground.apply(Port("eth1", ()))
    with listening(ground.amphora, at.inside, 80):
        assert gets_no_answer(ground.member, at.inside, 80)


# From one interface to another


@pytest.mark.parametrize(
    "ports",
    [
        pytest.param((), id="no ports"),
        pytest.param((Port("eth1"), Port("eth2")), id="open"),
        pytest.param((Port("eth1", (rule("TCP"), rule("UDP", 53))), Port("eth2")), id="guarded"),
    ],
)
def test_nothing_is_forwarded(ground: Ground, at: Addresses, ports: tuple[Port, ...]) -> None:
    icmp, echo_request = (
        (socket.IPPROTO_ICMPV6, b"\x80\0\0\0\0\0\0\0")
        if at is IPV6
        else (socket.IPPROTO_ICMP, b"\x08\0\xf7\xff\0\0\0\0")
    )
    with (
        listening(ground.member, at.member, 80),
        opened(ground.member, at.member, 53) as inbox,
        opened(ground.member, at.member, raw=icmp) as icmp_inbox,
        opened(ground.client, at.client) as sender,
        opened(ground.client, at.client, raw=icmp) as icmp_sender,
    ):

        def pinged() -> bool:
            """Whether an echo request of the client came; neighbours ask and answer besides."""
            icmp_sender.sendto(echo_request, (at.member, 0))
            pass_by(ground.client, at.amphora)
            came = []
            while not is_empty(icmp_inbox):
                packet, (source, *_) = icmp_inbox.recvfrom(99)
                came.append((source, without_header(packet, at.member)[0]))
            return (at.client, echo_request[0]) in came

        assert connects(ground.client, at.member, 80)
        assert pinged()
        sender.sendto(b"before", (at.member, 53))
        assert inbox.recv(99) == b"before"

        ground.apply(*ports)
        with ground.client.make_socket(at.member) as unanswered:
            unanswered.setblocking(False)
            unanswered.connect_ex((at.member, 80))
            sender.sendto(b"after", (at.member, 53))
            assert not pinged()
            assert is_empty(inbox)
            assert not select.select([], [unanswered], [], 0)[1]


def test_answers_to_what_was_sent_to_members_are_forwarded(ground: Ground, at: Addresses) -> None:
    # In place of IPVS, which not every kernel has: a flow that was let through before, tracked
    # because a table asks for it.
    ground.nft(
        "-f",
        "-",
        stdin="""
        table inet tracking {
            chain forward { type filter hook forward priority -1; ct state new accept; }
        }
        """,
    )
    with (
        opened(ground.member, at.member, 53) as member,
        opened(ground.client, at.client) as client,
    ):
        client.sendto(b"question", (at.member, 53))
        message, sender = member.recvfrom(99)
        assert message == b"question"
        ground.apply(Port("eth1"), Port("eth2"))
        member.sendto(b"answer", sender)
        assert client.recv(99) == b"answer"


# The table


def test_the_most_rules_are_listed_as_they_were_applied(ground: Ground) -> None:
    crowd = [
        rule(protocol, port, f"{network}{port % 256:x}")
        for protocol in ("TCP", "UDP")
        for network in ("fd01::", "fd02::ff00:")
        for port in range(1, 2501)
    ]
    made = ground.apply(Port("eth1", tuple(crowd)))
    assert ground.nftables.read() == made


@settings(max_examples=30, deadline=None)
@given(ports=ports_lists)
def test_what_was_applied_is_listed(laid: Ground, ports: list[Port]) -> None:
    made = laid.apply(*ports)
    assert laid.nftables.read() == made


def test_applying_again_changes_nothing(ground: Ground) -> None:
    ports = [Port("eth1", (rule("TCP"), rule("VRRP", 112, "fd01::8"))), Port("eth2")]
    made = ground.apply(*ports)
    before = ground.nft("-s", "list", "ruleset")
    assert ground.apply(*reversed(ports)) == made == ground.nftables.read()
    assert ground.nft("-s", "list", "ruleset") == before


def test_there_is_no_table_at_first(ground: Ground) -> None:
    assert ground.nftables.read() is None


def test_what_others_do_to_the_table_is_seen_and_undone(ground: Ground) -> None:
    made = ground.apply(Port("eth1"))
    ground.nft("add", "rule", "inet", "amphora_table", "forward", "accept")
    assert ground.nftables.read() not in (None, made)
    ground.nftables.replace(made)
    assert ground.nftables.read() == made


def test_tables_of_others_stay_as_they_are(ground: Ground) -> None:
    theirs = """
    table inet theirs {
        set known { type ipv4_addr; elements = { 10.0.0.1 }; }
        chain input { type filter hook input priority 0; ip saddr @known accept; }
    }
    table ip amphora_table {
        chain forward { type filter hook forward priority 0; accept; }
    }
    """
    ground.nft("-f", "-", stdin=theirs)
    before = ground.nft("list", "ruleset")
    made = ground.apply(Port("eth1"))
    assert ground.nftables.read() == made
    ground.apply(Port("eth1", ()), Port("eth2"))
    ground.nft("delete", "table", "inet", "amphora_table")
    assert ground.nft("list", "ruleset") == before


def _refused_by_nft() -> Ruleset:
    return build_ruleset([Port("a-name-that-no-interface-can-have")])


def _refused_by_the_kernel() -> Ruleset:
    """One network in another: the last thing that the kernel finds, after all else is made."""
    sources = [rule("TCP", 80, "10.0.0.0/8"), rule("TCP", 80, "12.1.0.0/16")]
    made = build_ruleset([Port("eth1", tuple(sources))])
    return Ruleset(tuple(each.replace("12.1.0.0", "10.1.0.0") for each in made.objects))


@pytest.mark.parametrize("refused", [_refused_by_nft(), _refused_by_the_kernel()])
def test_a_refused_ruleset_leaves_the_one_before(
    ground: Ground, at: Addresses, refused: Ruleset
) -> None:
    made = ground.apply(Port("eth1", (rule("TCP", 80),)))
    with pytest.raises(OperationFailed, match="The firewall is refused") as failure:
        ground.nftables.replace(refused)
    assert "Error" in failure.value.details
    assert ground.nftables.read() == made
    with listening(ground.amphora, at.vip, 80), listening(ground.amphora, at.vip, 81):
        assert connects(ground.client, at.vip, 80)
        assert gets_no_answer(ground.client, at.vip, 81)


def test_a_machine_without_nft_says_so(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ground.apply(Port("eth1"))
    with monkeypatch.context() as without:
        without.setenv("PATH", str(tmp_path))
        with pytest.raises(OperationFailed, match=r"Cannot run nft: .*No such file"):
            ground.nftables.read()
        with pytest.raises(OperationFailed, match=r"Cannot run nft: .*No such file"):
            ground.nftables.replace(build_ruleset([]))
    assert ground.nftables.read() == made
