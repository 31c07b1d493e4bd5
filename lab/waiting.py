"""Awaiting a condition that nothing announces."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], what: str, *, timeout: float = 10) -> None:
    """Check a condition every few milliseconds; raise TimeoutError, which says ``what`` it is."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {what}")
        time.sleep(0.01)
