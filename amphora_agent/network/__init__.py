"""Plugging: the amphora's network namespace and the interfaces in it.

Pure: `interface` and `shared` (what an interface, and all of them together, must have), `diff`
(what must be done for that), `firewall`, `lease`, `announcement`, `rtnetlink` (the kernel's
messages as values). With effects: `netns`, `netlink`, `nftables`, `sysctl`, `advertise`, `dhcp`,
`record` and `leases` (the disk). Services: `reconcile` and `share` look, compare and do; `ports`
makes one port what its record says; `plug` answers the controller.
"""
