"""An instance on disk, somewhere."""

from pathlib import Path

from amphora_agent.layout import InstanceLayout, ObjectId


def layout(top: Path) -> InstanceLayout:
    return InstanceLayout(
        id=ObjectId("lb"),
        directory=top / "lb",
        certificates=top / "certs/lb",
        stats_socket=top / "lb.sock",
        master_socket=top / "lb.master",
    )
