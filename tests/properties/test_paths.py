"""No name of a certificate leads out of its directory."""

from hypothesis import given
from hypothesis import strategies as st

from amphora_agent.errors import InvalidRequest
from amphora_agent.paths import certificate_name, object_id
from tests.unit.test_paths import BASE


@given(st.text())
def test_whatever_passes_as_an_id_stays_in_its_directory(text: str) -> None:
    try:
        name = object_id(text)
    except InvalidRequest:
        return
    assert (BASE / name).resolve().parent == BASE
    assert not name.startswith((".", "-"))


@given(st.from_regex(r"[^/]*(\.\.?|/|%2[fF])*[^/]*\.pem"))
def test_whatever_passes_as_a_certificate_stays_in_its_directory(text: str) -> None:
    try:
        name = certificate_name(text)
    except InvalidRequest:
        return
    assert (BASE / name).resolve().parent == BASE
    assert not name.startswith(".")
