"""The certificates of a load balancer as files for haproxy, and the model without its keys.

A file's name says whose it is and what for, and stays the same when the certificate in it is
replaced: so haproxy can be given the new one while it runs."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

import msgspec

from amphora_agent.model.decode import Problem
from amphora_agent.model.loadbalancer import Listener, LoadBalancer, Pool, TlsContainer
from amphora_agent.model.resolved import ResolvedListener, ResolvedLoadBalancer, ResolvedPool
from amphora_agent.x509 import pem

#: The label of any private key.
_KEY = "[A-Z ]*PRIVATE KEY"


#: Returns a file by its name, None if there is none.
FindFile = Callable[[str], bytes | None]


class ExtractedFiles(NamedTuple):
    """`files` by name, `problems` where there is nothing to make one of. `paths` are where the
    model speaks of a file."""

    files: dict[str, bytes]
    problems: tuple[Problem, ...]
    paths: Mapping[str, str]


class _Source(NamedTuple):
    """One file, and what it is made of: a container, a PEM, or what was stored under the last part
    of a reference. `path` is where the model speaks of it."""

    path: str
    name: str
    data: TlsContainer | str | None
    ref: str | None


#: The certificates that clients of a listener are examined with, and those of a pool: the field of
#: the model without `_data` or `_ref`, and the purpose of the file.
_CLIENT_FIELDS = {"client_ca_tls_container": "client-ca", "client_crl_container": "client-crl"}
_POOL_FIELDS = {"tls_container": "client", "ca_tls_container": "ca", "crl_container": "crl"}


def name_file(owner_id: str, purpose: str = "") -> str:
    """Name the certificate file of an object; without a purpose a listener's crt-list."""
    return f"{owner_id}.{purpose}.pem" if purpose else f"{owner_id}.pem"


def extract(
    balancer: ResolvedLoadBalancer,
    listeners: Collection[str],
    directory: str,
    *,
    before: FindFile,
    stored: Mapping[str, bytes],
) -> ExtractedFiles:
    """Return the certificates that a process needs which serves these `listeners`, and crt-lists of
    their paths in `directory`.

    `before` returns a file that the load balancer has now: a certificate that comes without its key
    keeps the one it has. `stored` are those that were put beforehand, by name.
    """
    served = [
        listener
        for listener in balancer.listeners
        if listener.listener_id in listeners and listener.terminates_tls
    ]
    sources = [
        source
        for listener in served
        if balancer.is_up and listener.admin_state_up
        for source in _find_listener_sources(listener)
    ]
    for pool in balancer.pools.values():
        if balancer.is_up and pool.admin_state_up and pool.tls_enabled:
            sources += _find_pool_sources(pool)
    extracted = _make_files(sources, before, stored)
    for listener in served:
        lines = dict.fromkeys(
            f"{directory}/{source.name}\n" for source in _find_served_sources(listener)
        )
        extracted.files[name_file(listener.listener_id)] = "".join(lines).encode()
    return extracted


def extract_idle(
    balancer: ResolvedLoadBalancer,
    needed: Collection[str],
    *,
    before: FindFile,
    stored: Mapping[str, bytes],
) -> ExtractedFiles:
    """Return the certificates that the model names and no process needs, as of listeners that are
    down: their keys must be there when they come up. What is missing is missed only then. `needed`
    are the files that processes need."""
    sources = chain(
        *map(_find_listener_sources, balancer.listeners),
        *map(_find_pool_sources, balancer.pools.values()),
    )
    idle = [source for source in sources if source.name not in needed]
    return _make_files(idle, before, stored)._replace(problems=())


def _make_files(
    sources: Iterable[_Source], before: FindFile, stored: Mapping[str, bytes]
) -> ExtractedFiles:
    files: dict[str, bytes] = {}
    paths: dict[str, str] = {}
    problems = []
    for source in sources:
        content = _find_content(source, before, stored)
        if isinstance(content, Problem):
            problems.append(content)
        else:
            files[source.name] = content
            paths[source.name] = source.path
    return ExtractedFiles(files, tuple(problems), paths)


def _find_content(
    source: _Source, before: FindFile, stored: Mapping[str, bytes]
) -> bytes | Problem:
    data = source.data
    if isinstance(data, TlsContainer):
        key = data.private_key.encode() if data.private_key else _find_key(data, source, before)
        if key is None:
            message = "is missing, and the amphora does not have it"
            return Problem(f"{source.path}.private_key", message)
        chained = (issuer.encode() for issuer in data.intermediates or ())
        parts = (data.certificate.encode(), key, *chained)
        return b"".join(part.strip() + b"\n" for part in parts)
    if data is not None:
        return data.strip().encode() + b"\n"
    name = (source.ref or "").rstrip("/").rpartition("/")[2]
    message = f"comes without data, and no certificate {name} is stored"
    return stored.get(name) or Problem(source.path, message)


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


def _find_listener_sources(listener: ResolvedListener) -> Iterator[_Source]:
    yield from _find_served_sources(listener)
    yield from _find_sources(listener, listener.listener_id, _CLIENT_FIELDS)


def _find_pool_sources(pool: ResolvedPool) -> Iterator[_Source]:
    return _find_sources(pool, pool.pool_id, _POOL_FIELDS)


def _find_served_sources(listener: ResolvedListener) -> Iterator[_Source]:
    """Yield what clients are shown; the first is for those that name nobody we know."""
    owner_id, path = listener.listener_id, listener.path
    yield from _find_sources(listener, owner_id, {"default_tls_container": "default"})
    containers = listener.sni_container_data or ()
    for index, container in enumerate(containers):
        name = _name_sni(owner_id, container.id or container.certificate)
        yield _Source(f"{path}.sni_container_data[{index}]", name, container, None)
    for index, ref in enumerate(() if containers else listener.sni_container_refs or ()):
        yield _Source(f"{path}.sni_container_refs[{index}]", _name_sni(owner_id, ref), None, ref)


def _name_sni(owner_id: str, certificate: str) -> str:
    mark = hashlib.sha256(certificate.encode()).hexdigest()[:16]
    return name_file(owner_id, f"sni-{mark}")


def _find_sources(
    owner: ResolvedListener | ResolvedPool, owner_id: str, purposes: Mapping[str, str]
) -> Iterator[_Source]:
    """Yield the files of those fields of an object that say something."""
    for field, purpose in purposes.items():
        data, ref = getattr(owner, f"{field}_data"), getattr(owner, f"{field}_ref")
        if data or ref:
            path = f"{owner.path}.{field}_{'ref' if data is None else 'data'}"
            yield _Source(path, name_file(owner_id, purpose), data, ref)


def _find_key(container: TlsContainer, source: _Source, before: FindFile) -> bytes | None:
    """Return the key that the amphora has for this very certificate."""
    had = before(source.name) or b""
    keys = pem.find_blocks(had, _KEY)
    was = _parse_first(had.decode())
    return keys[0] if keys and was and was == _parse_first(container.certificate) else None


def _parse_first(text: str) -> pem.Block | None:
    """Return the certificate that counts, however it is written."""
    try:
        return next(iter(pem.parse_pem(text.encode(errors="replace")).blocks), None)
    except pem.Unreadable:
        return None
