"""Check that OpenSSL, and so haproxy, can use a certificate file.

The library is loaded for TLS anyway. It reads only files: these exist in memory, so that a refused
key reaches no disk. A module of its own, since processes that end after an examination load it.
"""

import contextlib
import os
import ssl
from collections.abc import Iterator, Sequence

from amphora_agent.haproxy.policy.certificate_content import Content, UnusableFile
from amphora_agent.x509.pem import Block

#: Reasons that mean: the key is that of another certificate.
_FOREIGN = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})


def require_usable(content: Content) -> Content:
    """Return the content with the certificate of its key first.

    Raises:
        UnusableFile: OpenSSL refuses it; the system's policy judges its strength.
    """
    if content.key is not None:
        content = _put_leaf_first(content, content.key)
    elif others := (*content.certificates, *content.revocations):
        with _refusing("a part of it cannot be read"), _file(others) as path:
            _context().load_verify_locations(path)
    if content.parameters:
        with _refusing("the DH parameters cannot be used"), _file(content.parameters) as path:
            _context().load_dh_params(path)
    return content


def _put_leaf_first(content: Content, key: Block) -> Content:
    """Find the certificate of the key. Raises UnusableFile."""
    reason = _find_reason(content.blocks)
    if reason in _FOREIGN:
        for leaf in content.certificates[1:]:
            if _find_reason((leaf, key)) not in _FOREIGN:
                others = [other for other in content.certificates if other != leaf]
                content = content._replace(certificates=(leaf, *others))
                reason = _find_reason(content.blocks)
                break
        else:
            raise UnusableFile("the private key is not that of the certificate")
    if reason is not None:
        raise UnusableFile(f"the certificate cannot be used: {_show_reason(reason)}")
    return content


def _find_reason(blocks: Sequence[Block]) -> str | None:
    """Return OpenSSL's reason to refuse a certificate with its key and chain, or None."""
    try:
        with _file(blocks) as path:
            _context().load_cert_chain(path, password=_no_passphrase)
    except ssl.SSLError as error:
        return error.reason or ""
    return None


@contextlib.contextmanager
def _refusing(why: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        raise UnusableFile(f"{why}: {_show_reason(error.reason or '')}") from None


@contextlib.contextmanager
def _file(blocks: Sequence[Block]) -> Iterator[str]:
    """Give the path of a file in memory with these blocks."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write("".join(block.text for block in blocks).encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def _no_passphrase() -> str:
    """Answer the question that OpenSSL would ask at the terminal."""
    return ""


def _show_reason(reason: str) -> str:
    """Return OpenSSL's reason in words; it has none for what it cannot read at all."""
    return {"": "unreadable", "PEM_LIB": "unreadable"}.get(reason) or (
        reason.replace("_", " ").lower()
    )
