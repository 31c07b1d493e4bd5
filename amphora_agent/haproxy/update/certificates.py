"""Compare the certificate files that haproxy has loaded with those on disk, and plan the exchange.

haproxy reads a file when it starts and never again. The runtime API replaces its content under the
same name. Only PEM blocks are sent: a blank line would end the payload, and haproxy would take the
next line for a command.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from amphora_agent.haproxy.config import queries
from amphora_agent.haproxy.config.parser import Texts
from amphora_agent.haproxy.config.queries import Role
from amphora_agent.haproxy.policy import certificate_content
from amphora_agent.haproxy.policy.certificate_content import CrtListEntry
from amphora_agent.haproxy.update import transaction
from amphora_agent.haproxy.update.transaction import (
    Command,
    Finding,
    RuntimeChange,
    Verification,
    require_reload,
    shorten_list,
    show_name,
)
from amphora_agent.x509 import pem

_PATH = re.compile(r"/[A-Za-z0-9_./-]{1,512}")
#: What surrounds a payload in haproxy's buffer: the command's prefix, `<<`, the blank line.
_FRAME = 256
#: Labels of blocks that a certificate file may have beside certificates.
_KEY = re.compile(r"(?:[A-Z]+ )?PRIVATE KEY")
_PARAMETERS = frozenset({"EC PARAMETERS", "DH PARAMETERS"})

_CERTIFICATE_COMMAND = re.compile(r"[a-z]+ ssl (?:cert|crt-list) ")
_AUTHORITY_COMMAND = re.compile(r"[a-z]+ ssl (?:ca-file|crl-file) ")

_NOT_LOADED = r"(?s:Can't replace a certificate which is not referenced by the configuration!\n.*)"


class FileChange(NamedTuple):
    """A file that differs: the content that haproxy has loaded, and the content on disk. None when
    the file did not or does not exist."""

    path: str
    before: bytes | None
    after: bytes | None


class _Bundle(NamedTuple):
    """A kind of file that is replaced as a whole: its name in commands and in haproxy's replies,
    the label and a name of its blocks, and how to verify it."""

    keyword: str
    noun: str
    label: str
    blocks: str
    verify: Callable[[str, Sequence[pem.Block]], Verification]


#: Partial: certificates and crt-lists change in part, other files not at all while haproxy runs.
_BUNDLES = {
    Role.AUTHORITIES: _Bundle(
        "ca-file",
        "CA",
        pem.CERTIFICATE,
        "certificates",
        lambda path, blocks: transaction.verify_ca_file(path, [b.fingerprint for b in blocks]),
    ),
    Role.REVOCATIONS: _Bundle(
        "crl-file",
        "CRL",
        pem.REVOCATIONS,
        "revocation lists",
        lambda path, blocks: transaction.verify_crl_file(
            path, [pem.read_revocations(b.content) for b in blocks]
        ),
    ),
}


def compare_files(files: Sequence[FileChange], running: Texts) -> list[Finding]:
    """Return what differs in files that the running configuration names, and the wanted one too."""
    changed = [file for file in files if file.before != file.after]
    directories = {file.path.rpartition("/")[0] for file in changed}
    if changed and (
        queries.has_bases(running)
        or any(queries.names_directory(running, directory) for directory in directories)
    ):
        return [
            require_reload(f"file {show_name(file.path)} changed", "it is not named by its path")
            for file in changed
        ]
    return list(_Comparison(changed, running).find_changes())


def exchanges_certificates(changes: Iterable[RuntimeChange]) -> bool:
    """Return whether changes replace, add or remove certificates."""
    return _any_command(changes, _CERTIFICATE_COMMAND)


def exchanges_authorities(changes: Iterable[RuntimeChange]) -> bool:
    """Return whether changes replace CA files or CRL files."""
    return _any_command(changes, _AUTHORITY_COMMAND)


def _any_command(changes: Iterable[RuntimeChange], pattern: re.Pattern[str]) -> bool:
    return any(pattern.match(command.text) for change in changes for command in change.commands)


class _Comparison:
    """Files that changed, and the roles that the running configuration gives them."""

    def __init__(self, files: Sequence[FileChange], running: Texts) -> None:
        self._files = {file.path: file for file in files}
        quoted = queries.find_quoted_lines(running)
        self._roles = {path: queries.find_roles(running, path, quoted) for path in self._files}
        self._has_lists = any("crt-list" in text for text in running.values())
        self._room = queries.read_buffer_size(running) - _FRAME
        self._lists = {
            path: tuple(
                certificate_content.read_entries(data or b"") for data in (file.before, file.after)
            )
            for path, file in self._files.items()
            if Role.CRT_LIST in self._roles[path]
        }
        self._listed_before = {e.path for before, _ in self._lists.values() for e in before}
        self._listed_after = {e.path for _, after in self._lists.values() for e in after}

    def find_changes(self) -> Iterator[Finding]:
        # Certificates first: a crt-list may only name loaded ones.
        for file in self._files.values():
            if Role.CRT_LIST not in self._roles[file.path]:
                yield from self._compare_file(file)
        for path, (before, after) in self._lists.items():
            if before != after and self._files[path].after is not None:
                yield self._change_list(path, before, after)

    def _compare_file(self, file: FileChange) -> Iterator[Finding]:
        roles = self._roles[file.path]
        listed = file.path in self._listed_after
        words = f"file {show_name(file.path)} changed"
        if file.after is None:
            # Without a reference it goes with its entry in a crt-list, if it has one.
            if roles or listed:
                yield require_reload(words, "it is named, and was or is not there")
            return
        if roles and file.before is None:
            yield require_reload(words, "it is named, and was or is not there")
            return
        if Role.OTHER in roles or not _PATH.fullmatch(file.path):
            yield require_reload(words, "haproxy reads it only when it starts")
            return
        # It may be in a crt-list that did not change: haproxy knows.
        may_be_listed = (
            not roles
            and self._has_lists
            and file.before is not None
            and pem.count_blocks(file.after, pem.CERTIFICATE)
        )
        if not roles and not listed and not may_be_listed:
            return
        try:
            blocks = pem.parse_pem(file.after).blocks
            if blocks == _read_blocks(file.before or b""):
                return
            for role, bundle in _BUNDLES.items():
                if role in roles:
                    yield self._replace_bundle(file.path, bundle, blocks)
            if Role.CERTIFICATE in roles or listed or may_be_listed:
                yield self._replace_certificate(file.path, blocks)
        except pem.Unreadable as error:
            yield require_reload(words, str(error))

    def _replace_certificate(self, path: str, blocks: Sequence[pem.Block]) -> Finding:
        leaf = _find_leaf(blocks)
        listed, configured = path in self._listed_after, Role.CERTIFICATE in self._roles[path]
        is_new = listed and not configured and path not in self._listed_before
        first = []
        if is_new:
            created = rf"New empty certificate store '{re.escape(path)}'!"
            # A certificate that left all crt-lists may still be loaded.
            existing = rf"Certificate '{re.escape(path)}' already exists!"
            first.append(Command(f"new ssl cert {path}", success=(created, existing)))
        return self._exchange(
            f"certificate {show_name(path)} {'added' if is_new else 'replaced'}",
            f"cert {path}",
            blocks,
            rf"Transaction created for certificate {re.escape(path)}!",
            transaction.verify_certificate(path, pem.read_serial(leaf.content), leaf.fingerprint),
            first=first,
            moot=() if listed or configured else (_NOT_LOADED,),
        )

    def _replace_bundle(self, path: str, bundle: _Bundle, blocks: Sequence[pem.Block]) -> Finding:
        if not blocks or any(block.label != bundle.label for block in blocks):
            raise pem.Unreadable(f"it has something else than {bundle.blocks}")
        return self._exchange(
            f"{bundle.noun} file {show_name(path)} replaced",
            f"{bundle.keyword} {path}",
            blocks,
            rf"transaction created for {bundle.noun} {re.escape(path)}!",
            bundle.verify(path, blocks),
        )

    def _exchange(
        self,
        words: str,
        file: str,
        blocks: Sequence[pem.Block],
        started: str,
        proof: Verification,
        *,
        first: Sequence[Command] = (),
        moot: tuple[str, ...] = (),
    ) -> Finding:
        """Return a transaction of haproxy's for `file`: its kind and path."""
        committed = rf"Committing {re.escape(file.partition(' ')[2])}\.*\nSuccess!"
        payload = "".join(block.text for block in blocks)
        commands = (
            *first,
            Command(f"set ssl {file}", payload, success=(started,), moot=moot),
            Command(f"commit ssl {file}", success=(committed,)),
        )
        if any(len(command.text) + len(command.payload) > self._room for command in commands):
            return require_reload(words, "it does not fit into a buffer of haproxy's")
        undo = Command(f"abort ssl {file}")
        return Finding(words, RuntimeChange(words, commands, (proof,), (undo,)))

    def _change_list(
        self, path: str, before: Sequence[CrtListEntry], after: Sequence[CrtListEntry]
    ) -> Finding:
        words = f"crt-list {show_name(path)}"
        if because := _explain_list_reload(path, before, after):
            return require_reload(f"{words} changed", because)
        added = [entry.path for entry in after if entry not in before]
        removed = [entry.path for entry in before if entry not in after]
        commands = [_add_to_list(path, certificate) for certificate in added]
        for certificate in removed:
            commands.append(_remove_from_list(path, certificate))
            file = self._files.get(certificate)
            if file and file.after is None and certificate not in self._listed_after:
                # Another crt-list may have it.
                commands.append(Command(f"del ssl cert {certificate}", success=(r"(?s:.*)",)))
        steps = [f"{show_name(certificate)} added" for certificate in added]
        steps += [f"{show_name(certificate)} removed" for certificate in removed]
        words = f"{words}: {'; '.join(shorten_list(steps))}"
        proof = transaction.verify_crt_list(path, [entry.path for entry in after])
        return Finding(words, RuntimeChange(words, tuple(commands), (proof,)))


