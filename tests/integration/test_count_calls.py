"""What stands between routes and effects can be counted in a running agent."""

import re
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "tools" / "count_calls.py"


def test_counts_what_upload_plug_and_put_pass_until_their_first_effect() -> None:
    printed = subprocess.run(
        [sys.executable, PROGRAM, "--stacks"], capture_output=True, text=True, check=True
    ).stdout

    rows = re.findall(r"^(.+), tree +(\d+) +(\d+) +(\d+) +(\d+)$", printed, re.MULTILINE)
    assert [name for name, *_ in rows] == ["upload", "plug VIP", "PUT 2.0"]
    for _, calls, functions, modules, depth in rows:
        assert int(calls) >= int(functions) >= int(modules) > 1
        assert int(functions) >= int(depth) - 1 > 0
    assert printed.count("\n    ") == sum(int(depth) for *_, depth in rows)
    assert "    haproxy.service:Instances.upload\n" in printed
