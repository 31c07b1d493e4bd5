"""The tenant's secrets, where Octavia's local certificate manager finds them.

A reference stands for what is a container or a secret in barbican.
"""

import uuid
from pathlib import Path

from octavia.certificates.manager.local import LocalCertManager
from octavia.common.config import cfg

from controller.release import ONLY_LISTENERS
from lab.pki import Credentials


def store(credentials: Credentials) -> str:
    """Keep a certificate with its key and chain; answers with its reference."""
    files = [credentials.certificate, credentials.key, credentials.chain or None]
    if ONLY_LISTENERS:  # then it wants text
        files = [file and file.decode() for file in files]
    return str(LocalCertManager.store_cert(None, *files))


def store_text(text: bytes) -> str:
    """Keep something public, an authority's certificate or a CRL."""
    reference = str(uuid.uuid4())
    Path(cfg.CONF.certificates.storage_path, f"{reference}.crt").write_bytes(text)
    return reference
