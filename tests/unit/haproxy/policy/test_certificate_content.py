"""Certificate files: taken apart, judged with OpenSSL, and written anew."""

import hashlib

import pytest
from cryptography.hazmat.primitives import serialization

from amphora_agent.haproxy.policy import certificate_content
from amphora_agent.haproxy.policy.certificate_content import (
    Content,
    CrtListEntry,
    FileKind,
    UnusableFile,
)
from amphora_agent.haproxy.validate import openssl
from lab.pki import Authority

ROOT = Authority.create("root", key="ec")
SITE = ROOT.intermediate("middle", key="ec").issue("site", key="ec")
OTHER = ROOT.issue("other", key="rsa")
REVOKED = ROOT.revocation_list([OTHER])
NORMAL = SITE.pem


def read(sent: bytes) -> Content:
    return openssl.require_usable(certificate_content.parse_file(sent, _allow))


def _allow(entry: CrtListEntry) -> None:
    """Any."""


_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_BODY = SITE.certificate.removeprefix(_BEGIN).rstrip().removesuffix(_END)
LONG = b"\n".join((_BEGIN, _BODY.replace(b"\n", b""), _END, b""))
MENDED = {
    "carriage returns": NORMAL.replace(b"\n", b"\r\n"),
    "only carriage returns": NORMAL.replace(b"\n", b"\r"),
    "doubled line ends": NORMAL.replace(b"\n", b"\r\r\n"),
    "a byte order mark": b"\xef\xbb\xbf" + NORMAL,
    "indented": b"".join(b" \t" + line for line in NORMAL.splitlines(keepends=True)),
    "blanks at ends": NORMAL.replace(b"\n", b"  \n"),
    "c1 END and BEGIN on one line": NORMAL.replace(b"-----\n-----", b"----------"),
    "no last line end": NORMAL.rstrip(b"\n"),
    "blank lines between": SITE.certificate + b"\n\n" + SITE.key + b"\n" + SITE.chain,
    "text around": b"Bag Attributes\n  friendlyName: \xff\n" + NORMAL + b"the end",
    "the key first": SITE.key + SITE.certificate + SITE.chain,
    "the leaf last": SITE.chain + SITE.key + SITE.certificate,
    "everything twice": NORMAL * 2,
    "one long line": LONG + SITE.key + SITE.chain,
    "an old label": NORMAL.replace(b" CERTIFICATE-", b" X509 CERTIFICATE-", 2),
    "parameters": b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    + NORMAL,
}  # fmt: skip


@pytest.mark.parametrize("shape", MENDED)
def test_c1_what_haproxy_may_not_read_is_written_anew(shape: str) -> None:
    sent = MENDED[shape]
    kept = certificate_content.render_kept_file(read(sent), sent)
    assert kept.startswith(NORMAL)
    assert kept.count(b"\n") == NORMAL.count(b"\n") + 1
    digest = hashlib.md5(sent, usedforsecurity=False).hexdigest()
    assert certificate_content.read_sent_md5(kept) == digest
    # What is kept is in the one form.
    assert read(kept).text == NORMAL


def test_keeps_a_file_in_the_kept_form_as_it_is() -> None:
    assert certificate_content.render_kept_file(read(NORMAL), NORMAL) == NORMAL


KEY_WITH_PASSPHRASE = serialization.load_pem_private_key(OTHER.key, None)
_ENCRYPTION = serialization.BestAvailableEncryption(b"secret")
_PKCS8, _OLD = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL
LOCKED, LOCKED_OLD = (
    KEY_WITH_PASSPHRASE.private_bytes(serialization.Encoding.PEM, form, _ENCRYPTION)
    for form in (_PKCS8, _OLD)
)
UNFIT = {
    "nothing": (b"", "neither"),
    "text": (b"# hello\n", "neither"),
    "a NUL": (NORMAL + b"\0", "NUL"),
    "a NUL in a list": (b"/a\0\n", "NUL"),
    "UTF-16": (NORMAL.decode().encode("utf-16"), "NUL"),
    "cut off": (NORMAL[: len(NORMAL) // 2], "has no end"),
    "the beginning is missing": (NORMAL[30:], "has not begun"),
    "a delimiter in a line": (b"x" + NORMAL, "alone in its line"),
    "another label at the end": (NORMAL.replace(b"END CERT", b"END X CERT", 1), "has no end"),
    "a blank line in a block": (NORMAL.replace(b"\n", b"\n\n", 2), "blank line"),
    "not base64": (NORMAL.replace(b"M", b"!", 1), "base64"),
    "a header": (NORMAL.replace(b"-----\n", b"-----\nA: b\n", 1), "header"),
    "not DER": (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "DER"),
    "no certificate": (
        b"-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n", "cannot be read",
    ),
    "a foreign key": (SITE.certificate + OTHER.key, "not that of"),
    "a key alone": (SITE.key, "no certificate"),
    "two keys": (NORMAL + OTHER.key, "2 private keys"),
    "a key with a passphrase": (OTHER.certificate + LOCKED, "passphrase"),
    "the same in the old way": (OTHER.certificate + LOCKED_OLD, "passphrase"),
    "a trusted certificate": (NORMAL.replace(b" CERT", b" TRUSTED CERT", 2), "no use"),
    "a key and revocations": (NORMAL + REVOKED, "beside something else"),
    "paths beside": (NORMAL + b"/etc/octavia/certs/server.pem\n", "a path among"),
}  # fmt: skip


@pytest.mark.parametrize("shape", UNFIT)
def test_refuses_files_that_no_haproxy_could_use(shape: str) -> None:
    sent, why = UNFIT[shape]
    with pytest.raises(UnusableFile, match=why) as raised:
        read(sent)
    assert "PRIVATE KEY-" not in str(raised.value)


def test_kinds() -> None:
    assert read(NORMAL).kind is FileKind.CERTIFICATE
    assert read(ROOT.certificate + SITE.chain).kind is FileKind.AUTHORITIES
    assert read(REVOKED).kind is FileKind.REVOCATIONS
    assert read(b"/a.pem\n").kind is FileKind.CRT_LIST


def test_a_list_is_written_anew() -> None:
    sent = b"\xef\xbb\xbf# first\r\n\r\n  /a.pem\r\n/b.pem [alpn h2]x\r/a.pem"
    kept = certificate_content.render_kept_file(read(sent), sent)
    assert kept.startswith(b"/a.pem\n/b.pem [alpn h2] x\n#amphora-agent: md5")
    assert certificate_content.read_sent_md5(kept) == hashlib.md5(sent).hexdigest()
