"""What it takes to get from the certificate files that haproxy has loaded to those on disk.

haproxy reads a file when it starts, and never again: what is in it is given to the running one
under the same name. What PEM allows around and in a file is left out, for a blank line would end
what is given, and the next would be taken for a command.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from amphora_agent.haproxy.config.parser import Texts
from amphora_agent.haproxy.named_files import crt_list, references
from amphora_agent.haproxy.named_files.crt_list import CrtListEntry
from amphora_agent.haproxy.named_files.references import Role
from amphora_agent.haproxy.update import transaction
from amphora_agent.haproxy.update.runtime_change import (
    Change,
    Command,
    Finding,
    Verification,
    require_reload,
    shorten_list,
    show_name,
)
from amphora_agent.x509 import pem

_PATH = re.compile(r"/[A-Za-z0-9_./-]{1,512}")
#: What surrounds a payload in haproxy's buffer: the command's prefix, `<<`, the blank line.
_FRAME = 256
#: What may be in a certificate file, and in a CA or CRL file.
_KEY = re.compile(r"(?:[A-Z]+ )?PRIVATE KEY")
_PARAMETERS = frozenset({"EC PARAMETERS", "DH PARAMETERS"})

_CERTIFICATE_COMMAND = re.compile(r"[a-z]+ ssl (?:cert|crt-list) ")
_AUTHORITY_COMMAND = re.compile(r"[a-z]+ ssl (?:ca-file|crl-file) ")

_NOT_LOADED = r"Can't replace a certificate which is not referenced by the configuration!\n.*"


class FileChange(NamedTuple):
    """A file of the certificate directory: what haproxy has loaded from it, and what is on disk
    now; None when it was or is not there."""

    path: str
    before: bytes | None
    after: bytes | None


def compare_files(files: Sequence[FileChange], running: Texts) -> list[Finding]:
    """What differs in the files, for a configuration that names the same ones as before."""
    changed = [file for file in files if file.before != file.after]
    if not changed:
        return []
    directories = {file.path.rpartition("/")[0] for file in changed}
    for directory in sorted(directories):
        if references.has_bases(running) or references.names_directory(running, directory):
            shown = [f"file {show_name(file.path)} changed" for file in changed]
            return [require_reload(each, "it is not named by its path") for each in shown]
    return list(_Files(changed, running).findings())


def exchanges_certificates(changes: Iterable[Change]) -> bool:
    """Return whether changes replace, add or remove certificates."""
    return _speak_of(changes, _CERTIFICATE_COMMAND)


def exchanges_authorities(changes: Iterable[Change]) -> bool:
    """Return whether changes replace files of authorities or of revocation lists."""
    return _speak_of(changes, _AUTHORITY_COMMAND)


def _speak_of(changes: Iterable[Change], command: re.Pattern[str]) -> bool:
    return any(command.match(each.text) for change in changes for each in change.commands)


class _Files:
    """All files that changed, and as what haproxy has them."""

    def __init__(self, files: Sequence[FileChange], running: Texts) -> None:
        self._files = {file.path: file for file in files}
        quoted = references.find_quoted_lines(running)
        self._roles = {
            file.path: references.find_roles(running, file.path, quoted) for file in files
        }
        self._has_lists = any("crt-list" in text for text in running.values())
        self._room = references.read_buffer_size(running) - _FRAME
        self._lists = {
            path: (_entries(file.before), _entries(file.after))
            for path, file in self._files.items()
            if Role.CRT_LIST in self._roles[path]
        }
        self._listed_before = _paths(before for before, _ in self._lists.values())
        self._listed_after = _paths(after for _, after in self._lists.values())

    def findings(self) -> Iterator[Finding]:
        # Certificates first: a crt-list may only name what is there.
        for file in self._files.values():
            if Role.CRT_LIST not in self._roles[file.path]:
                yield from self._of_file(file)
        for path, (before, after) in self._lists.items():
            if self._files[path].after is not None:
                yield from self._of_list(path, before, after)

    def _of_file(self, file: FileChange) -> Iterator[Finding]:
        roles = self._roles[file.path]
        named = roles or file.path in self._listed_after
        words = f"file {show_name(file.path)} changed"
        if not named and file.after is None:
            return  # removed with its entry, if it had one
        if named and (file.after is None or (roles and file.before is None)):
            yield require_reload(words, "it is named, and was or is not there")
            return
        assert file.after is not None
        if Role.OTHER in roles or not _PATH.fullmatch(file.path):
            yield require_reload(words, "haproxy reads it only when it starts")
            return
        text, before = file.after, file.before or b""
        try:
            if Role.AUTHORITIES in roles:
                yield from self._of_authorities(file.path, before, text)
            if Role.REVOCATIONS in roles:
                yield from self._of_revocations(file.path, before, text)
            if Role.CERTIFICATE in roles or file.path in self._listed_after:
                yield from self._of_certificate(file, before, text)
            elif not roles and self._may_be_listed(file, text):
                yield from self._of_certificate(file, before, text, certain=False)
        except pem.Unreadable as error:
            yield require_reload(words, str(error))

    def _may_be_listed(self, file: FileChange, text: bytes) -> bool:
        """Whether it may be in a crt-list that is as it was: whether it is, haproxy knows."""
        is_known = self._has_lists and file.before is not None
        return is_known and pem.has_block(text, pem.CERTIFICATE)

    def _of_certificate(
        self, file: FileChange, before: bytes, after: bytes, *, certain: bool = True
    ) -> Iterator[Finding]:
        path = file.path
        blocks = pem.parse_pem(after).blocks
        if blocks == _blocks(before):
            return
        leaf = _leaf(blocks)
        new = file.path in self._listed_after and (
            file.path not in self._listed_before and Role.CERTIFICATE not in self._roles[path]
        )
        name = re.escape(path)
        commands = [
            self._set("cert", path, blocks, rf"Transaction created for certificate {name}!"),
            Command(f"commit ssl cert {path}", success=(rf"Committing {name}\.*\nSuccess!",)),
        ]
        if not certain:
            commands[0] = commands[0]._replace(moot=(rf"(?s:{_NOT_LOADED})",))
        if new:
            created = rf"New empty certificate store '{name}'!"
            # One that was taken out of all crt-lists before may still be there.
            existing = rf"Certificate '{name}' already exists!"
            commands.insert(0, Command(f"new ssl cert {path}", success=(created, existing)))
        yield self._transaction(
            f"certificate {show_name(path)} {'added' if new else 'replaced'}",
            "cert",
            path,
            commands,
            transaction.verify_certificate(path, pem.read_serial(leaf.content), leaf.fingerprint),
        )

    def _of_authorities(self, path: str, before: bytes, after: bytes) -> Iterator[Finding]:
        blocks = pem.parse_pem(after).blocks
        if blocks == _blocks(before):
            return
        if not blocks or any(block.label != pem.CERTIFICATE for block in blocks):
            raise pem.Unreadable("it has something else than certificates")
        proof = transaction.verify_ca_file(path, [block.fingerprint for block in blocks])
        yield self._replacement("ca-file", "CA", path, blocks, proof)

    def _of_revocations(self, path: str, before: bytes, after: bytes) -> Iterator[Finding]:
        blocks = pem.parse_pem(after).blocks
        if blocks == _blocks(before):
            return
        if not blocks or any(block.label != pem.REVOCATIONS for block in blocks):
            raise pem.Unreadable("it has something else than revocation lists")
        proof = transaction.verify_crl_file(
            path, [pem.read_revocations(block.content) for block in blocks]
        )
        yield self._replacement("crl-file", "CRL", path, blocks, proof)

    def _replacement(
        self, kind: str, noun: str, path: str, blocks: Sequence[pem.Block], proof: Verification
    ) -> Finding:
        name = re.escape(path)
        commands = [
            self._set(kind, path, blocks, rf"transaction created for {noun} {name}!"),
            Command(f"commit ssl {kind} {path}", success=(rf"Committing {name}\.*\nSuccess!",)),
        ]
        words = f"{noun} file {show_name(path)} replaced"
        return self._transaction(words, kind, path, commands, proof)

    def _transaction(
        self,
        words: str,
        kind: str,
        path: str,
        commands: Sequence[Command],
        proof: Verification,
    ) -> Finding:
        if any(len(each.text) + len(each.payload) > self._room for each in commands):
            return require_reload(words, "it does not fit into a buffer of haproxy's")
        undo = Command(f"abort ssl {kind} {path}")
        return Finding(words, Change(words, tuple(commands), (proof,), (undo,)))

    def _set(self, kind: str, path: str, blocks: Sequence[pem.Block], success: str) -> Command:
        payload = "".join(block.text for block in blocks)
        return Command(f"set ssl {kind} {path}", payload, success=(success,))

    def _of_list(
        self, path: str, before: Sequence[CrtListEntry], after: Sequence[CrtListEntry]
    ) -> Iterator[Finding]:
        if before == after:
            return
        words = f"crt-list {show_name(path)} changed"
        added = [entry for entry in after if entry not in before]
        removed = [entry for entry in before if entry not in after]
        if because := self._not_at_run_time(path, before, after, added, removed):
            yield require_reload(words, because)
            return
        shown = [f"{show_name(entry.path)} added" for entry in added]
        shown += [f"{show_name(entry.path)} removed" for entry in removed]
        commands = [_addition(path, entry.path) for entry in added]
        for entry in removed:
            commands.append(_removal(path, entry.path))
            if self._is_gone(entry.path):
                # Another crt-list may have it.
                commands.append(Command(f"del ssl cert {entry.path}", success=(r"(?s:.*)",)))
        words = f"crt-list {show_name(path)}: {'; '.join(shorten_list(shown))}"
        proof = transaction.verify_crt_list(path, [entry.path for entry in after])
        yield Finding(words, Change(words, tuple(commands), (proof,)))

    def _is_gone(self, path: str) -> bool:
        file = self._files.get(path)
        return file is not None and file.after is None and path not in self._listed_after

    def _not_at_run_time(
        self,
        path: str,
        before: Sequence[CrtListEntry],
        after: Sequence[CrtListEntry],
        added: Sequence[CrtListEntry],
        removed: Sequence[CrtListEntry],
    ) -> str:
        if len(set(_names(before))) != len(before) or len(set(_names(after))) != len(after):
            return "a certificate is there twice"
        if not before or not after or before[0] != after[0]:
            return "the first certificate is another one"
        if [*(entry for entry in before if entry in after), *added] != list(after):
            return "where an entry stands may count"
        if not all(entry.is_plain for entry in added) or set(_names(added)) & set(_names(removed)):
            return "entries with options"
        if not all(_PATH.fullmatch(name) for name in (path, *_names(added), *_names(removed))):
            return "a name is not plain"
        return ""


def _addition(crt_list: str, certificate: str) -> Command:
    done = rf"Inserting certificate '{re.escape(certificate)}' in crt-list '{re.escape(crt_list)}'"
    return Command(f"add ssl crt-list {crt_list} {certificate}", success=(rf"{done}\.+\nSuccess!",))


def _removal(crt_list: str, certificate: str) -> Command:
    done = rf"Entry '{re.escape(certificate)}' deleted in crtlist '{re.escape(crt_list)}'!"
    return Command(f"del ssl crt-list {crt_list} {certificate}", success=(done,))


def _leaf(blocks: Sequence[pem.Block]) -> pem.Block:
    """The certificate that counts: the first one. One key must be with it.

    Raises:
        Unreadable
    """
    certificates = [block for block in blocks if block.label == pem.CERTIFICATE]
    keys = [block for block in blocks if _KEY.fullmatch(block.label)]
    others = [b for b in blocks if b not in certificates and b not in keys]
    if not certificates or len(keys) != 1:
        raise pem.Unreadable("it has not one key and its certificate")
    if any(block.label not in _PARAMETERS for block in others):
        raise pem.Unreadable("it has something else than certificates and a key")
    if keys[0].label == "ENCRYPTED PRIVATE KEY":
        raise pem.Unreadable("its key needs a passphrase")
    return certificates[0]


def _blocks(text: bytes) -> tuple[pem.Block, ...] | None:
    try:
        return pem.parse_pem(text).blocks
    except pem.Unreadable:
        return None


def _entries(content: bytes | None) -> tuple[CrtListEntry, ...]:
    return crt_list.read_entries(content or b"")


def _names(entries: Sequence[CrtListEntry]) -> list[str]:
    return [entry.path for entry in entries]


def _paths(lists: Iterator[Sequence[CrtListEntry]]) -> frozenset[str]:
    return frozenset(entry.path for entries in lists for entry in entries)
