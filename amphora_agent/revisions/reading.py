"""Read what instances have committed, and what they loaded when they last came up."""

import os
from collections.abc import Callable
from pathlib import Path

from amphora_agent.paths import InstanceLayout, Layout, ObjectId, is_object_id
from amphora_agent.revisions.contents import (
    CERTIFICATES,
    CONFIGURATION,
    LOADED,
    ContentLost,
    Manifest,
    Revisions,
    part,
)


def directories(layout: Layout) -> list[InstanceLayout]:
    """Return what may be an instance: it has a directory. Sorted by id."""
    try:
        names = sorted(filter(is_object_id, os.listdir(layout.base)))
    except FileNotFoundError:
        return []
    found = [layout.instance(ObjectId(name)) for name in names]
    return [instance for instance in found if instance.directory.is_dir()]


def instances(layout: Layout) -> list[InstanceLayout]:
    """Return the instances that have a configuration, sorted by id."""
    return [instance for instance in directories(layout) if exists(instance)]


def exists(instance: InstanceLayout) -> bool:
    """Whether an instance has a configuration."""
    try:
        manifest = committed(instance)
    except ContentLost:
        return True  # though nobody can read it
    if manifest is None:
        # Of an agent before there were revisions.
        return not os.path.lexists(instance.revisions) and instance.configuration.is_file()
    return CONFIGURATION in manifest


def committed_digest(instance: InstanceLayout) -> str | None:
    """Return the digest of the manifest that is committed, if there is one."""
    return Revisions.of(instance).committed


def committed(instance: InstanceLayout) -> Manifest | None:
    """Return the files that are committed, by the names that the instance has for them.

    Raises:
        ContentLost
    """
    return _files(instance, committed_digest)


def committed_or_loaded(instance: InstanceLayout) -> Manifest:
    """Return the files that are committed. When nobody can read any more which these are, return
    those with which the instance last came up, or none: what comes next replaces them."""
    try:
        return committed(instance) or {}
    except ContentLost:
        return loaded(instance) or {}


def loaded_digest(instance: InstanceLayout) -> str | None:
    """Return the digest of the manifest with which the instance last came up."""
    return Revisions.of(instance).reference(f"{LOADED}{instance.id}")


def loaded(instance: InstanceLayout) -> Manifest | None:
    """Return the files with which the instance last came up; None when it never did, or when
    nobody can read any more which files these were."""
    try:
        return _files(instance, loaded_digest)
    except ContentLost:
        return None


def read(instance: InstanceLayout, name: str) -> bytes:
    """Return the bytes of a committed file, whatever has become of the live one.

    Raises:
        FileNotFoundError: there is no such file.
        ContentLost
    """
    digest = ""
    while True:
        before, digest = digest, committed_digest(instance) or ""
        if not digest and not instance.revisions.exists():
            return live_path(instance, name).read_bytes()
        revisions = Revisions.of(instance)
        try:
            entry = part(revisions.manifest(digest), instance.prefix).get(name) if digest else None
            if entry is None:
                raise FileNotFoundError(str(live_path(instance, name)))
            return revisions.read(entry.digest)
        except ContentLost:
            # Another may be committed by now, and the one before forgotten.
            if digest == before:
                raise


def live_path(instance: InstanceLayout, name: str) -> Path:
    """Return the path of a live file, as haproxy knows it."""
    if name.startswith(CERTIFICATES):
        return instance.certificates / name.removeprefix(CERTIFICATES)
    return instance.configuration.parent / name


def _files(
    instance: InstanceLayout, digest_of: Callable[[InstanceLayout], str | None]
) -> Manifest | None:
    digest = ""
    while True:
        before, digest = digest, digest_of(instance) or ""
        if not digest:
            return None
        try:
            return part(Revisions.of(instance).manifest(digest), instance.prefix)
        except ContentLost:
            # Another may be committed by now, and the one before forgotten.
            if digest == before:
                raise
