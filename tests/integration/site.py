"""A TERMINATED_HTTPS load balancer, and the certificate that it shows."""

from lab.http import Tls
from lab.pki import Authority
from tests.integration.amphora import Amphora


class Site:
    """Each certificate takes the place of the one before."""

    def __init__(self, amphora: Amphora) -> None:
        self.amphora = amphora
        self.authority = Authority.create("tenant", key="ec")
        self.balancer = amphora.new_balancer(kind="TERMINATED_HTTPS")
        self.directory = amphora.agent.cert_path / self.balancer.id
        self.balancer.crt_list = str(self.directory / "listener.pem")

    def put(self, name: str = "site.pem") -> int:
        """A new certificate, in the list also; answer with its serial number."""
        issued = self.authority.issue("site", dns=["site"], key="ec")
        self.amphora.api.upload_certificate(self.balancer.id, name, issued.pem)
        self.list(name)
        return issued.serial

    def list(self, name: str) -> None:
        listed = f"{self.directory / name}\n".encode()
        self.amphora.api.upload_certificate(self.balancer.id, "listener.pem", listed)

    def push(self, name: str, *, instead_of: str = "") -> int:
        """A new certificate, with the controller's order of things; answer with its serial."""
        serial = self.put(name)
        self.balancer.push()
        if instead_of:
            self.amphora.api.delete_certificate(self.balancer.id, instead_of)
        return serial

    def presented(self) -> int:
        """The serial number of what a client sees."""
        tls = Tls(server_name="site", ca=self.authority.certificate)
        with self.balancer.client(tls=tls) as client:
            response = client.get()
        assert response.status == 200
        assert response.peer is not None
        return response.peer.serial
