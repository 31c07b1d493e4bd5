"""What an upload costs, and what it finds out: at most one haproxy, which sees no more than what
proves the change; and what haproxy does not find out by itself."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from amphora_agent.client.v2 import AmphoraError
from amphora_agent.haproxy.validate.validator import ResourceLimits
from lab.listeners import Listener, http_listener, loadbalancer
from lab.pki import Authority
from tests.integration.amphora import VIP, WEB_PORTS, Amphora, LoadBalancer, differences

#: KiB of memory that a check gets: less than half of what a TLS cache of 1,000,000 sessions takes.
CHECK_MEMORY = 120_000


class Checks:
    """A haproxy that keeps what it is given to check, and gives a check little memory."""

    def __init__(self, directory: Path, real: Path) -> None:
        self.program = directory / "haproxy"
        self._kept = directory / "checks"
        self._kept.mkdir(parents=True)
        self.program.write_text(
            "#!/bin/sh\n"
            f'[ "$1" = -c ] || exec {real} "$@"\n'
            f"ulimit -v {CHECK_MEMORY}\n"
            f'tee {self._kept}/$$ | {real} "$@"\n'
        )
        self.program.chmod(0o755)

    def taken(self) -> list[str]:
        """What was checked since the last time that this was asked."""
        found = sorted(self._kept.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        texts = [path.read_text() for path in found]
        for path in found:
            path.unlink()
        return texts


@pytest.fixture(scope="module")
def checks(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Checks:
    return Checks(tmp_path_factory.mktemp("program"), program)


@pytest.fixture(scope="module")
def amphora(boot: Callable[..., Amphora], checks: Checks) -> Iterator[Amphora]:
    with ExitStack() as ending:
        yield boot(ending, settings={"haproxy_amphora": {"haproxy_cmd": str(checks.program)}})


MEMBERS = [(VIP, port) for port in WEB_PORTS]


class Uploads:
    """The uploads of one load balancer, and what each made haproxy check."""

    def __init__(self, amphora: Amphora, checks: Checks) -> None:
        self.balancer: LoadBalancer = amphora.new_balancer()
        self.amphora = amphora
        self.checks = checks
        self.listeners = listeners(self.balancer.port, 3)

    def text(self, *, ssl_cache: int | None = None) -> str:
        return loadbalancer(
            self.balancer.id,
            vip=VIP,
            listeners=self.listeners,
            base_path=str(self.amphora.agent.base_path),
            ssl_cache=ssl_cache,
        )

    def upload(self, text: str) -> list[str]:
        """What was checked; raises AmphoraError."""
        self.checks.taken()
        self.amphora.api.upload_haproxy(self.balancer.id, text)
        return self.checks.taken()

    def refused(self, text: str) -> tuple[str, list[str]]:
        """Why it was, and what was checked; nothing else has changed, and the text is kept."""
        rejected = self.balancer.directory / "haproxy.cfg.rejected"
        before = self.amphora.files()
        with pytest.raises(AmphoraError) as refusal:
            self.upload(text)
        assert refusal.value.status == 400
        assert rejected.read_text() == text
        ours = str(rejected.relative_to(self.amphora.agent.directory))
        changed = differences(before, self.amphora.files())
        assert changed == {ours}
        return str(refusal.value), self.checks.taken()


def listeners(port: int, count: int) -> list[Listener]:
    return [
        http_listener(f"{port} {number}", port=port + number, members=MEMBERS, connection_limit=20)
        for number in range(count)
    ]


@pytest.fixture
def uploads(amphora: Amphora, checks: Checks) -> Iterator[Uploads]:
    """Those of a load balancer that is there."""
    made = Uploads(amphora, checks)
    made.upload(made.text())
    yield made
    made.balancer.delete()


def line_of(text: str, beginning: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), 1) if line.startswith(beginning))


def with_line(text: str, header: str, line: str) -> str:
    """With a line more, the first in its section."""
    assert f"\n{header}\n" in text
    return text.replace(f"\n{header}\n", f"\n{header}\n    {line}\n", 1)


def backend(listener: Listener) -> str:
    assert listener.pool
    return f"backend {listener.pool.id}:{listener.id}"


def sections(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and line[0] not in " #"]


def test_the_first_one_is_checked_whole(amphora: Amphora, checks: Checks) -> None:
    first = Uploads(amphora, checks)

    assert first.upload(first.text()) == [first.text()]
    first.balancer.delete()


def test_one_that_is_there_already_costs_nothing(uploads: Uploads) -> None:
    inode = uploads.balancer.configuration.stat().st_ino

    assert uploads.upload(uploads.text()) == []
    assert uploads.balancer.configuration.stat().st_ino == inode


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("weight 1", "weight 7", 1),
        lambda text: text.replace(f"{VIP}:{WEB_PORTS[0]} ", f"{VIP}:{WEB_PORTS[1]} ", 1),
        lambda text: text + "    server another 192.0.2.99:80 weight 1\n",
        lambda text: text.replace("    maxconn 20\n", "    maxconn 10\n", 1),
    ],
    ids=["a weight", "a port", "a member", "a limit"],
)
def test_what_the_agent_understands_needs_no_haproxy(
    uploads: Uploads, change: Callable[[str], str]
) -> None:
    text = change(uploads.text())

    assert uploads.upload(text) == []
    assert uploads.balancer.configuration.read_text() == text


def test_a_pool_is_checked_with_the_listener_that_uses_it(uploads: Uploads) -> None:
    listener = uploads.listeners[1]
    text = with_line(uploads.text(), backend(listener), "retries 5")

    (checked,) = uploads.upload(text)

    assert sections(checked) == [
        "global",
        "defaults",
        f"frontend {listener.id}",
        backend(listener),
    ]
    assert checked.count("\n") == text.count("\n")
    assert line_of(checked, backend(listener)) == line_of(text, backend(listener))


def test_a_new_listener_is_checked_alone(uploads: Uploads) -> None:
    uploads.listeners = listeners(uploads.balancer.port, 4)
    # The controller's sum of all limits is in the global section, which takes the whole check.
    text = uploads.text().replace("    maxconn 80\n", "    maxconn 60\n", 1)

    (checked,) = uploads.upload(text)

    new = uploads.listeners[3]
    assert f"frontend {new.id}" in sections(checked)
    assert f"frontend {uploads.listeners[0].id}" not in sections(checked)


def test_a_global_setting_takes_the_whole_check(uploads: Uploads) -> None:
    text = with_line(uploads.text(), "global", "tune.bufsize 32768")

    assert uploads.upload(text) == [text]


def test_op2_what_a_person_has_edited_is_no_ground_to_build_on(uploads: Uploads) -> None:
    """A change is compared with what was committed: so much of it is proven as if nobody had
    edited the file."""
    changed = with_line(uploads.text(), backend(uploads.listeners[1]), "retries 5")
    again = with_line(uploads.text(), backend(uploads.listeners[1]), "retries 6")
    uploads.upload(changed)
    uploads.balancer.configuration.write_text(uploads.text() + "\nnonsense\n")

    assert sections(*uploads.upload(again)) != sections(again)
    assert uploads.balancer.configuration.read_text() == again


def test_a_new_agent_checks_whole_once(uploads: Uploads) -> None:
    agent, header = uploads.amphora.agent, backend(uploads.listeners[1])
    agent.stop()
    agent.start()
    member = uploads.text().replace("weight 1", "weight 7", 1)
    changed = with_line(member, header, "retries 5")
    again = with_line(changed, header, "retries 6")

    assert uploads.upload(member) == []
    assert uploads.upload(changed) == [changed]
    assert sections(*uploads.upload(again)) != sections(again)


def test_a_broken_pool_among_hundreds_is_refused_in_haproxy_s_words(uploads: Uploads) -> None:
    uploads.listeners = listeners(uploads.balancer.port, 200)
    good = uploads.text()
    assert uploads.upload(good) == [good]
    broken = with_line(good, backend(uploads.listeners[120]), "timeout server never")

    details, checked = uploads.refused(broken)

    line = line_of(broken, backend(uploads.listeners[120])) + 1
    assert f"[{uploads.balancer.configuration}:{line}]" in details
    assert "unexpected character 'n' in 'timeout server'" in details
    assert "/dev/stdin" not in details
    assert len(checked) == 1
    assert len(sections(checked[0])) == 4


def test_a_pool_that_is_still_used_cannot_be_removed(uploads: Uploads) -> None:
    text = uploads.text()
    header = backend(uploads.listeners[0])
    start = text.index(f"\n{header}\n")
    end = text.index("\nfrontend ", start)

    details, checked = uploads.refused(text[:start] + text[end:])

    assert f"unable to find required default_backend: '{header.split()[1]}'" in details
    assert len(checked) == 1


def test_what_policy_refuses_haproxy_never_sees(uploads: Uploads) -> None:
    text = with_line(uploads.text(), "global", "lua-load /tmp/evil.lua")

    details, checked = uploads.refused(text)

    assert f"[{uploads.balancer.configuration}:{line_of(text, 'global') + 1}]" in details
    assert "lua-load" in details
    assert checked == []


def test_a_nul_is_refused(uploads: Uploads) -> None:
    details, checked = uploads.refused(f"{uploads.text()}# \0\n")

    assert "NUL" in details
    assert checked == []


def test_a2_more_addresses_than_descriptors_are_refused_with_the_numbers(uploads: Uploads) -> None:
    limit = ResourceLimits("self").descriptors()
    if limit > 100_000:
        pytest.skip(f"{limit} descriptors are more than a text can name addresses for")
    binds = "".join(f"    bind 127.0.0.1:{1024 + number % 60000}\n" for number in range(limit))

    details, checked = uploads.refused(uploads.text() + f"frontend many\n{binds}")

    assert "maxconn 60: haproxy would need at least" in details
    assert f"file descriptors to start, and may have {limit}" in details
    assert checked == []


def tls(uploads: Uploads) -> None:
    """Make the first listener end TLS."""
    directory = uploads.amphora.agent.cert_path / uploads.balancer.id
    issued = Authority.create("tenant CA", key="ec").issue("www.test", dns=["www.test"])
    api = uploads.amphora.api
    api.upload_certificate(uploads.balancer.id, "www.pem", issued.pem)
    api.upload_certificate(uploads.balancer.id, "list.pem", f"{directory / 'www.pem'}\n".encode())
    first = uploads.listeners[0]
    uploads.listeners[0] = http_listener(
        "tls",
        port=first.port,
        members=MEMBERS,
        kind="TERMINATED_HTTPS",
        crt_list=str(directory / "list.pem"),
        connection_limit=20,
    )


def test_a_check_does_not_take_the_memory_of_a_start(uploads: Uploads) -> None:
    tls(uploads)
    text = uploads.text(ssl_cache=1_000_000)

    assert uploads.upload(text) == [text]


def test_a_cache_that_cannot_be_is_refused_with_the_numbers(uploads: Uploads) -> None:
    tls(uploads)

    details, checked = uploads.refused(uploads.text(ssl_cache=2_000_000_000))

    assert "a new worker would need 473022 MiB for its TLS session cache, and " in details
    assert checked == []
