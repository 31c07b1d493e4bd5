"""keepalived's text for VRRP."""

from amphora_agent.keepalived.config import table
from amphora_agent.keepalived.config.parser import ConfigError, parse
from amphora_agent.keepalived.config.render import Rendered, render
from amphora_agent.keepalived.config.table import Statement, require_allowed


def read(configuration: bytes, check_script: str, fifo: str) -> Rendered:
    """Return what keepalived is given of a controller's configuration: what the table of VRRP
    allows, written anew. It can run one program, `check_script`, reads no other file, and tells of
    changes of its state in `fifo`.

    Raises:
        ConfigError: something in the configuration is not allowed.
    """
    return render(_statements(configuration, check_script), fifo=fifo)


def vips(configuration: bytes, check_script: str) -> dict[str, frozenset[str]]:
    """Return the addresses that each instance of a configuration has while it is MASTER.

    Raises:
        ConfigError: something in the configuration is not allowed.
    """
    return {
        instance.values[0]: frozenset(
            address.values[0].partition("/")[0]
            for block in instance.all("virtual_ipaddress")
            for address in block.block or ()
        )
        for instance in _statements(configuration, check_script)
        if instance.keyword == "vrrp_instance"
    }


def _statements(configuration: bytes, check_script: str) -> tuple[Statement, ...]:
    statements = require_allowed(parse(configuration), table.vrrp(check_script))
    if not any(each.keyword == "vrrp_instance" for each in statements):
        raise ConfigError(1, "the configuration has no vrrp_instance")
    return statements
