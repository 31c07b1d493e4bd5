"""keepalived reads ours as we have read the controller's, and runs and opens nothing else."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from amphora_agent.keepalived.config import lvs, table, vrrp
from amphora_agent.keepalived.config.language import ConfigError, Rendered, Statement, parse, render
from amphora_agent.keepalived.config.table import require_allowed
from amphora_agent.keepalived.program import find_complaints
from lab.network import Lab, Namespace
from lab.traced_keepalived import Kind, Traced, run_traced
from tests.fuzz import keepalived_facts, keepalived_texts
from tests.fuzz.keepalived_texts import written

#: Each starts keepalived: a round is to end in seconds, and a failure is told as it was found.
FEW = settings(
    max_examples=3,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MORE = settings(FEW, max_examples=15)


class Bench:
    """A place where keepalived can run: an interface, and the programs that texts may name."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self.namespace = namespace
        self.directory = directory
        self.check_script = self._program("check_script.sh")
        self.udp_check = self._program("udp_check.sh")
        self._program("amphora-health-checker")
        self.fifo = directory / "notify"
        self.canary = directory / "canary"
        self.included = directory / "included.conf"
        self.included.write_text(
            f'global_defs {{ startup_script "/usr/bin/touch {self.canary}"\n}}'
        )

    def _program(self, name: str) -> Path:
        path = self.directory / name
        path.write_text("#!/bin/true\n")
        path.chmod(0o755)
        return path

    def read(self, kind: Kind, text: bytes) -> Rendered:
        if kind == "vrrp":
            return vrrp.rewrite(text, str(self.check_script), str(self.fifo))
        return lvs.rewrite(text, str(self.udp_check))

    def statements(self, kind: Kind, text: bytes) -> tuple[Statement, ...]:
        tables = {
            "vrrp": table.vrrp(str(self.check_script)),
            "check": table.lvs(str(self.udp_check)),
        }
        return require_allowed(parse(text), tables[kind])

    def complaints(self, kind: Kind, text: bytes) -> list[str]:
        """Of keepalived's own check."""
        file = self.directory / "test.conf"
        file.write_bytes(text)
        command = ["keepalived", "--config-test", f"--{kind}", "--use-file", str(file)]
        done = subprocess.run(
            self.namespace.command(command), capture_output=True, text=True, check=False
        )
        return find_complaints(done.stdout + done.stderr, ())

    def run(self, kind: Kind, text: bytes, *, to_the_end: bool = False) -> Traced:
        self.canary.unlink(missing_ok=True)
        file = self.directory / "keepalived.conf"
        file.write_bytes(text)
        return run_traced(
            kind, file, self.namespace, self.directory, path=self.directory, to_the_end=to_the_end
        )


