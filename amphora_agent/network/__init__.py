"""The amphora's network: plug ports, guard and announce them, and restore them at a boot.

`service` answers the controller, the boot and operators. `port_service` reconciles a port with its
`records` on disk: `plan/` (pure) computes what the interface, the firewall and the settings must
be, `reconciler` and `namespace_reconciler` bring that about, `netlink/` speaks to the kernel.
`dhcp_client` keeps a client for each port that needs one, and `announcer` tells the neighbours.
"""
