"""Commands for an amphora elsewhere, over its API: what a controller does, done by hand.

They run anywhere, and load nothing of the agent but its client.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import requests

from amphora_agent.client import AmphoraError, DeclarativeClient, Json, ProblemError
from amphora_agent.errors import AgentError

T = TypeVar("T")

#: Fields of a load balancer that hold PEMs; in its file they may name one: "@site.crt".
_PEM_FIELDS = frozenset(
    {
        "ca_tls_container_data",
        "certificate",
        "client_ca_tls_container_data",
        "client_crl_container_data",
        "crl_container_data",
        "intermediates",
        "private_key",
    }
)
_MOST_PEM = 1 << 18


@dataclass(frozen=True)
class Remote:
    """Where an amphora is, and how both sides prove who they are."""

    url: str
    amphora_id: str
    certificate: Path
    authority: Path

    def client(self) -> DeclarativeClient:
        for path in (self.certificate, self.authority):
            if not path.is_file():
                raise AgentError("Cannot connect", f"there is no file {path}")
        return DeclarativeClient(self.url, self.amphora_id, self.certificate, self.authority)


def push(remote: Remote, source: str, *, if_match: str | None, dry_run: bool) -> None:
    """Have the amphora make a load balancer what a file says; print what was done, or would be.

    Raises:
        AgentError: the file cannot be used, or the agent refuses; all reasons are in it.
    """
    balancer = read(source)
    result = _ask(remote, lambda api: api.put(balancer, if_match=if_match, dry_run=dry_run))
    for line in _told(result):
        print(line)


def pull(remote: Remote, lb_id: str) -> None:
    """Print a load balancer as it was put, in JSON for `push`; its ETag goes to standard error.

    Raises:
        AgentError
    """
    balancer, etag = _ask(remote, lambda api: api.get(lb_id))
    print(json.dumps(balancer, indent=2, ensure_ascii=False))
    print("ETag", etag.strip('"'), file=sys.stderr)


def status(remote: Remote, lb_id: str | None) -> None:
    """Print how a load balancer and all its parts are; without an id, what load balancers there
    are.

    Raises:
        AgentError
    """
    if lb_id is None:
        for each in _ask(remote, lambda api: api.loadbalancers()):
            print(
                f"{each['loadbalancer_id']}  generation {each['generation']}, "
                f"{each['listeners']} listeners, {each['pools']} pools, ETag {each['etag']}"
            )
        return
    found = _ask(remote, lambda api: api.status(lb_id))
    rows = list(_rows(found))
    width = max(len(name) for name, _, _ in rows)
    for name, word, reason in rows:
        print(f"{name:{width}}  {word:10}  {reason}".rstrip())


def read(source: str) -> Json:
    """The load balancer in a JSON file, `-` for standard input. "@name" in the place of a PEM is
    the PEM file of that name, beside the JSON file.

    Raises:
        AgentError: it, or a file that it names, cannot be used.
    """
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise AgentError("Cannot read the load balancer", str(error)) from None
    except (ValueError, RecursionError) as error:
        raise AgentError("Cannot read the load balancer", f"{source}: not JSON: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("loadbalancer_id"), str):
        raise AgentError("Cannot read the load balancer", f"{source}: loadbalancer_id: is missing")
    directory = Path() if source == "-" else Path(source).parent
    completed: Json = _completed(found, directory, "", is_pem=False)
    return completed


def _completed(value: Any, directory: Path, path: str, *, is_pem: bool) -> Any:
    """A value with PEMs in the place of the files' names."""
    if isinstance(value, dict):
        return {
            name: _completed(
                each, directory, f"{path}.{name}".lstrip("."), is_pem=name in _PEM_FIELDS
            )
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [
            _completed(each, directory, f"{path}[{index}]", is_pem=is_pem)
            for index, each in enumerate(value)
        ]
    if is_pem and isinstance(value, str) and value.startswith("@"):
        return _pem(directory / value[1:], path)
    return value


def _pem(file: Path, path: str) -> str:
    """Nothing but a PEM is sent anywhere, whatever file is named."""
    try:
        with file.open("rb") as opened:
            data = opened.read(_MOST_PEM + 1)
    except OSError as error:
        raise AgentError("Cannot read the load balancer", f"{path}: {error}") from None
    if len(data) > _MOST_PEM or b"-----BEGIN " not in data or not data.isascii():
        raise AgentError("Cannot read the load balancer", f"{path}: {file} is not a PEM file")
    return data.decode("ascii")


def _ask(remote: Remote, question: Callable[[DeclarativeClient], T]) -> T:
    """The agent's answer.

    Raises:
        AgentError: it refuses, or there is none.
    """
    client = remote.client()
    try:
        return question(client)
    except ProblemError as error:
        title = f"{error.status} {error.title}"
        if not error.errors:
            raise AgentError(title, error.detail) from error
        wrong = (f"{path}: {message}" for path, message in error.errors)
        raise AgentError("\n  ".join((title, *wrong))) from error
    except AmphoraError as error:
        raise AgentError("Refused", str(error)) from error
    except requests.RequestException as error:
        raise AgentError(f"No answer from {remote.url}", str(error)) from error
    finally:
        client.close()


_STEPS = {
    "nothing": "nothing to do",
    "runtime": "at runtime, no reload",
    "stop": "by a stop",
    "reload": "by a reload",
    "start": "by a start",
}


def _told(result: Json) -> Iterator[str]:
    """What was done, or would be."""
    step = _STEPS.get(result["step"], result["step"])
    if result["dry_run"]:
        yield f"{result['loadbalancer_id']}: would be done: {step}"
    else:
        generation = f"generation {result['generation']}"
        done = "created" if result["created"] else "changed"
        what = step if result["step"] == "nothing" else f"{done} {step}"
        yield f"{result['loadbalancer_id']}: {what}; {generation}, ETag {result['etag']}"
    for process in result["processes"]:
        if process["step"] != "nothing":
            yield f"  {process['id']}: {process['step']}"
            yield from (f"    because {reason}" for reason in process["reasons"])
            if process.get("fell_back"):
                yield f"    in the place of commands: {process['fell_back']}"
            yield from (f"    {words}" for words in process["words"])


def _rows(status: Json) -> Iterator[tuple[str, str, str]]:
    """The parts of a load balancer: name, status, and why."""
    yield _row("load balancer", status["loadbalancer_id"], status)
    for listener in status["listeners"]:
        yield _row("  listener", listener["listener_id"], listener)
    for pool in status["pools"]:
        yield _row("  pool", pool["pool_id"], pool)
        for member in pool["members"]:
            yield _row("    member", member["member_id"], member)


def _row(kind: str, name: str, status: Json) -> tuple[str, str, str]:
    return f"{kind} {name}", status["operating_status"], status["reason"]
