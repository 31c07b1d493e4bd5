"""Record the calls between a route and its effects, in every interpreter that starts with this.

`tools/count_calls.py` puts the directory of this file into PYTHONPATH. TRACED_PACKAGE is the
directory of the package whose calls count, TRACE_FILE is where each request adds a line of JSON:
its route, and for each effect its kind and what stood between. An effect is a file that gets its
name, or a change that the kernel is asked for by netlink.
"""

import json
import os
import socket
import struct
import sys
import threading
from types import FrameType
from typing import Any

_PACKAGE = os.environ["TRACED_PACKAGE"] + "/"
_FILE = os.environ["TRACE_FILE"]
#: linux/netlink.h: a request that wants to be acknowledged, which changes do and dumps do not.
_NLM_F_ACK = 4
_HEADER = struct.Struct("=IHH")


class _Request(threading.local):
    """The request that this thread answers, if it answers one."""

    route: FrameType | None = None
    calls: int = 0
    functions: set[str]
    effects: list[dict[str, object]]


_request = _Request()


def _name_function(frame: FrameType) -> str:
    path = frame.f_code.co_filename.removeprefix(_PACKAGE).removesuffix(".py")
    return f"{path.replace('/', '.')}:{frame.f_code.co_qualname}"


def _is_counted(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_PACKAGE)


def _is_route(frame: FrameType) -> bool:
    caller = frame.f_back
    return caller is not None and caller.f_code.co_name == "dispatch_request"


def _record_effect(kind: str, frame: FrameType | None) -> None:
    stack = []
    while frame is not None and frame is not _request.route:
        if _is_counted(frame):
            stack.append(_name_function(frame))
        frame = frame.f_back
    functions = _request.functions
    _request.effects.append(
        {
            "kind": kind,
            "calls": _request.calls,
            "functions": len(functions),
            "modules": len({name.partition(":")[0] for name in functions}),
            "stack": stack[::-1],
        }
    )


def _asks_for_change(value: object) -> bool:
    if not isinstance(value, bytes | bytearray) or len(value) < _HEADER.size:
        return False
    length, _, flags = _HEADER.unpack_from(value)
    return length == len(value) and bool(flags & _NLM_F_ACK)


def _profile(frame: FrameType, event: str, argument: Any) -> None:
    if event == "call" and _is_counted(frame):
        if _request.route is not None:
            _request.calls += 1
            _request.functions.add(_name_function(frame))
        elif _is_route(frame):
            _request.route, _request.calls = frame, 0
            _request.functions, _request.effects = set(), []
    elif event == "return" and frame is _request.route:
        line = {"route": _name_function(frame), "effects": _request.effects}
        _request.route = None
        with open(_FILE, "a") as file:
            file.write(json.dumps(line) + "\n")
    elif event == "c_call" and _request.route is not None:
        sender = getattr(argument, "__self__", None)
        is_netlink = isinstance(sender, socket.socket) and sender.family == socket.AF_NETLINK
        if is_netlink and any(map(_asks_for_change, frame.f_locals.values())):
            _record_effect("netlink", frame)


def _audit(event: str, _arguments: tuple[object, ...]) -> None:
    if event == "os.rename" and _request.route is not None:
        _record_effect("rename", sys._getframe(1))


sys.addaudithook(_audit)
threading.setprofile(_profile)
