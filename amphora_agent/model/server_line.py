"""A `server` line of haproxy's configuration, as a value."""

from typing import NamedTuple

from amphora_agent.model.addressing import with_brackets

#: Options that haproxy only takes when something else is in order: a file that it has loaded, a
#: name that its TLS library knows, a version that is left. Another member proves that it is.
_PROVEN_BY_ANOTHER = frozenset(
    {
        "ca-file", "ciphers", "ciphersuites", "crl-file", "crt", "no-sslv3", "no-tlsv10",
        "no-tlsv11", "no-tlsv12", "no-tlsv13",
    }
)  # fmt: skip


class ServerLine(NamedTuple):
    """A member. `address` is a literal IP in its canonical form; `options` are all that is not a
    field, as (keyword, value), the value "" for one that has none, in alphabetical order."""

    name: str
    address: str
    port: int
    weight: int = 1
    backup: bool = False
    check: bool = False
    cookie: str = ""
    disabled: bool = False
    options: tuple[tuple[str, str], ...] = ()

    @property
    def endpoint(self) -> str:
        """`address:port` as haproxy reads it."""
        return f"{with_brackets(self.address)}:{self.port}"

    @property
    def arguments(self) -> str:
        """What follows the endpoint in its line and does not depend on where it stands: all but
        weight and `disabled`."""
        words = ["check"] if self.check else []
        words += [f"{keyword} {value}".rstrip() for keyword, value in self.options]
        words += ["cookie", self.cookie] if self.cookie else []
        words += ["backup"] if self.backup else []
        return " ".join(words)

    @property
    def unproven(self) -> frozenset[tuple[str, str]]:
        """The options that a running haproxy takes only if another member has them."""
        return frozenset(option for option in self.options if option[0] in _PROVEN_BY_ANOTHER)
