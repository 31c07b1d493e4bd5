"""VRRP: which of two amphorae has the VIPs."""
