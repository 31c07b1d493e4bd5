"""What plans rely on holds for every haproxy that the agent supports: 2.6, 2.8 and 3.0.

Each version is asked itself. What a plan says is carried out on a running haproxy and read back;
who gets requests is seen by the servers that get them.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from amphora_agent.haproxy.replies import find_capabilities
from amphora_agent.haproxy.runtime.socket import MasterSocket
from amphora_agent.haproxy.update import transaction
from amphora_agent.haproxy.update.planner import FileChange, Plan, Step, make_plan
from benchmarks.baseline_haproxy import BareHaproxy
from lab import haproxies
from lab.backend import Backend
from lab.network import Lab, Namespace
from lab.pki import Authority
from lab.waiting import until
from tests.integration import programs
from tests.unit.haproxy.update.test_planner import MEMBERS

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

VIP = "10.0.0.5"
ADDRESSES = [f"10.0.0.{number}" for number in (1, 2, 3, 5, 9)] + ["fd00::1", "fd00::2"]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(f"facts{os.getpid()}") as opened:
        yield opened


@pytest.fixture(scope="module")
def amphora(lab: Lab) -> Namespace:
    namespace = lab.namespace("amphora")
    namespace.address("lo", *(f"{a}/128" if ":" in a else f"{a}/32" for a in ADDRESSES))
    return namespace


@pytest.fixture(scope="module")
def webs(amphora: Namespace) -> Iterator[dict[str, Backend]]:
    with ExitStack() as ending:
        yield {
            name: ending.enter_context(Backend(amphora, name, [f"{address}:80"]))
            for name, address in (("web1", "10.0.0.1"), ("web2", "10.0.0.2"))
        }


@pytest.fixture(scope="module", params=haproxies.SERIES)
def series(request: pytest.FixtureRequest) -> str:
    programs.of_series(request.param)
    return str(request.param)


@dataclass
class Running:
    """A haproxy, and what it has loaded and been changed to."""

    haproxy: BareHaproxy
    text: str
    version: str
    namespace: Namespace

    def ask(self, command: str, payload: str = "") -> str:
        socket = MasterSocket(self.haproxy.master_socket)
        return socket.command(f"@1 {command}", payload=payload, timeout=5)

    def plan(self, wanted: str) -> Plan:
        return make_plan({"x": self.text}, {"x": wanted}, (), find_capabilities(self.version))

    def become(self, wanted: str) -> Plan:
        """Carry out what a plan says, and see that it holds."""
        made = self.plan(wanted)
        assert made.step is Step.RUNTIME, made
        transaction.carry_out(made.changes, self.ask)
        self.text = wanted
        return made

    def status(self, member: str) -> str:
        header, *rows = self.ask("show stat p 4 -1").split("\n")
        place = header.split(",").index("status")
        found = [row.split(",") for row in rows if f",{member}," in row]
        return found[0][place] if found else ""

    def reach(
        self, member: str, status: str, meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        """Wait until a member has a status, and do something all the while."""
        until(lambda: (meanwhile(), self.status(member))[1] == status, f"{member} is {status}")

    def request(self, *, cookie: str = "") -> str:
        """The status line of an answer."""
        with self.namespace.connect(VIP, 80) as connection:
            connection.sendall(f"GET / HTTP/1.0\r\nCookie: {cookie}\r\n\r\n".encode())
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
            return answer.decode().partition("\r\n")[0]


Start = Callable[[str], Running]


@pytest.fixture
def start(lab: Lab, amphora: Namespace, series: str) -> Iterator[Start]:
    with ExitStack() as ending:

        def started(text: str) -> Running:
            program = haproxies.program(series)
            haproxy = BareHaproxy(program, lab.directory(), amphora, "me")
            ending.enter_context(haproxy)
            haproxy.start(text)
            return Running(haproxy, text, haproxies.version(program), amphora)

        yield started


@contextmanager
def ill(web: Backend) -> Iterator[None]:
    """A server whose checks fail, and that serves all the same."""
    web.set_health(500)
    try:
        yield
    finally:
        web.set_health(200)


CONFIGURATION = """\
global
    maxconn 100
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
    timeout check 1s
    option allbackups
frontend f
    bind 10.0.0.5:80
    maxconn 50
    default_backend p
