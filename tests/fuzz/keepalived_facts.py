"""What keepalived tells of a text in its dump, and what our statements let us expect of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_interface

from amphora_agent.keepalived.config.language import Statement
from lab.traced_keepalived import Kind

_VRRP = (
    "VRRP Instance = ", "Interface = ", "Virtual Router ID = ", "Priority = ",
    "Advert interval = ", "Gratuitous ARP refresh = ", "Gratuitous ARP refresh repeat = ",
    "Accept = ", "Preempt = ", "Using src_ip = ", "Password = ", "VRRP Script = ", "Command = ",
    "Interval = ", "Rise = ", "Fall = ", "Script uid:gid = ", "Wantstate = ",
)  # fmt: skip
_LVS = (
    "Virtual Server Group = ", "VIP = ", "VS GROUP = ", "lvs_sched = ", "sh-port = ",
    "persistence timeout = ", "protocol = ", "RIP = ", "connection limit range = ",
    "Keepalive method = ", "script = ", "timeout = ", "Timeout = ", "uid:gid = ", "Dest = ",
    "Checked url = ", "delay_loop = ", "Retry count = ", "Retry delay = ",
)  # fmt: skip
#: Of what is below these, every line counts.
_LISTS = ("Virtual IP (", "Virtual IP Excluded :", "Unicast Peer :", "Virtual Routes :",
          "Virtual Rules :", "Tracked scripts :", "HTTP Status Code(s)")  # fmt: skip


def told(kind: Kind, dump: str) -> list[str]:
    """The lines of a dump that tell of the text, in their order within a list, sorted otherwise."""
    keys = _VRRP if kind == "vrrp" else _LVS
    # keepalived tells where on the PATH it has found a program.
    dump = re.sub(r"'/[^']*/amphora-health-checker'", "'amphora-health-checker'", dump)
    topology = dump[dump.index("Topology >------") :]
    found, list_depth = [], -1
    for line in topology.splitlines():
        depth = len(line) - len(line.lstrip(" "))
        stripped = line.strip()
        if list_depth >= 0 and depth > list_depth:
            found.append(stripped)
            continue
        list_depth = depth if stripped.startswith(_LISTS) else -1
        if stripped.startswith(keys):
            found.append(re.sub(r"(?: EFF WEIGHT|, IPv4) = .*", "", stripped))
    return sorted(found)


def expected(kind: Kind, statements: Sequence[Statement]) -> list[str]:
    """The same, of statements."""
    lines = _vrrp_lines(statements) if kind == "vrrp" else _lvs_lines(statements)
    return sorted(lines)


def _value(statement: Statement, keyword: str, default: str = "") -> str:
    found = statement.all(keyword)
    return found[0].values[0] if found else default


def _entries(statement: Statement, keyword: str) -> Iterator[tuple[str, ...]]:
    for each in statement.all(keyword):
        yield from (entry.values for entry in each.block or ())


def _vrrp_lines(statements: Sequence[Statement]) -> Iterator[str]:
    for each in statements:
        if each.keyword == "vrrp_script":
            yield from (
                f"VRRP Script = {each.values[0]}",
                f"Command = '{_value(each, 'script')}'",
                f"Interval = {_value(each, 'interval')} sec",
                f"Rise = {_value(each, 'rise')}",
                f"Fall = {_value(each, 'fall')}",
                "Script uid:gid = 0:0",
            )
        else:
            yield from _instance_lines(each)


def _instance_lines(instance: Statement) -> Iterator[str]:
    interface = _value(instance, "interface")
    (authentication,) = instance.all("authentication")
    yield from (
        f"VRRP Instance = {instance.values[0]}",
        "Wantstate = BACKUP",
        f"Interface = {interface}",
        f"Using src_ip = {_value(instance, 'unicast_src_ip')} (from configuration)",
        f"Gratuitous ARP refresh = {_value(instance, 'garp_master_refresh')}",
        f"Gratuitous ARP refresh repeat = {_value(instance, 'garp_master_refresh_repeat')}",
        f"Virtual Router ID = {_value(instance, 'virtual_router_id')}",
        f"Priority = {_value(instance, 'priority')}",
        f"Advert interval = {_value(instance, 'advert_int')} sec",
        "Accept = enabled",
        "Preempt = disabled",
        f"Password = {_value(authentication, 'auth_pass')}",
        *(f"{peer} min_ttl 0 max_ttl 255" for (peer,) in _entries(instance, "unicast_peer")),
    )
    for keyword in ("virtual_ipaddress", "virtual_ipaddress_excluded"):
        for (address,) in _entries(instance, keyword):
            deprecated = " deprecated" if ":" in address else ""
            yield f"{address} dev {interface} scope global{deprecated}"
    yield from (_route_line(route) for route in _entries(instance, "virtual_routes"))
    for selector, network, *options in _entries(instance, "virtual_rules"):
        given = dict(zip(options[::2], options[1::2], strict=True))
        address = str(ip_interface(network).ip)
        yield (
            f"{selector} {address} priority {given['priority']} tos 0x0 protocol 18"
            f" lookup {given['table']}"
        )
    yield from (f"{name} weight 0" for (name,) in _entries(instance, "track_script"))


def _route_line(route: tuple[str, ...]) -> str:
    destination, *words = route
    onlink = "onlink" in words
    words = [word for word in words if word != "onlink"]
    given = dict(zip(words[::2], words[1::2], strict=True))
    six = ":" in destination + given.get("via", "")
    if destination == "default":
        destination = "::/0" if six else "0.0.0.0/0"
    line = f"prepend {destination}"
    if "via" in given:
        line += f" via {'inet6' if six else 'inet'} {given['via']}"
    if "src" in given:
        line += f" src {given['src']}"
    line += f" dev {given['dev']} table {given['table']} proto 18"
    if "scope" in given:
        line += " scope 253"
    return line + (" onlink" if onlink and not six else "")


def _lvs_lines(statements: Sequence[Statement]) -> Iterator[str]:
    for each in statements:
        if each.keyword == "virtual_server_group":
            yield f"Virtual Server Group = {each.values[0]}"
            yield from (
                f"VIP = {address}, VPORT = {port}"
                for address, port in (entry.values for entry in each.block or ())
            )
        else:
            yield from _virtual_lines(each)


def _virtual_lines(virtual: Statement) -> Iterator[str]:
    delay, before_retry = _value(virtual, "delay_loop"), _value(virtual, "delay_before_retry")
    retries = (f"Retry count = {_value(virtual, 'retry')}", f"Retry delay = {before_retry}.000000")
    yield from (
        f"VS GROUP = [{virtual.values[1]}]:0",
        f"delay_loop = {delay}.000000",
        f"lvs_sched = {_value(virtual, 'lb_algo')}",
        f"persistence timeout = {_value(virtual, 'persistence_timeout')}",
        f"protocol = {_value(virtual, 'protocol')}",
        *retries,
    )
    if _value(virtual, "lb_algo") == "sh":
        yield f"sh-port = {'enabled' if virtual.all('sh-port') else 'disabled'}"
    for server in virtual.all("real_server"):
        address, port = server.values
        yield f"RIP = {address}, RPORT = {port}, WEIGHT = {_value(server, 'weight')}"
        yield f"connection limit range = 0 -> {_value(server, 'uthreshold')}"
        yield from retries
        yield from _check_lines(server)


def _check_lines(server: Statement) -> Iterator[str]:
    for check in (each for each in server.block or () if each.block is not None):
        method = f"Keepalive method = {check.keyword}"
        if check.keyword == "MISC_CHECK":
            command = " ".join(f"'{word}'" for word in _value(check, "misc_path").split())
            yield from (method, f"script = {command}", "uid:gid = 0:0")
            yield f"timeout = {_value(check, 'misc_timeout')}"
            continue
        yield f"{method}, http protocol 1.0" if check.keyword == "HTTP_GET" else method
        yield f"Dest = [{_value(check, 'connect_ip')}]:{_value(check, 'connect_port')}"
        yield f"Timeout = {_value(check, 'connect_timeout')}.000000"
        for url in check.all("url"):
            yield f"Checked url = {_value(url, 'path')}"
            yield from url.all("status_code")[0].values
