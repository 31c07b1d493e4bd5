"""The certificate files of instances, as a controller puts them there: certificates with their
keys, CAs, CRLs, and the crt-lists that name them."""

import hashlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

from amphora_agent import files
from amphora_agent.errors import InvalidRequest, NotFound
from amphora_agent.haproxy import mend
from amphora_agent.haproxy.journal import Record
from amphora_agent.haproxy.policy import Bounds, crt_list_violations
from amphora_agent.layout import CertificateName, InstanceLayout, Layout, ObjectId
from amphora_agent.model.changes import AGENT, Caller, Operation

logger = logging.getLogger(__name__)

#: The lock of an instance, and its journal.
Changing = Callable[[InstanceLayout, Caller, Operation], AbstractContextManager[Record]]


class CertificateFiles:
    """Those of all instances, whether these exist yet or not. haproxy reads them at the next
    reload."""

    def __init__(
        self, layout: Layout, changing: Changing, bounds: Callable[[InstanceLayout], Bounds]
    ) -> None:
        self._layout = layout
        self._changing = changing
        self._bounds = bounds

    def put(
        self, instance_id: ObjectId, name: CertificateName, data: bytes, by: Caller = AGENT
    ) -> None:
        """Store a file.

        Raises:
            InvalidRequest: it is a list of certificates that names files of others.
        """
        mended = mend.certificate(data)
        instance = self._layout.instance(instance_id)
        with self._changing(instance, by, Operation.CERTIFICATE_PUT) as record:
            record.words = [name]
            self._require_own_files(instance, name, mended.content)
            files.make_private_directory(self._layout.certificates / instance_id)
            files.write(self._layout.certificate(instance_id, name), mended.content)
        for change in mended.changes:
            logger.warning("instance=%s file=%s mended for haproxy: %s", instance_id, name, change)

    def md5(self, instance_id: ObjectId, name: CertificateName) -> str:
        """The hex MD5 of a file as it was sent, by which the controller knows it.

        Raises:
            NotFound
        """
        try:
            data = self._layout.certificate(instance_id, name).read_bytes()
        except FileNotFoundError:
            raise NotFound(
                "Certificate Not Found", f"No certificate with filename: {name}"
            ) from None
        sent = mend.certificate_as_sent(data)
        return hashlib.md5(sent, usedforsecurity=False).hexdigest()

    def delete(self, instance_id: ObjectId, name: CertificateName, by: Caller = AGENT) -> None:
        """Remove a file; nothing happens when there is none."""
        instance = self._layout.instance(instance_id)
        with self._changing(instance, by, Operation.CERTIFICATE_DELETE) as record:
            record.words = [name]
            record.kept = files.remove(self._layout.certificate(instance_id, name))

    def _require_own_files(
        self, instance: InstanceLayout, name: CertificateName, content: bytes
    ) -> None:
        """What has no PEM block may be a crt-list, and that names files, too."""
        if b"-----BEGIN " in content or b"/" not in content:
            return
        listed = content.decode(errors="surrogateescape")
        found = crt_list_violations(name, listed, self._bounds(instance))
        if found:
            details = "\n".join(f"[{name}:{each.line}] : {each.reason}" for each in found)
            raise InvalidRequest("Invalid request", details)
