"""The certificate files of instances, as a controller puts them there: certificates with their
keys, CAs, CRLs, and the crt-lists that name them.

A file is refused, or kept in a form that every haproxy loads. OpenSSL, which haproxy uses, reads it
first. What it is for is known when a configuration names it: then it is judged by that, too,
whichever of the two came first.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from amphora_agent.errors import InvalidRequest, NotFound
from amphora_agent.events.journal import ChangeRecord
from amphora_agent.haproxy.config import queries
from amphora_agent.haproxy.config.parser import Texts
from amphora_agent.haproxy.config.queries import Role
from amphora_agent.haproxy.policy import certificate_content
from amphora_agent.haproxy.policy.certificate_content import Content, FileKind, UnusableFile
from amphora_agent.haproxy.policy.values import Bounds
from amphora_agent.haproxy.validate import openssl
from amphora_agent.model.events import AGENT, Caller, Operation
from amphora_agent.paths import CertificateName, InstanceLayout, Layout, ObjectId
from amphora_agent.revisions import reading
from amphora_agent.revisions.contents import CERTIFICATES, CONFIGURATION, ContentLost, Revisions
from amphora_agent.revisions.store import RevisionStore
from amphora_agent.supervisor.processes import Completed

logger = logging.getLogger(__name__)

#: The lock of an instance, and the record of its change.
Changing = Callable[[InstanceLayout, Caller, Operation], AbstractContextManager[ChangeRecord]]
#: Lets haproxy check the committed configuration of an instance with another file in the place of
#: one that it names.
Trial = Callable[[InstanceLayout, Path, Path], Completed]


class CertificateFiles:
    """Those of all instances that controllers upload, whether these exist yet or not. haproxy reads
    them at the next reload."""

    def __init__(
        self,
        layout: Layout,
        store: RevisionStore,
        changing: Changing,
        bounds: Callable[[InstanceLayout], Bounds],
        trial: Trial,
    ) -> None:
        self._layout = layout
        self._store = store
        self._changing = changing
        self._bounds = bounds
        self._trial = trial

    def put(
        self, instance_id: ObjectId, name: CertificateName, data: bytes, by: Caller = AGENT
    ) -> None:
        """Store a file.

        Raises:
            InvalidRequest: haproxy could not load it, or it names files of others; the details say
                why. The file is as before.
        """
        instance = self._layout.uploaded(instance_id)
        path = self._layout.certificate(instance_id, name)
        with self._changing(instance, by, Operation.CERTIFICATE_PUT) as record:
            record.words = [name]
            try:
                content = self._parse(instance, data)
                trial = self._require_fit(instance, path, content)
            except UnusableFile as reason:
                raise InvalidRequest("Invalid request", f"{name}: {reason}") from None
            kept = {f"{CERTIFICATES}{name}": certificate_content.render_kept_file(content, data)}
            revisions = Revisions.of(instance)
            changed = revisions.keep(kept)
            if trial:
                (entry,) = changed.values()
                staged = revisions.path(entry.digest)
                checked = self._trial(instance, path, staged)
                if not checked.succeeded:
                    output = checked.output.replace(str(staged), str(path))
                    raise InvalidRequest("Invalid request", output.strip())
            self._store.commit(instance, {**reading.committed_or_loaded(instance), **changed}, kept)
        if kept[f"{CERTIFICATES}{name}"] != data:
            logger.info("instance=%s file=%s written anew for haproxy", instance_id, name)

    def md5(self, instance_id: ObjectId, name: CertificateName) -> str:
        """Return the hex MD5 of a file as it was sent, by which the controller knows it.

        Raises:
            NotFound
        """
        try:
            data = reading.read(self._layout.uploaded(instance_id), f"{CERTIFICATES}{name}")
        except (FileNotFoundError, ContentLost):  # who asks sends it then
            raise NotFound(
                "Certificate Not Found", f"No certificate with filename: {name}"
            ) from None
        return certificate_content.read_sent_md5(data)

    def delete(self, instance_id: ObjectId, name: CertificateName, by: Caller = AGENT) -> None:
        """Remove a file; nothing happens when there is none."""
        instance = self._layout.uploaded(instance_id)
        with self._changing(instance, by, Operation.CERTIFICATE_DELETE) as record:
            record.words = [name]
            manifest = {**reading.committed_or_loaded(instance)}
            record.kept = manifest.pop(f"{CERTIFICATES}{name}", None) is not None
            if record.kept:
                self._store.commit(instance, manifest)
            if not manifest:
                self._store.forget(instance)

    def renewed(self, instance: InstanceLayout) -> dict[str, bytes]:
        """Return committed files that an earlier agent has kept in another form, by their names in
        the manifest, as they would be kept now. One that cannot be is reported, and left out."""
        kept_files = {}
        for name in reading.committed_or_loaded(instance):
            if not name.startswith(CERTIFICATES):
                continue
            try:
                data = reading.read(instance, name)
                if certificate_content.is_kept_form(data):
                    continue
                kept = certificate_content.render_kept_file(self._parse(instance, data), data)
            except (ContentLost, UnusableFile) as reason:
                logger.warning(
                    "instance=%s file=%s is left as it is: %s", instance.id, name, reason
                )
                continue
            if kept != data:
                logger.info("instance=%s file=%s written anew for haproxy", instance.id, name)
                kept_files[name] = kept
        return kept_files

    def _parse(self, instance: InstanceLayout, data: bytes) -> Content:
        """Parse a file. Raises UnusableFile."""
        check_entry = partial(certificate_content.check_entry, bounds=self._bounds(instance))
        return openssl.require_usable(certificate_content.parse_file(data, check_entry))

    def _require_fit(self, instance: InstanceLayout, path: Path, content: Content) -> bool:
        """Check that content fits what the committed configuration names the file for. Return True
        when only haproxy knows whether it does.

        Raises:
            UnusableFile
        """
        try:
            committed = reading.read(instance, CONFIGURATION)
            texts = {CONFIGURATION: committed.decode(errors="surrogateescape")}
        except (FileNotFoundError, ContentLost):  # one that is sent is judged with its files
            return False
        roles = set(queries.find_roles(texts, str(path)))
        if queries.names_directory(texts, str(path.parent)):
            roles.add(Role.CERTIFICATE)
        if content.kind is not FileKind.CERTIFICATE:
            roles.update(_roles_in_lists(instance, texts, str(path)))
        for role in roles:
            if not _fits(role, content):
                raise UnusableFile(f"it is {content.kind.value}, and is named as a {role.value}")
        if Role.CRT_LIST in roles:
            _require_listed(instance, content)
        return Role.OTHER in roles or any(not entry.is_plain for entry in content.entries)


def _fits(role: Role, content: Content) -> bool:
    return {
        Role.CERTIFICATE: content.kind is FileKind.CERTIFICATE,
        Role.CRT_LIST: content.kind is FileKind.CRT_LIST,
        Role.AUTHORITIES: bool(content.certificates),
        Role.REVOCATIONS: bool(content.revocations),
        Role.OTHER: True,
    }[role]


def _roles_in_lists(instance: InstanceLayout, texts: Texts, path: str) -> Iterator[Role]:
    """Yield the roles that a file has in the crt-lists that these texts name."""
    for listed in queries.find_crt_lists(texts):
        for entry in _read_entries(instance, listed):
            if entry.path == path:
                yield Role.CERTIFICATE
            if path in entry.files:
                yield Role.OTHER


def _read_entries(
    instance: InstanceLayout, path: str
) -> Iterable[certificate_content.CrtListEntry]:
    try:
        return certificate_content.read_entries(_read_committed(instance, path))
    except (OSError, ContentLost):
        return ()


def _read_committed(instance: InstanceLayout, path: str) -> bytes:
    """Return the committed bytes of a certificate file. Raises FileNotFoundError."""
    if Path(path).parent != instance.certificates:
        raise FileNotFoundError(path)
    return reading.read(instance, f"{CERTIFICATES}{Path(path).name}")


def _require_listed(instance: InstanceLayout, content: Content) -> None:
    """Check that the files of a crt-list are there: haproxy would not start without one.

    Raises:
        UnusableFile
    """
    for entry in content.entries:
        for path in (entry.path, *entry.files):
            try:
                data = _read_committed(instance, path)
            except (FileNotFoundError, ContentLost):
                raise UnusableFile(f"{path} is not there; send it first") from None
            if path == entry.path and not certificate_content.holds_key(data):
                raise UnusableFile(f"{path} is no certificate with its key")