@pytest.fixture(scope="module")
def bench(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    namespace = lab.namespace("keepalived")
    segment = lab.bridge(lab.namespace("peers"), "segment")
    segment.port(namespace, "eth1")
    namespace.address("eth1", "10.1.0.254/24")
    return Bench(namespace, tmp_path_factory.mktemp("keepalived"))


def settings_of(kind: Kind, bench: Bench) -> bytes:
    """What the agent puts before each text."""
    return render((), fifo=str(bench.fifo) if kind == "vrrp" else "").text


def texts_of(kind: Kind, bench: Bench) -> st.SearchStrategy[bytes]:
    if kind == "vrrp":
        values = keepalived_texts.vrrp(str(bench.check_script))
    else:
        values = keepalived_texts.lvs(str(bench.udp_check))
    return values.flatmap(written)


def require_read_alike(bench: Bench, kind: Kind, text: bytes, given: Rendered) -> None:
    """keepalived tells of ours what we have read of the controller's, and the same of both, but
    when it makes the first checks."""
    ours = bench.run(kind, given.text).dump
    expected = keepalived_facts.expected(kind, bench.statements(kind, text))
    assert keepalived_facts.told(kind, ours) == expected
    assert set(re.findall(r"Warmup = (\d+) us", ours)) <= {"100000"}
    theirs = settings_of(kind, bench) + text
    if not bench.complaints(kind, theirs):
        assert without_warmup(bench.run(kind, theirs).dump) == without_warmup(ours)


def without_warmup(dump: str) -> str:
    return re.sub(r"(?m)^ *Warmup = .*\n", "", dump)


@pytest.mark.parametrize("kind", ["vrrp", "check"])
@FEW
@given(data=st.data())
def test_keepalived_reads_ours_as_we_read_the_controllers(
    bench: Bench, kind: Kind, data: st.DataObject
) -> None:
    text = data.draw(texts_of(kind, bench))
    given = bench.read(kind, text)
    assert bench.complaints(kind, given.text) == []
    require_read_alike(bench, kind, text, given)


# Canaries

#: Keywords that run a program, in any block of any process of keepalived, or name a file.
_PROGRAMS = (
    *("notify", "notify_master", "notify_backup", "notify_fault", "notify_stop", "notify_deleted"),
    *("notify_up", "notify_down", "quorum_up", "quorum_down", "script", "misc_path"),
    *("startup_script", "shutdown_script", "notify_fifo_script", "vrrp_notify_fifo_script"),
)
_FILES = (
    *("include", "includer", "includem", "includew", "includeb", "includea"),
    *("track_file", "file", "vrrp_notify_fifo", "notify_fifo", "tmp_config_directory", "cafile"),
    *("reload_file", "random_seed", "instance", "process_names", "nftables", "snmp_socket"),
)
_PLACES = ("{}\n", "global_defs {{\n{}\n}}\n", "}}global_defs{{{}\n}}\n", "}}}}global_defs{{{}}}",
           "vrrp_script x{{{}\n}}", "{{{}}}", "x {{{}\n}}")  # fmt: skip
#: Ways to write a keyword and its value.
_WAYS = (
    *("{0} {1}", '"{0}" {1}', '{0}"{2}"', "\t{0}\v{1}", "\r{0}\f{1}", "@^no {0} {1}", "@ {0} {1}"),
    *("$A={0}\n$A {1}", "$A={0} {1}\n${{A}}", "~SEQ(x, 1) {0} {1}", "~LST(x, 1) {0} {1}"),
    *("$A=\\\n{0} {1}\n\n$A", "{0} \\\n{1}", "\0{0} {1}", "\n{0} {1}\n", "\xa0{0} {1}"),
    *("#" + " " * 1022 + "{0} {1}", "# \\\n{0} {1}", "# {0} {1}\n", "!{0} {1}\n", '"{0} {1}"'),
    '" {0} {1} ',
)


def canary(bench: Bench, text: bytes) -> st.SearchStrategy[bytes]:
    """The text with a canary anywhere in it."""
    touch = f"/usr/bin/touch {bench.canary}"

    def make(keyword: str, place: str, way: str, begin: int, end: int) -> bytes:
        plain = touch if keyword in _PROGRAMS else str(bench.included)
        quoted = f'"{plain}"' if keyword in _PROGRAMS else plain
        harm = place.format(way.format(keyword, quoted, plain)).encode("latin-1")
        return text[:begin] + harm + text[end:]

    ends = [0, *(at + 1 for at, byte in enumerate(text) if byte in b"\n{}"), len(text)]
    positions = st.sampled_from(ends) | st.integers(0, len(text))
    return st.builds(
        make, st.sampled_from(_PROGRAMS + _FILES), st.sampled_from(_PLACES), st.sampled_from(_WAYS),
        positions, positions,
    )  # fmt: skip


def find_harm(bench: Bench, traced: Traced) -> set[str]:
    """Return what ran or was opened that is not ours, and not keepalived's own."""
    programs = {"/usr/sbin/keepalived", "/sbin/modprobe", "/bin/true", str(bench.check_script)}
    programs |= {str(bench.udp_check), str(bench.directory / "amphora-health-checker")}
    own = ("/lib/", "/usr/lib/", "/proc/", "/dev/null", "/etc/iproute2/", "/usr/share/iproute2/",
           "/usr/share/locale/",
           "/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd",
           "/etc/modprobe.d", "/run/bfd.pid", "/run/modprobe.d", "/sys/module")  # fmt: skip
    names = ("keepalived.conf", "keepalived.pid", "child.pid", bench.fifo.name)
    files = {str(bench.directory / name) for name in names}
    opened = {path for path in traced.opened if not path.startswith(own)} - files - {"."}
    ran = {str(bench.canary)} if bench.canary.exists() else set()
    return (opened | set(traced.executed) | ran) - programs


@pytest.mark.parametrize("kind", ["vrrp", "check"])
@MORE
@given(data=st.data())
def test_no_canary_runs_and_no_file_is_read(bench: Bench, kind: Kind, data: st.DataObject) -> None:
    text = data.draw(texts_of(kind, bench).flatmap(lambda text: canary(bench, text)))
    try:
        given = bench.read(kind, text)
    except ConfigError:
        return
    traced = bench.run(kind, given.text, to_the_end=True)
    assert find_harm(bench, traced) == set(), traced


@pytest.mark.parametrize(
    "harm",
    [
        'global_defs {{ startup_script "/usr/bin/touch {canary}"\n}}\n',
        "global_defs{{\n@^no startup_script/usr/bin/touch\n}}\ninclude {included}\n",
        "# {filler}include {included}\n",
    ],
)
def test_keepalived_itself_would_let_canaries_run(bench: Bench, harm: str) -> None:
    """What the tests above look for can be seen."""
    filler = " " * 1021
    text = harm.format(canary=bench.canary, included=bench.included, filler=filler).encode()
    with pytest.raises(ConfigError):
        bench.read("vrrp", text)
    traced = bench.run("vrrp", text + b"vrrp_instance x {\ninterface eth1\n}\n", to_the_end=True)
    assert find_harm(bench, traced)


# Whatever else


@pytest.mark.parametrize("kind", ["vrrp", "check"])
@FEW
@given(data=st.data())
def test_what_is_accepted_of_a_text_that_was_changed_is_read_alike(
    bench: Bench, kind: Kind, data: st.DataObject
) -> None:
    text = data.draw(texts_of(kind, bench))
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, min(len(text), begin + 2)))
    pieces = st.sampled_from([b"{", b"}", b'"', b"\n", b"#", b"!", b" ", b"\v", b"1", b"$", b"@"])
    changed = text[:begin] + data.draw(pieces | st.just(b"")) + text[end:]
    try:
        given = bench.read(kind, changed)
    except ConfigError:
        return
    if not bench.complaints(kind, given.text):
        dump = bench.run(kind, given.text).dump
        theirs = settings_of(kind, bench) + changed
        if not bench.complaints(kind, theirs):
            assert without_warmup(bench.run(kind, theirs).dump) == without_warmup(dump)
