"""Instances as the API tells them (`GET /2.0/instances`)."""

import msgspec


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker process of haproxy: `reloads` that it has lived through, seconds of `uptime`."""

    pid: int
    reloads: int
    uptime: int


class InstanceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`state` is ACTIVE, OFFLINE (stopped) or ERROR (died). `generation` is the newest that came
    up, `pending` whether something else is committed and waits for a reload or a start."""

    id: str
    state: str
    generation: int | None
    pending: bool


class InstanceDetails(InstanceStatus, frozen=True, kw_only=True):
    """With the generations that can be gone back to, oldest first, and haproxy's workers: none
    is `current` when it does not run or does not answer."""

    generations: tuple[int, ...]
    current: Worker | None
    leaving: tuple[Worker, ...]


class InstanceList(msgspec.Struct, frozen=True):
    instances: tuple[InstanceStatus, ...]
