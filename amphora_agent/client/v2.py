"""A client of API 2.0, which sends whole load balancers, for provider drivers, operators and tests.

`v1` has `AmphoraClient`, that of API 1.0, and the connection and errors of both.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import quote

import requests

from amphora_agent.client.v1 import AmphoraClient, AmphoraError, Client, Json, ProblemError, Wrong

__all__ = [
    "AmphoraClient",
    "AmphoraError",
    "DeclarativeClient",
    "Json",
    "Model",
    "ProblemError",
    "Wrong",
]

_MERGE_PATCH = "application/merge-patch+json"
_PEM = "application/x-pem-file"


class Model(Protocol):
    """A load balancer of `octavia_lib.api.drivers.data_models`."""

    def to_dict(self, *, recurse: bool) -> Json: ...


class DeclarativeClient(Client):
    """Load balancers as Octavia's provider data model has them (API 2.0). The agent gets the
    desired state and makes the changes it takes, or changes nothing and reports everything that is
    wrong.

    A provider driver needs little more than this. Octavia hands it a whole load balancer, or one
    part of it; a part is changed in what the amphora has, and `edit` sees that nobody else changes
    it meanwhile:

        class AmphoraDriver(provider_base.ProviderDriver):
            def loadbalancer_create(self, loadbalancer):
                with self._refusals():
                    self._client(loadbalancer.loadbalancer_id).put(loadbalancer)

            def listener_update(self, old_listener, new_listener):
                wanted = new_listener.to_dict(recurse=True)  # what is Unset is not in it

                def change(balancer):
                    for listener in balancer["listeners"]:
                        if listener["listener_id"] == wanted["listener_id"]:
                            listener.update(wanted)

                lb_id = old_listener.loadbalancer_id
                with self._refusals():
                    self._client(lb_id).edit(lb_id, change)

            def member_update(self, old_member, new_member):
                wanted = new_member.to_dict()
                lb_id = self._balancer_of(old_member.pool_id)
                with self._refusals():
                    self._client(lb_id).patch_member(
                        lb_id, old_member.pool_id, old_member.member_id, wanted
                    )

            @contextlib.contextmanager
            def _refusals(self):
                try:
                    yield
                except ProblemError as error:
                    words = "; ".join(f"{path}: {message}" for path, message in error.errors)
                    raise exceptions.DriverError(
                        user_fault_string=words or error.detail, operator_fault_string=str(error)
                    ) from error

    `_client` answers with the client of the amphora that has the load balancer, `_balancer_of` with
    the load balancer of a pool: both are what the driver has remembered, or asks Octavia for. The
    driver tells Octavia ACTIVE when a call returns, ERROR when it raises.

    A change is answered with what was done: `step`, the greatest of "nothing", "runtime" (haproxy
    was changed while it runs), "stop", "reload" and "start"; `processes`, each with its own `step`,
    with `reasons` for it and with `words` for all that differs; `etag` and `generation` of what is
    now; `created`. A `dry_run` is answered alike, and nothing is done.

    `if_match` is the ETag that the load balancer must have (412 otherwise); "*" is any.
    """

    def put(
        self,
        balancer: Mapping[str, Any] | Model,
        *,
        if_match: str | None = None,
        absent: bool = False,
        process_model: str | None = None,
        dry_run: bool = False,
    ) -> Json:
        """Make a load balancer what `balancer` says: a model of octavia_lib, or a mapping of its
        form. The keys of certificates that the amphora has may be left out.

        `absent`: only if there is none yet. `process_model` is "loadbalancer", one haproxy for all
        listeners, or "listener", one for each; without it that is as it was.
        """
        body = balancer if isinstance(balancer, Mapping) else balancer.to_dict(recurse=True)
        return self._json(
            "PUT",
            _path(body["loadbalancer_id"]),
            json=body,
            params=_choices(dry_run, process_model),
            headers=_conditions(if_match, absent),
        )

    def edit(self, lb_id: str, change: Callable[[Json], None], *, attempts: int = 5) -> Json:
        """Have `change` change the load balancer that there is, and put it; once more with the one
        that is there then when somebody else was faster."""
        for attempt in range(1, attempts + 1):
            balancer, etag = self.get(lb_id)
            change(balancer)
            try:
                return self.put(balancer, if_match=etag)
            except AmphoraError as error:
                if error.status != requests.codes.precondition_failed or attempt == attempts:
                    raise
        raise ValueError(f"attempts={attempts}: one at least")

    def get(self, lb_id: str) -> tuple[Json, str]:
        """Return a load balancer as it was put, without private keys, and its ETag."""
        response = self.request("GET", _path(lb_id))
        return response.json(), response.headers["ETag"]

    def loadbalancers(self) -> list[Json]:
        """Return all that were put, each with `loadbalancer_id`, `etag`, `generation` and how many
        `listeners` and `pools` it has."""
        return list(self._json("GET", "/2.0/loadbalancers")["loadbalancers"])

    def status(self, lb_id: str) -> Json:
        """Return `operating_status` and `reason` of the load balancer, and of its `listeners`,
        `pools` and their `members`."""
        return self._json("GET", f"{_path(lb_id)}/status")

    def patch_pool(
        self,
        lb_id: str,
        pool_id: str,
        changes: Mapping[str, Any],
        *,
        if_match: str | None = None,
        dry_run: bool = False,
    ) -> Json:
        """Change fields of a pool; None removes one (JSON merge patch, RFC 7396)."""
        return self._patch(_path(lb_id, "pools", pool_id), changes, if_match, dry_run)

    def patch_member(
        self,
        lb_id: str,
        pool_id: str,
        member_id: str,
        changes: Mapping[str, Any],
        *,
        if_match: str | None = None,
        dry_run: bool = False,
    ) -> Json:
        """Change fields of a member: `{"weight": 5}`."""
        path = _path(lb_id, "pools", pool_id, "members", member_id)
        return self._patch(path, changes, if_match, dry_run)

    def delete(
        self, lb_id: str, *, if_match: str | None = None, dry_run: bool = False
    ) -> Json | None:
        """Stop a load balancer and remove it, with its certificates and its history. Only a
        `dry_run` is answered."""
        response = self.request(
            "DELETE", _path(lb_id), params=_choices(dry_run), headers=_conditions(if_match)
        )
        return response.json() if dry_run else None

    # Certificates that load balancers refer to by name (`default_tls_container_ref` and its like)

    def put_certificate(self, lb_id: str, name: str, pem: bytes, *, dry_run: bool = False) -> Json:
        """Store one with its key and chain, or authorities, or revocation lists; answered with what
        it says. The load balancer has it from its next put on."""
        path = _path(lb_id, "certificates", name)
        return self._json(
            "PUT", path, data=pem, params=_choices(dry_run), headers={"Content-Type": _PEM}
        )

    def certificates(self, lb_id: str) -> dict[str, Json]:
        """Return what is stored, by name."""
        return dict(self._json("GET", _path(lb_id, "certificates"))["certificates"])

    def certificate(self, lb_id: str, name: str) -> Json:
        """Return subject, names, dates, fingerprint; never the key."""
        return self._json("GET", _path(lb_id, "certificates", name))

    def delete_certificate(self, lb_id: str, name: str, *, dry_run: bool = False) -> Json | None:
        """Forget one. Only a `dry_run` is answered, with what it says."""
        path = _path(lb_id, "certificates", name)
        response = self.request("DELETE", path, params=_choices(dry_run))
        return response.json() if dry_run else None

    def _patch(
        self, path: str, changes: Mapping[str, Any], if_match: str | None, dry_run: bool
    ) -> Json:
        return self._json(
            "PATCH",
            path,
            json=changes,
            params=_choices(dry_run),
            headers={"Content-Type": _MERGE_PATCH, **_conditions(if_match)},
        )


def _path(lb_id: str, *parts: str) -> str:
    return "/".join(("/2.0/loadbalancers", *(quote(part, safe="") for part in (lb_id, *parts))))


def _choices(dry_run: bool, process_model: str | None = None) -> dict[str, str]:
    chosen = {"dry_run": "1"} if dry_run else {}
    return chosen | ({"process_model": process_model} if process_model else {})


def _conditions(if_match: str | None, absent: bool = False) -> dict[str, str]:
    """Return the headers of conditions. An ETag may be as in a header, or bare, as in JSON."""
    conditions = {"If-None-Match": "*"} if absent else {}
    if if_match is not None:
        is_whole = if_match == "*" or '"' in if_match
        conditions["If-Match"] = if_match if is_whole else f'"{if_match}"'
    return conditions