def _explain_list_reload(
    path: str, before: Sequence[CrtListEntry], after: Sequence[CrtListEntry]
) -> str:
    """Return why a crt-list cannot be changed while haproxy runs; empty when it can."""
    added = [entry for entry in after if entry not in before]
    removed = {entry.path for entry in before if entry not in after}
    names = {entry.path for entry in added} | removed
    if any(len({entry.path for entry in entries}) != len(entries) for entries in (before, after)):
        return "a certificate is there twice"
    if not before or not after or before[0] != after[0]:
        return "the first certificate is another one"
    if [*(entry for entry in before if entry in after), *added] != list(after):
        return "where an entry stands may count"
    if any(not entry.is_plain or entry.path in removed for entry in added):
        return "entries with options"
    if not all(_PATH.fullmatch(name) for name in (path, *names)):
        return "a name is not plain"
    return ""


def _add_to_list(path: str, certificate: str) -> Command:
    done = rf"Inserting certificate '{re.escape(certificate)}' in crt-list '{re.escape(path)}'"
    return Command(f"add ssl crt-list {path} {certificate}", success=(rf"{done}\.+\nSuccess!",))


def _remove_from_list(path: str, certificate: str) -> Command:
    done = rf"Entry '{re.escape(certificate)}' deleted in crtlist '{re.escape(path)}'!"
    return Command(f"del ssl crt-list {path} {certificate}", success=(done,))


def _find_leaf(blocks: Sequence[pem.Block]) -> pem.Block:
    """Return the certificate that haproxy serves: the first one. One key must be beside it.

    Raises:
        Unreadable
    """
    certificates = [block for block in blocks if block.label == pem.CERTIFICATE]
    keys = [block for block in blocks if _KEY.fullmatch(block.label)]
    if not certificates or len(keys) != 1:
        raise pem.Unreadable("it has not one key and its certificate")
    if {block.label for block in blocks} - _PARAMETERS - {pem.CERTIFICATE, keys[0].label}:
        raise pem.Unreadable("it has something else than certificates and a key")
    if keys[0].label == "ENCRYPTED PRIVATE KEY":
        raise pem.Unreadable("its key needs a passphrase")
    return certificates[0]


def _read_blocks(text: bytes) -> tuple[pem.Block, ...] | None:
    try:
        return pem.parse_pem(text).blocks
    except pem.Unreadable:
        return None
