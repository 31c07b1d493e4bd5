"""Commands for an amphora elsewhere, over its API 2.0.

They run anywhere. Of the agent they load only its client, and only for a request.
"""

import functools
import gc
import json
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from amphora_agent.cli.frame import CliCommand, refuse_options_before
from amphora_agent.errors import AgentError

if TYPE_CHECKING:
    from amphora_agent.client.v2 import DeclarativeClient, Json

T = TypeVar("T")

#: Fields of a load balancer that have PEMs, or names of PEM files: "@site.crt".
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
    """The address of an amphora, and the certificates of both sides."""

    url: str
    amphora_id: str
    certificate: Path
    authority: Path

    def client(self) -> "DeclarativeClient":
        from amphora_agent.client.v2 import DeclarativeClient

        _require_url(self.url)
        _require_usable(self.authority, "--ca", lambda tls, path: tls.load_verify_locations(path))
        # Without a password OpenSSL would ask at the terminal.
        _require_usable(
            self.certificate, "--cert", lambda tls, path: tls.load_cert_chain(path, password="")
        )
        return DeclarativeClient(self.url, self.amphora_id, self.certificate, self.authority)


_OPTIONS = [
    click.Option(
        [name],
        envvar=variable,
        required=True,
        metavar=metavar,
        help=f"{help_text} (default: ${variable})",
    )
    for name, variable, metavar, help_text in (
        ("--url", "AMPHORA_URL", "URL", "where the API is, such as https://192.0.2.7:9443"),
        ("--amphora-id", "AMPHORA_ID", "ID", "the id that the amphora's certificate must name"),
        ("--cert", "AMPHORA_CERT", "PEM", "the controller's certificate with its key"),
        ("--ca", "AMPHORA_CA", "PEM", "the authority that signed the amphora's certificate"),
    )
]


def _remote_command(name: str, *, example: str) -> Callable[[Callable[..., None]], CliCommand]:
    """Make a function a command that sends requests to an agent. It gets `Remote`, and the values
    of its own parameters by name."""

    def decorate(function: Callable[..., None]) -> CliCommand:
        @functools.wraps(function)
        def call(url: str, amphora_id: str, cert: str, ca: str, **values: Any) -> None:
            refuse_options_before(click.get_current_context())
            gc.disable()
            function(Remote(url, amphora_id, Path(cert), Path(ca)), **values)

        return click.command(name, CliCommand, params=[*_OPTIONS], example=example)(call)

    return decorate


@_remote_command("push", example="amphora-agent push lb.json --dry-run\namphora-agent push lb.json")
@click.argument("file", metavar="FILE")
@click.option("--dry-run", is_flag=True, help="print what would be done, and do nothing")
@click.option(
    "--if-match",
    metavar="ETAG",
    help="only if the load balancer has this ETag, so that nobody else has changed it",
)
def push(remote: Remote, file: str, *, if_match: str | None, dry_run: bool) -> None:
    """Create or change a load balancer as a file says, with the least disturbance, and print what
    was done. If anything is wrong, change nothing and print all that is wrong.

    FILE is JSON in the form of octavia_lib's provider data model, - for standard input; "@site.crt"
    in the place of a PEM is a file beside it.
    """
    balancer = read_balancer(file)
    result = _ask(remote, lambda api: api.put(balancer, if_match=if_match, dry_run=dry_run))
    for line in _format_result(result):
        print(line)


@_remote_command("pull", example="amphora-agent pull shop > lb.json")
@click.argument("lb_id", metavar="ID")
def pull(remote: Remote, lb_id: str) -> None:
    """Print a load balancer as it was put, as JSON for push, without keys. Its ETag goes to
    standard error."""
    balancer, etag = _ask(remote, lambda api: api.get(lb_id))
    print(json.dumps(balancer, indent=2, ensure_ascii=False))
    print("ETag", etag.strip('"'), file=sys.stderr)


@_remote_command("status", example="amphora-agent status\namphora-agent status shop")
@click.argument("lb_id", metavar="[ID]", required=False)
def status(remote: Remote, lb_id: str | None) -> None:
    """Print the status of a load balancer and its parts. Without an ID, list the load balancers."""
    if lb_id is None:
        for entry in _ask(remote, lambda api: api.loadbalancers()):
            print(
                f"{entry['loadbalancer_id']}  generation {entry['generation']}, "
                f"{entry['listeners']} listeners, {entry['pools']} pools, ETag {entry['etag']}"
            )
        return
    rows = list(_list_parts(_ask(remote, lambda api: api.status(lb_id))))
    width = max(len(name) for name, _, _ in rows)
    for name, word, reason in rows:
        print(f"{name:{width}}  {word:10}  {reason}".rstrip())


