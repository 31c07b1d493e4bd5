"""The certificates of a load balancer as files for haproxy, and the model without its keys.

A file's name says whose it is and what for, and stays the same when the certificate in it is
replaced: so haproxy can be given the new one while it runs."""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import msgspec

from amphora_agent.model.decode import Problem
from amphora_agent.model.loadbalancer import Listener, LoadBalancer, Pool, TlsContainer
from amphora_agent.model.resolved import (
    ResolvedListener,
    ResolvedLoadBalancer,
    ResolvedPool,
)
from amphora_agent.x509 import pem

#: The label of any private key.
_KEY = "[A-Z ]*PRIVATE KEY"


class ExtractedFiles(NamedTuple):
    """`files` by name, `problems` where there is nothing to make one of. `paths` are where the
    model speaks of a file."""

    files: Mapping[str, bytes]
    problems: tuple[Problem, ...]
    paths: Mapping[str, str]


class _Source(NamedTuple):
    """One file, and what it is made of: a container, a PEM, or what was stored under the last part
    of a reference. `data_path` and `ref_path` are where the model speaks of them."""

    data_path: str
    ref_path: str
    name: str
    data: TlsContainer | str | None
    ref: str | None


def name_file(owner_id: str, purpose: str = "") -> str:
    """Name the certificate file of an object; without a purpose a listener's crt-list."""
    return f"{owner_id}.{purpose}.pem" if purpose else f"{owner_id}.pem"


def extract(
    balancer: ResolvedLoadBalancer,
    listeners: Collection[str],
    directory: str,
    *,
    before: Mapping[str, bytes],
    stored: Mapping[str, bytes],
) -> ExtractedFiles:
    """Return the certificates that a process needs which serves these `listeners`, and crt-lists of
    their paths in `directory`.

    `before` are the files that the load balancer has now: a certificate that comes without its key
    keeps the one it has. `stored` are those that were put beforehand, by name.
    """
    files: dict[str, bytes] = {}
    problems: list[Problem] = []
    paths: dict[str, str] = {}
    for source in _used(balancer, listeners):
        paths[source.name] = source.ref_path if source.data is None else source.data_path
        content = _content(source, before, stored)
        if isinstance(content, Problem):
            problems.append(content)
        else:
            files[source.name] = content
    for listener in balancer.listeners:
        if listener.listener_id in listeners and listener.terminates_tls:
            served = _served(listener)
            lines = dict.fromkeys(f"{directory}/{source.name}\n" for source in served)
            files[name_file(listener.listener_id)] = "".join(lines).encode()
    return ExtractedFiles(files, tuple(problems), paths)


def extract_idle(
    balancer: ResolvedLoadBalancer,
    needed: Collection[str],
    *,
    before: Mapping[str, bytes],
    stored: Mapping[str, bytes],
) -> ExtractedFiles:
    """Return the certificates that the model names and no process needs, as of listeners that are
    down: their keys must be there when they come up. What is missing is missed only then. `needed`
    are the files that processes need."""
    files: dict[str, bytes] = {}
    paths: dict[str, str] = {}
    for source in _named(balancer):
        if source.name not in needed:
            content = _content(source, before, stored)
            if not isinstance(content, Problem):
                files[source.name] = content
                paths[source.name] = source.ref_path if source.data is None else source.data_path
    return ExtractedFiles(files, (), paths)


def _used(balancer: ResolvedLoadBalancer, listeners: Collection[str]) -> Iterator[_Source]:
    """Yield the files of these listeners, and of all pools, as far as they are up."""
    for listener in balancer.active_listeners:
        if listener.listener_id in listeners and listener.terminates_tls:
            yield from _of_listener(listener)
    for pool in balancer.pools.values():
        if balancer.is_up and pool.admin_state_up and pool.tls_enabled:
            yield from _of_pool(pool)


def _named(balancer: ResolvedLoadBalancer) -> Iterator[_Source]:
    """Yield all files that the model names."""
    for listener in balancer.listeners:
        yield from _of_listener(listener)
    for pool in balancer.pools.values():
        yield from _of_pool(pool)


def _of_listener(listener: ResolvedListener) -> Iterator[_Source]:
    yield from _served(listener)
    yield from _of_clients(listener)


