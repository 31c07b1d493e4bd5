"""The other side: a controller's clients of the API, for provider drivers, operators and tests.

`DeclarativeClient` says what a load balancer is to be (API 2.0), `AmphoraClient` does one step
after the other, as Octavia's controller (API 1.0). The amphora proves itself by a certificate that
names its id, not its address, so the id is what a client asserts (WIRE §1).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter

Json = dict[str, Any]

_MERGE_PATCH = "application/merge-patch+json"
_PEM = "application/x-pem-file"
_PROBLEM = "application/problem+json"


class _NamedByIdAdapter(HTTPAdapter):
    """Asserts that the server's certificate names `amphora_id`, wherever it is reached."""

    def __init__(self, amphora_id: str) -> None:
        self._amphora_id = amphora_id
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        kwargs["assert_hostname"] = self._amphora_id
        super().init_poolmanager(*args, **kwargs)


class AmphoraError(Exception):
    """The agent refused: `status` is its HTTP status, `answer` the JSON that explains it."""

    def __init__(self, status: int, answer: Mapping[str, Any]) -> None:
        names = ("message", "details", "error", "title", "detail")
        words = (answer.get(name) for name in names)
        super().__init__(f"{status}: {': '.join(str(word) for word in words if word)}")
        self.status = status
        self.answer = answer


class Wrong(NamedTuple):
    """One thing that is wrong, and where: `listeners[2].l7policies[0].rules[1].value`."""

    path: str
    message: str


class ProblemError(AmphoraError):
    """The same below `/2.0`, where an answer is problem details (RFC 9457): `title`, `detail`, and
    in `errors` everything that is wrong with what was sent, if it is that."""

    def __init__(self, status: int, answer: Mapping[str, Any]) -> None:
        super().__init__(status, answer)
        self.title = str(answer.get("title", ""))
        self.detail = str(answer.get("detail", ""))
        self.errors = tuple(
            Wrong(str(each["path"]), str(each["message"])) for each in answer.get("errors", ())
        )


class _Client:
    """One amphora's API. `base_url` is such as `https://192.0.2.7:9443`; `client_certificate` is
    a PEM of certificate and key, `server_ca` the authority that signed the amphora's own.

    One instance keeps its connections; it may be used by one thread at a time. Every call raises
    AmphoraError for a refusal and requests.RequestException when the agent cannot be reached.
    """

    def __init__(
        self,
        base_url: str,
        amphora_id: str,
        client_certificate: Path,
        server_ca: Path,
        timeout: float = 60.0,
    ) -> None:
        self.amphora_id = amphora_id
        self._base_url = base_url.rstrip("/")
        self._timeout = timeout
        self._session = requests.Session()
        self._session.cert = str(client_certificate)
        self._session.verify = str(server_ca)
        self._session.trust_env = False  # no proxy stands between a controller and its amphora
        self._session.mount("https://", _NamedByIdAdapter(amphora_id))

    def close(self) -> None:
        self._session.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        data: bytes | None = None,
        json: Any = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send any request; `path` begins with a slash."""
        response = self._session.request(
            method,
            self._base_url + path,
            data=data,
            json=json,
            params=params,
            headers=headers,
            timeout=self._timeout,
        )
        if response.status_code >= 400:
            raise _refusal(response)
        return response

    # Instances: how they are, and what was changed

    def instances(self) -> list[Json]:
        found: list[Json] = self._json("GET", "/2.0/instances")["instances"]
        return found

    def instance(self, instance_id: str) -> Json:
        return self._json("GET", f"/2.0/instances/{instance_id}")

    def changes(self, instance_id: str, limit: int | None = None) -> list[Json]:
        """What was done to a load balancer, the newest first."""
        query = "" if limit is None else f"?limit={limit}"
        answer = self._json("GET", f"/2.0/instances/{instance_id}/changes{query}")
        found: list[Json] = answer["changes"]
        return found

    def _json(self, method: str, path: str, **given: Any) -> Json:
        answer: Json = self.request(method, path, **given).json()
        return answer


def _refusal(response: requests.Response) -> AmphoraError:
    try:
        answer = response.json()
    except ValueError:
        return AmphoraError(response.status_code, {"error": response.text})
    is_problem = response.headers.get("Content-Type", "").startswith(_PROBLEM)
    return (ProblemError if is_problem else AmphoraError)(response.status_code, answer)


class Model(Protocol):
    """A load balancer of `octavia_lib.api.drivers.data_models`."""

    def to_dict(self, *, recurse: bool) -> Json: ...


class DeclarativeClient(_Client):
    """Load balancers as Octavia's provider data model has them (API 2.0): the agent is told what is
    to be, and does what that takes, or changes nothing and says everything that is wrong.

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
        """A load balancer as it was put, without private keys, and its ETag."""
        response = self.request("GET", _path(lb_id))
        return response.json(), response.headers["ETag"]

    def loadbalancers(self) -> list[Json]:
        """All that were put, each with `loadbalancer_id`, `etag`, `generation` and how many
        `listeners` and `pools` it has."""
        found: list[Json] = self._json("GET", "/2.0/loadbalancers")["loadbalancers"]
        return found

    def status(self, lb_id: str) -> Json:
        """`operating_status` with a `reason`, of the load balancer, and in `listeners`, `pools` and
        their `members` of each part."""
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
        """The same for a member: `{"weight": 5}`."""
        path = _path(lb_id, "pools", pool_id, "members", member_id)
        return self._patch(path, changes, if_match, dry_run)

    def delete(self, lb_id: str, *, if_match: str | None = None) -> None:
        """Stop a load balancer and remove it, with its certificates and its history."""
        self.request("DELETE", _path(lb_id), headers=_conditions(if_match))

    # Certificates that load balancers refer to by name (`default_tls_container_ref` and its like)

    def put_certificate(self, lb_id: str, name: str, pem: bytes) -> Json:
        """Store one with its key and chain, or authorities, or revocation lists; answered with what
        it says. The load balancer has it from its next put on."""
        path = _path(lb_id, "certificates", name)
        return self._json("PUT", path, data=pem, headers={"Content-Type": _PEM})

    def certificates(self, lb_id: str) -> dict[str, Json]:
        """What is stored, by name."""
        answer = self._json("GET", _path(lb_id, "certificates"))
        found: dict[str, Json] = answer["certificates"]
        return found

    def certificate(self, lb_id: str, name: str) -> Json:
        """Subject, names, dates, fingerprint; never the key."""
        return self._json("GET", _path(lb_id, "certificates", name))

    def delete_certificate(self, lb_id: str, name: str) -> None:
        self.request("DELETE", _path(lb_id, "certificates", name))

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
    """An ETag is taken as it came in a header, or bare, as it is in an answer's JSON."""
    conditions = {"If-None-Match": "*"} if absent else {}
    if if_match is not None:
        is_whole = if_match == "*" or '"' in if_match
        conditions["If-Match"] = if_match if is_whole else f'"{if_match}"'
    return conditions