def read_balancer(source: str) -> "Json":
    """Read the load balancer in a JSON file, `-` for standard input. "@name" in the place of a PEM
    is the PEM file of that name, beside the JSON file.

    Raises:
        AgentError: it, or a file that it names, cannot be used.
    """
    if source == "-" and sys.stdin is None:
        raise _refuse_file("standard input is closed")
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        balancer = json.loads(text)
    except OSError as error:
        raise _refuse_file(f"{source}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise _refuse_file(f"{source}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise _refuse_file(f"{source}: not JSON: {error}") from None
    if not isinstance(balancer, dict) or not isinstance(balancer.get("loadbalancer_id"), str):
        raise _refuse_file(f"{source}: loadbalancer_id: is missing")
    directory = Path() if source == "-" else Path(source).parent
    completed: Json = _fill_in_pems(balancer, directory, "", is_pem=False)
    return completed


def _refuse_file(reason: str) -> AgentError:
    return AgentError("Cannot read the load balancer", reason)


def _fill_in_pems(value: Any, directory: Path, path: str, *, is_pem: bool) -> Any:
    """Return a value with PEMs in the place of the names of their files."""
    if isinstance(value, dict):
        filled_in = {}
        for name, field in value.items():
            place = f"{path}.{name}".lstrip(".")
            filled_in[name] = _fill_in_pems(field, directory, place, is_pem=name in _PEM_FIELDS)
        return filled_in
    if isinstance(value, list):
        return [
            _fill_in_pems(entry, directory, f"{path}[{index}]", is_pem=is_pem)
            for index, entry in enumerate(value)
        ]
    if is_pem and isinstance(value, str) and value.startswith("@"):
        return _read_pem(directory / value[1:], path)
    return value


def _read_pem(file: Path, path: str) -> str:
    """Read a PEM file; refuse any other file: nothing else must be sent."""
    try:
        with file.open("rb") as opened:
            data = opened.read(_MOST_PEM + 1)
    except OSError as error:
        raise _refuse_file(f"{path}: {file}: {error.strerror}") from None
    if len(data) > _MOST_PEM or b"-----BEGIN " not in data or not data.isascii():
        raise _refuse_file(f"{path}: {file} is not a PEM file")
    return data.decode("ascii")


def _ask(remote: Remote, question: "Callable[[DeclarativeClient], T]") -> T:
    """Return the agent's answer.

    Raises:
        AgentError: it refuses, or does not answer.
    """
    import requests

    from amphora_agent.client.v2 import AmphoraError, ProblemError

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
    except (requests.RequestException, OSError, ValueError) as error:
        raise AgentError(f"No answer from {remote.url}", _find_reason(error, remote)) from None
    finally:
        client.close()


def _require_url(url: str) -> None:
    """Raises AgentError."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise AgentError("Cannot connect", f"--url {url!r} is not like https://192.0.2.7:9443")


def _require_usable(path: Path, option: str, load: Callable[[ssl.SSLContext, Path], None]) -> None:
    """Check that a PEM file can be used. Raises AgentError."""
    try:
        path.open("rb").close()
        load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), path)
    except ssl.SSLError:
        has = "certificates" if option == "--ca" else "a certificate with its key"
        raise AgentError("Cannot connect", f"{option} {path}: it is no PEM with {has}") from None
    except OSError as error:
        raise AgentError("Cannot connect", f"{option} {path}: {error.strerror}") from None


def _find_reason(error: BaseException, remote: Remote) -> str:
    """Return why there was no answer, and what to do. Libraries wrap the cause several times."""
    causes = list(_list_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}; check --ca"
        if "hostname" in str(cause) and "match" in str(cause):
            return f"it is not amphora {remote.amphora_id}: its certificate names another"
        if isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or ""):
            return f"the agent does not accept the certificate of --cert ({cause.reason})"
    for kind, reason in _list_reasons():
        if any(isinstance(cause, kind) for cause in causes):
            return reason
    system = next((c for c in causes if isinstance(c, OSError) and c.strerror), None)
    return system.strerror if system and system.strerror else type(error).__name__


def _list_causes(error: BaseException) -> Iterator[BaseException]:
    """Return an error and its causes, the innermost first."""
    seen: list[BaseException] = []
    pending: list[object] = [error]
    while pending:
        cause = pending.pop()
        if isinstance(cause, BaseException) and cause not in seen:
            seen.append(cause)
            inner = (
                cause.__cause__,
                cause.__context__,
                getattr(cause, "reason", None),
                *cause.args,
            )
            pending += inner
    return reversed(seen)


def _list_reasons() -> Iterator[tuple[type[BaseException], str]]:
    """Yield types of errors and the reasons that they stand for, in the order to search them."""
    import http.client

    import requests

    silent = "it took the request and said nothing in time; see its log"
    late = "it cannot be reached in time; check --url and the network"
    closed = "the connection was closed without an answer; check --cert, see the agent's log"
    nonsense = "what came is no answer of an agent; check --url"
    yield ConnectionRefusedError, "nobody listens there; is the agent running, and --url right?"
    yield socket.gaierror, "its name does not resolve; check --url"
    yield requests.exceptions.ReadTimeout, silent
    yield requests.exceptions.Timeout, late
    yield TimeoutError, late
    yield ssl.SSLEOFError, closed
    yield ssl.SSLError, "it does not speak TLS as an agent does; check --url"
    yield ConnectionResetError, closed
    yield BrokenPipeError, closed
    yield http.client.HTTPException, nonsense
    yield ValueError, nonsense


_STEPS = {
    "nothing": "nothing to do",
    "runtime": "at runtime, no reload",
    "stop": "by a stop",
    "reload": "by a reload",
    "start": "by a start",
}


def _format_result(result: "Json") -> Iterator[str]:
    """Yield lines on what was done, or would be."""
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


def _list_parts(status: "Json") -> Iterator[tuple[str, str, str]]:
    """Yield the parts of a load balancer: name, status, and reason."""
    parts = [("load balancer", status["loadbalancer_id"], status)]
    parts += [("  listener", part["listener_id"], part) for part in status["listeners"]]
    for pool in status["pools"]:
        parts.append(("  pool", pool["pool_id"], pool))
        parts += [("    member", part["member_id"], part) for part in pool["members"]]
    for kind, name, part in parts:
        yield f"{kind} {name}", part["operating_status"], part["reason"]
