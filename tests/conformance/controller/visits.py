"""Visits to a load balancer under test, each with an answer that fits in a line.

The answer to a request is who served it, or a status and where that leads to, or what became of the
connection: `refused`, `closed`, or `silent` when nothing came.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography import x509

from controller.amphora import VIP
from lab.http import FAILURES, Response, Tls, get
from lab.network import Namespace

#: What a visit is: from where, and the answer.
Visit = Callable[[Namespace], str]


@dataclass(frozen=True)
class Called:
    """A visit with a name."""

    name: str
    visit: Callable[[Namespace], object]

    def __call__(self, client: Namespace) -> str:
        return str(self.visit(client))

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Eventually:
    """A visit that has the expected answer sooner or later."""

    visit: Visit

    def __call__(self, client: Namespace) -> str:
        return self.visit(client)

    def __str__(self) -> str:
        return f"eventually {self.visit}"


@dataclass(frozen=True)
class Get:
    """A request over a connection of its own.

    `sees` are facts that the member tells (names of headers, or of what lab.backend and Application
    say), `shows` headers of the answer; both are in the answer's line.
    """

    listener: Any
    path: str = "/"
    host: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: Tls | None = None
    address: str = VIP
    source: str = ""
    source_port: int = 0
    sees: tuple[str, ...] = ()
    shows: tuple[str, ...] = ()

    def __call__(self, client: Namespace) -> str:
        with _in_words() as words:
            words.append(self.line(self.answer(client)))
        return words[-1]

    def answer(self, client: Namespace) -> Response:
        return get(
            From(client.name, self.source, self.source_port),
            self.address,
            self.listener.protocol_port,
            self.path,
            tls=self.tls,
            host=self.host,
            headers=self.headers,
        )

    def line(self, answer: Response) -> str:
        if answer.status != 200:
            return " ".join([str(answer.status), answer.headers.get("location", "")]).strip()
        told = answer.json()
        facts = {name: told["headers"].get(name.lower(), told.get(name)) for name in self.sees}
        facts |= {name: answer.headers.get(name) for name in self.shows}
        return " ".join([told["name"], *(f"{name}={value}" for name, value in facts.items())])

    def __str__(self) -> str:
        said = {name: value for name, value in vars(self).items() if value}
        said.pop("listener")
        return f"GET {said} of {self.listener.name}"


@dataclass(frozen=True)
class Spread:
    """Who serves so many requests, and how many each."""

    visit: Visit
    count: int

    def __call__(self, client: Namespace) -> str:
        return counted(Counter(self.visit(client) for _ in range(self.count)))

    def __str__(self) -> str:
        return f"{self.count} of {self.visit}"


def counted(served: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(served.items()))


@dataclass(frozen=True)
class Session:
    """Requests of one client, who gives back the cookie that he was given: `same` when whoever
    served the first one serves all."""

    request: Get
    count: int = 5

    def __call__(self, client: Namespace) -> str:
        first = self.request.answer(client)
        cookie = first.headers.get("set-cookie", "").partition(";")[0]
        headers = {"Cookie": cookie} if cookie else {}
        again = replace(self.request, headers=headers)
        served = Counter(again(client) for _ in range(self.count))
        return "same" if served.keys() == {self.request.line(first)} else counted(served)

    def __str__(self) -> str:
        return f"session of {self.request}"


@dataclass(frozen=True)
class Handshake:
    """TLS and no more: the certificate's subject, the version, what ALPN agreed on."""

    listener: Any
    tls: Tls
    ciphers: str = ""

    def __call__(self, client: Namespace) -> str:
        context = self.tls.context()
        if self.ciphers:
            context.set_ciphers(self.ciphers)
        with _in_words() as words, ExitStack() as ending:
            raw = ending.enter_context(client.connect(VIP, self.listener.protocol_port))
            secure = ending.enter_context(
                context.wrap_socket(raw, server_hostname=self.tls.server_name)
            )
            shown = x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"")
            subject = shown.subject.rfc4514_string()
            words.append(f"{subject} {secure.version()} {secure.selected_alpn_protocol()}")
        return words[-1]

    def __str__(self) -> str:
        return f"TLS {self.tls} {self.ciphers} at {self.listener.name}"


