"""`show proc` of the master socket: the replies are real, and 2.6 to 3.0 give the same ones."""

import pytest

from amphora_agent.errors import OperationFailed
from amphora_agent.haproxy.replies import Workers, read_workers

VERSIONS = ["2.6.12-1+deb12u4", "2.8.25-5cf5d0683", "3.0.11-1+deb13u5"]

TITLE = "#<PID>          <type>          <reloads>       <uptime>        <version>      "

STARTED = """\
21987           master          0 [failed: 0]   0d00h00m00s     {version}
# workers
21996           worker          0               0d00h00m00s     {version}
# programs"""

RELOADED = """\
21987           master          1 [failed: 0]   0d00h00m01s     {version}
# workers
22114           worker          0               0d00h00m01s     {version}
# old workers
21996           worker          1               0d00h00m01s     {version}
# programs"""

FAILED_TWICE = """\
21987           master          3 [failed: 2]   0d00h00m03s     {version}
# workers
22114           worker          2               0d00h00m03s     {version}
# old workers
21996           worker          3               0d00h00m03s     {version}
21990           worker          4               0d00h00m03s     {version}
# programs"""

WITHOUT_WORKER = """\
21987           master          2 [failed: 1]   0d00h00m03s     {version}
# workers
# programs"""

WITH_PROGRAM = """\
21987           master          1 [failed: 0]   0d00h00m01s     {version}
# workers
22114           worker          0               0d00h00m01s     {version}
# old workers
21996           worker          1               0d00h00m01s     {version}
# programs
22200           worker          0               0d00h00m01s     -
22201           exporter        0               0d00h00m01s     -
# old programs
22100           exporter        1               0d00h00m09s     -"""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (STARTED, Workers(0, 0, 21996, ())),
        (RELOADED, Workers(1, 0, 22114, (21996,))),
        (FAILED_TWICE, Workers(3, 2, 22114, (21996, 21990))),
        (WITHOUT_WORKER, Workers(2, 1, None, ())),
    ],
    ids=["started", "reloaded", "failed twice", "without a worker"],
)
def test_the_process_tree_is_read(reply: str, expected: Workers, version: str) -> None:
    assert read_workers(f"{TITLE}\n{reply.format(version=version)}") == expected


def test_a_program_that_haproxy_minds_is_no_worker_whatever_its_name() -> None:
    assert read_workers(WITH_PROGRAM.format(version="2.6.12")) == Workers(1, 0, 22114, (21996,))


@pytest.mark.parametrize("reply", ["", "Unknown command: 'show'", TITLE, "1 worker 0 0d x"])
def test_refuses_a_reply_that_is_not_show_proc(reply: str) -> None:
    with pytest.raises(OperationFailed, match="Cannot read the workers"):
        read_workers(reply)
