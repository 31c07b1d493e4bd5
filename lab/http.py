"""Requests sent from inside a namespace.

Only the making of a socket needs the namespace, so a request costs no process: the socket is made
there, everything else happens in the calling thread.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import ssl
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from lab.lifecycle import Closing
from lab.network import Namespace
from lab.pki import Credentials


class LostRequestError(ConnectionError):
    """A kept connection closed after a request was sent on it and before any answer came.

    It happens when the server closes an idle connection at that very moment; RFC 9112, 9.3.1, wants
    a client to send an idempotent request again.
    """


FAILURES: tuple[type[Exception], ...] = (OSError, http.client.HTTPException)
"""The exceptions of a failed request; ssl.SSLError and TimeoutError are OSErrors."""


@dataclass(frozen=True)
class Tls:
    """How a client speaks TLS. Without ``ca`` (PEM) the server's certificate is not checked."""

    server_name: str | None = None
    ca: bytes | None = None
    credentials: Credentials | None = None
    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    alpn: tuple[str, ...] = ()

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # Controllers before release 15 issue certificates without key identifiers.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.minimum_version = self.minimum
        context.maximum_version = self.maximum
        if self.ca is None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context.check_hostname = self.server_name is not None
            context.load_verify_locations(cadata=self.ca.decode())
        if self.alpn:
            context.set_alpn_protocols(list(self.alpn))
        if self.credentials is not None:
            _load_credentials(context, self.credentials)
        return context


@dataclass(frozen=True)
class Peer:
    """The certificate and the protocol that the server presented."""

    subject: str
    serial: int
    names: tuple[str, ...]
    protocol: str
    """``TLSv1.2`` or ``TLSv1.3``."""
    alpn: str | None


@dataclass(frozen=True)
class Response:
    status: int
    reason: str
    headers: Mapping[str, str]
    """Names in lower case; a repeated header keeps its last value."""
    body: bytes
    peer: Peer | None
    seconds: float

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        return json.loads(self.body)


class Client(Closing):
    """A client inside a namespace, with one connection that it keeps as long as it may.

    ``address`` is the IP address connected to, whatever the Host header and SNI say. Not for use by
    several threads at once.
    """

    def __init__(
        self,
        namespace: Namespace,
        address: str,
        port: int,
        *,
        tls: Tls | None = None,
        host: str | None = None,
        timeout: float = 10,
        keep_alive: bool = True,
    ) -> None:
        self._namespace = namespace
        self._address = address
        self._port = port
        self._tls = tls
        self._context = tls.context() if tls else None
        self._host = host or (f"[{address}]" if ":" in address else address)
        self._timeout = timeout
        self._keep_alive = keep_alive
        self._connection: _Connection | None = None
        self._peer: Peer | None = None
        self.reconnects = 0
        """How often the server had closed the kept connection before a request was sent."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection that has carried a request and is still open."""
        return self._connection is not None and not self._connection.closed_by_server()

    def get(self, path: str = "/", headers: Mapping[str, str] | None = None) -> Response:
        return self.request("GET", path, headers=headers)

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send one request. Raises one of FAILURES; the connection is closed then. No retry."""
        begun = time.monotonic()
        kept, self._connection = self._connection, None
        if kept is not None and kept.closed_by_server():
            kept.close()
            kept = None
            self.reconnects += 1
        connection = kept or self._connect()
        all_headers = {"Host": self._host, **(headers or {})}
        if not self._keep_alive:
            all_headers["Connection"] = "close"
        try:
            try:
                connection.request(method, path, body=body, headers=all_headers)
                answer = connection.getresponse()
            except _CLOSED as error:
                if kept is None:
                    raise
                raise LostRequestError(f"{type(error).__name__}: {error}") from error
            response = Response(
                status=answer.status,
                reason=answer.reason,
                headers={name.lower(): value for name, value in answer.getheaders()},
                body=answer.read(),
                peer=self._peer,
                seconds=time.monotonic() - begun,
            )
        except BaseException:  # also an interruption leaves no connection open
            connection.close()
            raise
        # http.client drops the socket itself when the server announced that it closes.
        if self._keep_alive and connection.sock is not None:
            self._connection = connection
        else:
            connection.close()
        return response

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> _Connection:
        raw = self._namespace.connect(self._address, self._port, timeout=self._timeout)
        # As http.client does: a body sent after its header waits for no acknowledgement.
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is None:
            return _Connection(raw)
        assert self._tls is not None
        secure = start_tls(raw, self._context, self._tls.server_name)
        self._peer = _peer(secure)
        return _Connection(secure)


# What a connection that the server closed looks like to who sends on it or reads from it.
_CLOSED = (ConnectionError, http.client.RemoteDisconnected, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class _Connection(http.client.HTTPConnection):
    """HTTP on an open connection; it never opens another by itself."""

    auto_open = 0

    def __init__(self, connection: Any) -> None:
        super().__init__("unused")
        self.sock = connection

    def closed_by_server(self) -> bool:
        return is_closed_by_peer(self.sock)


def start_tls(
    connection: socket.socket, context: ssl.SSLContext, server_name: str | None
) -> ssl.SSLSocket:
    """Make a connection a TLS connection, or close it."""
    try:
        return context.wrap_socket(connection, server_hostname=server_name)
    except BaseException:  # also an interruption leaves no connection open
        connection.close()
        raise


def is_closed_by_peer(connection: socket.socket) -> bool:
    poller = select.poll()
    # Not merely "readable": TLS 1.3 session tickets wait there too.
    poller.register(connection, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    return bool(poller.poll(0))


def get(
    namespace: Namespace,
    address: str,
    port: int,
    path: str = "/",
    *,
    tls: Tls | None = None,
    host: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 10,
) -> Response:
    """One GET over a connection of its own."""
    with Client(
        namespace, address, port, tls=tls, host=host, timeout=timeout, keep_alive=False
    ) as client:
        return client.get(path, headers)


def spread(client: Client, count: int, path: str = "/") -> Counter[str]:
    """Send requests one after the other; return how many each backend served, by its name.

    Raises one of FAILURES, or ValueError for an answer that is not 200 from a ``lab.backend``.
    """
    served: Counter[str] = Counter()
    for _ in range(count):
        response = client.get(path)
        if response.status != 200:
            raise ValueError(f"answer {response.status} {response.reason}: {response.text}")
        served[str(response.json()["name"])] += 1
    return served


def _peer(connection: ssl.SSLSocket) -> Peer | None:
    encoded = connection.getpeercert(binary_form=True)
    if encoded is None:
        return None
    certificate = x509.load_der_x509_certificate(encoded)
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = tuple(str(name.value) for name in extension.value)
    except x509.ExtensionNotFound:
        names = ()
    return Peer(
        subject=certificate.subject.rfc4514_string(),
        serial=certificate.serial_number,
        names=names,
        protocol=connection.version() or "",
        alpn=connection.selected_alpn_protocol(),
    )


def _load_credentials(context: ssl.SSLContext, credentials: Credentials) -> None:
    # OpenSSL reads a client's key from a file only; a memory file leaves nothing on any disk.
    descriptor = os.memfd_create("credentials", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, credentials.pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