@dataclass(frozen=True)
class Line:
    """The first line of a TCP member; `me` stands for the client's address. With `says` the member
    gives it back."""

    listener: Any
    address: str = VIP
    says: str = ""

    def __call__(self, client: Namespace) -> str:
        with _in_words() as words:
            connection = client.connect(self.address, self.listener.protocol_port)
            with connection, connection.makefile("rw") as lines:
                host, port, *_ = connection.getsockname()
                me = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                words.append(lines.readline().strip().replace(me, "me") or "closed")
                if self.says:
                    lines.write(f"{self.says}\n")
                    lines.flush()
                    words[-1] += f" {lines.readline().strip()}"
        return words[-1]

    def __str__(self) -> str:
        return f"TCP {self.says} to {self.listener.name}"


@dataclass(frozen=True)
class Together:
    """Who serves so many connections that are open at once."""

    listener: Any
    count: int

    def __call__(self, client: Namespace) -> str:
        with ExitStack() as ending:
            lines = []
            for _ in range(self.count):
                connection = client.connect(VIP, self.listener.protocol_port)
                ending.enter_context(connection)
                lines.append(connection.recv(100).decode().strip())
        return counted(Counter(lines))

    def __str__(self) -> str:
        return f"{self.count} at once to {self.listener.name}"


@dataclass(frozen=True)
class OneTooMany:
    """Connections up to a listener's limit, and another one: who serves that one while the others
    are there, and when one has gone."""

    listener: Any
    limit: int

    def __call__(self, client: Namespace) -> str:
        port = self.listener.protocol_port
        with ExitStack() as ending:
            others = [ending.enter_context(client.connect(VIP, port)) for _ in range(self.limit)]
            for connection in others:
                assert connection.recv(100)
            last = ending.enter_context(client.connect(VIP, port, timeout=0.5))
            with _in_words() as words:
                words.append(last.recv(100).decode().strip())
            last.settimeout(10)
            others[0].close()
            return f"{words[-1]}, then {last.recv(100).decode().strip()}"

    def __str__(self) -> str:
        return f"one more than {self.limit} at {self.listener.name}"


@dataclass(frozen=True)
class Idle:
    """A client who connects and says nothing."""

    listener: Any
    patience: float = 5

    def __call__(self, client: Namespace) -> str:
        with client.connect(VIP, self.listener.protocol_port, timeout=self.patience) as connection:
            first = connection.recv(100).decode().strip()
            with _in_words() as words:
                words.append(connection.recv(100).decode().strip() or "closed")
            return f"{first}, then {words[-1]}"

    def __str__(self) -> str:
        return f"silence at {self.listener.name}"


@dataclass(frozen=True)
class From(Namespace):
    """A namespace from one address and port of it."""

    source: str = ""
    source_port: int = 0

    def connect(self, address: str, port: int, *, timeout: float = 10) -> socket.socket:
        if not self.source and not self.source_port:
            return super().connect(address, port, timeout=timeout)
        connection = self.make_socket(address)
        connection.settimeout(timeout)
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # No TIME_WAIT: the port is wanted again at once.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.bind((self.source, self.source_port))
            connection.connect((address, port))
        except BaseException:
            connection.close()
            raise
        return connection


@contextlib.contextmanager
def _in_words() -> Iterator[list[str]]:
    """What went wrong with a connection, as the last of the words."""
    words: list[str] = []
    try:
        yield words
    except ConnectionRefusedError:
        words.append("refused")
    except TimeoutError:
        words.append("silent")
    except json.JSONDecodeError as error:
        words.append(f"not of a member: {error.doc[:200]}")
    except (*FAILURES, ssl.SSLError):
        words.append("closed")
