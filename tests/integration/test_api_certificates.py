"""Certificate files of a load balancer, and TLS that is terminated with them."""

import hashlib
import stat
from collections.abc import Iterator

import pytest

from amphora_agent.client.v2 import AmphoraError
from lab.pki import Authority
from tests.integration.amphora import Amphora, LoadBalancer, differences
from tests.integration.site import Site

PEM = Authority.create("tenant", key="ec").certificate
MD5 = hashlib.md5(PEM).hexdigest()
OK = {"message": "OK"}


@pytest.fixture
def target(amphora: Amphora) -> Iterator[str]:
    """Of a certificate of a load balancer that is not there yet: it comes before its text."""
    balancer = amphora.new_balancer()
    yield f"/1.0/loadbalancer/{balancer.id}/certificates/site.pem"
    balancer.delete()


def test_a_certificate_is_stored_and_known_by_its_md5(amphora: Amphora, target: str) -> None:
    put = amphora.request("PUT", target, PEM)
    assert (put.status, put.json(), put.headers["etag"]) == (200, OK, MD5)
    get = amphora.request("GET", target)
    assert (get.status, get.json(), get.headers["etag"]) == (200, {"md5sum": MD5}, MD5)


def test_a_stored_certificate_is_for_the_agent_alone(amphora: Amphora, target: str) -> None:
    amphora.request("PUT", target, PEM)
    file = amphora.agent.cert_path / target.split("/")[3] / "site.pem"
    assert file.read_bytes() == PEM
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_certificate_is_replaced(amphora: Amphora, target: str) -> None:
    for data in (PEM, PEM * 2):
        amphora.request("PUT", target, data)
        assert amphora.request("GET", target).json()["md5sum"] == hashlib.md5(data).hexdigest()


def test_a_certificate_that_is_not_there_is_not_found(amphora: Amphora, target: str) -> None:
    answer = amphora.request("GET", target)
    assert answer.status == 404
    assert answer.json() == {
        "message": "Certificate Not Found",
        "details": "No certificate with filename: site.pem",
    }


def test_operator_13_the_question_for_a_certificate_to_be_sent_is_no_warning(
    amphora: Amphora, target: str
) -> None:
    before = len(amphora.agent.log)
    assert amphora.request("GET", target).status == 404
    said = amphora.agent.log[before:]
    assert "Certificate Not Found" in said
    assert "WARNING" not in said


def test_a_delete_is_answered_the_same_whether_it_was_there_or_not(
    amphora: Amphora, target: str
) -> None:
    amphora.request("PUT", target, PEM)
    for _ in range(2):
        answer = amphora.request("DELETE", target)
        assert (answer.status, answer.json()) == (200, OK)
        assert amphora.request("GET", target).status == 404


@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2fetc%2fpasswd",
        "..%2fx.pem",
        "%2fetc%2fx.pem",
        "../x.pem",
        "x.pem.sh",
        "x.pem%0a",
        "x.pem%00",
        "%00.pem",
        "x.pem%20",
        ".pem",
        "..pem",
        "x",
        "x.PEM",
        "%c3%a9.pem",
        "%ff.pem",
        "a%5cb.pem",
        "a" * 125 + ".pem",
        ".stage-1-x.pem",
    ],
)
def test_a_name_that_is_no_plain_pem_is_refused_by_name(
    amphora: Amphora, target: str, method: str, name: str
) -> None:
    before = amphora.files()
    answer = amphora.request(method, target.replace("site.pem", name), PEM)
    assert answer.status == 400
    assert answer.json()["message"] == "Filename has wrong format"
    assert differences(before, amphora.files()) == set()


def test_a_certificate_of_a_load_balancer_with_no_id_is_refused(amphora: Amphora) -> None:
    before = amphora.files()
    for lb_id, status in (("..", 400), ("%2e%2e", 400), ("certs", 400), (".", 400), ("a%2fb", 404)):
        answer = amphora.request("PUT", f"/1.0/loadbalancer/{lb_id}/certificates/x.pem", PEM)
        assert answer.status == status
        assert answer.json()
    assert differences(before, amphora.files()) == set()


def test_tls_is_terminated_with_what_was_uploaded(site: Site) -> None:
    serial = site.put()
    site.balancer.push()
    assert site.presented() == serial


def test_a_new_certificate_is_presented_after_the_next_reload(site: Site) -> None:
    old = site.put()
    site.balancer.push()
    new = site.put()
    assert site.presented() == old
    site.balancer.push()
    assert site.presented() == new


def test_an_upload_that_names_a_certificate_that_is_not_there_is_refused(site: Site) -> None:
    site.list("site.pem")
    with pytest.raises(AmphoraError, match=r"site\.pem") as raised:
        site.balancer.upload()
    assert raised.value.status == 400


def test_a_deleted_certificate_is_used_until_the_next_reload(
    site: Site, balancer: LoadBalancer
) -> None:
    serial = site.put()
    site.balancer.push()
    site.amphora.api.delete_certificate(site.balancer.id, "site.pem")
    assert site.presented() == serial
