"""The agent's own certificate, exchanged while it serves."""

import pytest

from lab.pki import Authority, Credentials
from tests.integration.amphora import (
    Amphora,
    Answer,
    differences,
    read_answer,
    request_bytes,
)


@pytest.fixture
def renewed(amphora: Amphora, authorities: tuple[Authority, Authority]) -> Credentials:
    amphora_id = amphora.agent.amphora_id
    return authorities[0].issue(amphora_id, dns=[amphora_id], key="ec")


def presented(amphora: Amphora) -> int:
    """The serial number that a new connection sees."""
    peer = amphora.agent.get("/1.0/info").peer
    assert peer is not None
    return peer.serial


def put(amphora: Amphora, pem: bytes) -> Answer:
    return amphora.request("PUT", "/1.0/certificate", pem)


def test_the_next_connection_sees_the_new_one(amphora: Amphora, renewed: Credentials) -> None:
    processes = amphora.agent.pids()
    answer = put(amphora, renewed.pem)
    assert (answer.status, answer.json()) == (202, {"message": "OK"})
    assert presented(amphora) == renewed.serial
    assert amphora.agent.pids() == processes


def test_an_established_connection_goes_on(amphora: Amphora, renewed: Credentials) -> None:
    with amphora.connect() as connection:
        connection.sendall(request_bytes("PUT", "/1.0/certificate", renewed.pem))
        assert read_answer(connection).status == 202
        assert presented(amphora) == renewed.serial
        connection.sendall(request_bytes("GET", "/1.0/info"))
        assert read_answer(connection).status == 200


def test_the_one_before_is_kept_beside_it(amphora: Amphora, renewed: Credentials) -> None:
    path = amphora.agent.pki.server_pem
    before = path.read_bytes()
    put(amphora, renewed.pem)
    assert path.read_bytes() == renewed.pem
    assert path.with_name("server.pem.previous").read_bytes() == before
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


def test_one_with_its_chain_is_presented_with_it(
    amphora: Amphora, authorities: tuple[Authority, Authority]
) -> None:
    middle = authorities[0].intermediate("below", key="ec")
    amphora_id = amphora.agent.amphora_id
    renewed = middle.issue(amphora_id, dns=[amphora_id], key="ec")
    assert put(amphora, renewed.pem).status == 202
    # The controller knows the root alone: it would not come so far without the chain.
    assert presented(amphora) == renewed.serial


UNFIT = ["nothing", "garbage", "no key", "another key", "another amphora", "cut off", "no server"]


@pytest.mark.parametrize("kind", UNFIT)
def test_one_that_would_lock_the_controller_out_is_refused(
    amphora: Amphora, authorities: tuple[Authority, Authority], renewed: Credentials, kind: str
) -> None:
    authority, amphora_id = authorities[0], amphora.agent.amphora_id
    pem = {
        "nothing": b"\n",
        "garbage": b"\0\xff" * 500,
        "no key": renewed.certificate,
        "another key": renewed.certificate + authority.issue("x", key="ec").key,
        "another amphora": authority.issue("other", dns=["other"], key="ec").pem,
        "cut off": renewed.pem[:-40],
        "no server": authority.issue(amphora_id, dns=[amphora_id], server=False, key="ec").pem,
    }[kind]
    before, serial = amphora.files(), presented(amphora)

    answer = put(amphora, pem)

    assert answer.status == 400
    assert answer.json()["details"]
    assert differences(before, amphora.files()) == set()
    assert presented(amphora) == serial


def test_a_file_that_was_broken_by_hand_leaves_the_last_good_one_in_use(
    amphora: Amphora, renewed: Credentials
) -> None:
    serial = presented(amphora)
    path = amphora.agent.pki.server_pem
    before = path.read_bytes()
    path.write_bytes(before[:200])
    try:
        assert presented(amphora) == serial
        assert amphora.api.info()
    finally:
        path.write_bytes(before)
    assert presented(amphora) == serial
    assert put(amphora, renewed.pem).status == 202
    assert presented(amphora) == renewed.serial
