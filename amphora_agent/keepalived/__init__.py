"""keepalived: who of two amphorae has the VIPs (VRRP), and UDP and SCTP listeners (LVS)."""
