"""The connection of clients with one amphora, with mutual TLS and errors; and a client of API 1.0,
which sends haproxy configurations as text, as Octavia's controller does.

An amphora's certificate names its id, not its address, so clients assert the id (WIRE §1).
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.ssl_ import create_urllib3_context

Json = dict[str, Any]

_PROBLEM = "application/problem+json"


class _NamedByIdAdapter(HTTPAdapter):
    """Asserts that the server's certificate names `amphora_id`, whatever its address.

    Python 3.13 refuses certificates without key identifiers by default. Controllers before
    release 15 issue such certificates, and RFC 5280 leaves their verification as it is.
    """

    def __init__(self, amphora_id: str) -> None:
        self._amphora_id = amphora_id
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        context = create_urllib3_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        kwargs["ssl_context"] = context
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
    """A refusal below `/2.0`, as problem details (RFC 9457): `title`, `detail`, and in `errors`
    everything that is wrong with the request's body."""

    def __init__(self, status: int, answer: Mapping[str, Any]) -> None:
        super().__init__(status, answer)
        self.title = str(answer.get("title", ""))
        self.detail = str(answer.get("detail", ""))
        self.errors = tuple(
            Wrong(str(place["path"]), str(place["message"])) for place in answer.get("errors", ())
        )


class Client:
    """One amphora's API. `base_url` is like `https://192.0.2.7:9443`; `client_certificate` is a PEM
    of certificate and key, `server_ca` the authority that signed the amphora's certificate.

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
            raise _make_error(response)
        return response

    # Instances: their status, and their changes

    def instances(self) -> list[Json]:
        return list(self._json("GET", "/2.0/instances")["instances"])

    def instance(self, instance_id: str) -> Json:
        return self._json("GET", f"/2.0/instances/{instance_id}")

    def changes(self, instance_id: str, limit: int | None = None) -> list[Json]:
        """Return the changes of a load balancer, the newest first."""
        query = "" if limit is None else f"?limit={limit}"
        return list(self._json("GET", f"/2.0/instances/{instance_id}/changes{query}")["changes"])

    def _json(self, method: str, path: str, **given: Any) -> Json:
        return dict(self.request(method, path, **given).json())


def _make_error(response: requests.Response) -> AmphoraError:
    try:
        answer = response.json()
    except ValueError:
        return AmphoraError(response.status_code, {"error": response.text})
    is_problem = response.headers.get("Content-Type", "").startswith(_PROBLEM)
    return (ProblemError if is_problem else AmphoraError)(response.status_code, answer)


class AmphoraClient(Client):
    """The API 1.0 of an amphora."""

    # The amphora's state

    def api_version(self) -> str:
        return str(self._json("GET", "//")["api_version"])

    def info(self) -> Json:
        return self._json("GET", "/1.0/info")

    def details(self) -> Json:
        return self._json("GET", "/1.0/details")

    def listeners(self) -> list[dict[str, str]]:
        return list(self.request("GET", "/1.0/listeners").json())

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

    def upload_certificate(self, lb_id: str, name: str, data: bytes) -> None:
        self.request("PUT", f"/1.0/loadbalancer/{lb_id}/certificates/{name}", data=data)

    def certificate_md5(self, lb_id: str, name: str) -> str:
        path = f"/1.0/loadbalancer/{lb_id}/certificates/{name}"
        return str(self._json("GET", path)["md5sum"])

    def delete_certificate(self, lb_id: str, name: str) -> None:
        self.request("DELETE", f"/1.0/loadbalancer/{lb_id}/certificates/{name}")

    # UDP and SCTP listeners

    def upload_udp_listener(self, listener_id: str, configuration: str) -> None:
        path = f"/1.0/listeners/{self.amphora_id}/{listener_id}/udp_listener"
        self.request("PUT", path, data=configuration.encode())

    def udp_listener(self, listener_id: str) -> bytes:
        """Return the configuration of a UDP or SCTP listener, as it was sent."""
        return self.request("GET", f"/1.0/listeners/{listener_id}/udp_listener").content

    # VRRP: which amphora of a pair has the VIPs

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
