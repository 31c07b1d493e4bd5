"""Revisions made of what an agent left that kept its last good files and generations as links.

Live files stay as they are, and so does what runs. An agent of that kind that is installed again
makes such links anew, or has only written to its own record of an instance; then its files are what
counts.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from amphora_agent import files
from amphora_agent.paths import LIVE, InstanceLayout, Layout, RenderedLayout
from amphora_agent.revisions.contents import (
    ADDITION,
    CERTIFICATES,
    COMMITTED,
    CONFIGURATION,
    LOADED,
    PEER,
    WAITING,
    Revisions,
)

#: What the older agent kept, below the directory of an instance.
_LAST_GOOD, _GENERATIONS = "last-good", "generations"
#: Where live files were before an older agent could find them.
_EARLIER_LIVE = "live"
_UPLOADED = (CONFIGURATION, ADDITION, PEER)


def adopt(layout: Layout, instance: InstanceLayout) -> bool:
    """Make revisions of an older agent's files, if there are any. The caller holds the lock. Return
    whether there were uploaded ones.

    Raises:
        OSError: not all of it could be done; nothing of it counts then.
    """
    if isinstance(instance, RenderedLayout):
        _adopt_rendered(layout, instance)
        return False
    had_uploaded = _adopt_uploaded(instance)
    rendered = layout.rendered(instance.id)
    revisions = Revisions.of(rendered)
    if revisions.committed is None:
        return had_uploaded
    if revisions.has_loaded():
        # The link was removed by hand: without it nobody would find the load balancer.
        files.point(rendered.current, LIVE)
    else:  # its first state was being committed
        revisions.drop_all()
        files.remove_tree(rendered.live.parent)
    return had_uploaded


def _adopt_uploaded(instance: InstanceLayout) -> bool:
    revisions = Revisions.of(instance)
    good = instance.directory / _LAST_GOOD
    changed = (good / CONFIGURATION).exists() or _has_newer_journal(instance, revisions)
    if revisions.committed is not None and not changed:
        return False
    now = _uploaded_files(instance.directory, instance.certificates)
    if not now or (CONFIGURATION not in now and revisions.directory.exists()):
        return False  # there is none, or its deletion was interrupted
    older = [
        (number, path)
        for number, path in _numbered(instance.directory / _GENERATIONS)
        if (path / CONFIGURATION).exists()
    ]
    if older:
        _forget_numbers(revisions)
    for number, path in older:
        then = _uploaded_files(path, path / "certificates")
        revisions.refer(str(number), _keep(revisions, then))
    if (good / CONFIGURATION).exists():
        loaded = {PEER: now[PEER]} if PEER in now else {}
        loaded |= _uploaded_files(good, good / "certificates")
        revisions.refer(f"{LOADED}{instance.id}", _keep(revisions, loaded), sync=False)
    name = COMMITTED if CONFIGURATION in now else WAITING
    revisions.refer(name, _keep(revisions, now))
    files.touch_link(revisions.directory / name)
    files.remove_tree(instance.directory / _GENERATIONS)
    files.remove_tree(good / "certificates")
    for name in (ADDITION, CONFIGURATION):
        files.remove(good / name)
    return True


def _has_newer_journal(instance: InstanceLayout, revisions: Revisions) -> bool:
    """Return whether an older agent has changed an instance since a revision was committed. Only
    such an agent writes a journal for each instance. It commits by writing live files, which would
    otherwise look edited by hand."""
    links = [revisions.directory / name for name in (COMMITTED, WAITING)]
    committed = [link.lstat().st_mtime_ns for link in links if link.is_symlink()]
    journals = [path.stat().st_mtime_ns for path in instance.old_journals if path.exists()]
    return bool(committed and journals) and max(journals) > max(committed)


def _adopt_rendered(layout: Layout, instance: RenderedLayout) -> None:
    old = instance.directory / _GENERATIONS
    try:
        target = instance.current.readlink()
    except FileNotFoundError:
        return  # there is none yet
    if target == Path(_EARLIER_LIVE):
        _move_live(instance)
        return
    if target == Path(LIVE):
        _remove_older_states(layout, instance)  # an adoption may have been interrupted
        return
    if target.parts[0] != _GENERATIONS:
        return  # one of several processes of a load balancer
    revisions = Revisions.of(instance)
    _forget_numbers(revisions)
    for number, path in _numbered(old):
        revisions.refer(str(number), _keep(revisions, _rendered_files(path)))
    digest = revisions.reference(target.name)
    if digest is None:
        return
    manifest = revisions.manifest(digest)
    for process in (instance, *layout.processes_of(instance)):
        # What it has loaded: a state, or a directory in one.
        with contextlib.suppress(OSError, ValueError):
            loaded = (process.last_good / "current").readlink().relative_to(old).parts[0]
            if (kept := revisions.reference(loaded)) is not None:
                revisions.refer(f"{LOADED}{process.id}", kept, sync=False)
    files.remove_tree(instance.live)
    for name, entry in manifest.items():
        path = instance.live / name
        files.make_private_directories(path.parent, instance.live)
        files.replace_unsynced(path, revisions.read(entry.digest), entry.mode)
    revisions.refer(COMMITTED, digest)
    files.point(instance.current, LIVE)
    _remove_older_states(layout, instance)


def _remove_older_states(layout: Layout, instance: RenderedLayout) -> None:
    """Remove what has become revisions, directories last: they show that something is left."""
    generations = (instance.directory / _GENERATIONS).glob("*")
    older = [path for path in generations if path != instance.live]
    if not older:
        return
    for process in (instance, *layout.processes_of(instance)):
        files.remove(process.last_good / "current")
    for path in older:
        files.remove_tree(path)


def _move_live(instance: RenderedLayout) -> None:
    """Move live files to where they are now; end a move that was interrupted."""
    earlier = instance.directory / _EARLIER_LIVE
    if earlier.exists():
        files.make_private_directory(instance.live.parent)
        files.remove_tree(instance.live)
        earlier.rename(instance.live)
    files.point(instance.current, LIVE)


def _forget_numbers(revisions: Revisions) -> None:
    """Forget the generations from before an older agent came, which has begun to count anew."""
    for number in revisions.numbers():
        revisions.drop(str(number))


def _keep(revisions: Revisions, contents: Mapping[str, bytes]) -> str:
    return revisions.keep_manifest(revisions.keep(contents))


def _uploaded_files(directory: Path, certificates: Path) -> dict[str, bytes]:
    found = {}
    for name in _UPLOADED:
        with contextlib.suppress(FileNotFoundError):
            found[name] = (directory / name).read_bytes()
    for name in files.inodes(certificates):
        found[f"{CERTIFICATES}{name}"] = (certificates / name).read_bytes()
    return found


def _rendered_files(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in files.inodes_below(directory)}


def _numbered(directory: Path) -> list[tuple[int, Path]]:
    try:
        paths = [path for path in directory.iterdir() if path.name.isascii()]
    except FileNotFoundError:
        return []
    live = Path(LIVE).name
    numbers = (int(path.name) for path in paths if path.name.isdigit() and path.name != live)
    return [(number, directory / str(number)) for number in sorted(numbers)]
