"""What of an amphora the configuration of one instance may name: files, and places to listen at."""

import ipaddress
import re
from dataclasses import dataclass

from amphora_agent.haproxy import policy_table as table
from amphora_agent.haproxy.policy_table import Kind
from amphora_agent.haproxy.policy_words import STREAMS, check_address, refused

#: Functions take quotes out of their arguments.
QUOTING = re.compile(r"[\"'\\]")


@dataclass(frozen=True)
class Bounds:
    """What a configuration of one instance may name; absolute paths.

    `base` is the agent's base_path, `directory` and `certificates` are the instance's own.
    `agent_port` is where the agent's API listens. What begins with `check` raises RefusedError.
    """

    base: str
    directory: str
    certificates: str
    stats_socket: str
    state_file: str
    pid_file: str
    ping_wrapper: str
    group: str
    agent_port: int

    def check_bind(self, word: str) -> None:
        """The addresses of a `bind` line, with commas between them."""
        for address in word.split(","):
            check_address("bind", address, STREAMS)
            host, _, ports = address.rpartition("@")[2].rpartition(":")
            if _has_port(ports, self.agent_port) and _is_everywhere(host):
                raise refused(f"bind {address}", "the agent's own API is there")

    def check_file(self, option: str, word: str, kind: Kind) -> None:
        """A file that haproxy reads for TLS, of one of the three kinds."""
        if _is_below(word, self.certificates):
            return
        if kind is Kind.CERTIFICATES and word.removesuffix("/") == self.certificates:
            return
        if kind is Kind.AUTHORITY and word in table.TRUST_STORES:
            return
        raise refused(f"{option} {word}", f"it is not below {self.certificates}")

    def check_answer_file(self, option: str, path: str) -> None:
        """A file of which a client gets the content."""
        # Keys are below that directory, too, and have other names.
        if not (_is_below(path, self.base) and path.endswith(table.ANSWER_FILES)):
            endings = ", ".join(table.ANSWER_FILES)
            raise refused(f"{option} {path}", f"it is no file {endings} below {self.base}")

    def check_own_file(self, option: str, path: str) -> None:
        """A file that haproxy looks things up in."""
        if not _is_below(path, self.directory):
            raise refused(f"{option} {path}", f"it is not below {self.directory}")


def _has_port(ports: str, port: int) -> bool:
    low, _, high = ports.partition("-")
    if not (low.isdecimal() and (high or low).isdecimal()):
        return False
    # Zeros in front are for haproxy to pass over.
    return int(low[-9:]) <= port <= int((high or low)[-9:])


def _is_everywhere(host: str) -> bool:
    """Whether it is any address, or might be. An address of a VIP is in a namespace of its own."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return True  # `*`, nothing, or a name
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return address.is_unspecified or address.is_loopback


def _is_below(path: str, directory: str) -> bool:
    """Whether it is a file below the directory, written in the one plain way: functions take
    quotes out of their arguments."""
    inside = path.removeprefix(f"{directory}/")
    return (
        inside != path
        and not QUOTING.search(inside)
        and all(part not in ("", ".", "..") for part in inside.split("/"))
    )