def _content(
    source: _Source, before: Mapping[str, bytes], stored: Mapping[str, bytes]
) -> bytes | Problem:
    data = source.data
    if isinstance(data, TlsContainer):
        key = data.private_key.encode() if data.private_key else _key_of(data, source, before)
        if key is None:
            words = "is missing, and the amphora does not have it"
            return Problem(f"{source.data_path}.private_key", words)
        chain = (each.encode() for each in data.intermediates or ())
        return b"".join(part.strip() + b"\n" for part in (data.certificate.encode(), key, *chain))
    if data is not None:
        return data.strip().encode() + b"\n"
    name = _last_part(source.ref)
    if name in stored:
        return stored[name]
    words = f"comes without data, and no certificate {name} is stored"
    return Problem(source.ref_path, words)


def without_keys(balancer: LoadBalancer) -> LoadBalancer:
    """Return the load balancer without private keys, nor what nobody meant to send."""
    replace = msgspec.structs.replace

    def bare(container: TlsContainer | None) -> TlsContainer | None:
        return replace(container, private_key=None) if container else None

    def pool_without(pool: Pool | None) -> Pool | None:
        return replace(pool, tls_container_data=bare(pool.tls_container_data)) if pool else None

    def listener_without(listener: Listener) -> Listener:
        policies = listener.l7policies
        return replace(
            listener,
            default_pool=pool_without(listener.default_pool),
            default_tls_container_data=bare(listener.default_tls_container_data),
            sni_container_data=listener.sni_container_data
            and tuple(map(bare, listener.sni_container_data)),
            l7policies=policies
            and tuple(replace(p, redirect_pool=pool_without(p.redirect_pool)) for p in policies),
        )

    vips = balancer.additional_vips
    return replace(
        balancer,
        additional_vips=vips and tuple(replace(vip, load_balancer=None) for vip in vips),
        listeners=balancer.listeners and tuple(map(listener_without, balancer.listeners)),
        pools=balancer.pools and tuple(map(pool_without, balancer.pools)),
    )


def _served(listener: ResolvedListener) -> Iterator[_Source]:
    """Yield what clients are shown; the first is for those that name nobody we know."""
    path = listener.path
    if listener.default_tls_container_data or listener.default_tls_container_ref:
        yield _Source(
            f"{path}.default_tls_container_data",
            f"{path}.default_tls_container_ref",
            name_file(listener.listener_id, "default"),
            listener.default_tls_container_data,
            listener.default_tls_container_ref,
        )
    containers = listener.sni_container_data or ()
    for index, container in enumerate(containers):
        mark = hashlib.sha256((container.id or container.certificate).encode()).hexdigest()[:16]
        name = name_file(listener.listener_id, f"sni-{mark}")
        yield _Source(f"{path}.sni_container_data[{index}]", "", name, container, None)
    for index, ref in enumerate(() if containers else listener.sni_container_refs or ()):
        mark = hashlib.sha256(ref.encode()).hexdigest()[:16]
        name = name_file(listener.listener_id, f"sni-{mark}")
        yield _Source("", f"{path}.sni_container_refs[{index}]", name, None, ref)


def _of_clients(listener: ResolvedListener) -> Iterator[_Source]:
    """Yield what clients are examined with."""
    for purpose, data, ref in (
        ("ca_tls", listener.client_ca_tls_container_data, listener.client_ca_tls_container_ref),
        ("crl", listener.client_crl_container_data, listener.client_crl_container_ref),
    ):
        if data or ref:
            name = name_file(listener.listener_id, f"client-{purpose.partition('_')[0]}")
            field = f"{listener.path}.client_{purpose}_container"
            yield _Source(f"{field}_data", f"{field}_ref", name, data, ref)


def _of_pool(pool: ResolvedPool) -> Iterator[_Source]:
    for field, purpose, data, ref in (
        ("tls_container", "client", pool.tls_container_data, pool.tls_container_ref),
        ("ca_tls_container", "ca", pool.ca_tls_container_data, pool.ca_tls_container_ref),
        ("crl_container", "crl", pool.crl_container_data, pool.crl_container_ref),
    ):
        if data or ref:
            name = name_file(pool.pool_id, purpose)
            yield _Source(f"{pool.path}.{field}_data", f"{pool.path}.{field}_ref", name, data, ref)


def _key_of(container: TlsContainer, source: _Source, before: Mapping[str, bytes]) -> bytes | None:
    """Return the key that the amphora has for this very certificate."""
    had = before.get(source.name, b"")
    keys = pem.find_blocks(had, _KEY)
    was = _first(had.decode())
    return keys[0] if keys and was and was == _first(container.certificate) else None


def _first(text: str) -> pem.Block | None:
    """Return the certificate that counts, however it is written."""
    try:
        return next(iter(pem.parse_pem(text.encode(errors="replace")).blocks), None)
    except pem.Unreadable:
        return None


def _last_part(ref: str | None) -> str:
    return (ref or "").rstrip("/").rpartition("/")[2]
