"""Netlink, synchronously, with pyroute2's message classes (docs/decisions/0008)."""