backend p
    option httpchk GET /health
"""
CHECK = "check inter 100ms fall 3 rise 2"


def configuration(*lines: str) -> str:
    return CONFIGURATION + "".join(f"    {line}\n" for line in lines)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("c")
    authority = Authority.create("facts", key="ec")
    directory.joinpath("m.pem").write_bytes(authority.issue("member", key="ec").pem)
    directory.joinpath("ca.pem").write_bytes(authority.certificate)
    return directory


#: What could not be started: there is no resolver.
NOT_HERE = "a member that is not understood is removed"


def together(texts: Sequence[str]) -> str:
    """One configuration with the pools of all of them, each with a name of its own."""
    pools = (text.partition("\nbackend p\n")[2].partition("backend other\n")[0] for text in texts)
    sections = (f"backend p{number}\n{lines}" for number, lines in enumerate(pools))
    programs = "global\n    external-check\n    insecure-fork-wanted\n"
    return CONFIGURATION.replace("global\n", programs) + "".join(sections)


def test_each_plan_is_accepted_and_holds(series: str, start: Start, files: Path) -> None:
    rows = [row for row in MEMBERS if row.commands[series] and row.name != NOT_HERE]
    old, new = (
        together(texts).replace("/c/", f"{files}/")
        for texts in ([row.old for row in rows], [row.new for row in rows])
    )
    running = start(old)
    made = running.become(new)
    assert len(made.changes) == len(rows) > 40
    # And what is committed is a configuration to haproxy.
    running.haproxy.configuration.write_text(new)
    running.haproxy.check()


@pytest.mark.parametrize("persistence", ["", "stick-table type ip size 1k", "cookie S insert"])
def test_a_new_member_gets_nothing_before_its_first_passed_check(
    persistence: str, series: str, start: Start, webs: dict[str, Backend]
) -> None:
    persistent = bool(persistence)
    if series == "2.6" and persistence.startswith("cookie"):
        pytest.skip("takes a reload here")
    cookies = persistence.startswith("cookie")
    stick = ["stick on src"] if persistence.startswith("stick") else []
    lines = [line for line in [persistence, *stick] if line]
    # Clients who persistence leads there are kept away where one passed check is enough.
    check = CHECK.replace("rise 2", "rise 1") if persistent else CHECK
    one = f"server one 10.0.0.1:80 {check}" + (" cookie one" if cookies else "")
    two = f"server two 10.0.0.2:80 {check}" + (" cookie two" if cookies else "")
    running = start(configuration(*lines, one))
    with ill(webs["web2"]):
        before = webs["web2"].requests
        running.become(configuration(*lines, one, two))
        assert running.status("two").partition(" ")[0] == ("DOWN" if persistent else "NOLB")
        running.reach("two", "DOWN", meanwhile=running.request)
        for _ in range(20):
            assert running.request(cookie="S=two") == "HTTP/1.1 200 OK"
        assert webs["web2"].requests == before
    running.reach("two", "UP")
    if not stick:
        until(lambda: bool(running.request()) and webs["web2"].requests > before, "requests")


def test_one_passed_check_is_enough_for_a_new_member(
    start: Start, webs: dict[str, Backend]
) -> None:
    one, slow = f"server one 10.0.0.1:80 {CHECK}", "check inter 200ms fall 3 rise 100"
    running = start(configuration(one))
    running.become(configuration(one, f"server two 10.0.0.2:80 {slow}"))
    # With one check in 200 ms, a hundred would take longer.
    running.reach("two", "UP")


#: A hundred failures would take longer than anything is awaited here.
SLOW = "check inter 200ms fall 100 rise 2"


@pytest.mark.parametrize("balance", ["roundrobin", "source", "static-rr"])
def test_a8_a_member_back_from_maintenance_serves_and_one_failure_takes_it_out(
    balance: str, start: Start, webs: dict[str, Backend]
) -> None:
    one, two = f"server one 10.0.0.1:80 {CHECK}", f"server two 10.0.0.2:80 {SLOW}"
    running = start(configuration(f"balance {balance}", one, f"{two} disabled"))
    with ill(webs["web2"]):
        running.become(configuration(f"balance {balance}", one, two))
        assert running.status("two").startswith("UP")
        running.reach("two", "DOWN", meanwhile=running.request)
    running.reach("two", "UP")


def test_a8_a_member_serves_at_its_new_address_and_one_failure_takes_it_out(
    start: Start, webs: dict[str, Backend]
) -> None:
    one = f"server one 10.0.0.1:80 {CHECK}"
    running = start(configuration(one, f"server two 10.0.0.1:80 {SLOW}"))
    with ill(webs["web2"]):
        running.become(configuration(one, f"server two 10.0.0.2:80 {SLOW}"))
        running.reach("two", "DOWN", meanwhile=running.request)
    running.reach("two", "UP")


def test_a_member_without_checks_gets_requests_at_once(
    start: Start, webs: dict[str, Backend]
) -> None:
    running = start(configuration("server one 10.0.0.1:80 disabled"))
    running.become(configuration("server one 10.0.0.1:80 disabled", "server two 10.0.0.2:80"))
    before = webs["web2"].requests
    assert running.request() == "HTTP/1.1 200 OK"
    assert webs["web2"].requests == before + 1


def test_a_removed_member_gets_nothing_more(start: Start, webs: dict[str, Backend]) -> None:
    running = start(configuration("server one 10.0.0.1:80", "server two 10.0.0.2:80"))
    running.become(configuration("server one 10.0.0.1:80"))
    before = webs["web2"].requests
    for _ in range(4):
        assert running.request() == "HTTP/1.1 200 OK"
    assert webs["web2"].requests == before


def test_a_member_in_use_is_not_deleted(
    series: str, start: Start, amphora: Namespace, webs: dict[str, Backend]
) -> None:
    one, two = "server one 10.0.0.1:80", "server two 10.0.0.2:80"
    running = start(configuration(two))
    with amphora.connect(VIP, 80) as connection:
        connection.sendall(b"GET /slow?seconds=2 HTTP/1.0\r\n\r\n")
        until(lambda: "two" in running.ask("show sess"), "a request is with the member")
        running.become(configuration(two, one))
        running.become(configuration(one))
        assert running.status("two") == "MAINT"
        assert b"200 OK" in connection.recv(65536)
    if series == "2.6":
        # It must not be told to delete it, and so cannot add it again.
        assert running.ask("add server p/two 10.0.0.2:80").startswith("Already exists")
    elif series == "2.8":
        # It keeps the idle connection for some 15 s.
        assert running.ask("del server p/two").startswith("Server still has connections")
    else:
        until(lambda: running.ask("del server p/two") == "Server deleted.", "it is deleted")
        running.become(configuration(one, two))


def test_limits(start: Start) -> None:
    text = configuration("server one 10.0.0.1:80")
    running = start(text)
    for number in (1, 30, 80, 5000):
        running.become(
            re.sub(r"\bmaxconn \d+\n    default", f"maxconn {number}\n    default", text)
        )
    running.become(running.text.replace("maxconn 100", "maxconn 60"))
    assert running.ask("set maxconn global 101") == "Value out of range."


def test_a_listener_is_switched_off(start: Start) -> None:
    text = configuration("server one 10.0.0.1:80")
    running = start(text)
    running.become(text.replace("    default_backend p", "    default_backend p\n    disabled"))
    with pytest.raises(OSError, match=r"refused|timed out"):
        running.namespace.connect(VIP, 80, timeout=1).close()
    # One that its configuration has switched off cannot be brought back.
    off = start(running.text.replace("10.0.0.5", "10.0.0.9"))
    assert off.ask("enable frontend f") == "Frontend was previously shut down, cannot enable."


def test_fixed_maps_have_fixed_weights_and_members(start: Start) -> None:
    running = start(configuration("balance source", "server one 10.0.0.1:80 weight 3"))
    assert "static LB algorithm" in running.ask("set server p/one weight 4")
    added = running.ask("add server p/two 10.0.0.2:80")
    assert added == "Backend must use a dynamic load balancing to support dynamic servers."


def test_an_addition_that_cannot_be_is_refused(series: str, start: Start) -> None:
    running = start(configuration("server one 10.0.0.1:80"))
    answers = {
        "p/one 10.0.0.2:80": "Already exists a server with the same name in backend.",
        "nobody/two 10.0.0.2:80": "No such backend.",
        "p/two 10.0.0.2:80 ssl crt /nowhere.pem verify none": "unable to stat SSL certificate",
        "p/two 10.0.0.2:80 ssl verify none ciphers NONE": "unable to set SSL cipher list",
    }
    for words, answer in answers.items():
        assert running.ask(f"add server {words}").startswith(answer), words
    cookie = running.ask("add server p/two 10.0.0.2:80 cookie c")
    assert ("not accepted" in cookie) is (series == "2.6")


def test_the_port_of_a_check_follows_that_of_its_member(
    start: Start, webs: dict[str, Backend]
) -> None:
    running = start(configuration(f"server one 10.0.0.1:80 {CHECK}"))
    running.become(configuration(f"server one 10.0.0.1:81 {CHECK}"))
    running.reach("one", "DOWN")
    running.become(configuration(f"server one 10.0.0.1:80 {CHECK}"))
    running.reach("one", "UP")


def revocation_list(authority: Authority, *serials: int) -> bytes:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.load_pem_x509_certificate(authority.certificate).subject)
        .last_update(now)
        .next_update(now + timedelta(days=1))
    )
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
        builder = builder.add_revoked_certificate(revoked.build())
    key = ec.generate_private_key(ec.SECP256R1())
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def configuration_with_certificates(directory: Path) -> str:
    bind = f"ssl crt-list {directory}/l.pem ca-file {directory}/ca.pem verify optional"
    bind += f" crl-file {directory}/crl.pem"
    return configuration(f"server s 10.0.0.1:80 ssl crt {directory}/s.pem verify none").replace(
        "bind 10.0.0.5:80", f"bind 10.0.0.5:80 {bind}"
    )


def change_certificates(directory: Path) -> list[FileChange]:
    """Write the files that a configuration names, and return changes of every kind."""
    one, two = (Authority.create(name, key="ec") for name in ("one", "two"))
    before = {
        "l.pem": f"{directory}/a.pem\n{directory}/b.pem\n".encode(),
        "ca.pem": one.certificate,
        "crl.pem": revocation_list(one, 1),
    }
    before |= {f"{name}.pem": one.issue(name, key="ec").pem for name in "abs"}
    for name, content in before.items():
        (directory / name).write_bytes(content)
    after = before | {
        "l.pem": f"{directory}/a.pem\n{directory}/new.pem\n".encode(),
        "ca.pem": one.certificate + two.certificate,
        "crl.pem": revocation_list(one, 1, 99),
        "a.pem": two.issue("a", key="rsa").pem,
        "s.pem": two.issue("s", key="ec").pem,
        "new.pem": two.issue("new", key="ec").pem,
        "nobody.pem": two.issue("nobody", key="ec").pem,
    }
    del after["b.pem"]
    before["nobody.pem"] = one.issue("nobody", key="ec").pem  # in no crt-list, as haproxy knows
    return [
        FileChange(f"{directory}/{name}", before.get(name), after.get(name))
        for name in sorted(before | after)
        if before.get(name) != after.get(name)
    ]


def test_certificates(start: Start, tmp_path: Path) -> None:
    text = configuration_with_certificates(tmp_path)
    files = change_certificates(tmp_path)
    running = start(text)

    def planned(changes: Sequence[FileChange]) -> Plan:
        return make_plan({"x": text}, {"x": text}, changes, find_capabilities(running.version))

    # haproxy crashes on an authority that changes after a certificate.
    assert planned(files).step is Step.RELOAD
    authorities = [each for each in files if each.path.endswith(("/ca.pem", "/crl.pem"))]
    certificates = [each for each in files if each not in authorities]
    for changes in (authorities, certificates):
        made = planned(changes)
        assert made.step is Step.RUNTIME
        transaction.carry_out(made.changes, running.ask)
    assert running.ask(f"show ssl cert {tmp_path}/new.pem").startswith("Filename")
    assert "b.pem" not in running.ask("show ssl cert")
    # And the proof is not of what happens to be there: what was before does not pass it.
    for changes in (authorities, certificates):
        back = [FileChange(f.path, f.after, f.before) for f in changes if f.before and f.after]
        for change in planned(back).changes:
            if "nobody" not in change.words:
                assert any(inquiry.wrong(running.ask(inquiry.text)) for inquiry in change.proof)