class AmphoraClient(_Client):
    """An amphora under a controller that sends haproxy's configurations as text (API 1.0)."""

    # What is there

    def api_version(self) -> str:
        return str(self._json("GET", "//")["api_version"])

    def info(self) -> Json:
        return self._json("GET", "/1.0/info")

    def details(self) -> Json:
        return self._json("GET", "/1.0/details")

    def listeners(self) -> list[dict[str, str]]:
        answer: list[dict[str, str]] = self.request("GET", "/1.0/listeners").json()
        return answer

    def interface(self, address: str) -> str:
        return str(self._json("GET", f"/1.0/interface/{address}")["interface"])

    # Load balancers

    def upload_haproxy(self, lb_id: str, configuration: str | bytes) -> None:
        data = configuration.encode() if isinstance(configuration, str) else configuration
        self.request("PUT", f"/1.0/loadbalancer/{self.amphora_id}/{lb_id}/haproxy", data=data)

    def haproxy(self, lb_id: str) -> bytes:
        return self.request("GET", f"/1.0/loadbalancer/{lb_id}/haproxy").content

    def start(self, lb_id: str) -> None:
        self.request("PUT", f"/1.0/loadbalancer/{lb_id}/start")

    def stop(self, lb_id: str) -> None:
        self.request("PUT", f"/1.0/loadbalancer/{lb_id}/stop")

    def reload(self, lb_id: str) -> None:
        self.request("PUT", f"/1.0/loadbalancer/{lb_id}/reload")

    def delete(self, lb_id: str) -> None:
        self.request("DELETE", f"/1.0/listeners/{lb_id}")

    # Certificates

    def upload_udp_listener(self, listener_id: str, configuration: str) -> None:
        path = f"/1.0/listeners/{self.amphora_id}/{listener_id}/udp_listener"
        self.request("PUT", path, data=configuration.encode())

    def udp_listener(self, listener_id: str) -> bytes:
        """The configuration of a UDP or SCTP listener, as it was sent."""
        return self.request("GET", f"/1.0/listeners/{listener_id}/udp_listener").content

    def upload_certificate(self, lb_id: str, name: str, data: bytes) -> None:
        self.request("PUT", f"/1.0/loadbalancer/{lb_id}/certificates/{name}", data=data)

    def certificate_md5(self, lb_id: str, name: str) -> str:
        path = f"/1.0/loadbalancer/{lb_id}/certificates/{name}"
        return str(self._json("GET", path)["md5sum"])

    def delete_certificate(self, lb_id: str, name: str) -> None:
        self.request("DELETE", f"/1.0/loadbalancer/{lb_id}/certificates/{name}")

    # Which of two amphorae has the VIPs

    def upload_vrrp(self, configuration: str) -> None:
        self.request("PUT", "/1.0/vrrp/upload", data=configuration.encode())

    def start_vrrp(self) -> str:
        return self._vrrp("start")

    def stop_vrrp(self) -> str:
        return self._vrrp("stop")

    def reload_vrrp(self) -> str:
        return self._vrrp("reload")

    # The amphora itself

    def upload_agent_certificate(self, pem: bytes) -> None:
        self.request("PUT", "/1.0/certificate", data=pem)

    def upload_config(self, text: str) -> None:
        self.request("PUT", "/1.0/config", data=text.encode())

    def plug_vip(self, vip: str, body: Mapping[str, Any]) -> str:
        return str(self._json("POST", f"/1.0/plug/vip/{vip}", json=body)["details"])

    def plug_network(self, body: Mapping[str, Any]) -> str:
        return str(self._json("POST", "/1.0/plug/network", json=body)["details"])

    def _vrrp(self, action: str) -> str:
        return str(self._json("PUT", f"/1.0/vrrp/{action}")["details"])
