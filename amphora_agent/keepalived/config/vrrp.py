"""keepalived's configuration of VRRP: rewrite it for keepalived, and find its VIPs."""

from amphora_agent.keepalived.config import table
from amphora_agent.keepalived.config.language import ConfigError, Rendered, Statement, parse, render
from amphora_agent.keepalived.config.table import require_allowed


def rewrite(configuration: bytes, check_script: str, fifo: str) -> Rendered:
    """Return the text that keepalived reads for a configuration. All of it is in the table of
    VRRP: it runs one program, `check_script`, reads no other file, and reports changes of its
    state to `fifo`.

    Raises:
        ConfigError: something in the configuration is not allowed.
    """
    return render(_read_statements(configuration, check_script), fifo=fifo)


def find_vips(configuration: bytes, check_script: str) -> dict[str, frozenset[str]]:
    """Return the addresses that each instance of a configuration holds while it is MASTER.

    Raises:
        ConfigError: something in the configuration is not allowed.
    """
    return {
        instance.values[0]: frozenset(
            address.values[0].partition("/")[0]
            for block in instance.all("virtual_ipaddress")
            for address in block.block or ()
        )
        for instance in _read_statements(configuration, check_script)
        if instance.keyword == "vrrp_instance"
    }


def _read_statements(configuration: bytes, check_script: str) -> tuple[Statement, ...]:
    statements = require_allowed(parse(configuration), table.vrrp(check_script))
    if not any(statement.keyword == "vrrp_instance" for statement in statements):
        raise ConfigError(1, "the configuration has no vrrp_instance")
    return statements
