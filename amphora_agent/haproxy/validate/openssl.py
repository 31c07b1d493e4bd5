"""Whether OpenSSL, and so haproxy, can use what is in a certificate file.

The library is loaded for TLS anyway. It reads files only: these exist in memory, so that a key
that is refused reaches no disk.
"""

import contextlib
import os
import ssl
from collections.abc import Iterator, Sequence

from amphora_agent.haproxy.named_files.certificate_content import Content, UnusableFile
from amphora_agent.x509.pem import Block

#: The key is that of another certificate, or of one of another kind.
_FOREIGN = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})


def require_usable(content: Content) -> Content:
    """Return content whose first certificate is that of its key.

    Raises:
        Unfit: OpenSSL refuses it; strength is judged by the policy of this system.
    """
    if content.key is not None:
        content = _leaf_first(content, content.key)
    elif others := (*content.certificates, *content.revocations):
        with _refusing("a part of it cannot be read"), _file(others) as path:
            _context().load_verify_locations(path)
    if content.parameters:
        with _refusing("the DH parameters cannot be used"), _file(content.parameters) as path:
            _context().load_dh_params(path)
    return content


def _leaf_first(content: Content, key: Block) -> Content:
    """Raises Unfit."""
    reason = _refusal(content.blocks)
    if reason in _FOREIGN:
        for leaf in content.certificates[1:]:
            if _refusal((leaf, key)) not in _FOREIGN:
                others = [each for each in content.certificates if each != leaf]
                content = content._replace(certificates=(leaf, *others))
                reason = _refusal(content.blocks)
                break
        else:
            raise UnusableFile("the private key is not that of the certificate")
    if reason is not None:
        raise UnusableFile(f"the certificate cannot be used: {_words(reason)}")
    return content


def _refusal(blocks: Sequence[Block]) -> str | None:
    """Why OpenSSL does not take a certificate with its key and chain, in its words."""
    try:
        with _file(blocks) as path:
            _context().load_cert_chain(path, password=_no_passphrase)
    except ssl.SSLError as error:
        return _reason(error)
    return None


@contextlib.contextmanager
def _refusing(why: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        raise UnusableFile(f"{why}: {_words(_reason(error))}") from None


@contextlib.contextmanager
def _file(blocks: Sequence[Block]) -> Iterator[str]:
    """The path of a file with these blocks, which is in memory only."""
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
    """Instead of a question at the terminal."""
    return ""


def _reason(error: ssl.SSLError) -> str:
    return error.reason or ""


def _words(reason: str) -> str:
    """OpenSSL's reason as words; it has none for what it cannot read at all."""
    return {"": "unreadable", "PEM_LIB": "unreadable"}.get(reason) or (
        reason.replace("_", " ").lower()
    )
