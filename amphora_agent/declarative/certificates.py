"""The certificates of a load balancer as files for haproxy, and the model without its keys.

A file's name says whose it is and what for, and stays the same when the certificate in it is
replaced: so haproxy can be given the new one while it runs.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from amphora_agent.declarative import names
from amphora_agent.haproxy import pem
from amphora_agent.model import meaning
from amphora_agent.model.loadbalancer import (
    Listener,
    LoadBalancer,
    Pool,
    TlsContainer,
)
from amphora_agent.model.problem import Problem

_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.S)


class Certificates(NamedTuple):
    """`files` by name, `problems` where there is nothing to make one of. `paths` are where the
    model speaks of a file."""

    files: Mapping[str, bytes]
    problems: tuple[Problem, ...]
    paths: Mapping[str, str]


class _Wanted(NamedTuple):
    """One file, and what it is made of: a container, a PEM, or what was stored under the last part
    of a reference. `data_path` and `ref_path` are where the model speaks of them."""

    data_path: str
    ref_path: str
    name: str
    data: TlsContainer | str | None
    ref: str | None


def extract(
    balancer: LoadBalancer,
    directory: str,
    *,
    before: Mapping[str, bytes],
    stored: Mapping[str, bytes],
) -> Certificates:
    """The files of all certificates, and of crt-lists, whose paths are in `directory`.

    `before` are the files that the load balancer has now: a certificate that comes without its key
    keeps the one it has. `stored` are those that were put beforehand, by name.
    """
    files: dict[str, bytes] = {}
    problems: list[Problem] = []
    spoken_of: dict[str, str] = {}

    def provide(wanted: _Wanted) -> None:
        data = wanted.data
        spoken_of[wanted.name] = wanted.ref_path if data is None else wanted.data_path
        if isinstance(data, TlsContainer):
            key = data.private_key.encode() if data.private_key else _key_of(data, wanted, before)
            if key is None:
                words = "is missing, and the amphora does not have it"
                problems.append(Problem(f"{wanted.data_path}.private_key", words))
                return
            parts = (
                data.certificate.encode(),
                key,
                *(i.encode() for i in data.intermediates or ()),
            )
            files[wanted.name] = b"".join(part.strip() + b"\n" for part in parts)
        elif data is not None:
            files[wanted.name] = data.strip().encode() + b"\n"
        elif (name := _last_part(wanted.ref)) in stored:
            files[wanted.name] = stored[name]
        else:
            words = f"comes without data, and no certificate {name} is stored"
            problems.append(Problem(wanted.ref_path, words))

    for index, listener in enumerate(balancer.listeners or ()):
        if meaning.terminates_tls(listener):
            served = list(_served(f"listeners[{index}]", listener))
            for wanted in (*served, *_of_clients(f"listeners[{index}]", listener)):
                provide(wanted)
            lines = dict.fromkeys(f"{directory}/{wanted.name}\n" for wanted in served)
            files[names.certificate(listener.listener_id)] = "".join(lines).encode()
    paths = {pool.pool_id: path for path, pool in reversed([*meaning.all_pools(balancer)])}
    for pool_id, pool in meaning.pools(balancer).items():
        if pool.tls_enabled:
            for wanted in _of_pool(paths[pool_id], pool):
                provide(wanted)
    return Certificates(files, tuple(problems), spoken_of)


def without_keys(balancer: LoadBalancer) -> LoadBalancer:
    """The same load balancer with no private key in it, nor with what nobody meant to send."""
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


def _served(path: str, listener: Listener) -> Iterator[_Wanted]:
    """What clients are shown; the first is the one for those that name nobody we know."""
    if listener.default_tls_container_data or listener.default_tls_container_ref:
        yield _Wanted(
            f"{path}.default_tls_container_data",
            f"{path}.default_tls_container_ref",
            names.certificate(listener.listener_id, "default"),
            listener.default_tls_container_data,
            listener.default_tls_container_ref,
        )
    containers = listener.sni_container_data or ()
    for index, container in enumerate(containers):
        mark = hashlib.sha256((container.id or container.certificate).encode()).hexdigest()[:16]
        name = names.certificate(listener.listener_id, f"sni-{mark}")
        yield _Wanted(f"{path}.sni_container_data[{index}]", "", name, container, None)
    for index, ref in enumerate(() if containers else listener.sni_container_refs or ()):
        mark = hashlib.sha256(ref.encode()).hexdigest()[:16]
        name = names.certificate(listener.listener_id, f"sni-{mark}")
        yield _Wanted("", f"{path}.sni_container_refs[{index}]", name, None, ref)


def _of_clients(path: str, listener: Listener) -> Iterator[_Wanted]:
    """What clients are examined with."""
    for purpose, data, ref in (
        ("ca_tls", listener.client_ca_tls_container_data, listener.client_ca_tls_container_ref),
        ("crl", listener.client_crl_container_data, listener.client_crl_container_ref),
    ):
        if data or ref:
            name = names.certificate(listener.listener_id, f"client-{purpose.partition('_')[0]}")
            field = f"{path}.client_{purpose}_container"
            yield _Wanted(f"{field}_data", f"{field}_ref", name, data, ref)


def _of_pool(path: str, pool: Pool) -> Iterator[_Wanted]:
    for field, purpose, data, ref in (
        ("tls_container", "client", pool.tls_container_data, pool.tls_container_ref),
        ("ca_tls_container", "ca", pool.ca_tls_container_data, pool.ca_tls_container_ref),
        ("crl_container", "crl", pool.crl_container_data, pool.crl_container_ref),
    ):
        if data or ref:
            name = names.certificate(pool.pool_id, purpose)
            yield _Wanted(f"{path}.{field}_data", f"{path}.{field}_ref", name, data, ref)


def _key_of(container: TlsContainer, wanted: _Wanted, before: Mapping[str, bytes]) -> bytes | None:
    """The key that the amphora has for this very certificate."""
    had = before.get(wanted.name, b"")
    key = _KEY.search(had)
    return key[0] if key and _first(had.decode()) == _first(container.certificate) else None


def _first(text: str) -> pem.Block | None:
    """The certificate that counts, however it is written."""
    try:
        return next(iter(pem.blocks(text)), None)
    except pem.Unreadable:
        return None


def _last_part(ref: str | None) -> str:
    return (ref or "").rstrip("/").rpartition("/")[2]
