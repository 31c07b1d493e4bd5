"""UDP and SCTP listeners: keepalived and IPVS."""
