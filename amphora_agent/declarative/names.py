"""What the files of a load balancer are called. Ids have no dot and no blank: no two objects have
the same file, whatever their ids."""


def certificate(name: str, purpose: str = "") -> str:
    """Of an object; without a purpose a listener's crt-list."""
    return f"{name}.{purpose}.pem" if purpose else f"{name}.pem"


def allowed(listener_id: str) -> str:
    """Who may connect to a listener."""
    return f"{listener_id}.cidrs"


def listener(listener_id: str) -> str:
    return f"listener-{listener_id}.cfg"


def pool(pool_id: str) -> str:
    return f"pool-{pool_id}.cfg"


#: What the listeners of a process share.
PROCESS = "haproxy.cfg"
