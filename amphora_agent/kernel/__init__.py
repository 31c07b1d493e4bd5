"""Speaking to the kernel: netlink, synchronously, in pyroute2's messages (docs/decisions/0008)."""
