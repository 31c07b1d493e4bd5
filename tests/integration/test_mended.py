"""What old controllers send and haproxy refuses is made to work, and read back as it was sent."""

import hashlib
from collections.abc import Iterator

import pytest

from lab.http import Client, Tls
from lab.pki import Authority
from tests.integration.amphora import VIP, WEB_PORTS, Amphora, LoadBalancer

OBSOLETE = "    option http-use-htx\n"


@pytest.fixture
def fresh(amphora: Amphora) -> Iterator[LoadBalancer]:
    made = amphora.new_balancer()
    yield made
    made.delete()


def obsolete(text: str) -> tuple[str, int]:
    """The text with a statement that haproxy gave up in its first frontend, and its line."""
    lines = text.splitlines(keepends=True)
    place = next(n for n, line in enumerate(lines, 1) if line.startswith("frontend"))
    lines.insert(place, OBSOLETE)
    return "".join(lines), place + 1


def test_a_configuration_with_a_statement_of_the_past_serves(
    amphora: Amphora, fresh: LoadBalancer
) -> None:
    text, line = obsolete(fresh.text())

    answer = amphora.request(
        "PUT", f"/1.0/loadbalancer/{amphora.agent.amphora_id}/{fresh.id}/haproxy", text.encode()
    )
    assert answer.status == 202
    fresh.reload()

    assert fresh.get() in {"web1", "web2"}
    digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    assert answer.headers["etag"] == digest
    read = amphora.request("GET", f"/1.0/loadbalancer/{fresh.id}/haproxy")
    assert (read.body, read.headers["etag"]) == (text.encode(), digest)
    assert f"line {line} left out: 'option http-use-htx'" in amphora.agent.log


@pytest.mark.usefixtures("amphora")
def test_a3_joined_statements_serve(amphora: Amphora, fresh: LoadBalancer) -> None:
    joined = "global\n    nbthread 2\n    cpu-map auto:1/1-2 0-1    external-check\n"
    text = fresh.text().replace("global\n", joined, 1)
    answer = amphora.request(
        "PUT", f"/1.0/loadbalancer/{amphora.agent.amphora_id}/{fresh.id}/haproxy", text.encode()
    )
    assert answer.status == 202, answer.body
    fresh.reload()

    assert fresh.get() in {"web1", "web2"}
    read = amphora.request("GET", f"/1.0/loadbalancer/{fresh.id}/haproxy")
    assert read.body == text.encode()


def test_lines_are_counted_as_the_controller_counts_them(
    amphora: Amphora, fresh: LoadBalancer
) -> None:
    text, line = obsolete(fresh.text())
    lines = text.splitlines(keepends=True)
    lines.insert(line, "    nonsense\n")

    answer = amphora.request(
        "PUT",
        f"/1.0/loadbalancer/{amphora.agent.amphora_id}/{fresh.id}/haproxy",
        "".join(lines).encode(),
    )

    assert answer.status == 400
    details = answer.json()["details"]
    assert f"{fresh.configuration}:{line + 1}]" in details
    assert "http-use-htx" not in details


def test_a_crt_list_whose_last_line_does_not_end_serves(
    amphora: Amphora, authorities: tuple[Authority, Authority]
) -> None:
    authority = Authority.create("tenant CA", key="ec")
    fresh = amphora.new_balancer(kind="TERMINATED_HTTPS")
    directory = amphora.agent.cert_path / fresh.id
    fresh.crt_list = str(directory / "list.pem")
    sent = str(directory / "www.pem").encode()
    digest = hashlib.md5(sent, usedforsecurity=False).hexdigest()
    path = f"/1.0/loadbalancer/{fresh.id}/certificates"
    issued = authority.issue("www.test", dns=["www.test"])
    assert amphora.request("PUT", f"{path}/www.pem", issued.pem).status == 200

    answer = amphora.request("PUT", f"{path}/list.pem", sent)
    assert (answer.status, answer.headers["etag"]) == (200, digest)
    fresh.push()

    tls = Tls(server_name="www.test", ca=authority.certificate)
    with Client(amphora.namespace, VIP, fresh.port, tls=tls) as client:
        assert client.get("/").status == 200
    answer = amphora.request("GET", f"{path}/list.pem")
    assert (answer.json(), answer.headers["etag"]) == ({"md5sum": digest}, digest)
    assert "file=list.pem written anew for haproxy" in amphora.agent.log
    fresh.delete()


def test_the_last_good_files_are_mended_ones_too(amphora: Amphora, fresh: LoadBalancer) -> None:
    """A configuration that does not come up is undone, and the one before is read as sent."""
    good, _ = obsolete(fresh.text())
    path = f"/1.0/loadbalancer/{amphora.agent.amphora_id}/{fresh.id}/haproxy"
    assert amphora.request("PUT", path, good.encode()).status == 202
    fresh.reload()
    busy = fresh.text().replace(f":{fresh.port}", f":{WEB_PORTS[0]}")
    assert amphora.request("PUT", path, busy.encode()).status == 202

    assert amphora.request("PUT", f"/1.0/loadbalancer/{fresh.id}/reload").status == 500

    read = amphora.request("GET", f"/1.0/loadbalancer/{fresh.id}/haproxy")
    assert read.body == good.encode()
    assert fresh.get() in {"web1", "web2"}
