"""A client of API 1.0, which sends haproxy configurations as text, as Octavia's controller does."""

from collections.abc import Mapping
from typing import Any

from amphora_agent.client.transport import Client, Json


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
